"""`mvfl base train`: make the embedded base from rendered rodents, by the same stages that a user's run has."""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from diffusers import AutoencoderKL
from pydantic import Field, PositiveInt
from safetensors.torch import load_file, save_file
from torch import Tensor

from mvfl.base.autoencoder import AutoencoderTraining, autoencoder_quality, train_autoencoder
from mvfl.base.build import Architecture, build_autoencoder, build_base, build_gslrm
from mvfl.base.record import read_record, write_record
from mvfl.config.schema import AttentionMode, Experiment, GslrmFinetuning, RodentDataset, Sampling, Strict, Wandb
from mvfl.data.latents import cache_latents
from mvfl.data.render import render_dataset
from mvfl.data.samples import Manifest, read_manifest
from mvfl.evaluation.pictures import save_grid
from mvfl.evaluation.scoring import baselines, draw_views, load_truth, score_views, slot_assignment
from mvfl.gslrm.checkpoint import load_gslrm, save_gslrm
from mvfl.gslrm.training import evaluate_views, finetune_gslrm, load_views
from mvfl.mvdiffusion.pipeline import MultiViewPipeline
from mvfl.mvdiffusion.training import TrainingPaths, load_prompts, train_segment
from mvfl.mvdiffusion.unet import load_unet
from mvfl.prompts import embed_prompts
from mvfl.runtime.devices import describe_device, device
from mvfl.runtime.files import InputError, read_json, write_json, written_aside
from mvfl.runtime.progress import say
from mvfl.runtime.provenance import write_provenance

STAGES = ("data", "autoencoder", "multiview", "gslrm", "export")
OFFLINE = Wandb(mode="disabled")


class BaseArchitecture(Strict):
    """Sizes of the base."""

    latent_channels: PositiveInt
    autoencoder_channels: list[PositiveInt]
    unet_channels: list[PositiveInt]
    unet_layers: PositiveInt = 1
    attention: AttentionMode = "dense"
    embedding_width: PositiveInt = 64
    gslrm_width: PositiveInt
    gslrm_layers: PositiveInt
    gslrm_patch: PositiveInt = 8


class BaseTraining(Strict):
    """`configs/embedded_base.yaml`."""

    dataset: RodentDataset
    architecture: BaseArchitecture
    autoencoder: AutoencoderTraining
    multiview: Experiment
    gslrm: GslrmFinetuning
    evaluation_samples: PositiveInt = Field(48, description="held-out samples")
    sampling: Sampling
    seed: int = 0


def load_base_training(path: Path) -> BaseTraining:
    """Read the settings of a base."""
    try:
        return BaseTraining.model_validate(yaml.safe_load(path.read_text()))
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {error}") from error


def architecture(settings: BaseTraining, views: int) -> Architecture:
    """Sizes for the builders."""
    a = settings.architecture
    return Architecture(
        settings.dataset.image_size, a.latent_channels, a.autoencoder_channels, a.unet_channels, a.unet_layers,
        a.attention, settings.multiview.view_conditioning, views, a.embedding_width, a.gslrm_width, a.gslrm_layers,
        a.gslrm_patch,
    )  # fmt: skip


def load_pictures(manifest: Manifest, names: list[str]) -> Tensor:
    """All pictures of the rig's views as RGBA uint8 [sample x view, 4, height, width]."""

    def read(name: str) -> Tensor:
        return (manifest.pictures(manifest.sample(name)) * 255).round().byte()

    with ThreadPoolExecutor(8) as pool:
        return torch.cat(list(pool.map(read, names)))


def train_base(settings: BaseTraining, work: Path, out: Path, workers: int, stages: tuple[str, ...] = STAGES) -> None:
    """Run the stages in order; each leaves its result in `work` and the last one writes the base.

    Args:
        settings: of the base.
        work: scratch folder.
        out: the base's folder, in half precision, with `card.json`.
        workers: processes for rendering.
        stages: subset of `STAGES`.
    """
    if unknown := [s for s in stages if s not in STAGES]:
        raise InputError(f"There is no stage {', '.join(unknown)}; stages are {', '.join(STAGES)}.")
    for stage in stages:
        began = time.monotonic()
        {"data": _data, "autoencoder": _autoencoder, "multiview": _multiview, "gslrm": _gslrm, "export": _export}[stage](
            settings, work, out, workers
        )
        say(f"Stage {stage} took {time.monotonic() - began:.0f} s on {describe_device()}.")


def _manifest(work: Path) -> Manifest:
    return read_manifest(work / "data" / "manifest.json")


def _data(settings: BaseTraining, work: Path, _out: Path, workers: int) -> None:
    render_dataset("embedded_base", settings.dataset, work / "data", workers)


def _autoencoder(settings: BaseTraining, work: Path, _out: Path, _workers: int) -> None:
    manifest = _manifest(work)
    a = architecture(settings, manifest.views)
    torch.manual_seed(settings.seed)
    vae = build_autoencoder(a)
    train_autoencoder(vae, load_pictures(manifest, manifest.train), settings.autoencoder, device())
    quality = autoencoder_quality(vae, load_pictures(manifest, manifest.val), device())
    say(f"Autoencoder on held-out renders: {quality}")
    with written_aside(work / "vae") as folder:
        vae.to("cpu").save_pretrained(folder)
        write_json(folder / "quality.json", quality)


