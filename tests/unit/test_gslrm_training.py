"""GS-LRM's fine-tuning: resuming is exact, and the published view choice works where it makes sense."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mvfl.config.datasets import RodentDataset
from mvfl.config.evaluation import Wandb
from mvfl.config.gslrm import GslrmFinetuning, GslrmLosses, Lora
from mvfl.data.render import render_dataset
from mvfl.geometry.cameras import orbit_camera
from mvfl.geometry.rig import Rig
from mvfl.gslrm.checkpoint import load_gslrm
from mvfl.gslrm.export import visible_gaussians
from mvfl.gslrm.lora import add_adapters, merged
from mvfl.gslrm.scoring import evaluate_views
from mvfl.gslrm.training import learning_rate
from mvfl.gslrm.views import load_views
from mvfl.layout import Reconstruction
from mvfl.records.base import BaseRecord
from mvfl.records.manifest import Manifest
from mvfl.runtime.files import InputError
from mvfl.stages.gslrm import Sources, finetune, fingerprint
from mvfl.stages.jobs import GslrmJob


class Finetuning:
    """Fine-tunes the tiny base on the recorded views of the tiny data set, in one folder per name."""

    def __init__(self, base: Path, data: Path, root: Path, **settings: Any) -> None:
        self.base, self.data, self.root = base, data, root
        self.settings = GslrmFinetuning(inputs="real", batch_size=1, mixed_precision="no", **settings)

    def run(self, name: str, targets: Manifest | None = None) -> Path:
        """Train to the last step, supervised by the tiny data set or by another one; returns the weights."""
        job = GslrmJob(
            gslrm=self.settings, wandb=Wandb(mode="disabled"), base=self.base, real=self.data, state=self.root / name / "state",
            out=self.root / name,
        )  # fmt: skip
        manifest, checkpoint = Manifest.read(self.data), BaseRecord.read(self.base).gslrm
        assert checkpoint is not None
        finetune(job, checkpoint, Sources(targets or manifest, manifest, self.settings))
        return Reconstruction(job.out).weights


def test_a_resumed_gslrm_run_gives_the_same_weights(tiny_base: Path, tiny_data: Path, tmp_path: Path) -> None:
    losses = GslrmLosses(alpha=0.1)
    tuning = Finetuning(
        tiny_base, tiny_data, tmp_path, steps=2, warmup_steps=1, losses=losses, checkpoint_every=1, log_every=1, target_views=2
    )
    whole = tuning.run("a")
    tuning.run("b")
    newest = sorted((tmp_path / "b" / "state" / "states").glob("step-*.pt"))[-1]
    newest.unlink()
    resumed = tuning.run("b")
    assert whole.read_bytes() == resumed.read_bytes()
    assert load_file(whole)["model.gaussian_upsampler.linear.weight"].isfinite().all()


def test_a_longer_training_goes_on_from_the_end_of_a_shorter_one(
    tiny_base: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual: dict[str, Any] = {"warmup_steps": 1, "target_views": 2, "losses": GslrmLosses(alpha=0.1), "save_minutes": 60}
    short = Finetuning(tiny_base, tiny_data, tmp_path, steps=2, **usual)
    longer = Finetuning(tiny_base, tiny_data, tmp_path, steps=4, cycle_steps=2, **usual)
    short.run("a")
    went_on = longer.run("a")
    assert "Resuming at step 2" in capsys.readouterr().err
    assert went_on.read_bytes() == longer.run("b").read_bytes()
    rates = [learning_rate(step, longer.settings) for step in range(4)]
    assert rates[:2] == [learning_rate(step, short.settings) for step in range(2)], "what was trained stays what it was"
    assert rates[2] == longer.settings.learning_rate > rates[3] > 0
    Finetuning(tiny_base, tiny_data, tmp_path, steps=4, **usual).run("a")
    assert "Changed since the saved state: settings.cycle: starting anew" in capsys.readouterr().err, "another fall of the rate"


def test_the_published_view_choice_trains_on_one_data_set_and_is_refused_between_two(
    tiny_base: Path, tiny_data: Path, tmp_path: Path
) -> None:
    views: dict[str, Any] = {"input_views": 3, "target_views": 5, "view_choice": "any", "compositing": "8bit"}
    tuning = Finetuning(tiny_base, tiny_data, tmp_path, steps=1, warmup_steps=0, **views)
    assert tuning.run("a").exists()
    with pytest.raises(InputError, match="use 'first' with them"):
        tuning.run("b", targets=replace(Manifest.read(tiny_data), data_hash="other"))


@pytest.fixture(scope="module")
def four_cameras(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Another animal before four cameras on another circle, without a spare one."""
    folder = tmp_path_factory.mktemp("four")
    views = [orbit_camera(90 * i, 30, size=32) for i in range(4)]
    (folder / "rig.json").write_text(json.dumps(Rig("four", views).to_json()))
    settings = RodentDataset(kind="rodent", image_size=32, rig=str(folder / "rig.json"), train=2, val=1, seed=5, fill=0.7)
    render_dataset("four", settings, folder, 2)
    return Manifest.read(folder / "manifest.json")


