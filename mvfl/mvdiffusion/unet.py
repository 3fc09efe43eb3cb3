"""The multi-view UNet: stock `UNet2DConditionModel`, built, loaded and adapted without hidden fallbacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from mvfl.config.strict import AttentionMode, ViewConditioning
from mvfl.mvdiffusion.attention import MultiViewAttnProcessor, set_attention_mode
from mvfl.mvdiffusion.conditioning import POSE_FEATURES, RAY_CHANNELS, TELLS_POSES
from mvfl.runtime.files import InputError
from mvfl.runtime.reading import named_errors, read_table
from mvfl.runtime.weights import load_strictly, read_safetensors, require_sound

WEIGHTS = "diffusion_pytorch_model.safetensors"
# A learned path is far from it: 2.8 in the embedded weights.
SMALLEST_REFERENCE_NORM = 1e-3
STOCK_BLOCKS = {
    "CrossAttnDownBlockMV2D": "CrossAttnDownBlock2D",
    "CrossAttnUpBlockMV2D": "CrossAttnUpBlock2D",
    "UNetMidBlockMV2DCrossAttn": "UNetMidBlock2DCrossAttn",
}
# Original keys with the only values that the stock class can stand for.
FIXED_KEYS: dict[str, Any] = {
    "cd_attention_last": False,
    "cd_attention_mid": False,
    "selfattn_block": "custom",
    "addition_downsample": False,
}
MULTI_VIEW_KEYS = ("num_views", "multiview_attention", "sparse_mv_attention", "view_conditioning")


def build_unet(config: dict[str, Any]) -> UNet2DConditionModel:
    """A stock UNet from a config in the stock or in the original class names.

    Args:
        config: constructor values. `num_views` (6), `multiview_attention` (true), `sparse_mv_attention` (true) and
            `view_conditioning` (`prompt`) describe the multi-view part and are kept in `unet.config`.

    Raises:
        InputError: the config asks for a part that the published models do not use.
    """
    stock = {k: v for k, v in config.items() if not k.startswith("_")}
    for key, allowed in FIXED_KEYS.items():
        if stock.pop(key, allowed) != allowed:
            raise InputError(f"unet/config.json: {key} = {config[key]!r} is not supported, only {allowed!r}.")
    stock.pop("addition_channels", None)
    for key, default in (("sample_size", None), ("num_views", 6)):
        if not isinstance(value := stock.get(key, default), int) or isinstance(value, bool) or value < 1:
            raise InputError(f"unet/config.json: {key} must be a whole number from 1 on, it is {str(value)[:40]!r}.")
    for key in ("down_block_types", "up_block_types"):
        stock[key] = [STOCK_BLOCKS.get(name, name) for name in stock[key]]
    stock["mid_block_type"] = STOCK_BLOCKS.get(stock["mid_block_type"], stock["mid_block_type"])
    multi_view = {"num_views": 6, "multiview_attention": True, "sparse_mv_attention": True, "view_conditioning": "prompt"}
    for key in MULTI_VIEW_KEYS:
        if key in stock:
            multi_view[key] = stock.pop(key)
    unet = UNet2DConditionModel(**stock)
    unet.register_to_config(**multi_view)
    set_attention_mode(unet, unet.config.num_views, attention_mode(unet))
    return unet


def attention_mode(unet: UNet2DConditionModel) -> AttentionMode:
    """The attention mode that a UNet's config asks for, in one word."""
    if not unet.config.multiview_attention:
        return "per_view"
    return "sparse" if unet.config.sparse_mv_attention else "dense"


def load_unet(folder: Path) -> UNet2DConditionModel:
    """Read `config.json` and the weights of a `unet/` folder into the stock class, float32, strictly.

    Raises:
        InputError: files missing or damaged, tensors that do not match by name and shape, or weights that are no weights.
    """
    with torch.device("meta"):
        unet = read_architecture(folder)
    weights = folder / WEIGHTS
    state = read_safetensors(weights)
    load_strictly(unet, state, str(weights), assign=True)
    require_sound(state, str(weights))
    return unet.eval()


