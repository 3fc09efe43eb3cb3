"""The workflow as a user runs it: plans, a small real run, reruns, bad input, exhaustion."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from running import jobs, snakemake

from mvfl.config.bases import LocalBase
from mvfl.config.load import load_config
from mvfl.data.pictures import composite, read_rgba, rgba_tensor
from mvfl.runtime.files import InputError
from mvfl.stages.jobs import BaseJob, SyntheticJob
from mvfl.stages.planning import Plan
from mvfl.stages.publish import push_to_hub, save_pretrained
from mvfl.stages.reconstructor import Reconstructor

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def test_the_first_plan_goes_up_to_the_verdict() -> None:
    plan = jobs(snakemake("-n", results=Path("results/never")))
    assert plan == {
        "all": 1, "cache_latents": 1, "decide": 1, "embed_prompts": 1, "prepare_base": 1, "prepare_dataset": 1,
        "score_checkpoint": 1, "train_mvdiffusion": 1,
    }  # fmt: skip


@pytest.mark.parametrize(("case", "trained"), [("case_a", 1), ("case_b", 2), ("case_c", 2), ("case_d", 3)])
def test_every_case_can_be_planned_without_any_evaluation(case: str, trained: int) -> None:
    plan = jobs(snakemake("-n", case, results=Path("results/never")))
    assert plan["train_mvdiffusion"] == trained  # the curriculum is trained in two segments
    assert plan["generate_synthetic"] == plan["finetune_gslrm"] == 1


def test_stages_are_targets_those_of_every_experiment_too() -> None:
    targets = ["prompts", "train", "evaluate", "synthetic", "gslrm", "report"]
    targets += ["train_curriculum", "report_facelift_prompt", "data_mouse_6x_aug"]
    assert {*targets} <= {*jobs(snakemake("-n", *targets, results=Path("results/never")))}


def test_a_second_configfile_that_would_drop_the_first_is_refused() -> None:
    command = [
        str(BIN / "snakemake"),
        "-n",
        "--nolock",
        "--configfile",
        "configs/demo.yaml",
        "--configfile",
        "configs/gpu_24gib.yaml",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode and "--configfile stands twice" in done.stdout + done.stderr


def test_the_slurm_profile_plans_from_a_fresh_clone_without_slurm() -> None:
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    command = [str(BIN / "snakemake"), "--profile", "slurm", "-n", "--nolock"]
    command += ["--configfile", "configs/ci.yaml", "--config", "results=results/never"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_mistake_in_the_configuration_ends_before_any_job(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(yaml.safe_dump({"experiments": {"mouse_6x_aug": {"prompt_stile": "simple"}}}))
    text = snakemake("-n", config=("ci", str(bad)), expect=1)
    assert f"{bad}: experiments.mouse_6x_aug: unknown key 'prompt_stile'; did you mean 'prompt_style'?" in text
    assert "Traceback" not in text


def rerun(results: Path, *arguments: str, change: dict | None = None, expect: int | None = 0) -> str:
    overlays = ["ci", str(results / "override.yaml")]
    if change is not None:
        path = results / "change.yaml"
        path.write_text(yaml.safe_dump(change))
        overlays.append(str(path))
    return snakemake(*arguments, results=results, config=tuple(overlays), expect=expect)


def test_a_whole_run_leaves_the_page_the_ply_the_journal_and_provenance(finished: Path) -> None:
    experiment = finished / "experiments" / "mouse_6x_aug"
    decision = json.loads((experiment / "evaluation" / "step-4" / "decision.json").read_text())
    assert decision["case"] == "A" and decision["overridden"] and decision["computed"]["case"] != "A"
    page = (experiment / "report" / "index.html").read_text()
    assert "Set to case A by a person. Measured: case C" in page and "data:image/png;base64," in page
    assert not re.search(r"""(src|href)=["']https?:""", page)
    assert (experiment / "gslrm" / "gaussians.ply").read_bytes().startswith(b"ply")
    journal = (finished / "journal.csv").read_text().splitlines()
    assert journal[1].startswith("mouse_6x_aug,4,") and "yes, computed" in journal[1]
    for folder in ("mvdiffusion/checkpoint-4", "evaluation/step-4", "synthetic", "gslrm"):
        assert json.loads((experiment / folder / "provenance.json").read_text())["rig_hash"]
    others = ["data/tiny_mouse", "base/tiny", "prompts/tiny/mouse_elevated", "experiments/mouse_6x_aug/report"]
    for folder in [*others, *(str(f.relative_to(finished)) for f in (finished / "latents").iterdir())]:
        record = json.loads((finished / folder / "provenance.json").read_text())
        assert record["commit"] and record["packages"]["torch"] and record["settings"]
    metrics = json.loads((experiment / "gslrm" / "metrics.json").read_text())
    assert set(metrics["baselines"]) == {"base", "blank", "copy", "mean", "hull"} and "blank picture" in page


