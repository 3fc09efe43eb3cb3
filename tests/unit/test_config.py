"""The configuration: typed, every unknown key an error with file, key and nearest valid one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mvfl.config import bases, datasets, evaluation, experiment, gslrm, workflow
from mvfl.config.bases import EMBEDDED, EmbeddedBase, LocalBase, image_size_of
from mvfl.config.datasets import FolderDataset, MarkerlessDataset
from mvfl.config.load import load_config, load_with_base, parse_config
from mvfl.config.strict import Strict
from mvfl.runtime.files import InputError

ROOT = Path(__file__).parents[2]
MAIN = ROOT / "workflow_config.yaml"


def overlay(tmp_path: Path, content: dict) -> list[Path]:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return [MAIN, path]


def test_the_guides_values_stand_in_the_main_configuration() -> None:
    config = load_config([MAIN])
    first = config.experiments["mouse_6x_aug"]
    assert config.experiment == "mouse_6x_aug"
    assert (first.prompt_style, first.reference, first.training.steps) == ("mouse_elevated", "random", 20000)
    assert (first.training.checkpoint_every, first.training.validate_every) == (500, 100)
    assert (config.wandb.project, first.wandb_run) == ("mouse_facelift", "mvdiff_mouse_6x_aug")
    assert config.experiments["facelift_prompt"].wandb_run == "mvdiff_facelift_prompt"
    curriculum = config.experiments["curriculum"]
    assert [curriculum.prompt_style_at(s) for s in (1, 5000, 5001)] == ["facelift", "facelift", "mouse_elevated"]
    assert config.evaluation.step == 2000
    assert config.cases == {"B": "facelift_prompt", "C": "realistic_prompt", "D": "curriculum"}


@pytest.mark.parametrize("name", ["demo", "ci", "learning", "embedded_base"])
def test_overlays_are_valid(name: str) -> None:
    load_config([MAIN, ROOT / "configs" / f"{name}.yaml"])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"experiments": {"mouse_6x_aug": {"training": {"lerning_rate": 1}}}}, "unknown key 'lerning_rate'; did you mean 'learning_rate'"),
        ({"defaults": {"prompt_stile": "facelift"}}, "unknown key 'prompt_stile'; did you mean 'prompt_style'"),
        ({"experimant": "mouse_6x_aug"}, "unknown key 'experimant'; did you mean 'experiment'"),
        ({"experiment": "mouse_6x_au"}, "'mouse_6x_au' is not defined; did you mean 'mouse_6x_aug'"),
        ({"datasets": {"rodent": {"path": "x"}}}, "unknown key 'path'"),
        ({"cases": {"B": "nothing_like_it"}}, "cases.B: 'nothing_like_it' is not defined"),
        ({"experiments": {"mouse_6x_aug": {"view_conditioning": "prompt"}}}, "ill-posed"),
        ({"evaluation": {"step": 30000}}, "beyond training.steps"),
        ({"experiments": {"curriculum": {"curriculum": [{"until_step": 90000, "prompt_style": "simple"}]}}}, "until_step must rise"),
        ({"bases": {"small": {"kind": "embedded"}}, "datasets": {"d": {"kind": "rodent", "train": 2, "val": 1}},
          "defaults": {"base": "small", "dataset": "d", "gslrm": {"losses": {"perceptual": 0.5}}}}, "perceptual needs vgg_path"),
        ({"defaults": {"gslrm": {"losses": {"perceptual": 0.5, "vgg_path": "nowhere"}}}}, "vgg_path nowhere does not exist"),
        ({"defaults": {"dataset": "sample_folders"}, "experiments": {"mouse_6x_aug": {"reference": 9}}}, "reference 9 does not exist: sample_folders has views 0 to 5"),
        ({"experiments": {"mouse_6x_aug": {"view_conditioning": "relative_prompt"}}}, "needs a uniform ring"),
        ({"experiments": {"mouse_6x_aug": {"reference": 0, "synthetic": {"references": "all"}}}}, "needs reference 'random'"),
        ({"defaults": {"dataset": "sample_folders", "gslrm": {"input_views": 9}}}, "gslrm.input_views is 9, but sample_folders has 6 views"),
        ({"defaults": {"gslrm": {"view_choice": "overlap"}}}, "use 'first'"),
        ({"defaults": {"dataset": "sample_folders"}, "datasets": {"sample_folders": {"rig": "ring_60"}}}, "Rig 'ring_60' is neither built in"),
        ({"defaults": {"base": "embedded"}}, "pictures of 512 px, base embedded samples 128 px"),
        ({"experiments": {"curriculum": {"also_learn_from": ["rodnet"]}}}, "curriculum.also_learn_from: 'rodnet' is not defined; did you mean 'rodent'"),
        ({"defaults": {"dataset": "rodent", "also_learn_from": ["rodent"]}}, "a data set is named twice"),
        ({"defaults": {"base": "embedded", "dataset": "a", "also_learn_from": ["b"]}, "datasets": {"a": {"kind": "rodent", "train": 1, "val": 1}, "b": {"kind": "rodent", "image_size": 64, "train": 1, "val": 1}}}, "data set b has pictures of 64 px"),
        ({"experiments": {"mouse_6x_aug": {"synthetic": {"step": 1000}}}}, "synthetic.step 1000 must lie between the verdict's step (2000)"),
        ({"sweep": {"of": "mouse_6x_aug", "vary": {"training.seed": [1, 1]}}}, "two experiments would be called 'mouse_6x_aug-seed-1'"),
        ({"sweep": {"of": "mouse_6x_au", "vary": {"training.seed": [1]}}}, "sweep.of: 'mouse_6x_au' is no experiment; did you mean 'mouse_6x_aug'?"),
        ({"sweep": {"of": "mouse_6x_aug", "vary": {"training.seed": []}}}, "sweep.vary.training.seed"),
        ({"sweep_names": ["x"]}, "unknown key 'sweep_names'"),
        ({"datasets": {"my mouse": {"kind": "rodent", "train": 1, "val": 1}}}, "datasets.my mouse"),
        ({"experiments": {"mouse_6x_aug": "x"}}, "mine.yaml: experiments.mouse_6x_aug must hold keys and values"),
        ({"defaults": "x"}, "mine.yaml: defaults must hold keys and values"),
        ({"experiments": ["a"]}, "mine.yaml: experiments must hold keys and values"),
        ({"experiments": {"a/b": {"wandb_run": "x"}}}, "mine.yaml: experiments.a/b: 'a/b' is no name: letters, digits"),
        ({"experiments": {True: {"wandb_run": "x"}}}, "mine.yaml: experiments.True: YAML reads this name as true, which is no text; write it in quotes"),
        ({"datasets": {"recording": {"cameras": ["a b", "c"]}}}, "mine.yaml: datasets.recording.cameras.0: 'a b' is no name"),
        ({"datasets": {"recording": {"cameras": ["c", "c"]}}}, "cameras names c twice"),
        ({"datasets": {"recording": {"cameras": ["a", "b"], "up": {"level_camera": "bb"}}}}, "up.level_camera: 'bb' is no camera; did you mean 'b'?"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_file_and_the_remedy(tmp_path: Path, content: dict, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        load_config(overlay(tmp_path, content))
    assert expected in str(caught.value)


def test_a_key_that_stands_twice_and_a_list_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("defaults:\n  training: {steps: 5}\n  training: {steps: 6}\n")
    with pytest.raises(InputError, match="key 'training' stands here twice"):
        load_config([MAIN, path])
    path.write_text("- a\n")
    with pytest.raises(InputError, match=r"mine\.yaml must hold keys and values, it holds a list"):
        load_config([MAIN, path])


def test_the_size_that_a_base_samples_is_read_from_its_files(tmp_path: Path) -> None:
    assert image_size_of(EmbeddedBase(kind="embedded")) == image_size_of(LocalBase(kind="local", path=EMBEDDED)) == 128
    assert EMBEDDED.resolve() == EMBEDDED, "paths of records are resolved, too"
    assert image_size_of(LocalBase(kind="local", path=tmp_path)) is None


def test_view_choice_is_free_where_inputs_and_targets_are_the_same_views(tmp_path: Path) -> None:
    load_config(overlay(tmp_path, {"defaults": {"gslrm": {"view_choice": "overlap", "input_views": 3, "real_targets": False}}}))


def test_reading_a_configuration_does_not_load_torch() -> None:
    code = "import sys, mvfl.config.load, mvfl.config.routing, mvfl.stages.planning; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_error_names_the_overlay_that_holds_the_key(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mine\.yaml: experiments\.mouse_6x_aug\.training"):
        load_config(overlay(tmp_path, {"experiments": {"mouse_6x_aug": {"training": {"stepps": 1}}}}))


def test_what_an_overlay_changes_of_a_data_set_or_within_a_list_is_its_own_fault(tmp_path: Path) -> None:
    for fault in ({"exclude": "1-5"}, {"exclude": [1, "x"]}, {"cameras": ["a", "-b"]}):
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"datasets": {"recording": fault}}))
        with pytest.raises(InputError, match=r"mine\.yaml"):
            load_with_base([tmp_path / "mine.yaml"])


def test_a_rule_between_settings_is_broken_in_the_file_that_holds_the_wrong_one(tmp_path: Path) -> None:
    main, mine = tmp_path / "main.yaml", tmp_path / "mine.yaml"
    main.write_text(MAIN.read_text().replace("B: facelift_prompt", "B: facelift_promt"))
    mine.write_text("results: elsewhere")
    with pytest.raises(InputError, match=r"main\.yaml: cases\.B: 'facelift_promt' is not defined; did you mean 'facelift_prompt'"):
        load_config([main, mine])
    given = yaml.safe_load(MAIN.read_text()) | {"experiment": "mouse_6x_augg"}  # as snakemake --config merges it
    with pytest.raises(InputError, match=r"- --config: experiment: 'mouse_6x_augg' is not defined"):
        parse_config(given, [MAIN, mine])


def test_a_number_of_cameras_that_is_none_is_one_fault(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_config(overlay(tmp_path, {"datasets": {"recording": {"cameras": ["a b", "c"]}}}))
    assert str(caught.value).count("\n- ") == 1, "no second line that asks for a number"


def test_the_precision_may_be_written_without_quotes(tmp_path: Path) -> None:
    """YAML reads no as false."""
    config = load_config(
        overlay(tmp_path, {"defaults": {"training": {"mixed_precision": False}, "gslrm": {"mixed_precision": False}}})
    )
    first = config.experiments["mouse_6x_aug"]
    assert (first.training.mixed_precision, first.gslrm.mixed_precision) == ("no", "no")


def test_cameras_may_be_called_by_numbers(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("datasets: {recording: {cameras: [0, 1]}}")
    recording = load_with_base([tmp_path / "mine.yaml"]).datasets["recording"]
    assert isinstance(recording, MarkerlessDataset) and recording.cameras == ["0", "1"]


@pytest.mark.parametrize("name", ["mvdiffusion", "samples"])
def test_an_experiment_is_not_called_as_a_rule_is(name: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"experiments": {name: {"description": "x", "wandb_run": "x"}}}))
    with pytest.raises(InputError, match="as rules are"):
        load_with_base([tmp_path / "mine.yaml"])


def test_two_pairs_of_data_set_and_base_never_share_a_folder(tmp_path: Path) -> None:
    base, data = {"kind": "local", "path": "b"}, {"kind": "rodent", "rig": "ring60", "train": 2, "val": 1}
    given = {"description": "x", "wandb_run": "x"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({
        "bases": {"b": base, "night-b": base}, "datasets": {"day": data, "day-night": data},
        "experiments": {"one": given | {"base": "night-b", "dataset": "day"}, "two": given | {"base": "b", "dataset": "day-night"}},
    }))  # fmt: skip
    with pytest.raises(InputError, match="would share a folder"):
        load_with_base([tmp_path / "mine.yaml"])


def test_files_may_lie_in_the_home_folder(tmp_path: Path) -> None:
    text = "results: ~/mice\ndatasets: {recording: {folder: ~/mice/a}, sample_folders: {path: ~/mice/b, rig: ~/mice/rig.json}}"
    (tmp_path / "mine.yaml").write_text(text)
    config = load_with_base([tmp_path / "mine.yaml"])
    recording, folder = config.datasets["recording"], config.datasets["sample_folders"]
    assert isinstance(recording, MarkerlessDataset) and isinstance(folder, FolderDataset)
    home = Path.home() / "mice"
    assert (config.results, recording.folder, folder.path, folder.rig) == (home, home / "a", home / "b", str(home / "rig.json"))


def test_all_experiments_are_checked_at_once(tmp_path: Path) -> None:
    content = {"experiments": {"mouse_6x_aug": {"a": 1}, "curriculum": {"b": 2}}}
    with pytest.raises(InputError) as caught:
        load_config(overlay(tmp_path, content))
    assert "mouse_6x_aug" in str(caught.value) and "curriculum" in str(caught.value)


@pytest.mark.parametrize("name", ["..", ".", "-x", "--help", "a/b", "a b", "a'||touch x #b", "", "a\n"])
def test_names_that_a_path_or_a_shell_would_read_otherwise_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        load_config(overlay(tmp_path, {"experiments": {name: {}}}))


def test_no_setting_is_accepted_that_nothing_reads() -> None:
    package = ROOT / "mvfl"
    text = "\n".join(f.read_text() for pattern in ("*.py", "*.j2") for f in package.rglob(pattern))
    kinds = [k for module in (bases, datasets, evaluation, experiment, gslrm, workflow) for k in vars(module).values()]
    settings = {k for k in kinds if isinstance(k, type) and issubclass(k, Strict) and k is not Strict}
    fields = {(k.__name__, name) for k in settings for name in k.model_fields if name != "defaults"}  # merged under experiments
    assert len(fields) > 100
    assert [f for f in sorted(fields) if not re.search(rf"\.{f[1]}\b", text)] == []
