"""Hostile weights, embeddings and training states, and bases with a spoilt part."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor

from hostile.damage import Attack, Change, edited, fixed, json_values, json_wholes, safetensors_headers, things, whole_file
from hostile.good_files import UNET_WEIGHTS, VIEWS, WIDTH, lpips_heads, numbers, state_at
from hostile.judging import MARKER

# Entries of a UNet's configuration that published files may lack, since there is a usual value.
DEFAULTED = ("num_views: removed", "attention_head_dim: removed")
PATIENCE = 20.0  # seconds for what takes memory rather than time
Edit = Callable[[dict[str, Tensor]], Any]


class Code:
    """An object whose pickle runs a command where it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.path.with_name(MARKER)}'",)


def saved(content: Any) -> bytes:
    """Bytes that `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def torch_files(file: str, may_refuse: bool = True) -> list[Attack]:
    """Files ending in .pt that are no such file, or run code."""

    def code(path: Path, _good: bytes) -> None:
        path.write_bytes(pickle.dumps(Code(path), protocol=2))

    def code_in_archive(path: Path, good: bytes) -> None:
        path.write_bytes(_with_member(good, "data.pkl", pickle.dumps(Code(path), protocol=2)))

    def code_in_table(path: Path, _good: bytes) -> None:
        path.write_bytes(saved({"model": {"a": Code(path)}}))

    changes: dict[str, Change] = {
        "a pickle that runs code": code,
        "an archive whose pickle runs code": code_in_archive,
        "a table with code in it": code_in_table,
        "an archive without its pickle": edited(lambda good: _with_member(good, "data.pkl", None)),
        "an archive without its numbers": edited(lambda good: _with_member(good, "data/0", None)),
        "an archive with few of its numbers": edited(lambda good: _with_member(good, "data/0", b"abc")),
        "an archive of another byte order": edited(lambda good: _with_member(good, "byteorder", b"sideways")),
        "cut before the table of contents": edited(lambda good: good[: good.rindex(b"PK\x01\x02")]),
        "a plain pickle": fixed(pickle.dumps({"model": {"a": 1}})),
        "numpy arrays": edited(lambda _good: saved({"model": {"a": np.zeros(3)}})),
        "a whole module": edited(lambda _good: saved(torch.nn.Linear(2, 2))),
        "a text": edited(lambda _good: saved("text")),
        "None": edited(lambda _good: saved(None)),
    }
    return [Attack(what, file, change, may_refuse=may_refuse) for what, change in changes.items()]


def _with_member(good: bytes, ending: str, content: bytes | None) -> bytes:
    """An archive of torch with one member replaced or left out."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            if not name.endswith(f"/{ending}"):
                target.writestr(zipfile.ZipInfo(name), source.read(name))
            elif content is not None:
                target.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()


def prompts_attacks() -> list[Attack]:
    """`clr_embeds.pt`."""
    file = "clr_embeds.pt"
    good = numbers(VIEWS, 5, WIDTH)

    def poisoned(value: float) -> Tensor:
        out = good.clone()
        out[1, 2, 3] = value
        return out

    tensors: dict[str, Any] = {
        "NaN": poisoned(float("nan")), "infinity": poisoned(float("inf")), "zeros": torch.zeros_like(good),
        "one prompt of zeros": good * (torch.arange(VIEWS) != 2)[:, None, None], "integers": good.long(), "booleans": good > 0,
        "complex numbers": good.to(torch.complex64), "5 views": good[:5], "another width": good[..., :-1],
        "2 dimensions": good[0],
        "4 dimensions": good[None], "no tokens": good[:, :0], "no dimension": torch.tensor(1.0), "sparse": good.to_sparse(),
        "on no device": good.to("meta"), "a list of tensors": list(good), "a table": {"embeds": good},
        "a quantized tensor": torch.quantize_per_tensor(good, 0.1, 0, torch.qint8),
        "one number that says it is 400 million": _spread(VIEWS, 2_000_000, WIDTH),
    }  # fmt: skip
    fine = {"half precision": good.half(), "double precision": good.double()}
    out = [*whole_file(file, zeros="many"), *torch_files(file)]
    for what, tensor in tensors.items():
        out.append(Attack(f"a tensor: {what}", file, fixed(saved(tensor)), apart="million" in what, seconds=PATIENCE))
    return out + [Attack(f"a tensor: {what}", file, fixed(saved(t)), lossy=False) for what, t in fine.items()]


