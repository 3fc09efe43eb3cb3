"""Pictures of samples: read, masked, composited over a grey level."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from mvfl.config.strict import Background
from mvfl.records.manifest import Manifest
from mvfl.records.samples import Sample
from mvfl.runtime.files import InputError
from mvfl.runtime.reading import named_errors, require_file

BACKGROUND_LEVEL: dict[Background, float] = {"white": 1.0, "black": 0.0, "gray": 0.5}
MASK_THRESHOLD = 0.5
# Mean distance from the white background above which a pixel counts as animal.
FOREGROUND_DISTANCE = 0.06


def with_mask(rgba: np.ndarray, path: Path) -> np.ndarray:
    """Give an opaque picture over white its alpha channel: the animal is what differs from white.

    Args:
        rgba: uint8 [height, width, 4].
        path: named in the error.

    Raises:
        InputError: opaque, and not over white.
    """
    if not (rgba[..., 3] == 255).all():
        return rgba
    mask = (255 - rgba[..., :3].astype(np.float32)).mean(-1) > FOREGROUND_DISTANCE * 255
    if mask.mean() > 0.9:
        raise InputError(f"{path} has no alpha channel and no white background: cut the animal out first.")
    return np.concatenate([rgba[..., :3], (255 * mask[..., None]).astype(np.uint8)], -1)


def open_picture(path: Path) -> Image.Image:
    """A picture, decoded whole.

    Raises:
        InputError: missing, truncated or no picture.
    """
    remedy = "it is truncated or damaged: copy it again, or remove the sample"
    require_file(path, "restore the picture or remove the sample")
    with named_errors(path, "a picture", remedy):
        with Image.open(path) as image:
            image.verify()  # checksums, where the format has them; the file must be opened again after it
        with Image.open(path) as image:
            image.load()
            return image.copy()


def eight_bit(image: Image.Image) -> Image.Image:
    """Pictures of 10 to 32 bits scaled to what they hold; Pillow would cut all above 255 to white.

    Cameras of 10, 12 or 14 bits store them unshifted in 16, so the smallest range that holds the brightest pixel is taken.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image).astype(np.float64)
    top = next((t for t in (1.0, 255.0, 1023.0, 4095.0, 16383.0) if values.max() <= t), 65535.0)
    return Image.fromarray(np.clip(255 * values / top, 0, 255).round().astype(np.uint8))


def read_rgba(path: Path, size: int, keep_background: bool = False) -> np.ndarray:
    """A picture as uint8 [size, size, 4], resized with Lanczos where needed.

    Args:
        path: of the picture; without an alpha channel it must be over white.
        size: pixels per side of the result.
        keep_background: leave an opaque picture opaque (generated views, whose background belongs to what was sampled).

    Raises:
        InputError: unreadable, truncated, not square, without any foreground, or opaque and not over white.
    """
    rgba = eight_bit(open_picture(path)).convert("RGBA")
    if rgba.width != rgba.height:
        raise InputError(f"{path} is {rgba.width} x {rgba.height} pixels; pictures must be square.")
    if rgba.width != size:
        rgba = rgba.resize((size, size), Image.Resampling.LANCZOS)
    out = np.asarray(rgba) if keep_background else with_mask(np.asarray(rgba), path)
    if not out[..., 3].any():
        raise InputError(
            f"{path} shows no animal: its alpha channel is empty, or the picture is white. Remove the sample or mend its mask."
        )
    return out


def composite(rgba: Float[Tensor, "*batch 4 height width"], level: float) -> Float[Tensor, "*batch 3 height width"]:
    """RGB over a grey level: rgb * alpha + level * (1 - alpha), all in 0..1."""
    alpha = rgba[..., 3:, :, :]
    return rgba[..., :3, :, :] * alpha + level * (1 - alpha)


def rgba_tensor(pictures: list[np.ndarray]) -> Float[Tensor, "view 4 height width"]:
    """Stack uint8 [h, w, 4] pictures as float 0..1."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


def view_pictures(
    manifest: Manifest, sample: Sample | str, views: Sequence[int] | None = None, keep_background: bool = False
) -> Float[Tensor, "view 4 height width"]:
    """RGBA in 0..1 of some views of a sample.

    Args:
        manifest: data set; names the size of the pictures.
        sample: the sample, or its name.
        views: view indices; default: the rig's.
        keep_background: leave opaque pictures opaque.
    """
    found = manifest.sample(sample) if isinstance(sample, str) else sample
    chosen = range(manifest.views) if views is None else views
    return rgba_tensor([read_rgba(found.files[v], manifest.image_size, keep_background) for v in chosen])


def read_ahead(manifest: Manifest, names: Sequence[str], ahead: int = 32) -> Iterator[Float[Tensor, "view 4 height width"]]:
    """The rig's views of samples in order, RGBA in 0..1, decoded by threads while the caller works on earlier ones."""
    with ThreadPoolExecutor(8) as pool:
        coming: deque[Future[Tensor]] = deque()
        for name in names:
            coming.append(pool.submit(view_pictures, manifest, name))
            if len(coming) > ahead:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def all_pictures(manifest: Manifest, names: Sequence[str]) -> UInt8[Tensor, "n 4 height width"]:
    """All pictures of the rig's views, RGBA [sample x view, 4, height, width]."""
    return torch.cat([(rgba * 255).round().byte() for rgba in read_ahead(manifest, names)])
