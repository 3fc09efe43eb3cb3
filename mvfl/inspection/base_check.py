"""`mvfl base check PATH`: what a folder holds, what fits, what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import CLIPTextConfig

from mvfl.gslrm.checkpoint import METADATA_KEY, MODEL_PREFIX, config_from_state, read_state
from mvfl.gslrm.model import Gslrm
from mvfl.mvdiffusion.unet import WEIGHTS, attention_mode, channels_in, read_architecture
from mvfl.records.base import PARTS, BaseRecord, gslrm_checkpoint, missing_parts
from mvfl.runtime.files import InputError, sha256
from mvfl.runtime.reading import is_whole, named_errors, read_table, read_text
from mvfl.runtime.weights import read_metadata, read_shapes


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
    """Compare every file of a recorded base with the size and SHA-256 in `base.json`.

    Raises:
        InputError: `base.json` itself cannot be read.
    """
    out = []
    for file, entry in BaseRecord.parse(read_table(path, BaseRecord.remedy), path).files.items():
        if not file.is_file():
            out.append(Finding(file.name, False, f"{file} is missing"))
        elif file.stat().st_size != entry.bytes or sha256(file) != entry.sha256:
            out.append(Finding(file.name, False, f"{file} differs from the recorded SHA-256 {entry.sha256[:12]}"))
        else:
            out.append(Finding(file.name, True, f"{file.parent.name}: {entry.bytes / 1e6:.2f} MB, SHA-256 as recorded"))
    return out


def check_base(folder: Path, gslrm: Path | None = None) -> list[Finding]:
    """Look at every part of a base; of safetensors only the headers are read, pickled checkpoints are read whole.

    Args:
        folder: pipeline in the published layout.
        gslrm: GS-LRM checkpoint; default: the first file in `gslrm/` of the folder.
    """
    absent = missing_parts(folder)
    out = []
    for part in PARTS:
        lacking = [a for a in absent if a.startswith(f"{part}/")]
        files = [f for f in sorted((folder / part).rglob("*")) if f.is_file()] if (folder / part).is_dir() else []
        damaged = [fault for f in files if (fault := _fault(f))]
        size = sum(f.stat().st_size for f in files)
        text = f"missing: {', '.join(lacking)}" if lacking else "; ".join(damaged) or f"{size / 1e6:.1f} MB"
        out.append(Finding(part, not lacking and not damaged, text))
    if not any(a.startswith("unet/") for a in absent):
        out += [_check_unet(folder / "unet"), _check_text_width(folder)]
    checkpoint = gslrm or gslrm_checkpoint(folder)
    out.append(_check_gslrm(checkpoint) if checkpoint else Finding("gslrm", False, "no checkpoint; name it with --gslrm"))
    return out


def _fault(file: Path) -> str | None:
    """What is wrong with a file of a base, as far as can be seen without using it."""
    try:
        if file.suffix == ".json":
            read_table(file, "copy it again")
        elif file.suffix in (".txt", ".md"):
            read_text(file, "copy it again")
        if not is_whole(file):
            return f"{file} is empty or cut short"
    except (InputError, OSError) as error:
        return str(error)
    return None


def _check_unet(folder: Path) -> Finding:
    try:
        with torch.device("meta"):
            unet = read_architecture(folder)
        theirs = read_shapes(folder / WEIGHTS)
    except InputError as error:
        return Finding("unet weights", False, str(error))
    own = {k: tuple(v.shape) for k, v in unet.state_dict().items()}
    wrong = [k for k in own if theirs.get(k) != own[k]] + [k for k in theirs if k not in own]
    if wrong:
        return Finding("unet weights", False, f"{len(wrong)} tensors do not fit, first: {wrong[0]}")
    channels = unet.config.in_channels
    note = (
        ""
        if channels == channels_in(unet.config.view_conditioning, unet.config.out_channels)
        else f", {channels} input channels: will be widened"
    )
    total = sum(p.numel() for p in unet.parameters())
    return Finding(
        "unet weights", True,
        f"{len(own)} tensors, {total:,} parameters, attention {attention_mode(unet)}, {unet.config.view_conditioning}{note}",
    )  # fmt: skip


def _check_text_width(folder: Path) -> Finding:
    try:
        with torch.device("meta"):
            needed = read_architecture(folder / "unet").config.cross_attention_dim
        if not (folder / "text_encoder" / "config.json").is_file():
            return Finding("prompt width", False, f"the UNet needs {needed}; there is no text encoder to compare")
        with named_errors(folder / "text_encoder", "a text encoder", "copy it again"):
            mine = CLIPTextConfig.from_pretrained(str(folder / "text_encoder")).hidden_size
    except InputError as error:
        return Finding("prompt width", False, str(error))
    return Finding("prompt width", mine == needed, f"text encoder {mine}, UNet {needed}")


class _Shape(NamedTuple):
    shape: tuple[int, ...]


def _check_gslrm(path: Path) -> Finding:
    try:
        shapes, rest = _gslrm_shapes(path)
        config = config_from_state({k: _Shape(v) for k, v in shapes.items()}, 512, int(rest.get("head_width", 64)), str(path))
        with torch.device("meta"):
            own = {k: tuple(v.shape) for k, v in Gslrm(config).state_dict().items()}
    except (InputError, ValueError, TypeError) as error:
        return Finding("gslrm", False, f"{path}: {error}")
    wrong = [k for k in own if shapes.get(k) != own[k]] + [k for k in shapes if k not in own]
    if wrong:
        return Finding("gslrm", False, f"{path.name}: {len(wrong)} tensors do not fit, first: {wrong[0]}")
    total = sum(torch.Size(v).numel() for v in shapes.values())
    return Finding("gslrm", True, f"{path.name}: {len(own)} tensors, {total:,} parameters, {config.layers} layers")


def _gslrm_shapes(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    if path.suffix != ".safetensors":
        state, rest = read_state(path)
        return {k: tuple(v.shape) for k, v in state.items()}, rest
    return {k.removeprefix(MODEL_PREFIX): v for k, v in read_shapes(path).items()}, read_metadata(path, METADATA_KEY)
