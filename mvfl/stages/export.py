"""Stage `export`: a base, in half precision and with a card of measured figures, of what an experiment learned from scratch."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mvfl.gslrm.checkpoint import load_gslrm, save_gslrm
from mvfl.layout import Checkpoint, Reconstruction, Verdict
from mvfl.records.base import BaseRecord
from mvfl.records.scores import ReconstructionScores, ViewScores
from mvfl.runtime.files import InputError, folder_bytes, write_json, written_aside
from mvfl.runtime.progress import say
from mvfl.runtime.provenance import write_provenance
from mvfl.runtime.reading import read_json
from mvfl.runtime.weights import read_safetensors
from mvfl.stages.jobs import ExportJob
from mvfl.stages.scratch import QUALITY

LARGEST = 24e6  # bytes; the base that ships lies in git


def run(job: ExportJob) -> None:
    """Write the base into the folder of `job.out`, its card, in the published layout.

    Raises:
        InputError: a result is missing or damaged, or the base is larger than git should hold.
    """
    record, checkpoint, result = BaseRecord.read(job.base), Checkpoint(job.checkpoint), Reconstruction(job.gslrm)
    target, gslrm = job.out.parent, job.experiment.gslrm
    with written_aside(target) as folder:
        shutil.copytree(record.pipeline, folder, ignore=shutil.ignore_patterns("gslrm"))
        shutil.copyfile(checkpoint.config, folder / "unet" / "config.json")
        for file in folder.rglob("*.safetensors"):
            source = checkpoint.weights if file.parent.name == "unet" else file
            save_file({k: _half(v) for k, v in read_safetensors(source).items()}, file, {"format": "pt"})
        (folder / "gslrm").mkdir()
        model = load_gslrm(result.weights, int(record.source["image_size"]))
        save_gslrm(model, folder / "gslrm" / "gslrm.safetensors", gslrm.steps, gslrm.steps, torch.float16)
        if (size := folder_bytes(folder)) > LARGEST:
            raise InputError(f"The base takes {size / 1e6:.1f} MB, more than the {LARGEST / 1e6:.0f} MB allowed in git.")
        write_json(folder / job.out.name, {**_card(job, record), "megabytes": round(size / 1e6, 2)})
        inputs: dict[str, Path | str] = {
            "base": job.base, "checkpoint": checkpoint.provenance, "gslrm": result.weights,
        }  # fmt: skip
        write_provenance(folder, "export", job.experiment.model_dump(mode="json"), inputs)
    say(f"A base of {size / 1e6:.1f} MB: {target}.")


def _card(job: ExportJob, record: BaseRecord) -> dict[str, Any]:
    """Settings and held-out figures."""
    scores, shapes = ViewScores.read(Verdict(job.evaluation).metrics), ReconstructionScores.read(Reconstruction(job.gslrm).metrics)
    views = {"model": scores.model, **scores.baselines, "slot_accuracy": scores.measurements.slot_accuracy}
    return {
        "settings": {"base": record.source, "experiment": job.experiment.model_dump(mode="json")},
        "held_out": {
            "autoencoder": read_json(job.base.parent / QUALITY, "run the prepare_base rule first"),
            "multiview": _rounded(views),
            "gslrm": _rounded(shapes.mean),
        },
        "random_and_frozen": ["image_encoder", "text_encoder", "tokenizer", "image_normalizer"],
    }


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {k: _rounded(v) if isinstance(v, dict) else round(v, 4) for k, v in values.items()}


def _half(tensor: Tensor) -> Tensor:
    return tensor.half() if tensor.is_floating_point() else tensor