def test_the_log_holds_the_promised_numbers(finished: Path) -> None:
    rows = [json.loads(line) for line in (finished / "state/mouse_6x_aug/mvdiffusion/log.jsonl").read_text().splitlines()]
    keys = {key for row in rows for key in row}
    assert {"train/loss", "train/lr", "train/grad_norm", "val/psnr", "val/slot_accuracy", "val/psnr_slot_1"} <= keys
    assert (finished / "state/mouse_6x_aug/mvdiffusion/validation/step-000002.png").exists()


def test_running_again_does_nothing(finished: Path) -> None:
    assert "Nothing to be done" in rerun(finished)


def test_settings_that_change_no_result_repeat_no_training(finished: Path) -> None:
    change = {
        "defaults": {"training": {"log_every": 7, "keep_states": 3, "steps": 9}, "gslrm": {"log_every": 7}},
        "experiments": {"mouse_6x_aug": {"wandb_run": "another name"}},
        "wandb": {"project": "another"},
    }
    plan = jobs(rerun(finished, "-n", change=change))
    assert not {"train_mvdiffusion", "finetune_gslrm", "score_checkpoint", "decide"} & set(plan)


def test_mended_cameras_and_pictures_of_a_folder_are_noticed(tmp_path: Path, finished: Path) -> None:
    data = tmp_path / "recording"
    shutil.copytree(finished / "data" / "tiny_mouse" / "samples", data)
    overlay = tmp_path / "folder.yaml"
    folder = {"kind": "folder", "path": str(data), "rig": "ring60", "image_size": 32, "extra_views": 1, "gap": 0,
              "max_reprojection_px": 60}  # fmt: skip
    overlay.write_text(yaml.safe_dump({"datasets": {"mine": folder}}))

    def planned(*arguments: str) -> str:
        target = str(tmp_path / "results" / "data" / "mine" / "manifest.json")
        return snakemake(*arguments, target, results=tmp_path / "results", config=("ci", str(overlay)))

    planned()
    assert "Nothing to be done" in planned("-n")
    picture = data / "sample_000001" / "images" / "cam_003.png"
    os.utime(picture, (1, 1))  # replaced by another one
    assert "prepare_dataset" in jobs(planned("-n"))
    planned()
    (picture.parent / ".DS_Store").touch()
    assert "Nothing to be done" in planned("-n"), "what a system hides there is no picture"
    (picture.parent / "cam_009.png").symlink_to("nowhere")
    assert "prepare_dataset" in jobs(planned("-n")), "a link to nothing is no reason to fail"
    (picture.parent / "cam_009.png").unlink()
    cameras = data / "sample_000001" / "opencv_cameras.json"
    os.utime(cameras, (1, 1))  # an older calibration put in its place
    assert "prepare_dataset" in jobs(planned("-n"))
    cameras.write_text(cameras.read_text() + "\n")
    assert "prepare_dataset" in jobs(planned("-n"))


