"""Settings of bases: pretrained pipelines that experiments start from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from mvfl.config.strict import AttentionMode, Strict, UserPath, ViewConditioning

EMBEDDED = Path(__file__).resolve().parents[1] / "embedded_base"


class EmbeddedBase(Strict):
    """The small pretrained base that ships with mvfl."""

    kind: Literal["embedded"]


class AutoencoderTraining(Strict):
    """Training of a small base's autoencoder."""

    steps: PositiveInt = 50
    batch_size: PositiveInt = Field(12, description="pictures per step")
    learning_rate: PositiveFloat = Field(1.5e-3, description="peak; falls linearly to zero")
    latent_noise: PositiveFloat = Field(0.05, description="standard deviation of the noise on unit-size latents")
    size_penalty: float = Field(1e-3, ge=0)
    foreground_weight: PositiveFloat = Field(9.0, description="weight of the dilated animal against the background")
    gradient_weight: float = Field(0.5, ge=0, description="weight of the difference of image gradients")
    tint: float = Field(0.15, ge=0, le=1, description="random gain of each colour channel of the animal")
    compile: bool = False


class ScratchBase(Strict):
    """The published folder layout at small sizes: random weights, and an autoencoder trained on a data set."""

    kind: Literal["scratch"]
    image_size: PositiveInt = Field(64, description="image side in pixels")
    latent_channels: PositiveInt = Field(4, description="channels of the autoencoder's latents")
    autoencoder_channels: list[PositiveInt] = Field(
        [32, 64, 64], min_length=1, description="channels per autoencoder level; n levels shrink by 2^(n-1)"
    )
    unet_channels: list[PositiveInt] = Field([32, 64, 64], min_length=2, description="UNet channels; all but the last attend")
    unet_layers: PositiveInt = Field(1, description="residual blocks per UNet level")
    attention: AttentionMode = Field("dense", description="cross-view self-attention of the UNet")
    view_conditioning: ViewConditioning = Field("relative_pose", description="how the UNet is told its cameras")
    embedding_width: PositiveInt = Field(64, description="width of the small CLIP towers")
    gslrm_width: PositiveInt = Field(64, description="GS-LRM transformer width")
    gslrm_layers: PositiveInt = Field(2, description="GS-LRM transformer layers")
    gslrm_patch: PositiveInt = Field(8, description="pixels per side of a GS-LRM patch")
    dataset: str = Field(description="data set whose training pictures the autoencoder is trained on")
    autoencoder: AutoencoderTraining = AutoencoderTraining()
    seed: int = Field(0, ge=0)


class LocalBase(Strict):
    """A pipeline folder on disk in the published layout."""

    kind: Literal["local"]
    path: UserPath = Field(description="the folder with unet/, vae/, image_encoder/ ...")
    gslrm: UserPath | None = Field(None, description="GS-LRM checkpoint (.pt or .safetensors); default: gslrm/ in `path`")


class HubBase(Strict):
    """A repository on the model hub; the commit that was fetched is noted."""

    kind: Literal["hub"]
    repo: str
    revision: str = Field(description="commit hash, tag or branch; a commit keeps what it is")
    pipeline: str = Field("mvdiffusion/pipeckpts", description="folder of the pipeline inside the repository")
    gslrm: str | None = Field("gslrm/ckpt_0000000000021125.pt", description="GS-LRM checkpoint inside the repository")


Base = Annotated[EmbeddedBase | ScratchBase | LocalBase | HubBase, Field(discriminator="kind")]


def image_size_of(base: Base) -> int | None:
    """Pixels per side that a base samples; None where its files are not here yet (checked when latents are cached).

    Raises:
        ValueError: its configuration files are not what they should be.
    """
    if isinstance(base, ScratchBase):
        return base.image_size
    folder = EMBEDDED if isinstance(base, EmbeddedBase) else base.path if isinstance(base, LocalBase) else None
    configs = [folder / part / "config.json" for part in ("unet", "vae")] if folder else []
    if not configs or not all(c.is_file() for c in configs):
        return None
    try:
        unet, vae = (json.loads(c.read_text(encoding="utf-8")) for c in configs)
        return int(unet["sample_size"]) * 2 ** (len(vae["block_out_channels"]) - 1)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{folder} is not a base: unet/config.json or vae/config.json is damaged; copy it again.") from error
