"""Weights on disk: read without running code in them, refused when damaged, checked when written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from mvfl.runtime.files import InputError
from mvfl.runtime.reading import named_errors, parse_json, require_file

AGAIN = "copy or make it again; there are no substitute weights"
SHOWN = 40  # tensors named in one error
SLACK = 2**26  # bytes by which a tensor may be larger than what is stored of it


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        InputError: missing, damaged or cut short.
    """
    require_file(path, AGAIN)
    with named_errors(path, "safetensors: it is damaged or cut short", AGAIN):
        return load_file(path)


def read_metadata(path: Path, key: str) -> dict[str, Any]:
    """A JSON table in a safetensors file's own metadata; empty where there is none.

    Raises:
        InputError: missing or damaged.
    """
    require_file(path, AGAIN)
    with named_errors(path, "safetensors: its metadata is damaged", AGAIN), safe_open(path, "pt") as file:
        table = parse_json((file.metadata() or {}).get(key, "{}"))
        if not isinstance(table, dict):
            raise ValueError(f"'{key}' holds no table")
        return table


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of each tensor of a safetensors file, from its header alone.

    Raises:
        InputError: missing, damaged or cut short.
    """
    require_file(path, AGAIN)
    with named_errors(path, "safetensors: it is damaged or cut short", AGAIN), safe_open(path, "pt") as file:
        return {k: tuple(file.get_slice(k).get_shape()) for k in file.keys()}  # noqa: SIM118


def read_pickled(path: Path, what: str) -> Any:
    """A `.pt` file, memory-mapped; with `weights_only`, so that no code in it can run.

    Args:
        path: file that `torch.save` wrote.
        what: what it should be, for the sentence.

    Raises:
        InputError: missing, damaged, or holding anything but tensors and plain values.
    """
    require_file(path, AGAIN)
    with named_errors(path, what, AGAIN):
        content = torch.load(path, map_location="cpu", weights_only=True)
        for value in tensors_in(content):
            if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
                raise ValueError("a tensor is sparse, quantized, or has no values")
            if value.numel() * value.element_size() > value.untyped_storage().nbytes() + SLACK:
                raise ValueError("a tensor claims to be larger than what is stored of it")
        return content


def tensors_in(tree: Any) -> Iterator[Tensor]:
    """All tensors of nested dictionaries, lists and tuples."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict | list | tuple):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from tensors_in(value)


def read_tensors(path: Path, what: str, inside: str = "") -> dict[str, Tensor]:
    """A flat dictionary of tensors from `.safetensors`, or from a pickled `.pt` or `.pth`.

    Args:
        path: of the file.
        what: it should be, for sentences.
        inside: entry of a pickled dictionary that may hold them in its place.

    Raises:
        InputError: as the readers above, or no such dictionary.
    """
    content = read_safetensors(path) if path.suffix == ".safetensors" else read_pickled(path, what)
    if not isinstance(content, dict):
        raise InputError(f"{path} is not {what}: a dictionary of tensors is expected; {AGAIN}.")
    nested: Any = content.get(inside)
    content = nested if isinstance(nested, dict) else content
    return {str(k): v for k, v in content.items() if isinstance(v, Tensor)}


def require_sound(state: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that no training leaves: NaN, infinity, matrices of zeros only.

    Args:
        state: tensors by name.
        source: file, for the sentence.

    Raises:
        InputError: names the first such tensors.
    """
    faults = []
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            faults.append(f"{name} holds {tensor.dtype}, no weights")
        elif not bool(torch.isfinite(tensor).all()):
            faults.append(f"{name} holds NaN or infinity")
        elif tensor.ndim >= 2 and tensor.numel() > 1 and not bool(tensor.any()):
            faults.append(f"{name} holds zeros only")
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise InputError(f"{source} is damaged: {'; '.join(faults[:3])}{more}; {AGAIN}.")


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], source: str, assign: bool = False) -> None:
    """Load a state dict whose names and shapes must all match; everything that does not is listed in one error.

    Args:
        module: changed in place.
        state: tensors by name; converted to the module's types.
        source: file, for the sentence.
        assign: take the tensors themselves, for a module on the meta device: nothing is reserved before the shapes are known.

    Raises:
        InputError: tensors missing, unexpected or of another shape.
    """
    own = module.state_dict()
    faults = [f"missing: {k} {tuple(own[k].shape)}" for k in own if k not in state]
    faults += [f"unexpected: {k} {tuple(state[k].shape)}" for k in state if k not in own]
    faults += [
        f"shape of {k}: file {tuple(state[k].shape)}, model {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    if faults:
        shown = "\n".join(f"  {f}" for f in faults[:SHOWN]) + (f"\n  ... and {len(faults) - SHOWN} more" * (len(faults) > SHOWN))
        raise InputError(f"{source} does not fit the model ({len(faults)} tensors):\n{shown}")
    module.load_state_dict({k: v.to(own[k].dtype) for k, v in state.items()}, assign=assign)


def require_written(path: Path, state: Mapping[str, Tensor]) -> None:
    """Read written weights back and compare them, tensor by tensor.

    Raises:
        InputError: they differ.
    """
    written = load_file(path)
    for name, value in state.items():
        if name not in written or not torch.equal(written[name], value.detach().to("cpu", written[name].dtype)):
            raise InputError(f"{path}: {name} read back differs from the weights; is the disk full?")
