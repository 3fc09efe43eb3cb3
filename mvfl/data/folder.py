"""Stage `data`, kind `folder`: check existing sample folders and write their manifest."""

from __future__ import annotations

from pathlib import Path

from mvfl.config.schema import FolderDataset
from mvfl.data.samples import Manifest, read_rgba, write_manifest
from mvfl.geometry.rig import load_rig
from mvfl.runtime.files import InputError
from mvfl.runtime.progress import tracked
from mvfl.runtime.provenance import write_provenance


def block_split(names: list[str], val_fraction: float, gap: int) -> tuple[list[str], list[str]]:
    """Split samples in time order into a training block and a validation block at the end, with a gap between.

    Neighbouring frames of one video look alike; a random split would put them on both sides.

    Raises:
        InputError: too few samples.
    """
    val = max(1, round(val_fraction * len(names)))
    train = len(names) - val - gap
    if train < 1:
        raise InputError(
            f"{len(names)} samples are too few for a validation share of {val_fraction} and a gap of {gap}; lower them."
        )
    return names[:train], names[train + gap :]


def check_folder(name: str, settings: FolderDataset, out: Path) -> Manifest:
    """Read every camera and every picture once, so that no training meets a broken sample.

    Raises:
        InputError: a file is missing, truncated, has no foreground, the number of views is wrong, or a sample's cameras
            do not belong to the rig.
        CameraError: an impossible camera.
    """
    if not settings.path.is_dir():
        raise InputError(f"Data folder {settings.path} does not exist; set datasets.{name}.path.")
    names = sorted(p.name for p in settings.path.glob("sample_*") if p.is_dir())
    if not names:
        raise InputError(f"{settings.path} holds no sample_* folders; see docs/data.md for the layout.")
    rig = load_rig(settings.rig, settings.image_size)
    manifest = Manifest(name, settings.path, rig, settings.image_size, [], [], "")
    for sample_name in tracked(names, f"check {name}", len(names)):
        sample = manifest.sample(sample_name)
        angle, focal = rig.disagreement(sample.cameras[: len(rig.cameras)])
        if angle > settings.rig_tolerance_deg or focal > 0.05:
            raise InputError(
                f"{sample.folder / 'opencv_cameras.json'}: cameras differ from rig '{settings.rig}' by up to {angle:.1f} "
                f"degrees and {focal:.1%} in focal length (allowed {settings.rig_tolerance_deg} and 5 %). Name the rig that "
                "these pictures were made with in datasets.<name>.rig; never pair pictures with other cameras."
            )
        for file in sample.files:
            read_rgba(file, settings.image_size)
    train, val = block_split(names, settings.val_fraction, settings.gap)
    write_provenance(out, "data", settings.model_dump(mode="json"), {}, rig.hash)
    return write_manifest(out / "manifest.json", name, settings.path.resolve(), rig, settings.image_size, train, val)
