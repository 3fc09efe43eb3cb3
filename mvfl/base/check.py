"""`mvfl base check PATH`: what a folder holds, what fits, what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open

from mvfl.base.record import PARTS, missing_parts
from mvfl.gslrm.checkpoint import config_from_state, read_state
from mvfl.gslrm.model import Gslrm
from mvfl.mvdiffusion.unet import WEIGHTS, attention_mode, build_unet
from mvfl.runtime.files import InputError, read_json, sha256


class Finding(NamedTuple):
    """One line of the check.

    Attributes:
        part: sub-folder.
        good: whether it can be used.
        text: what was found.
    """

    part: str
    good: bool
    text: str


def check_record(path: Path) -> list[Finding]:
    """Compare every file of a recorded base with the size and SHA-256 in `base.json`."""
    out = []
    for name, entry in read_json(path, "run the prepare_base rule first")["files"].items():
        file = Path(name)
        if not file.is_file():
            out.append(Finding(file.name, False, f"{file} is missing"))
        elif file.stat().st_size != entry["bytes"] or sha256(file) != entry["sha256"]:
            out.append(Finding(file.name, False, f"{file} differs from the recorded SHA-256 {entry['sha256'][:12]}"))
        else:
            out.append(Finding(file.name, True, f"{file.parent.name}: {entry['bytes'] / 1e6:.2f} MB, SHA-256 as recorded"))
    return out


def check_base(folder: Path, gslrm: Path | None = None) -> list[Finding]:
    """Look at every part of a base without loading weights into memory.

    Args:
        folder: pipeline in the published layout.
        gslrm: GS-LRM checkpoint; default: the first file in `gslrm/` of the folder.
    """
    absent = missing_parts(folder)
    out = []
    for part in PARTS:
        lacking = [a for a in absent if a.startswith(f"{part}/")]
        size = sum(f.stat().st_size for f in (folder / part).rglob("*") if f.is_file()) if (folder / part).is_dir() else 0
        text = f"missing: {', '.join(lacking)}" if lacking else f"{size / 1e6:.1f} MB"
        out.append(Finding(part, not lacking, text))
    if not any(a.startswith("unet/") for a in absent):
        out.append(_check_unet(folder / "unet"))
        out.append(_check_text_width(folder))
    checkpoint = gslrm or next(iter(sorted((folder / "gslrm").glob("*"))), None)
    out.append(_check_gslrm(checkpoint) if checkpoint else Finding("gslrm", False, "no checkpoint; name it with --gslrm"))
    return out


def _check_unet(folder: Path) -> Finding:
    try:
        with torch.device("meta"):
            unet = build_unet(json.loads((folder / "config.json").read_text()))
    except (InputError, TypeError, KeyError, ValueError) as error:
        return Finding("unet weights", False, f"config.json cannot be used: {error}")
    own = {k: tuple(v.shape) for k, v in unet.state_dict().items()}
    with safe_open(folder / WEIGHTS, "pt") as file:
        theirs = {k: tuple(file.get_slice(k).get_shape()) for k in file.keys()}  # noqa: SIM118
    wrong = [k for k in own if theirs.get(k) != own[k]] + [k for k in theirs if k not in own]
    if wrong:
        return Finding("unet weights", False, f"{len(wrong)} tensors do not fit, first: {wrong[0]}")
    channels = unet.config.in_channels
    note = "" if channels == 2 * unet.config.out_channels else f", {channels} input channels: will be widened"
    total = sum(p.numel() for p in unet.parameters())
    return Finding(
        "unet weights", True,
        f"{len(own)} tensors, {total:,} parameters, attention {attention_mode(unet)}, {unet.config.view_conditioning}{note}",
    )  # fmt: skip


def _check_text_width(folder: Path) -> Finding:
    width = json.loads((folder / "unet" / "config.json").read_text())["cross_attention_dim"]
    config = folder / "text_encoder" / "config.json"
    if not config.is_file():
        return Finding("prompt width", False, f"the UNet needs {width}; there is no text encoder to compare")
    mine = json.loads(config.read_text()).get("hidden_size")
    return Finding("prompt width", mine == width, f"text encoder {mine}, UNet {width}")


def _check_gslrm(path: Path) -> Finding:
    try:
        state, rest = read_state(path)
        config = config_from_state(state, 512, int(rest.get("head_width", 64)))
    except InputError as error:
        return Finding("gslrm", False, str(error))
    with torch.device("meta"):
        own = {k: tuple(v.shape) for k, v in Gslrm(config).state_dict().items()}
    wrong = [k for k in own if k not in state or tuple(state[k].shape) != own[k]] + [k for k in state if k not in own]
    if wrong:
        return Finding("gslrm", False, f"{path.name}: {len(wrong)} tensors do not fit, first: {wrong[0]}")
    total = sum(v.numel() for v in state.values())
    return Finding("gslrm", True, f"{path.name}: {len(own)} tensors, {total:,} parameters, {config.layers} layers")
