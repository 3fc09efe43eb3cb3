"""Sample folders: `sample_*/images/cam_XXX.png` with `opencv_cameras.json`, and the manifest of a data set."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from mvfl.config.schema import Background
from mvfl.geometry.cameras import Camera
from mvfl.geometry.rig import Rig
from mvfl.runtime.files import InputError, digest, read_json, sha256, write_json

BACKGROUND_LEVEL: dict[Background, float] = {"white": 1.0, "black": 0.0, "gray": 0.5}
MASK_THRESHOLD = 0.5
# Mean distance from the white background above which a pixel counts as animal.
FOREGROUND_DISTANCE = 0.06


def evenly(names: Sequence[str], count: int) -> list[str]:
    """At most `count` names, spread evenly: neighbouring frames of a recording are nearly the same picture."""
    if len(names) <= count:
        return list(names)
    return [names[round(i)] for i in np.linspace(0, len(names) - 1, count)]


@dataclass(frozen=True)
class Sample:
    """One time point seen by all cameras.

    Attributes:
        folder: the sample folder.
        files: image file per view.
        cameras: camera per view, as stored.
        info: the rest of `opencv_cameras.json`.
    """

    folder: Path
    files: list[Path]
    cameras: list[Camera]
    info: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.name


def read_sample(folder: Path, views: int) -> Sample:
    """Read the cameras of a sample folder and check that its pictures are there.

    Args:
        folder: the sample folder.
        views: the smallest number of views expected; further ones are held-out targets.

    Raises:
        InputError: a file is missing, the number of views is wrong, or the JSON is broken.
        CameraError: a camera is impossible.
    """
    path = folder / "opencv_cameras.json"
    try:
        info = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; every sample folder needs its camera file.") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not valid JSON ({error}); write it again.") from error
    frames = info.pop("frames", None)
    if not isinstance(frames, list) or len(frames) < views:
        found = len(frames) if isinstance(frames, list) else "no"
        raise InputError(
            f"{path} holds {found} frames, expected {views}: index = view. A dropped view shifts all later ones; "
            "remove the whole sample instead."
        )
    cameras = [Camera.from_frame(frame, f"{path}, view {i}") for i, frame in enumerate(frames)]
    files = [folder / frame.get("file_path", f"images/cam_{i:03d}.png") for i, frame in enumerate(frames)]
    for file in files:
        if not file.is_file():
            raise InputError(f"{file} does not exist; restore the picture or remove the sample {folder.name}.")
    return Sample(folder, files, cameras, info)


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


def read_rgba(path: Path, size: int, keep_background: bool = False) -> np.ndarray:
    """A picture as uint8 [size, size, 4], resized with Lanczos where needed.

    Args:
        path: of the picture; without an alpha channel it must be over white.
        size: pixels per side of the result.
        keep_background: leave an opaque picture opaque (generated views, whose background belongs to what was drawn).

    Raises:
        InputError: unreadable, truncated, not square, without any foreground, or opaque and not over white.
    """
    try:
        with Image.open(path) as image:
            image.load()
            rgba = image.convert("RGBA")
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; restore the picture or remove the sample.") from error
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise InputError(f"{path} cannot be read as a picture ({error}); it is truncated or damaged: copy it again.") from error
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


@dataclass(frozen=True)
class Manifest:
    """What a data set holds, written once by the stage that made or checked it.

    Attributes:
        name: of the data set.
        root: folder of the sample folders.
        rig: cameras of the slots, at `image_size`.
        image_size: pixels per side that stages read.
        train, val: sample folder names.
        data_hash: changes when any file changes.
    """

    name: str
    root: Path
    rig: Rig
    image_size: int
    train: list[str]
    val: list[str]
    data_hash: str

    @property
    def views(self) -> int:
        """Views that a model draws."""
        return len(self.rig.cameras)

    def sample(self, name: str) -> Sample:
        """Read one sample's cameras."""
        return read_sample(self.root / name, self.views)

    def pictures(
        self, sample: Sample, views: list[int] | None = None, keep_background: bool = False
    ) -> Float[Tensor, "view 4 height width"]:
        """RGBA in 0..1 of some views (default: the rig's)."""
        chosen = range(self.views) if views is None else views
        return rgba_tensor([read_rgba(sample.files[v], self.image_size, keep_background) for v in chosen])

    def read_ahead(self, names: Sequence[str], ahead: int = 32) -> Iterator[Float[Tensor, "view 4 height width"]]:
        """The rig's views of samples in order, decoded by threads while the caller works on earlier ones."""
        with ThreadPoolExecutor(8) as pool:
            coming: deque[Future[Tensor]] = deque()
            for name in names:
                coming.append(pool.submit(lambda n: self.pictures(self.sample(n)), name))
                if len(coming) > ahead:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()


def write_manifest(path: Path, name: str, root: Path, rig: Rig, image_size: int, train: list[str], val: list[str]) -> Manifest:
    """Hash all files of the listed samples and write `manifest.json`."""
    hashes = {}
    for sample in [*train, *val]:
        read = read_sample(root / sample, len(rig.cameras))
        for file in [*read.files, root / sample / "opencv_cameras.json"]:
            hashes[str(file.relative_to(root))] = sha256(file)
    data_hash = digest([hashes, rig.hash, image_size, train, val])
    relative = root.relative_to(path.parent) if root.is_relative_to(path.parent) else root.resolve()
    content = {
        "name": name, "root": str(relative), "image_size": image_size, "rig": rig.to_json(), "train": train,
        "val": val, "data_hash": data_hash, "files": hashes,
    }  # fmt: skip
    write_json(path, content)
    return Manifest(name, root, rig, image_size, train, val, data_hash)


def read_manifest(path: Path) -> Manifest:
    """Read `manifest.json`; raises `InputError` when it is missing and `CameraError` for an impossible rig."""
    data = read_json(path, "run the `data` target first")
    root = Path(data["root"])
    return Manifest(
        data["name"],
        root if root.is_absolute() else path.parent / root,
        Rig.from_json(data["rig"], str(path)),
        data["image_size"],
        data["train"],
        data["val"],
        data["data_hash"],
    )