def read_architecture(folder: Path) -> UNet2DConditionModel:
    """The UNet that `config.json` of a `unet/` folder describes, with weights that mean nothing yet.

    Raises:
        InputError: missing, damaged, or asking for what the published models do not use.
    """
    path = folder / "config.json"
    config = read_table(path, f"{folder} must be the whole unet/ folder of a base: copy it again")
    with named_errors(path, "the configuration of a UNet", "copy it again"):
        return build_unet(config)


def reference_path_norm(unet: UNet2DConditionModel) -> float:
    """Norm of the input convolution's weights for the reference latents; zero means the reference is not seen."""
    latent = unet.config.out_channels
    return float(unet.conv_in.weight[:, latent : 2 * latent].detach().norm())


def channels_in(mode: ViewConditioning, latent: int) -> int:
    """Input channels: noisy latents, the reference's latents, and rays where the mode tells them."""
    return 2 * latent + (RAY_CHANNELS if mode == "rays" else 0)


def with_views(unet: UNet2DConditionModel, views: int) -> UNet2DConditionModel:
    """The UNet for objects with another number of views; weights do not depend on it."""
    unet.register_to_config(num_views=views)
    for processor in unet.attn_processors.values():
        if isinstance(processor, MultiViewAttnProcessor):
            processor.views = views  # in place: a compiled network keeps what it compiled for each number
    return unet


def widen_conv_in(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Give a single-image UNet (4 input channels) the channels of the reference latents, at zero.

    A UNet that already has them is returned untouched: zeroing a learned path erased the reference picture in the
    recorded runs.
    """
    latent = unet.config.out_channels
    if unet.config.in_channels == channels_in(unet.config.view_conditioning, latent):
        if (norm := reference_path_norm(unet)) < SMALLEST_REFERENCE_NORM:
            raise InputError(
                f"The base's conv_in has channels for the reference picture, but their weights are gone (norm {norm:.1e}): the "
                "model could not see its input. Somebody zeroed a learned path; use the original weights."
            )
        return unet
    if unet.config.in_channels != latent:
        raise InputError(f"The UNet takes {unet.config.in_channels} channels; expected {latent} or {2 * latent}.")
    state = unet.state_dict()
    old = state["conv_in.weight"]
    state["conv_in.weight"] = torch.cat([old, torch.zeros_like(old)], dim=1)
    return _rebuilt(unet, state, in_channels=2 * latent)


def with_view_conditioning(unet: UNet2DConditionModel, mode: ViewConditioning) -> UNet2DConditionModel:
    """Prepare a UNet for a way of telling each slot which camera it is.

    `relative_pose` widens the class embedding's first layer by columns for the relative pose, `rays` the input convolution by
    channels for them as well, all at zero, so that step 0 equals the source model; what is there already keeps its learned values.

    Raises:
        InputError: the UNet was trained with poses or rays and the mode would ignore them.
    """
    known: ViewConditioning = unet.config.view_conditioning
    if (known in TELLS_POSES and mode not in TELLS_POSES) or (known == "rays" and mode != "rays"):
        raise InputError(
            f"This base was trained with view_conditioning {known}; '{mode}' would leave its weights for that unfed. "
            f"Use {known}, or a base trained without it."
        )
    if mode in TELLS_POSES and known not in TELLS_POSES:
        width = unet.config.projection_class_embeddings_input_dim + POSE_FEATURES
        unet = _wider(unet, "class_embedding.linear_1.weight", POSE_FEATURES, projection_class_embeddings_input_dim=width)
    if mode == "rays" and known != "rays":
        unet = _wider(unet, "conv_in.weight", RAY_CHANNELS, in_channels=unet.config.in_channels + RAY_CHANNELS)
    unet.register_to_config(view_conditioning=mode)
    return unet


def _wider(unet: UNet2DConditionModel, name: str, more: int, **changed: Any) -> UNet2DConditionModel:
    """The UNet with further inputs of one layer, at zero."""
    state = unet.state_dict()
    old = state[name]
    state[name] = torch.cat([old, old.new_zeros(len(old), more, *old.shape[2:])], dim=1)
    return _rebuilt(unet, state, **changed)


def _rebuilt(unet: UNet2DConditionModel, state: dict[str, Tensor], **changed: Any) -> UNet2DConditionModel:
    wider = build_unet({**unet.config, **changed})
    load_strictly(wider, state, "widened UNet")
    return wider