def test_a_changed_gslrm_setting_reruns_gslrm_only(finished: Path) -> None:
    change = {"experiments": {"mouse_6x_aug": {"gslrm": {"learning_rate": 5.0e-5}}}}
    plan = jobs(rerun(finished, "-n", change=change))
    assert set(plan) == {"all", "finetune_gslrm", "render_report"}


def test_a_changed_training_setting_reruns_training_and_what_follows(finished: Path) -> None:
    plan = jobs(rerun(finished, "-n", change={"experiments": {"mouse_6x_aug": {"training": {"learning_rate": 5.0e-4}}}}))
    assert {"train_mvdiffusion", "score_checkpoint", "decide"} <= set(plan)
    assert not {"prepare_dataset", "cache_latents", "embed_prompts", "prepare_base"} & set(plan)


def test_a_changed_threshold_or_override_decides_again_and_draws_nothing(finished: Path) -> None:
    plan = jobs(rerun(finished, "-n", change={"evaluation": {"thresholds": {"min_iou": 0.5}}}))
    assert "decide" in plan and not {"train_mvdiffusion", "score_checkpoint"} & set(plan)
    plan = jobs(rerun(finished, "-n", change={"decisions": {"mouse_6x_aug": "B", "facelift_prompt": "A"}}))
    assert plan["decide"] == 2 and plan["train_mvdiffusion"] == plan["score_checkpoint"] == 1, "only the experiment that is new"


def test_with_decisions_given_the_whole_way_is_planned_from_scratch(tmp_path: Path) -> None:
    overlay = tmp_path / "decided.yaml"
    overlay.write_text(yaml.safe_dump({"decisions": {"mouse_6x_aug": "C", "realistic_prompt": "A"}}))
    plan = jobs(snakemake("-n", results=Path("results/never"), config=("ci", str(overlay))))
    assert plan["train_mvdiffusion"] == plan["score_checkpoint"] == plan["decide"] == plan["render_report"] == 2
    assert plan["finetune_gslrm"] == plan["write_journal"] == 1


@pytest.mark.parametrize(
    ("lost", "target", "rule"),
    [
        ("mvdiffusion/checkpoint-4/unet/diffusion_pytorch_model.safetensors", "all", "train_mvdiffusion"),
        ("mvdiffusion/checkpoint-4/unet/config.json", "train", "train_mvdiffusion"),
        ("evaluation/step-4/views.png", "all", "score_checkpoint"),
    ],
)
def test_a_lost_file_is_made_again_no_receipt_stands_in_for_it(lost: str, target: str, rule: str, finished: Path) -> None:
    file = finished / "experiments" / "mouse_6x_aug" / lost
    aside = file.with_name("aside")
    file.rename(aside)
    try:
        assert rule in jobs(rerun(finished, "-n", target))
    finally:
        aside.rename(file)


def test_one_stage_can_be_forced(finished: Path) -> None:
    plan = jobs(rerun(finished, "-n", "--forcerun", "finetune_gslrm"))
    assert set(plan) == {"all", "finetune_gslrm", "render_report"}


@contextlib.contextmanager
def decided(results: Path, decisions: dict[str, str]) -> Iterator[None]:
    """Decisions of a person instead of the fixture's, for as long as the block lasts."""
    overlay, before = results / "override.yaml", (results / "override.yaml").read_text()
    overlay.write_text(yaml.safe_dump({"decisions": decisions}))
    try:
        yield
    finally:
        overlay.write_text(before)


def journal(results: Path) -> list[tuple[str, str]]:
    rows = csv.DictReader((results / "journal.csv").read_text().splitlines())
    return [(row["experiment"], row["decision"]) for row in rows]


@pytest.mark.slow
def test_b_goes_to_facelift_prompts_and_on_to_3d(finished: Path) -> None:
    with decided(finished, {"mouse_6x_aug": "B", "facelift_prompt": "A"}):
        rerun(finished)
        assert "Nothing to be done" in rerun(finished)
    assert journal(finished) == [("mouse_6x_aug", "B"), ("facelift_prompt", "A")]
    assert (finished / "experiments/facelift_prompt/gslrm/gaussians.ply").exists()