@pytest.fixture(scope="module")
def drawn(tiny_manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Stands for generated views: the recorded ones under the names that generated samples have."""
    folder = tmp_path_factory.mktemp("drawn")
    for name in [*tiny_manifest.train, *tiny_manifest.val]:
        shutil.copytree(tiny_manifest.root / name, folder / f"{name}_ref1")
    train, val = ([f"{n}_ref1" for n in names] for names in (tiny_manifest.train, tiny_manifest.val))
    return Manifest.write(folder / "manifest.json", "drawn", folder, tiny_manifest.rig, 32, train, val)


def test_gslrm_learns_from_generated_views_recorded_ones_and_another_rig(
    tiny_manifest: Manifest, drawn: Manifest, four_cameras: Manifest
) -> None:
    settings = GslrmFinetuning(inputs="mixed", batch_size=2, mixed_precision="no")
    sources = Sources(tiny_manifest, drawn, settings, (four_cameras,))
    assert [(p.inputs.name, p.targets.name) for p in sources.parts()] == [("drawn", "tiny"), ("tiny", "tiny"), ("four", "four")]
    with sources.batches() as batches:
        shown = [batches.at(step) for step in range(40)]
    views = Counter((seen.images.shape[1], wanted.images.shape[1]) for seen, wanted in shown)
    # Six views and the spare camera of the tiny data set, drawn and recorded alike; of four cameras one is left out.
    assert views.keys() == {(6, 7), (3, 4)}
    assert 0.05 < views[(3, 4)] / 40 < 0.4, "two of ten samples"
    real = Sources(tiny_manifest, tiny_manifest, settings.model_copy(update={"inputs": "real"}), (four_cameras,))
    assert [p.inputs.name for p in real.parts()] == ["tiny", "four"]
    assert [
        p.inputs.name for p in replace(sources, settings=settings.model_copy(update={"inputs": "synthetic"}), others=()).parts()
    ] == ["drawn"]


def test_a_fine_tuning_over_two_rigs_runs_and_its_fingerprint_names_both(
    tiny_base: Path, tiny_manifest: Manifest, four_cameras: Manifest, tmp_path: Path
) -> None:
    settings = GslrmFinetuning(inputs="real", batch_size=1, mixed_precision="no", steps=3, warmup_steps=0, target_views=2, seed=0)
    checkpoint = BaseRecord.read(tiny_base).gslrm
    assert checkpoint is not None
    sources = Sources(tiny_manifest, tiny_manifest, settings, (four_cameras,))
    with sources.batches() as batches:
        assert {len(batches.at(step)[0].images[0]) for step in range(3)} == {6, 3}, "steps of both rigs"
        assert fingerprint(settings, checkpoint, batches).inputs["inputs_1"] == four_cameras.data_hash
    job = GslrmJob(gslrm=settings, wandb=Wandb(mode="disabled"), base=tiny_base, real=tmp_path, state=tmp_path / "s", out=tmp_path)
    assert finetune(job, checkpoint, sources)


def test_a_network_that_is_not_trained_computes_in_half_precision_where_the_card_does(
    tiny_base: Path, tiny_manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = BaseRecord.read(tiny_base).gslrm
    assert checkpoint is not None
    model, kinds = load_gslrm(checkpoint, 32), []
    model.pixel_gaussian_decoder.register_forward_hook(lambda _m, _i, out: kinds.append(out.dtype))
    views = load_views(tiny_manifest, tiny_manifest.val[0])
    seen, wanted = views.select(slice(6)), views.select(slice(6, None))
    exact, scores = visible_gaussians(model, seen, "a mouse"), evaluate_views(model, seen, wanted, "torch")[1]
    monkeypatch.setattr("mvfl.gslrm.scoring.half_precision", lambda _place: torch.bfloat16)
    half, close = visible_gaussians(model, seen, "a mouse"), evaluate_views(model, seen, wanted, "torch")[1]
    assert kinds == [torch.float32] * 2 + [torch.bfloat16] * 2
    assert half.xyz.dtype == torch.float32 and len(half) == pytest.approx(len(exact), rel=0.1)
    assert close["foreground_psnr"] == pytest.approx(scores["foreground_psnr"], abs=0.3) and close != scores


def test_adapters_start_at_the_base_and_leave_the_published_names(tiny_base: Path, tiny_data: Path) -> None:
    record, manifest = BaseRecord.read(tiny_base), Manifest.read(tiny_data)
    assert record.gslrm is not None
    views = load_views(manifest, manifest.train[0])
    model, adapted = (load_gslrm(record.gslrm, manifest.image_size) for _ in range(2))
    share = add_adapters(adapted, Lora(rank=2), seed=0)
    inputs = (views.images[None], views.c2w[None], views.intrinsics[None])
    assert torch.equal(model(*inputs).pixel_xyz, adapted(*inputs).pixel_xyz), "step 0 is the base"
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert 0 < share < 0.7 and "pixel_gaussian_decoder.1.weight" in trained
    assert not any(name.endswith("base_layer.weight") for name in trained)
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if ".lora_B." in name:
                p.normal_(generator=torch.Generator().manual_seed(1))
    whole = merged(adapted)
    assert set(whole.state_dict()) == set(model.state_dict())
    torch.testing.assert_close(whole(*inputs).pixel_xyz, adapted(*inputs).pixel_xyz, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(whole(*inputs).pixel_xyz, model(*inputs).pixel_xyz, atol=1e-4)


def test_a_training_of_adapters_resumes_exactly_and_its_weights_are_whole(tiny_base: Path, tiny_data: Path, tmp_path: Path) -> None:
    tuning = Finetuning(
        tiny_base, tiny_data, tmp_path, steps=2, warmup_steps=1, checkpoint_every=1, learning_rate=1e-2, target_views=2,
        lora=Lora(rank=2), losses=GslrmLosses(alpha=0.1),
    )  # fmt: skip
    whole = tuning.run("a")
    tuning.run("b")
    sorted((tmp_path / "b" / "state" / "states").glob("step-*.pt"))[-1].unlink()
    assert whole.read_bytes() == tuning.run("b").read_bytes()
    record = BaseRecord.read(tiny_base)
    assert record.gslrm is not None
    before, after = (load_gslrm(file, 32).state_dict() for file in (record.gslrm, whole))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "transformer_layers.0.attn.to_qkv.weight" in changed and "transformer_layers.0.norm1.weight" not in changed
