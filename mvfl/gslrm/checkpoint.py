"""GS-LRM checkpoints in the published dict layout: `.pt` (pickled dict) or the same entries as safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors.torch import save_file
from torch import Tensor

from mvfl.gslrm.model import Gslrm, GslrmConfig
from mvfl.runtime.files import InputError
from mvfl.runtime.reading import named_errors, require_file
from mvfl.runtime.weights import load_strictly, read_metadata, read_pickled, read_safetensors, require_sound

IGNORED_PREFIX = "loss_calculator."
MODEL_PREFIX = "model."
METADATA_KEY = "mvfl"


@runtime_checkable
class Shaped(Protocol):
    """What has a shape: a tensor, or an entry of a file's header."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes per dimension."""
        ...


def config_from_state(state: Mapping[str, Shaped], image_size: int, head_width: int, source: str) -> GslrmConfig:
    """Read the architecture off the shapes; head width and image size are not among them.

    Args:
        state: tensors by name, or anything with `.shape`.
        image_size: pixels per side of the inputs.
        head_width: of the attention.
        source: file, for the sentence.

    Raises:
        InputError: a tensor that decides the architecture is missing or has another number of dimensions.
    """
    try:
        free, width = state["gaussian_position_embeddings"].shape
        patch_in = state["patch_embedder.1.weight"].shape[1]
        channels = state["gaussian_upsampler.linear.weight"].shape[0]
        patch = round((state["pixel_gaussian_decoder.1.weight"].shape[0] / channels) ** 0.5)
        if head_width < 1 or width % head_width:
            raise ValueError(f"a width of {width} with heads of {head_width}")
    except KeyError as error:
        raise InputError(f"{source} misses {error}; it is not a GS-LRM checkpoint.") from error
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise InputError(f"{source} is not a GS-LRM checkpoint: its tensors have other shapes ({error}).") from error
    layers = len({k.split(".")[1] for k in state if k.startswith("transformer_layers.")})
    return GslrmConfig(
        image_size=image_size,
        patch_size=patch,
        width=width,
        head_width=head_width,
        layers=layers,
        free_gaussians=free,
        sh_degree=round(((channels - 11) / 3) ** 0.5) - 1,
        plucker="augmented" if patch_in == 12 * patch * patch else "custom",
        reference_marker="view_type_embeddings" in state,
    )


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The network's tensors (unprefixed, loss networks left out) and the rest of the dictionary.

    Pickled files are read with `weights_only=True`, so no code in them can run.
    """
    require_file(path, "GS-LRM never starts from random weights by mistake: name a checkpoint")
    if path.suffix == ".safetensors":
        model = {k.removeprefix(MODEL_PREFIX): v for k, v in read_safetensors(path).items()}
        rest = read_metadata(path, METADATA_KEY)
    else:
        content = read_pickled(path, "a GS-LRM checkpoint")
        if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
            raise InputError(f"{path} is not a GS-LRM checkpoint: a dictionary with an entry 'model' is expected.")
        model, rest = content["model"], {k: v for k, v in content.items() if k != "model"}
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in model.items()):
        raise InputError(f"{path} is not a GS-LRM checkpoint: its entry 'model' must hold tensors by name.")
    return {k: v for k, v in model.items() if not k.startswith(IGNORED_PREFIX)}, rest


def load_gslrm(path: Path, image_size: int, clip_xyz: bool = False, fit_steps: int = 0) -> Gslrm:
    """Build the network that a checkpoint describes and load it strictly, float32.

    Args:
        path: `.pt` or `.safetensors`.
        image_size: pixels per side of the inputs.
        clip_xyz, fit_steps: as in the configuration.

    Raises:
        InputError: missing, unexpected or misshapen tensors, all in one message.
    """
    state, rest = read_state(path)
    with named_errors(path, "a GS-LRM checkpoint", "copy or make it again"):
        config = config_from_state(state, image_size, int(rest.get("head_width", 64)), str(path))
        with torch.device("meta"):
            model = Gslrm(GslrmConfig(**{**config.to_json(), "clip_xyz": clip_xyz, "fit_steps": fit_steps}))
    load_strictly(model, state, str(path), assign=True)
    require_sound(state, str(path))
    return model.eval()


def save_gslrm(model: Gslrm, path: Path, updates: int, passes: int, dtype: torch.dtype = torch.float32) -> None:
    """Write the weights as safetensors with the published entries (`model.*`, step counters in the metadata)."""
    tensors = {MODEL_PREFIX + k: v.detach().to("cpu", dtype).contiguous() for k, v in model.state_dict().items()}
    rest = {"param_update_step": updates, "fwdbwd_pass_step": passes, "head_width": model.config.head_width}
    # One entry: safetensors does not keep the order of several, and equal weights should be equal files.
    save_file(tensors, path, {METADATA_KEY: json.dumps(rest)})