@pytest.mark.slow
def test_c_goes_to_realistic_prompts_d_to_the_curriculum_and_on_to_3d(finished: Path) -> None:
    with decided(finished, {"mouse_6x_aug": "C", "realistic_prompt": "D", "curriculum": "A"}):
        rerun(finished)
    assert journal(finished) == [("mouse_6x_aug", "C"), ("realistic_prompt", "D"), ("curriculum", "A")]
    folder = finished / "experiments/curriculum"
    first, second = (json.loads((folder / f"mvdiffusion/checkpoint-{s}/provenance.json").read_text()) for s in (2, 4))
    assert "/facelift/" in first["inputs"]["prompts"]["file"] and "/mouse_elevated/" in second["inputs"]["prompts"]["file"]
    assert (folder / "gslrm/gaussians.ply").exists()


@pytest.mark.slow
def test_without_a_way_on_the_run_ends_with_a_report_and_a_failure(finished: Path) -> None:
    with decided(finished, {"mouse_6x_aug": "B", "facelift_prompt": "B"}):
        text = rerun(finished, expect=1)
    assert "No experiment converged. facelift_prompt is case B, which goes on with facelift_prompt, which was tried before." in text
    assert "Not tried, since no decision led there: realistic_prompt (case C), curriculum (case D)." in text
    assert "Trying to restart" not in text
    assert journal(finished) == [("mouse_6x_aug", "B"), ("facelift_prompt", "B")]
    assert "nothing: facelift_prompt was tried" in (finished / "journal.md").read_text(), "nobody is its own successor"
    assert (finished / "experiments/facelift_prompt/report/index.html").exists()


def test_experiments_are_compared_without_training_any(finished: Path) -> None:
    plan = jobs(rerun(finished, "-n", "compare"))
    assert set(plan) == {"compare", "compare_experiments"}
    rerun(finished, "compare")
    table = csv.DictReader((finished / "compare/judged/experiments.csv").read_text().splitlines())
    row = next(row for row in table if row["experiment"] == "mouse_6x_aug")
    assert float(row["overlap (IoU)"]) >= 0 and float(row["3D PSNR (dB)"]) > 0
    page = (finished / "compare/judged/index.html").read_text()
    assert "mouse_6x_aug" in page and "data:image/png" in page


def test_a_sweep_makes_experiments_that_one_target_runs(tmp_path: Path) -> None:
    overlay = tmp_path / "sweep.yaml"
    vary = {"training.learning_rate": [1e-4, 1e-5], "prompt_style": ["facelift", "realistic"]}
    overlay.write_text(yaml.safe_dump({"sweep": {"of": "mouse_6x_aug", "vary": vary}}, sort_keys=False))
    plan = jobs(snakemake("-n", "sweep", results=Path("results/never"), config=("ci", str(overlay))))
    assert plan["train_mvdiffusion"] == plan["decide"] == 4 and plan["cache_latents"] == 1 and plan["embed_prompts"] == 2
    named = "train_mouse_6x_aug-learning_rate-1e-05-prompt_style-realistic"
    assert named in jobs(snakemake("-n", named, results=Path("results/never"), config=("ci", str(overlay))))
    overlay.write_text(yaml.safe_dump({"sweep": {"of": "mouse_6x_aug", "vary": {"training.lerning_rate": [1]}}}))
    assert "unknown key 'lerning_rate'" in snakemake("-n", config=("ci", str(overlay)), expect=1)


