"""`mvfl benchmark real`: a recording's cameras predicted from one of them, and from all but one, beside what needs no network.

Moments that nothing was trained or chosen by (the test block) are judged, where the recording keeps some. Of each, every camera is
the input in turn, and every camera is left out in turn.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from jaxtyping import Float
from torch import Tensor

from mvfl.config.datasets import MarkerlessDataset
from mvfl.config.load import load_with_base
from mvfl.gslrm.scoring import infer, pictures_without_model, render_views, score_pictures
from mvfl.gslrm.views import Views, load_views
from mvfl.layout import Layout
from mvfl.metrics.pictures import save_grid
from mvfl.mvdiffusion.conditioning import TELLS_POSES
from mvfl.records.base import BaseRecord
from mvfl.records.benchmarked import RecordingBenchmark, Table, mean_row
from mvfl.records.manifest import Manifest, evenly
from mvfl.records.recording import RecordingReport
from mvfl.records.scores import Metrics, mean_of
from mvfl.runtime.devices import device
from mvfl.runtime.files import InputError, write_text
from mvfl.runtime.progress import say, tracked
from mvfl.stages.pages import inline, write_page
from mvfl.stages.reconstructor import Reconstructor
from mvfl.verdict.baselines import baselines
from mvfl.verdict.scores import load_truth

Pictures = Float[Tensor, "view 3 height width"]
LABELS = {
    "from_one": {
        "copy": "copy of the input", "nearest": "most similar training moment", "mean": "mean of the training pictures",
        "blank": "blank picture",
    },
    "from_others": {
        "hull": "visual hull in colours", "copy": "picture of the nearest camera", "mean": "mean of the inputs",
        "blank": "blank picture",
    },
}  # fmt: skip


@dataclass(frozen=True)
class Judged:
    """One prediction of one moment.

    Attributes:
        camera: that was the input, or was left out.
        scores: what made the pictures -> their figures, means over the cameras that judge.
        truth: recorded pictures of those cameras; of the first moment only, as many of 512 px would fill the memory.
        pictures: what made them -> predicted pictures of the same cameras; of the first moment only.
    """

    camera: int
    scores: dict[str, Metrics]
    truth: Views | None
    pictures: dict[str, Pictures]

    @staticmethod
    def of(camera: int, truth: Views, pictures: dict[str, Pictures], keep: bool) -> Judged:
        """Score pictures, on the device to use, and forget them unless they shall be shown."""
        there = truth.to(device())
        scores = {kind: score_pictures(images.to(device()), there) for kind, images in pictures.items()}
        return Judged(camera, scores, truth if keep else None, pictures if keep else {})


def run(manifest_path: Path, models: dict[str, Reconstructor], samples: int, out: Path) -> RecordingBenchmark:
    """Judge models on a recording; write `metrics.json`, `index.html` and pictures.

    Args:
        manifest_path: of the prepared recording.
        models: by what they are called; those that cannot draw the recording's cameras are judged by their GS-LRM alone.
        samples: moments to judge, spread evenly over the test block.
        out: folder.

    Raises:
        InputError: a single camera, or models of another picture size.
    """
    manifest = Manifest.read(manifest_path)
    if manifest.views < 2:
        raise InputError(f"{manifest.name} has one camera; nothing can be judged by a camera that was not shown.")
    for name, model in models.items():
        if model.image_size != manifest.image_size:
            raise InputError(
                f"Model '{name}' makes pictures of {model.image_size} px, {manifest.name} has {manifest.image_size} px."
            )
    frames = evenly(manifest.judging, samples)
    parts = {"from_one": from_one(manifest, frames, models), "from_others": from_others(manifest, frames, models)}
    names = _camera_names(manifest_path, manifest.views)
    tables = {key: _table(judged, names) for key, judged in parts.items()}
    result = RecordingBenchmark(dataset=manifest.name, frames=frames, block="test" if manifest.test else "val", **tables)
    out.mkdir(parents=True, exist_ok=True)
    result.write(out / "metrics.json")
    for key, judged in parts.items():
        _draw(out / f"{key}.png", judged, names, list(models), left_out=key == "from_others")
    images = {key: inline(out / f"{key}.png") for key in parts}
    rows = {key: {"every camera": mean_row(table)} | table for key, table in tables.items()}
    page = out / "index.html"
    write_page(
        page,
        "real_benchmark",
        name=manifest.name,
        frames=len(frames),
        block=result.block,
        tables=rows,
        labels=LABELS,
        images=images,
    )
    say(f"Look at {page}.")
    return result


def _draws_any_camera(model: Reconstructor) -> bool:
    """Whether it is told where cameras are, or was trained for those of this recording; the published base knows its ring only."""
    return model.manifest is not None or model.choice.view_conditioning in TELLS_POSES


def _camera_names(manifest_path: Path, views: int) -> list[str]:
    """As the recording calls them, where that was noted."""
    noted = manifest_path.with_name("recording.json")
    return [c.name for c in RecordingReport.read(noted).cameras] if noted.is_file() else [f"view {v}" for v in range(views)]


def from_one(manifest: Manifest, frames: Sequence[str], models: dict[str, Reconstructor]) -> list[Judged]:
    """Every camera of every moment as the only input: the 3D model and the drawn views of each model, and baselines.

    Args:
        manifest: of the recording.
        frames: samples.
        models: by name.
    """
    out: list[Judged] = []
    views = {name: load_views(manifest, name, all_views=False) for name in frames}
    cameras = {name: manifest.sample(name).cameras[: manifest.views] for name in frames}
    for camera in range(manifest.views):
        others = [v for v in range(manifest.views) if v != camera]
        truth = load_truth(manifest, [(name, camera) for name in frames], "rays")
        known = baselines(manifest, truth, "rays")
        found: list[dict[str, Pictures]] = [{} for _ in frames]
        for title, model in models.items():
            if not _draws_any_camera(model):
                continue
            inputs = torch.stack([views[name].images[camera] for name in frames])
            made = model(inputs, camera, [cameras[name] for name in frames])
            for pictures, shaped in zip(found, made, strict=True):
                pictures[f"{title}: 3D"] = shaped.render([shaped.cameras[v] for v in others])
                pictures[f"{title}: drawn"] = shaped.views[others]
        for i, name in enumerate(frames):
            slots = [truth.views[i].index(v) for v in others]
            found[i] |= {key: known[key][i, slots] for key in ("copy", "nearest", "mean", "blank")}
            out.append(Judged.of(camera, views[name].select(others), found[i], keep=i == 0))
    return out


def from_others(manifest: Manifest, frames: Sequence[str], models: dict[str, Reconstructor]) -> list[Judged]:
    """Every camera of every moment left out: GS-LRM of all others, and baselines.

    Args:
        manifest: of the recording.
        frames: samples.
        models: by name.
    """
    out = []
    for name in tracked(frames, "all cameras but one", len(frames)):
        views = load_views(manifest, name, all_views=False)
        for camera in range(manifest.views):
            seen, wanted = views.select([v for v in range(manifest.views) if v != camera]), views.select([camera])
            pictures: dict[str, Pictures] = {}
            for title, model in models.items():
                place = next(model.gslrm.parameters()).device
                made = infer(model.gslrm, Views.stacked([seen.to(place)]))
                rendered = render_views(made, Views.stacked([wanted.to(place)]), "auto").images[0]
                pictures[f"{title}: 3D"] = rendered.clamp(0, 1).cpu()
            out.append(Judged.of(camera, wanted, pictures | pictures_without_model(seen, wanted), keep=name == frames[0]))
    return out


def _table(judged: Sequence[Judged], names: Sequence[str]) -> Table:
    """Means over the frames, by camera and by what made the pictures."""
    return {
        name: {kind: mean_of([j.scores[kind] for j in judged if j.camera == camera]) for kind in judged[0].scores}
        for camera, name in enumerate(names)
    }


def _draw(path: Path, judged: Sequence[Judged], names: Sequence[str], models: Sequence[str], left_out: bool) -> None:
    """The first moment: recorded pictures, those of the models, of the hull and of the most similar training moment.

    Cameras that were left out stand side by side; each input camera has a block of rows.
    """
    firsts = [next(j for j in judged if j.camera == camera) for camera in range(len(names))]
    recorded = [j.truth.images for j in firsts if j.truth is not None]
    kinds = [k for k in firsts[0].pictures if k.partition(":")[0] in models or k in ("hull", "nearest")]
    if left_out:
        rows = [("recorded", torch.cat(recorded))]
        save_grid(path, rows + [(k, torch.cat([j.pictures[k] for j in firsts])) for k in kinds], names)
        return
    rows = []
    for name, first, pictures in zip(names, firsts, recorded, strict=True):
        rows.append((f"{name} is input: recorded", pictures))
        rows += [(k, first.pictures[k]) for k in kinds]
    save_grid(path, rows)


def prepared(folder: Path, files: Sequence[Path], trained: bool) -> tuple[Path, dict[str, Reconstructor], Path]:
    """Run the workflow on a recording as far as the benchmark needs it.

    Args:
        folder: of the recording.
        files: configuration; its first experiment's data set is the recording.
        trained: also fine-tune; else the base alone is judged.

    Returns:
        The manifest, the models by name, and the folder of the benchmark.

    Raises:
        InputError: the folder is missing, the data set is no recording, models start from one view only, another recording's
            benchmark lies there, or the workflow ended with an error.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; name the folder of the recording's calibration, videos and masks.")
    config = load_with_base(files)
    experiment = config.experiments[config.experiment]
    if not isinstance(config.datasets[experiment.dataset], MarkerlessDataset):
        raise InputError(f"Data set {experiment.dataset} is no recording (kind: markerless); name a configuration of one.")
    if experiment.reference != "random":
        raise InputError(
            f"Experiment {config.experiment} starts from view {experiment.reference} only; the benchmark needs them all."
        )
    layout = Layout(config.results)
    out = layout.real_benchmark(experiment.dataset)
    overlay = out / "recording.yaml"
    named = yaml.safe_dump({"datasets": {experiment.dataset: {"folder": str(folder.resolve())}}})
    if overlay.is_file() and overlay.read_text(encoding="utf-8") != named:
        raise InputError(
            f"{config.results} holds the benchmark of another recording ({overlay} names it), which this one would replace; name "
            "another folder in an overlay: `results: results/...`."
        )
    write_text(overlay, named)
    _run_workflow([str(layout.manifest(experiment.dataset)), str(layout.base(experiment.base))], [*files, overlay])
    manifest, base = Manifest.read(layout.manifest(experiment.dataset)), BaseRecord.read(layout.base(experiment.base))
    if trained:
        _run_workflow(["synthetic", "gslrm"], [*files, overlay])
    models = {"base": Reconstructor.load(base.pipeline, manifest.rig, base.gslrm, experiment.gslrm.fit_steps)}
    if not _draws_any_camera(models["base"]):
        say(f"Base {experiment.base} is not told where cameras are: untrained, GS-LRM alone is judged, from all cameras but one.")
    if trained:
        models["fine-tuned"] = Reconstructor.load(layout.experiment(config.experiment))
    return layout.manifest(experiment.dataset), models, out


def _run_workflow(targets: Sequence[str], files: Sequence[Path]) -> None:
    profile = "profiles/local-gpu" if torch.cuda.is_available() else "profiles/local"
    command = [sys.executable, "-m", "snakemake", "--profile", profile, *targets, "--configfile", *map(str, files)]
    say(f"+ {shlex.join(['snakemake', *command[3:]])}")
    if status := subprocess.run(command, check=False).returncode:
        raise InputError(f"The workflow ended with status {status}; its last lines say why. Run the same command again to go on.")
