"""Training: resuming is exact, faults are caught before they cost, conditioning means what it says."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mvfl.base.check import check_record
from mvfl.base.prepare import prepare_base
from mvfl.base.record import read_record
from mvfl.config.schema import Experiment, GslrmFinetuning, GslrmLosses, HubBase, LocalBase, Wandb
from mvfl.data.samples import Manifest
from mvfl.geometry.rig import load_rig
from mvfl.gslrm.checkpoint import load_gslrm, read_state, save_gslrm
from mvfl.gslrm.model import Gslrm, GslrmConfig
from mvfl.gslrm.training import finetune_gslrm
from mvfl.mvdiffusion.conditioning import pose_features, slot_table
from mvfl.mvdiffusion.pipeline import MultiViewPipeline
from mvfl.mvdiffusion.training import TrainingPaths, load_prompts, train_segment
from mvfl.mvdiffusion.unet import build_unet, load_unet, reference_path_norm, widen_conv_in, with_view_conditioning
from mvfl.prompts import STYLES, embed_prompts
from mvfl.runtime.files import InputError, written_aside
from mvfl.runtime.lock import only_writer, require_space
from mvfl.runtime.randomness import batch_indices
from mvfl.runtime.tracking import Tracker
from mvfl.runtime.training_state import Collapsed, TrainingState, Unfinished

QUIET = Wandb(mode="disabled")


@pytest.fixture
def paths(tmp_path: Path, tiny_base: Path, tiny_latents: Path, tiny_prompts: Path) -> TrainingPaths:
    return TrainingPaths(tiny_base, tiny_latents, tiny_prompts, tmp_path / "state", tmp_path / "out")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


def elsewhere(paths: TrainingPaths, name: str) -> TrainingPaths:
    root = paths.out.parent / name
    return TrainingPaths(paths.base, paths.latents, paths.prompts, root / "state", root / "out")


def test_a_resumed_run_gives_the_same_weights_bit_for_bit(paths: TrainingPaths, tiny_experiment: Experiment) -> None:
    train_segment(tiny_experiment, 4, paths, QUIET)
    again = elsewhere(paths, "again")
    train_segment(tiny_experiment, 2, again, QUIET)
    train_segment(tiny_experiment, 4, again, QUIET)
    a, b = weights(paths.out), weights(again.out)
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_signal_saves_the_state_and_the_next_run_goes_on(
    paths: TrainingPaths, tiny_experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_segment(tiny_experiment, 4, paths, QUIET)
    again = elsewhere(paths, "again")
    import mvfl.mvdiffusion.training as module

    real, calls = module.diffusion_loss, []

    def interrupted(*args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args, **kwargs)

    monkeypatch.setattr(module, "diffusion_loss", interrupted)
    with pytest.raises(Unfinished, match=r"Stopped at step 2 of 4 \(received SIGTERM\)"):
        train_segment(tiny_experiment, 4, again, QUIET)
    assert not again.out.exists()
    train_segment(tiny_experiment, 4, again, QUIET)
    assert len(calls) == 4
    a, b = weights(paths.out), weights(again.out)
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_changed_settings_start_anew_and_keep_the_old_state(paths: TrainingPaths, tiny_experiment: Experiment) -> None:
    train_segment(tiny_experiment, 2, paths, QUIET)
    training = tiny_experiment.training.model_copy(update={"learning_rate": 5e-4})
    train_segment(tiny_experiment.model_copy(update={"training": training}), 2, paths, QUIET)
    assert (paths.state / "states.stale").is_dir()


def test_a_broken_state_file_is_set_aside(tmp_path: Path) -> None:
    state = TrainingState(tmp_path / "s", "f")
    state.save(1, {"x": torch.ones(3)})
    state.save(2, {"x": torch.zeros(3)})
    newest = tmp_path / "s" / "step-00000002.pt"
    newest.write_bytes(newest.read_bytes()[:40])
    step, content = state.load(at_most=9)
    assert step == 1 and content is not None and torch.equal(content["x"], torch.ones(3))
    assert newest.with_suffix(".broken").exists()


def test_a_nan_loss_ends_the_run(paths: TrainingPaths, tiny_experiment: Experiment) -> None:
    training = tiny_experiment.training.model_copy(update={"learning_rate": 1e18})
    with pytest.raises(FloatingPointError, match=r"lower training\.learning_rate"):
        train_segment(tiny_experiment.model_copy(update={"training": training}), 4, paths, QUIET)
    assert not paths.out.exists()


def test_a_collapsing_run_warns_and_stops_where_configured(
    paths: TrainingPaths, tiny_experiment: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    def collapsed(_pipeline: MultiViewPipeline, step: int) -> tuple[Path, dict[str, float]]:
        return paths.state / f"step-{step}.png", {"val/copy_score": 0.6, "val/slot_accuracy": 0.9}

    watch = tiny_experiment.training.model_copy(update={"watch_steps": [1]})
    train_segment(tiny_experiment.model_copy(update={"training": watch}), 2, paths, QUIET, validate=collapsed)
    assert "Warning at step 1: the views repeat the input (copy score 0.60, limit 0.3)" in capsys.readouterr().err
    stop = watch.model_copy(update={"stop_on_collapse": True})
    ended = elsewhere(paths, "b")
    with pytest.raises(Collapsed, match=r"Stopped at step 1: the views repeat the input"):
        train_segment(tiny_experiment.model_copy(update={"training": stop}), 2, ended, QUIET, validate=collapsed)
    # The workflow's own retry must not carry it on; other limits may.
    with pytest.raises(Collapsed, match=r"Stopped at step 1: .*It is not carried on: change the experiment"):
        train_segment(tiny_experiment.model_copy(update={"training": stop}), 2, ended, QUIET, validate=collapsed)
    looser = stop.model_copy(update={"watch_copy_score": 0.7})
    train_segment(tiny_experiment.model_copy(update={"training": looser}), 2, ended, QUIET, validate=collapsed)


def test_a_latent_cache_of_another_base_is_refused(paths: TrainingPaths, tiny_experiment: Experiment, tmp_path: Path) -> None:
    import json
    import shutil

    copy = tmp_path / "cache"
    shutil.copytree(paths.latents, copy)
    index = json.loads((copy / "index.json").read_text())
    (copy / "index.json").write_text(json.dumps({**index, "base_hash": "other"}))
    with pytest.raises(InputError, match="encoded with another base"):
        train_segment(tiny_experiment, 2, TrainingPaths(paths.base, copy, paths.prompts, paths.state, paths.out), QUIET)


def test_prompts_of_another_width_or_missing_are_refused_with_the_reason(tiny_pipeline: MultiViewPipeline, tmp_path: Path) -> None:
    torch.save(torch.zeros(6, 77, 768).half(), tmp_path / "clr_embeds.pt")
    with pytest.raises(InputError, match="is 768 wide, the UNet's cross attention needs 64"):
        load_prompts(tmp_path / "clr_embeds.pt", tiny_pipeline.unet)
    with pytest.raises(InputError, match="does not exist; run the `prompts` target"):
        load_prompts(tmp_path / "none.pt", tiny_pipeline.unet)
    torch.save(torch.full((6, 77, 64), torch.nan), tmp_path / "clr_embeds.pt")
    with pytest.raises(InputError, match="finite"):
        load_prompts(tmp_path / "clr_embeds.pt", tiny_pipeline.unet)


def test_the_published_prompt_file_of_width_1024_fits_the_full_size_unet(tmp_path: Path) -> None:
    with torch.device("meta"):
        unet = build_unet(
            {"sample_size": 64, "in_channels": 8, "out_channels": 4, "cross_attention_dim": 1024, "block_out_channels": [32],
             "down_block_types": ["CrossAttnDownBlockMV2D"], "mid_block_type": "UNetMidBlockMV2DCrossAttn",
             "up_block_types": ["CrossAttnUpBlockMV2D"], "layers_per_block": 1, "attention_head_dim": [1]}
        )  # fmt: skip
    torch.save(torch.zeros(6, 77, 1024, dtype=torch.float16), tmp_path / "clr_embeds.pt")
    assert load_prompts(tmp_path / "clr_embeds.pt", unet).shape == (6, 77, 1024)


# ------------------------------------------------------------------------------------------ prompts
def test_prompt_files_hold_what_the_guide_says(tiny_base: Path, tmp_path: Path) -> None:
    import json

    embed_prompts("mouse_elevated", tiny_base.parent / "pipeline", tmp_path / "p")
    embeds = torch.load(tmp_path / "p" / "clr_embeds.pt", weights_only=True)
    assert embeds.shape == (6, 77, 64) and embeds.dtype == torch.float16 and not embeds.requires_grad
    metadata = json.loads((tmp_path / "p" / "metadata.json").read_text())
    assert metadata["views"][0] == "top-front"
    assert metadata["color_prompts"][1] == (
        "a rendering image of a 3D model, top-front-right view, from above at an angle, color map."
    )
    matrix = np.array(json.loads((tmp_path / "p" / "similarity.json").read_text())["views"]["cosine"])
    assert matrix.shape == (6, 6) and np.allclose(np.diag(matrix), 1, atol=1e-3) and matrix[0, 3] < 0.999
    assert (tmp_path / "p" / "similarity.png").stat().st_size > 1000


VIEWS = {
    "facelift": "front, front_right, right, back, left, front_left",
    "mouse_elevated": "top-front, top-front-right, top-right, top-back, top-left, top-front-left",
    **dict.fromkeys(("realistic", "hybrid", "simple"), "front, front-right, right, back, left, front-left"),
}
COLOUR = {
    "facelift": "a rendering image of 3D models, {} view, color map.",
    "mouse_elevated": "a rendering image of a 3D model, {} view, from above at an angle, color map.",
    "realistic": "a photograph of a mouse, {} view, from above at an angle.",
    "hybrid": "a multi-view image of a mouse, {} view, elevated camera.",
    "simple": "a mouse, {} view, top-down angle.",
}
NORMAL = {
    "facelift": "a rendering image of 3D models, {} view, normal map.",
    "mouse_elevated": "a rendering image of a 3D model, {} view, from above at an angle, normal map.",
    "realistic": "a depth image of a mouse, {} view, from above at an angle.",
    "hybrid": "a normal map of a mouse, {} view, elevated camera.",
    "simple": "a mouse depth map, {} view, top-down angle.",
}


@pytest.mark.parametrize("style", VIEWS)
def test_every_string_of_a_style_is_that_of_the_guide(style: str) -> None:
    assert set(STYLES) == set(VIEWS)
    words = VIEWS[style].split(", ")
    assert list(STYLES[style].views) == words
    assert STYLES[style].prompts == [COLOUR[style].format(w) for w in words]
    assert STYLES[style].normal_prompts == [NORMAL[style].format(w) for w in words]


def test_a_text_encoder_of_another_width_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is 64 wide, the UNet's cross attention needs 1024"):
        embed_prompts("simple", tiny_base.parent / "pipeline", tmp_path / "p", width=1024)
    with pytest.raises(InputError, match="There are no substitutes"):
        embed_prompts("simple", tmp_path, tmp_path / "p")


# ------------------------------------------------------------------------------------- conditioning
def test_relative_slots_start_at_the_reference_and_absolute_ones_do_not() -> None:
    rig = load_rig("ring60")
    relative = slot_table(rig, "relative_pose")
    assert relative.views[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert relative.views[2].tolist() == [2, 1, 0, 5, 4, 3]
    assert slot_table(rig, "absolute_prompt").views[4].tolist() == [0, 5, 4, 3, 2, 1]
    assert slot_table(rig, "relative_prompt").poses is None


def test_poses_of_a_symmetric_rig_are_the_same_for_every_reference_and_of_the_measured_rig_are_not() -> None:
    ring, measured = load_rig("ring60"), load_rig("markerless_mouse_1")
    torch.testing.assert_close(pose_features(ring, 0), pose_features(ring, 4), atol=1e-5, rtol=0)
    assert float((pose_features(measured, 0) - pose_features(measured, 4)).abs().max()) > 0.1


@torch.no_grad()
def test_pose_columns_start_at_zero_so_that_step_0_equals_the_source(tiny_pipeline: MultiViewPipeline) -> None:
    config = {**tiny_pipeline.unet.config, "view_conditioning": "prompt", "projection_class_embeddings_input_dim": 128}
    source = build_unet(config).eval()
    wider = with_view_conditioning(source, "relative_pose").eval()
    x, t = torch.randn(6, 8, 16, 16), torch.tensor(500)
    text, labels = torch.randn(6, 77, 64), torch.randn(6, 128)
    poses = pose_features(load_rig("ring60"), 0)
    a = build_unet(config).eval()
    a.load_state_dict(source.state_dict() if source.config.view_conditioning == "prompt" else _narrow(wider))
    before = a(x, t, encoder_hidden_states=text, class_labels=labels).sample
    after = wider(x, t, encoder_hidden_states=text, class_labels=torch.cat([labels, poses], 1)).sample
    torch.testing.assert_close(after, before, atol=2e-5, rtol=0)  # a wider matrix product rounds otherwise
    with pytest.raises(InputError, match="leave its pose columns unfed"):
        with_view_conditioning(wider, "prompt")


def _narrow(unet) -> dict[str, torch.Tensor]:
    state = dict(unet.state_dict())
    state["class_embedding.linear_1.weight"] = state["class_embedding.linear_1.weight"][:, :128]
    return state


def test_only_a_single_image_unet_is_widened_and_a_learned_reference_path_is_never_zeroed(tiny_pipeline: MultiViewPipeline) -> None:
    assert widen_conv_in(tiny_pipeline.unet) is tiny_pipeline.unet
    assert reference_path_norm(tiny_pipeline.unet) > 0.1
    single = build_unet({**tiny_pipeline.unet.config, "in_channels": 4})
    wide = widen_conv_in(single)
    assert torch.equal(wide.conv_in.weight[:, :4], single.conv_in.weight)
    assert reference_path_norm(wide) == 0


def test_a_base_whose_reference_path_was_zeroed_is_refused(tiny_base: Path) -> None:
    unet = load_unet(tiny_base.parent / "pipeline" / "unet")
    with torch.no_grad():
        unet.conv_in.weight[:, unet.config.out_channels :] = 0
    with pytest.raises(InputError, match=r"their weights are gone \(norm 0\.0e\+00\)"):
        widen_conv_in(unet)


def test_weights_that_do_not_fit_are_listed_in_one_error(tiny_base: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import save_file

    shutil.copytree(tiny_base.parent / "pipeline" / "unet", tmp_path / "unet")
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state["surplus"] = torch.zeros(2)
    state["conv_in.weight"] = state["conv_in.weight"][:, :4].contiguous()
    del state["conv_out.bias"]
    save_file(state, file)
    with pytest.raises(InputError) as caught:
        load_unet(tmp_path / "unet")
    for part in ("3 tensors", "missing: conv_out.bias", "unexpected: surplus", "shape of conv_in.weight"):
        assert part in str(caught.value)
    file.unlink()
    with pytest.raises(InputError, match="no substitute weights"):
        load_unet(tmp_path / "unet")


def test_saving_and_loading_a_pipeline_gives_identical_files(tiny_base: Path, tmp_path: Path) -> None:
    MultiViewPipeline.from_pretrained(tiny_base.parent / "pipeline").save_pretrained(tmp_path / "a")
    MultiViewPipeline.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    files = [f.relative_to(tmp_path / "a") for f in (tmp_path / "a").rglob("*") if f.is_file()]
    assert len(files) >= 14
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


# -------------------------------------------------------------------------------------------- GS-LRM
def test_gslrm_checkpoints_in_both_formats_load_and_loss_networks_are_ignored(tmp_path: Path) -> None:
    model = Gslrm(GslrmConfig(image_size=16, width=64, layers=1))
    state = {**model.state_dict(), "loss_calculator.perceptual_loss_module.net.conv1.weight": torch.zeros(2)}
    torch.save({"model": state, "optimizer": {}, "fwdbwd_pass_step": 7, "param_update_step": 5}, tmp_path / "a.pt")
    save_gslrm(model, tmp_path / "b.safetensors", 5, 7)
    for name in ("a.pt", "b.safetensors"):
        loaded = load_gslrm(tmp_path / name, 16)
        assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), model.state_dict().values(), strict=True))
        assert read_state(tmp_path / name)[1]["fwdbwd_pass_step"] == 7
    save_gslrm(load_gslrm(tmp_path / "b.safetensors", 16), tmp_path / "c.safetensors", 5, 7)
    assert (tmp_path / "b.safetensors").read_bytes() == (tmp_path / "c.safetensors").read_bytes()


def test_a_gslrm_checkpoint_that_is_missing_or_incomplete_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="never starts from random weights by mistake"):
        load_gslrm(tmp_path / "none.pt", 16)
    state = Gslrm(GslrmConfig(image_size=16, width=64, layers=1)).state_dict()
    del state["transformer_layers.0.norm2.weight"]
    torch.save({"model": state}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"missing: transformer_layers\.0\.norm2\.weight"):
        load_gslrm(tmp_path / "a.pt", 16)
    torch.save({"model": {"x": torch.zeros(1)}}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="not a GS-LRM checkpoint"):
        load_gslrm(tmp_path / "a.pt", 16)


def test_a_resumed_gslrm_run_gives_the_same_weights(tiny_base: Path, tiny_manifest: Manifest, tmp_path: Path) -> None:
    start = tiny_base.parent / "pipeline" / "gslrm" / "gslrm.safetensors"
    settings = GslrmFinetuning(
        steps=2, batch_size=1, warmup_steps=1, mixed_precision="no", losses=GslrmLosses(alpha=0.1), checkpoint_every=1,
        log_every=1, target_views=2,
    )  # fmt: skip
    pairs = {n: n for n in tiny_manifest.train}
    run = lambda name: finetune_gslrm(  # noqa: E731
        settings, start, tiny_manifest, tiny_manifest, pairs, QUIET, "x", tmp_path / name, tmp_path / f"{name}.safetensors",
    )  # fmt: skip
    run("a")
    run("b")
    newest = sorted((tmp_path / "b" / "states").glob("step-*.pt"))[-1]
    newest.unlink()
    run("b")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert load_file(tmp_path / "a.safetensors")["model.gaussian_upsampler.linear.weight"].isfinite().all()


def test_the_published_view_choice_trains_on_one_data_set_and_is_refused_between_two(
    tiny_base: Path, tiny_manifest: Manifest, tmp_path: Path
) -> None:
    from dataclasses import replace

    start = tiny_base.parent / "pipeline" / "gslrm" / "gslrm.safetensors"
    settings = GslrmFinetuning(
        steps=1, batch_size=1, warmup_steps=0, mixed_precision="no", input_views=3, target_views=5, view_choice="any",
        compositing="8bit",
    )  # fmt: skip
    pairs = {n: n for n in tiny_manifest.train}
    other = replace(tiny_manifest, data_hash="other")
    run = lambda targets: finetune_gslrm(  # noqa: E731
        settings, start, tiny_manifest, targets, pairs, QUIET, "x", tmp_path / "s", tmp_path / "out.safetensors"
    )
    run(tiny_manifest)
    assert (tmp_path / "out.safetensors").exists()
    with pytest.raises(InputError, match="use 'first' with them"):
        run(other)


# ------------------------------------------------------------------------------------------- runtime
def test_a_second_writer_is_refused_and_a_dead_one_is_replaced(tmp_path: Path) -> None:
    import json
    import subprocess
    import sys

    with (
        only_writer(tmp_path / "s"),
        pytest.raises(InputError, match=rf"is being written by process {os.getpid()} on"),
        only_writer(tmp_path / "s"),
    ):
        pass
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    import socket

    (tmp_path / "s" / "lock").write_text(json.dumps({"host": socket.gethostname(), "pid": gone.pid, "slurm_job": None}))
    with only_writer(tmp_path / "s"):
        assert json.loads((tmp_path / "s" / "lock").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "s" / "lock").exists()


def test_too_little_space_is_found_before_the_start(tmp_path: Path) -> None:
    require_space(tmp_path, 1000, "Training")
    with pytest.raises(InputError, match=r"Training needs about 1000000\.0 GB"):
        require_space(tmp_path, 10**15, "Training")


def test_every_sample_is_seen_once_per_pass_whatever_the_batch() -> None:
    seen = np.concatenate([batch_indices(10, 4, step, 3) for step in range(5)])
    assert sorted(seen[:10]) == sorted(seen[10:20]) == list(range(10))
    assert not np.array_equal(seen[:10], seen[10:20])
    assert np.array_equal(batch_indices(10, 4, 3, 3), seen[12:16])


def test_a_full_disk_leaves_the_old_file_and_says_what_to_do(tmp_path: Path) -> None:
    target = tmp_path / "x.json"
    target.write_text("old")
    with pytest.raises(InputError, match=r"Could not write .*No space left.*Free some space"), written_aside(target) as temporary:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


WRITERS = """
import resource, sys
from pathlib import Path
import numpy as np, torch
from safetensors.torch import save_file
from mvfl.runtime.files import InputError, written_aside
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
data = torch.randn(100, 100)
writers = {"torch": lambda f: torch.save(data, f), "safetensors": lambda f: save_file({"a": data}, f),
           "numpy": lambda f: np.save(f.open("wb"), data.numpy()), "text": lambda f: f.write_text("x" * 20_000)}