def test_the_workflow_runs_from_elsewhere_and_no_path_is_read_by_a_shell(tmp_path: Path) -> None:
    elsewhere = tmp_path / 'it\'s "mine" `touch PWNED` $(touch PWNED) a;touch PWNED #'
    elsewhere.mkdir()
    command = [
        str(BIN / "snakemake"),
        "-s",
        str(ROOT / "Snakefile"),
        "-d",
        str(elsewhere),
        "--profile",
        str(ROOT / "profiles/local"),
    ]
    (tmp_path / "here.yaml").write_text(yaml.safe_dump({"results": f"{elsewhere}/also 'here' || touch PWNED #"}))
    command += ["data", "--configfile", str(ROOT / "configs/ci.yaml"), str(tmp_path / "here.yaml")]
    environment = {k: v for k, v in os.environ.items() if k != "PATH"} | {"PATH": "/usr/bin:/bin"}  # nothing is activated
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list(elsewhere.glob("also*/data/tiny_mouse/manifest.json"))) == 1
    assert not list(tmp_path.rglob("PWNED")) and not (ROOT / "PWNED").exists()


def test_the_plan_table_needs_no_results_and_no_gpu() -> None:
    done = subprocess.run([str(BIN / "mvfl"), "plan"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in ("mouse_6x_aug", "curriculum", "GPU hours"))


def test_the_schemas_are_json() -> None:
    for name in ("config", "decision"):
        done = subprocess.run([str(BIN / "mvfl"), "schema", name], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["type"] == "object"


def test_a_missing_checkpoint_is_named(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "here.yaml").write_text(yaml.safe_dump({"results": str(finished)}))
    plan = Plan(load_config([ROOT / "workflow_config.yaml", ROOT / "configs" / "ci.yaml", tmp_path / "here.yaml"]))
    source = plan.generation("mouse_6x_aug").model_copy(update={"state": tmp_path / "state"})
    job = SyntheticJob(source=source, out=tmp_path / "piece.json")
    command = [str(BIN / "mvfl"), "synthetic", "--job", job.model_dump_json()]
    weights = plan.layout.checkpoint("mouse_6x_aug", 4).weights
    aside = weights.rename(weights.with_suffix(".aside"))
    done = subprocess.run(command, capture_output=True, text=True)
    aside.rename(weights)
    assert done.returncode == 1
    assert f"{weights} does not exist" in done.stderr and "no substitute weights" in done.stderr
    assert "Traceback" not in done.stderr and not job.out.exists()


def test_one_picture_becomes_a_model_and_changed_weights_are_refused(finished: Path, tmp_path: Path) -> None:
    experiment = finished / "experiments" / "mouse_6x_aug"
    picture = finished / "data" / "tiny_mouse" / "samples" / "sample_000005" / "images" / "cam_003.png"
    command = [str(BIN / "mvfl"), "reconstruct", str(picture), "--experiment", str(experiment), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "gaussians.ply").read_bytes().startswith(b"ply")
    assert len(list((tmp_path / "out" / "views").glob("cam_*.png"))) == 6 and (tmp_path / "out" / "turntable.gif").exists()
    prompts = next((finished / "prompts").glob("*/mouse_elevated/clr_embeds.pt"))
    content = prompts.read_bytes()
    prompts.write_bytes(content + b"x")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    prompts.write_bytes(content)
    assert done.returncode == 1 and f"{prompts} changed since the stage synthetic read it" in done.stderr
    done = subprocess.run([*command, "--view", "6"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "--view 6 is not a view that this experiment starts from (0 to 5)" in done.stderr


def test_all_samples_become_models_in_pieces_and_a_new_model_of_the_experiment_makes_them_anew(finished: Path) -> None:
    two = ("--set-scatter", "reconstruct=2")
    out = rerun(finished, "reconstruct", *two, change={"reconstruct": {"every": 4, "all_views": True, "formats": ["splat"]}})
    assert jobs(out)["reconstruct_samples"] == 2 and jobs(out)["summarise_models"] == 1
    models = finished / "experiments" / "mouse_6x_aug" / "models"
    table = list(csv.DictReader((models / "models.csv").read_text().splitlines()))
    assert [row["name"] for row in table] == ["sample_000000", "sample_000004"]
    assert all((models / row["name"] / "animal.splat").is_file() for row in table) and (models / "viewer.html").is_file()
    before = {row["name"]: (models / row["name"] / "gaussians.ply").stat().st_mtime_ns for row in table}
    (models / "models.csv").unlink()
    rerun(finished, "reconstruct", change={"reconstruct": {"every": 4, "all_views": True, "formats": ["splat"]}})
    after = {row["name"]: (models / row["name"] / "gaussians.ply").stat().st_mtime_ns for row in table}
    assert before == after, "one job in place of two: what is there is kept"
    rerun(finished, "reconstruct", "--forcerun", "reconstruct", change={"reconstruct": {"every": 4, "all_views": True}})
    forced = {row["name"]: (models / row["name"] / "gaussians.ply").stat().st_mtime_ns for row in table}
    assert all(forced[name] > after[name] for name in after), "forced: all anew"


def test_a_finished_experiment_is_saved_with_a_card_and_loads_as_it_was(finished: Path, tmp_path: Path) -> None:
    """Dry: nothing is uploaded, no network is asked."""
    experiment, saved = finished / "experiments" / "mouse_6x_aug", tmp_path / "saved"
    picture = finished / "data" / "tiny_mouse" / "samples" / "sample_000005" / "images" / "cam_003.png"

    def mvfl(*arguments: object, expect: int = 0) -> str:
        blocked = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9"}
        done = subprocess.run([str(BIN / "mvfl"), *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, env=blocked)
        assert done.returncode == expect and "Traceback" not in done.stderr, done.stderr
        return done.stderr

    mvfl("base", "save", experiment, saved)
    rgba = rgba_tensor([read_rgba(picture, 32)])
    as_trained, as_saved = (Reconstructor.load(source)(composite(rgba, 1.0), view=3)[0].gaussians for source in (experiment, saved))
    assert all(torch.equal(a, b) for a, b in zip(vars(as_trained).values(), vars(as_saved).values(), strict=True))
    case = json.loads((experiment / "evaluation" / "step-4" / "decision.json").read_text())["case"]
    card = (saved / "README.md").read_text()
    for part in (
        "license: apache-2.0",
        "library_name: mvfl",
        "| this model |",
        "| 5 | ",
        "4 moments for training",
        f"Case {case} at step 4",
    ):
        assert part in card, part
    said = mvfl("base", "push", experiment, "lab/mouse", "--dry-run")
    assert "Would upload" in said and "unet/diffusion_pytorch_model.safetensors" in said and "README.md" in said
    assert "could not be written" in mvfl("base", "push", experiment, "lab/mouse", expect=1)
    with pytest.raises(InputError, match="called owner/name"):
        push_to_hub(experiment, "mouse", dry_run=True)
    with pytest.raises(InputError, match="exists; name another folder"):
        save_pretrained(experiment, saved)


def test_a_missing_base_is_named(tmp_path: Path) -> None:
    def prepare(folder: Path) -> subprocess.CompletedProcess[str]:
        job = BaseJob(base=LocalBase(kind="local", path=folder), out=tmp_path / "out")
        command = [str(BIN / "mvfl"), "base", "prepare", "--job", job.model_dump_json()]
        return subprocess.run(command, capture_output=True, text=True)

    done = prepare(Path("/nowhere"))
    assert done.returncode == 1 and "Base folder /nowhere does not exist; set bases.<name>.path." in done.stderr
    (tmp_path / "half" / "unet").mkdir(parents=True)
    done = prepare(tmp_path / "half")
    assert done.returncode == 1 and "missing: unet/config.json" in done.stderr and "vae/config.json" in done.stderr


def test_prompt_styles_are_listed() -> None:
    done = subprocess.run([str(BIN / "mvfl"), "prompts", "--list-styles"], capture_output=True, text=True, check=True)
    assert [line for line in done.stdout.splitlines() if not line.startswith(" ")] == [
        "facelift", "mouse_elevated", "realistic", "hybrid", "simple",
    ]  # fmt: skip
