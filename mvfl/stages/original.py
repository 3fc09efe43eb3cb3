"""What an experiment learned, in the file layout of the original program, where that is exact."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from mvfl.gslrm.checkpoint import read_state
from mvfl.layout import Checkpoint
from mvfl.mvdiffusion.conditioning import TELLS_POSES
from mvfl.mvdiffusion.unet import FIXED_KEYS, STOCK_BLOCKS, WEIGHTS, load_unet
from mvfl.records.base import BaseRecord
from mvfl.runtime.files import InputError, write_json, written_aside
from mvfl.runtime.progress import say
from mvfl.stages.reconstructor import read_experiment

ORIGINAL_CLASS = "UNetMV2DConditionModel"
# Keys that the library's UNet got after the original was written, at values that change nothing.
LATER_KEYS = {"dropout": 0.0, "reverse_transformer_layers_per_block": None, "attention_type": "default"}
COUNTERS = ("fwdbwd_pass_step", "param_update_step")


def write_original(experiment: Path, out: Path) -> Path:
    """Write `mvdiffusion/pipeckpts/`, `gslrm/ckpt_<step>.pt` and `clr_embeds.pt` as the original program reads them.

    The pipeline's other parts are the base's own files. GS-LRM holds no loss networks and no optimiser: the original starts from it
    with `reset_training_state`.

    Args:
        experiment: `results/experiments/<name>` with the stages `synthetic` and `gslrm` done.
        out: folder to write.

    Returns:
        The GS-LRM checkpoint.

    Raises:
        InputError: a stage has not run, or the network is told its cameras in a way that the original does not know.
    """
    if out.exists():
        raise InputError(f"{out} exists; name another folder, or delete it first.")
    learned = read_experiment(experiment)
    checkpoint, base = Checkpoint(learned.checkpoint), BaseRecord.read(learned.base)
    config = original_config(load_unet(checkpoint.unet))
    state, rest = read_state(learned.weights)
    steps = {key: int(rest.get(key, 0)) for key in COUNTERS}
    with written_aside(out) as folder:
        pipeline = folder / "mvdiffusion" / "pipeckpts"
        shutil.copytree(base.pipeline, pipeline, ignore=shutil.ignore_patterns("gslrm"))
        write_json(pipeline / "unet" / "config.json", config)
        shutil.copyfile(checkpoint.weights, pipeline / "unet" / WEIGHTS)
        name = f"ckpt_{steps['param_update_step']:016d}.pt"
        (folder / "gslrm").mkdir()
        torch.save({"model": {k: v.float() for k, v in state.items()}, **steps}, folder / "gslrm" / name)
        shutil.copyfile(learned.prompts, folder / "clr_embeds.pt")
    say(f"Wrote {out}; the original takes clr_embeds.pt there as its prompts.")
    return out / "gslrm" / name


def original_config(unet: UNet2DConditionModel) -> dict[str, Any]:
    """The configuration of a UNet in the class names and keys of the original program; `build_unet` reads it back.

    Raises:
        InputError: the network is told its cameras by inputs that the original's has not.
    """
    mode = unet.config.view_conditioning
    if mode in TELLS_POSES:
        raise InputError(
            f"This network is told its cameras by view_conditioning {mode}: it has inputs that the original program does not feed, "
            "so there is no exact copy of it in the original's layout. Train with prompt or relative_prompt for that."
        )
    if changed := [key for key, value in LATER_KEYS.items() if unet.config[key] != value]:
        raise InputError(f"unet/config.json sets {', '.join(changed)}, which the original program does not know.")
    names = {stock: published for published, stock in STOCK_BLOCKS.items()}
    config = {k: v for k, v in unet.config.items() if not k.startswith("_") and k not in ("view_conditioning", *LATER_KEYS)}
    for key in ("down_block_types", "up_block_types"):
        config[key] = [names.get(name, name) for name in config[key]]
    config["mid_block_type"] = names[config["mid_block_type"]]
    return {"_class_name": ORIGINAL_CLASS, **config, **FIXED_KEYS, "addition_channels": [1280, 1280, 1280]}