for name, write in writers.items():
    try:
        with written_aside(Path(sys.argv[1]) / name) as temporary:
            write(temporary)
    except InputError as error:
        print(name, error)
"""


def test_every_library_that_meets_a_full_disk_ends_in_the_same_sentence(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WRITERS, str(tmp_path)], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["torch", "safetensors", "numpy", "text"], done.stderr
    assert all("Could not write" in line and "Free some space" in line for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_were_cut_short_are_no_base(tiny_base: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_base.parent / "pipeline", tmp_path / "cut")
    weights = tmp_path / "cut" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(InputError, match=r"unet/diffusion_pytorch_model\.safetensors: the file ends too early"):
        prepare_base(LocalBase(kind="local", path=tmp_path / "cut"), tmp_path / "out")
    assert not (tmp_path / "out" / "base.json").exists()
    with pytest.raises(InputError, match="damaged or cut short"):
        load_unet(tmp_path / "cut" / "unet")


def test_the_timer_never_spends_the_run_on_saving(tmp_path: Path) -> None:
    state = TrainingState(tmp_path, "mark", save_minutes=1e-9)
    assert state.due
    state.save_took = 60.0
    assert not state.due


def test_numbers_and_pictures_reach_the_wandb_run(
    paths: TrainingPaths, tiny_experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    run = SimpleNamespace(id="x", log=lambda values, step: seen.update(values), finish=lambda exit_code: None)
    seen: dict[str, object] = {}
    monkeypatch.setattr("wandb.init", lambda **settings: seen.update(settings) or run)

    def picture(_pipeline: MultiViewPipeline, step: int) -> tuple[Path, dict[str, float]]:
        Image.new("RGB", (4, 4)).save(paths.state / "grid.png")
        return paths.state / "grid.png", {"val/copy_score": 0.0, "val/slot_accuracy": 1.0}

    every = tiny_experiment.training.model_copy(update={"validate_every": 1})
    experiment = tiny_experiment.model_copy(update={"training": every})
    train_segment(experiment, 2, paths, Wandb(mode="offline", project="mouse_facelift"), validate=picture)
    assert {"train/loss", "train/lr", "train/grad_norm", "validation/images", "val/slot_accuracy"} <= set(seen)
    assert (seen["project"], seen["name"], seen["mode"]) == ("mouse_facelift", "tiny", "offline")


@pytest.mark.parametrize("mode", ["auto", "online"])
def test_a_node_without_a_network_records_offline_unless_online_was_asked_for(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    modes = []

    def init(**settings: object) -> SimpleNamespace:
        modes.append(settings["mode"])
        if settings["mode"] == "online":
            raise wandb.errors.CommError("no route to host")
        return SimpleNamespace(id="x", finish=lambda exit_code: None)

    monkeypatch.setattr("wandb.init", init)
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if mode == "online":
        with pytest.raises(InputError, match=r"set wandb\.mode to offline or auto"):
            Tracker(tmp_path, Wandb(mode="online"), "run", "group", {})
        return
    with Tracker(tmp_path, Wandb(mode="auto"), "run", "group", {}):
        pass
    assert modes == ["online", "offline"]


def test_a_later_segment_never_starts_from_nothing(paths: TrainingPaths, tiny_experiment: Experiment) -> None:
    """Without a training state the weights of the segment before are taken, not the base's."""
    import shutil
    from dataclasses import replace

    still = tiny_experiment.training.model_copy(update={"learning_rate": 1e-12})
    experiment = tiny_experiment.model_copy(update={"training": still})
    first = replace(paths, out=paths.out.parent / "checkpoint-2")
    train_segment(tiny_experiment, 2, first, QUIET)
    shutil.rmtree(paths.state)
    train_segment(experiment, 3, replace(paths, start=first.out), QUIET)
    a, b = weights(first.out), weights(paths.out)
    assert all(torch.allclose(a[k], b[k], atol=1e-6) for k in a)