def _spread(*shape: int) -> Tensor:
    """One number that says it is many: a small file for a large tensor."""
    return torch.full((1,), 0.5).expand(shape)


def state_edits(key: str) -> dict[str, tuple[bool, Edit]]:
    """What can be wrong with the tensors of a network: (whether something is lost, how).

    Args:
        key: of a matrix to spoil.
    """

    def put(state: dict[str, Tensor], value: float) -> dict[str, Tensor]:
        poisoned = state[key].clone()
        poisoned.view(-1)[poisoned.numel() // 2] = value
        return {**state, key: poisoned}

    return {
        "NaN in a matrix": (True, lambda s: put(s, float("nan"))),
        "infinity in a matrix": (True, lambda s: put(s, float("inf"))),
        "NaN everywhere": (True, lambda s: {k: torch.full_like(v, float("nan")) for k, v in s.items()}),
        "zeros everywhere": (True, lambda s: {k: torch.zeros_like(v) for k, v in s.items()}),
        "a matrix of zeros": (False, lambda s: {**s, key: torch.zeros_like(s[key])}),
        "integers": (True, lambda s: {k: v.to(torch.int32) for k, v in s.items()}),
        "one tensor of booleans": (True, lambda s: {**s, key: s[key] > 0}),
        "half precision": (False, lambda s: {k: v.half() for k, v in s.items()}),
        "bfloat16": (False, lambda s: {k: v.bfloat16() for k, v in s.items()}),
        "a tensor missing": (True, lambda s: {k: v for k, v in s.items() if k != key}),
        "half of the tensors missing": (True, lambda s: dict(list(s.items())[: len(s) // 2])),
        "a tensor too many": (False, lambda s: {**s, "extra.weight": torch.ones(2, 2)}),
        "a row less": (True, lambda s: {**s, key: s[key][:-1].contiguous()}),
        "flat": (True, lambda s: {**s, key: s[key].flatten()}),
        "no dimension": (True, lambda s: {**s, key: torch.tensor(1.0)}),
        "empty": (True, lambda s: {**s, key: s[key][:0].contiguous()}),
        "no tensors": (True, lambda _s: {}),
        "other names": (True, lambda s: {f"module.{k}": v for k, v in s.items()}),
    }


def safetensors_states(file: str, key: str, prefix: str = "", few: bool = False) -> list[Attack]:
    """The same in a safetensors file; its metadata stays."""

    def change(edit: Edit) -> Change:
        def rewritten(good: bytes) -> bytes:
            length = struct.unpack("<Q", good[:8])[0]
            table = json.loads(good[8 : 8 + length]).get("__metadata__")
            return to_safetensors(edit(from_safetensors(good)), table)

        return edited(rewritten)

    edits = state_edits(prefix + key)
    if few:
        kept = ("NaN in a matrix", "zeros everywhere", "integers", "bfloat16", "a tensor missing", "a row less", "no tensors")
        edits = {what: edits[what] for what in kept}
    return [Attack(f"weights: {what}", file, change(edit), lossy) for what, (lossy, edit) in edits.items()]


def unet_attacks() -> list[Attack]:
    """A `unet/` folder."""
    places = {
        "sample_size": "positive", "in_channels": "positive", "out_channels": "positive", "down_block_types": "list",
        "mid_block_type": "case", "up_block_types": "list", "block_out_channels": "list", "cross_attention_dim": "positive",
        "attention_head_dim": "list", "class_embed_type": "case", "num_views": "positive",
    }  # fmt: skip
    out = [*whole_file(UNET_WEIGHTS, zeros="many"), *safetensors_headers(UNET_WEIGHTS)]
    out += safetensors_states(UNET_WEIGHTS, "conv_in.weight")
    out += [*whole_file("config.json", text=True, few=True), *json_wholes("config.json")]
    out += [replace(a, lossy=a.lossy and a.what not in DEFAULTED) for a in json_values("config.json", places)]
    config = {
        "a wide network that the weights do not hold": (b"[\n  32,\n  32\n ]", b"[4096, 4096]"),
        "a block of another program": (b'"UpBlock2D"', b'"os.system"'),
        "an unknown entry": (b'"sample_size"', b'"__class__": 1, "surplus": 2, "sample_size"'),
        "views of 0": (b'"num_views": 6', b'"num_views": 0'),
    }
    for what, (old, new) in config.items():
        replaced = edited(lambda good, o=old, n=new: good.replace(o, n))
        lossy, wide = "unknown" not in what, "wide" in what
        out.append(Attack(f"config.json: {what}", "config.json", replaced, lossy, apart=wide, seconds=PATIENCE))
    return out


def gslrm_pt_attacks(state: dict[str, Tensor]) -> list[Attack]:
    """A GS-LRM checkpoint, pickled.

    Args:
        state: the good weights; its largest matrix is spoilt.
    """
    file, key = "gslrm.pt", max(state, key=lambda k: state[k].numel())
    out = [*whole_file(file, zeros="many"), *torch_files(file)]
    for what, (lossy, edit) in state_edits(key).items():
        # In this format a network may bring those of its losses along, so a tensor too many can be meant well.
        out.append(Attack(f"weights: {what}", file, fixed(saved({"model": edit(state)})), lossy))
    embeddings, upsampler = "gaussian_position_embeddings", "gaussian_upsampler.linear.weight"
    wide = {**state, embeddings: _spread(2, 6144)}
    tables: dict[str, Any] = {
        "no entry 'model'": {"weights": state}, "'model' is a list": {"model": list(state.values())},
        "'model' is a tensor": {"model": numbers(3)}, "'model' is empty": {"model": {}}, "the bare weights": state,
        "a number among the weights": {"model": {**state, key: 5}},
        "a text among the weights": {"model": {**state, "note": "x"}}, "None among the weights": {"model": {**state, key: None}},
        "numbers as names": {"model": {1: numbers(2), **state}}, "nested weights": {"model": {"inner": state}},
        "embeddings of 1 dimension": {"model": {**state, embeddings: numbers(4)}},
        "embeddings of width 0": {"model": {**state, embeddings: torch.zeros(2, 0)}},
        "an upsampler of 0 channels": {"model": {**state, upsampler: torch.zeros(0, 64)}},
        "an upsampler of 1 dimension": {"model": {**state, upsampler: torch.tensor(3.0)}},
        "one layer of many": {"model": {**state, "transformer_layers.99.norm.weight": numbers(3)}},
        "a layer without a number": {"model": {**state, "transformer_layers.": numbers(3)}},
        "a width of 6144 in a small file": {"model": wide},
    }  # fmt: skip
    heads: dict[str, Any] = {
        "0": 0, "-1": -1, "text": "x", "None": None, "NaN": float("nan"), "10^9": 10**9, "48": 48, "a list": [64],
        "a tensor": numbers(3),
    }  # fmt: skip
    tables |= {f"head_width {what}": {"model": state, "head_width": value} for what, value in heads.items()}
    for what, table in tables.items():
        out.append(Attack(f"table: {what}", file, fixed(saved(table)), apart="6144" in what or "10^9" in what, seconds=PATIENCE))
    return out


def gslrm_safetensors_attacks(state: dict[str, Tensor]) -> list[Attack]:
    """The same checkpoint as safetensors."""
    file, key = "gslrm.safetensors", max(state, key=lambda k: state[k].numel())
    out = [*whole_file(file, zeros="many"), *safetensors_headers(file), *safetensors_states(file, key, "model.")]
    metadata = {
        "no JSON": "{", "a list": "[]", "a text": '"x"', "null": "null", "head_width a text": '{"head_width": "x"}',
        "head_width 0": '{"head_width": 0}', "head_width -8": '{"head_width": -8}', "head_width NaN": '{"head_width": NaN}',
        "head_width 1e400": '{"head_width": 1e400}', "head_width null": '{"head_width": null}', "nested deep": "[" * 100_000,
        "head_width 10^9": '{"head_width": 1000000000}', "5000 digits": '{"head_width": ' + "9" * 5000 + "}",
    }  # fmt: skip
    for what, text in metadata.items():
        change = edited(lambda good, t=text: to_safetensors(from_safetensors(good), {"mvfl": t}))
        out.append(Attack(f"metadata: {what}", file, change, apart="deep" in what or "10^9" in what))
    return out


def vgg_attacks() -> list[Attack]:
    """`vgg19.safetensors`."""
    file = "vgg19.safetensors"
    out = [*whole_file(file, zeros="many", few=True), *safetensors_headers(file, few=True)]
    return out + safetensors_states(file, "conv7.weight", few=True)


def lpips_attacks() -> list[Attack]:
    """LPIPS' heads, and its backbone."""
    heads = lpips_heads()
    out = [*whole_file("heads.pth", zeros="many"), *torch_files("heads.pth"), *whole_file("vgg16.pth", zeros="many", few=True)]
    for what, (lossy, edit) in state_edits("lin2.model.1.weight").items():
        if what != "other names":
            # Heads are read in any form that holds as many numbers.
            lossy = lossy and what != "flat"
            out.append(Attack(f"heads: {what}", "heads.pth", fixed(saved(edit(heads))), lossy))
    tables = {"a list": list(heads.values()), "a text among them": {**heads, "lin0.model.1.weight": "x"}, "a number": 5}
    return out + [Attack(f"heads: {what}", "heads.pth", fixed(saved(table))) for what, table in tables.items()]


def training_state_attacks() -> list[Attack]:
    """The newest of two training states: it is set aside and the one before it is used, whatever is wrong with it."""
    file, mark = "states/step-00000020.pt", "states/fingerprint.json"
    out = [*whole_file(file, zeros="many", may_refuse=False), *torch_files(file, may_refuse=False)]
    for name in ("step-abc.pt", "step-.pt", "step-9-9.pt", "step-00000030.pt"):
        rubbish = fixed(saved(state_at(1))[:50])
        out.append(Attack(f"rubbish named {name}", f"states/{name}", rubbish, lossy=False, may_refuse=False))
    # The mark says whose states these are; without it nobody can tell, so a sentence is right.
    out += [*whole_file(mark, text=True, few=True, lossy=False), *json_wholes(mark, lossy=False)]
    return out + [
        Attack(f"fingerprint {v}", mark, fixed(f'{{"fingerprint": {v}}}'), lossy=False) for v in ("null", "[]", "{}", "5", "NaN")
    ]


BASE_PARTS = (
    "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "vae/config.json", "vae/diffusion_pytorch_model.safetensors",
    "image_encoder/config.json", "image_encoder/model.safetensors", "text_encoder/config.json", "text_encoder/model.safetensors",
    "tokenizer/tokenizer_config.json", "tokenizer/tokenizer.json", "tokenizer/vocab.json", "tokenizer/merges.txt",
    "feature_extractor/preprocessor_config.json", "image_normalizer/config.json",
    "image_normalizer/diffusion_pytorch_model.safetensors", "image_noising_scheduler/scheduler_config.json",
    "scheduler/scheduler_config.json", "gslrm/gslrm.safetensors",
)  # fmt: skip


def base_check_attacks() -> list[Attack]:
    """Every file of a base: empty, and cut in half; some in further ways. A finding names the part, which is the folder."""
    return [replace(a, names=(a.file.split("/")[0],)) for a in _base_attacks()]


def _base_attacks() -> list[Attack]:
    out = []
    for file in BASE_PARTS:
        out.append(Attack(f"{file} empty", file, fixed(b"")))
        # Half a list of merges is a list of merges, and nobody reads it while tokenizer.json is there.
        cut = edited(lambda good: good[: len(good) // 2])
        out.append(Attack(f"{file} cut in half", file, cut, lossy=file != "tokenizer/merges.txt"))
    for file in BASE_PARTS:
        if file.endswith("config.json"):
            out.append(Attack(f"{file} is a list", file, fixed("[]")))
            out.append(Attack(f"{file} is not UTF-8", file, edited(lambda good: b"\xff" + good)))
    # Without tokenizer.json the tokenizer is read from two older files, so nothing would be lost.
    for file in ("unet/config.json", "vae/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"):
        out += [replace(a, what=f"{file}: {a.what}") for a in things(file)]
    for file in ("vae/diffusion_pytorch_model.safetensors", "image_encoder/model.safetensors"):
        out.append(Attack(f"{file} cut by 1 byte", file, edited(lambda good: good[:-1])))
        out.append(Attack(f"{file} a header of 2^64 - 1 bytes", file, fixed(b"\xff" * 8 + b"{}")))
    return out