def _multiview(settings: BaseTraining, work: Path, _out: Path, _workers: int) -> None:
    manifest = _manifest(work)
    if not (work / "base.json").exists():
        vae = AutoencoderKL.from_pretrained(work / "vae")
        build_base(architecture(settings, manifest.views), vae, work / "pipeline", settings.seed)
        write_record(work / "base.json", work / "pipeline", None, {"kind": "embedded base in training"})
    base = read_record(work / "base.json")
    e = settings.multiview
    embed_prompts(e.prompt_style, base.pipeline, work / "prompts")
    pipeline = MultiViewPipeline.from_pretrained(base.pipeline).to(device())
    if not (work / "latents").exists():
        cache_latents(manifest, pipeline, e.augmentation, settings.seed, base.hash, work / "latents")
    prompts = work / "prompts" / "clr_embeds.pt"
    paths = TrainingPaths(work / "base.json", work / "latents", prompts, work / "state", work / "multiview")
    train_segment(e, e.training.steps, paths, OFFLINE)
    pipeline = MultiViewPipeline.from_pretrained(base.pipeline, unet=load_unet(work / "multiview" / "unet")).to(device())
    scores = score_multiview(settings, manifest, pipeline, prompts, work / "multiview.png")
    say(f"Six views on held-out renders: {json.dumps(scores)}")
    write_json(work / "multiview_quality.json", scores)


def score_multiview(
    settings: BaseTraining, manifest: Manifest, pipeline: MultiViewPipeline, prompts: Path, grid: Path
) -> dict[str, Any]:
    """Foreground PSNR, SSIM, IoU and slot accuracy beside the baselines, and a grid of pictures."""
    e = settings.multiview
    names = manifest.val[: settings.evaluation_samples]
    pairs = [(name, i % manifest.views) for i, name in enumerate(names)]
    truth = load_truth(manifest, pairs, e.view_conditioning)
    seeds = [(settings.seed, i) for i in range(len(pairs))]
    images = draw_views(
        pipeline, truth.inputs, truth.references, seeds, manifest, e.view_conditioning,
        load_prompts(prompts, pipeline.unet), settings.sampling,
    )  # fmt: skip
    table = {"model": images, **baselines(manifest, truth, e.view_conditioning)}
    out: dict[str, Any] = {
        name: {k: round(float(v[truth.scored].mean()), 4) for k, v in score_views(pictures, truth).items()}
        for name, pictures in table.items()
    }
    out["slot_accuracy"] = round(float(slot_assignment(images, truth)[truth.scored].float().mean()), 4)
    rows = [
        (f"{kind} {pairs[i][0][-4:]}", t[i])
        for i in range(min(6, len(pairs)))
        for kind, t in (("truth", truth.images), ("drawn", images))
    ]
    save_grid(grid, rows)
    return out


def _gslrm(settings: BaseTraining, work: Path, _out: Path, _workers: int) -> None:
    manifest = _manifest(work)
    start = work / "gslrm_start.safetensors"
    with written_aside(start) as temporary:
        save_gslrm(build_gslrm(architecture(settings, manifest.views), settings.seed), temporary, 0, 0)
    out = work / "gslrm.safetensors"
    finetune_gslrm(
        settings.gslrm, start, manifest, manifest, {n: n for n in manifest.train}, OFFLINE, "embedded_gslrm",
        work / "state_gslrm", out,
    )  # fmt: skip
    model = load_gslrm(out, manifest.image_size).to(device())
    rows: list[dict[str, float]] = []
    pictures: list[tuple[str, Tensor]] = []
    for name in manifest.val[: settings.evaluation_samples]:
        views = load_views(manifest, name).to(device())
        held_out = list(range(manifest.views, len(views.images)))
        drawn, scores = evaluate_views(model, views.select(list(range(manifest.views))), views.select(held_out), "auto")
        rows.append(scores)
        if len(pictures) < 8:
            pictures += [(f"truth {name[-4:]}", views.select(held_out).images), (f"drawn {name[-4:]}", drawn.images)]
    save_grid(work / "gslrm.png", pictures)
    quality = {k: round(float(np.mean([r[k] for r in rows])), 4) for k in rows[0]}
    say(f"GS-LRM on held-out animals and views: {quality}")
    write_json(work / "gslrm_quality.json", quality)


def _export(settings: BaseTraining, work: Path, out: Path, _workers: int) -> None:
    """Copy everything into `out` in half precision, with a card of measured figures."""
    with written_aside(out) as folder:
        shutil.copytree(work / "pipeline", folder)
        shutil.copyfile(work / "multiview" / "unet" / "config.json", folder / "unet" / "config.json")
        for file in folder.rglob("*.safetensors"):
            source = work / "multiview" / "unet" / file.name if file.parent.name == "unet" else file
            save_file({k: _half(v) for k, v in load_file(source).items()}, file, {"format": "pt"})
        (folder / "gslrm").mkdir()
        model = load_gslrm(work / "gslrm.safetensors", settings.dataset.image_size)
        save_gslrm(model, folder / "gslrm" / "gslrm.safetensors", settings.gslrm.steps, settings.gslrm.steps, torch.float16)
        size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        if size > 24e6:
            raise InputError(f"The base takes {size / 1e6:.1f} MB, more than the 24 MB allowed in git; make it smaller.")
        card = {
            "settings": settings.model_dump(mode="json"),
            "held_out": {
                "autoencoder": read_json(work / "vae" / "quality.json", "run the stage autoencoder"),
                "multiview": read_json(work / "multiview_quality.json", "run the stage multiview"),
                "gslrm": read_json(work / "gslrm_quality.json", "run the stage gslrm"),
            },
            "megabytes": round(size / 1e6, 2),
            "random_and_frozen": ["image_encoder", "text_encoder", "tokenizer", "image_normalizer"],
        }
        write_json(folder / "card.json", card)
        if (out / "README.md").is_file():
            shutil.copyfile(out / "README.md", folder / "README.md")  # the card in words is written by a person
        write_provenance(folder, "base train", settings.model_dump(mode="json"), {"data": _manifest(work).data_hash})


def _half(tensor: Tensor) -> Tensor:
    return tensor.half() if tensor.is_floating_point() else tensor