def test_saving_an_early_step_again_keeps_it_beside_later_ones(tmp_path: Path) -> None:
    state = TrainingState(tmp_path / "s", "f", keep=2)
    for step in (6, 7, 1):
        state.save(step, {"x": torch.ones(1)})
    assert state.steps() == [1, 6, 7]


def test_a_words_only_rig_and_a_missing_reference_are_refused(paths: TrainingPaths, tiny_experiment: Experiment) -> None:
    with pytest.raises(InputError, match="reference 9 does not exist"):
        train_segment(tiny_experiment.model_copy(update={"reference": 9}), 1, paths, QUIET)


def test_a_hub_base_is_used_offline_from_the_cache_and_its_absence_is_explained(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    revision = "0123456789abcdef0123456789abcdef01234567"
    settings = HubBase(kind="hub", repo="lab/mouse", revision=revision, gslrm="gslrm/gslrm.safetensors")
    with pytest.raises(InputError, match=f"lab/mouse at revision {revision} could not be fetched.*kind 'local'"):
        prepare_base(settings, tmp_path / "a")
    snapshot = tmp_path / "models--lab--mouse" / "snapshots" / revision
    shutil.copytree(tiny_base.parent / "pipeline", snapshot / "mvdiffusion" / "pipeckpts")
    shutil.move(snapshot / "mvdiffusion" / "pipeckpts" / "gslrm", snapshot / "gslrm")
    record = prepare_base(settings, tmp_path / "b")
    assert record.pipeline == (snapshot / "mvdiffusion" / "pipeckpts").resolve() and record.gslrm is not None
    assert record.hash == read_record(tiny_base).hash


def test_a_recorded_base_is_verified_by_hash(tiny_base: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_base.parent / "pipeline", tmp_path / "p")
    prepare_base(LocalBase(kind="local", path=tmp_path / "p"), tmp_path)
    assert all(f.good for f in check_record(tmp_path / "base.json"))
    weights = tmp_path / "p" / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1  # the size stays
    weights.write_bytes(content)
    (tmp_path / "p" / "vae" / "config.json").unlink()
    bad = [f.text for f in check_record(tmp_path / "base.json") if not f.good]
    assert len(bad) == 2 and any("differs from the recorded SHA-256" in b for b in bad) and any("is missing" in b for b in bad)


def test_states_keep_to_their_budget_and_the_newest_one_never_goes(tmp_path: Path) -> None:
    megabyte = {"x": torch.zeros(250_000)}
    state = TrainingState(tmp_path / "s", "mark", keep=5, budget_gigabytes=0.0025)
    for step in (1, 2, 3):
        state.save(step, megabyte)
    assert state.steps() == [2, 3], "two states fit, the oldest went"
    with pytest.raises(InputError, match=r"No room for another training state.*is kept; free some space"):
        state.save(4, {"x": torch.zeros(600_000)})
    assert state.steps() == [3]


def test_a_filling_disk_is_seen_before_a_state_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = TrainingState(tmp_path / "s", "mark")
    state.save(1, {"x": torch.zeros(10)})
    monkeypatch.setattr("mvfl.runtime.training_state.shutil.disk_usage", lambda _: SimpleNamespace(free=20))
    with pytest.raises(InputError, match=r"step-00000001\.pt is kept"):
        state.save(2, {"x": torch.zeros(10)})
    assert state.load(5)[0] == 1


def test_attempts_are_noted_and_a_killed_one_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mvfl.runtime.tracking import Tracker, read_attempts

    offline = Wandb(mode="offline")
    with pytest.raises(Unfinished), Tracker(tmp_path, offline, "run", "g", {}, step=0, until=9) as tracker:
        tracker.log(3, {"train/loss": 1.0})
        raise Unfinished("time is up")
    killed = Tracker(tmp_path, offline, "run", "g", {}, step=3, until=9)  # never left: as after a SIGKILL
    killed.run.finish()
    with Tracker(tmp_path, offline, "run", "g", {}, step=3, until=9):
        pass
    rows = read_attempts(tmp_path)
    assert [(r["event"], r["step"]) for r in rows] == [("begun", 0), ("ended", 3), ("begun", 3), ("begun", 3), ("ended", 3)]
    assert rows[1]["reason"] == "Unfinished" and rows[-1]["reason"] == "finished"
    assert len({r["wandb"] for r in rows if r["event"] == "begun"}) == 1, "one W&B run for all attempts"
    assert "was killed; its W&B run is continued" in capsys.readouterr().err


def test_what_a_killed_job_left_half_written_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".step-00000007.pt.partial-123").write_bytes(b"half")
    assert TrainingState(tmp_path, "mark").load(10) == (0, None)
    assert not list(tmp_path.glob(".*.partial-*"))
