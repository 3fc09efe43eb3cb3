"""`recording.json`: what was found out about a recording; the data report shows it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mvfl.records.record import Record


class CameraNote(Record):
    """One camera.

    Attributes:
        name: of the camera.
        azimuth, elevation: mean direction from the animal, degrees.
        distance: mean distance from the animal, in the calibration's units.
        lens: distortion that was removed.
        focal_512: of the virtual camera, pixels at 512 px.
        zoom: prepared pixels per recorded pixel.
        recorded_pixels: that the animal covers, median.
        share: of the prepared picture that the animal fills, median.
        overlap: of its silhouettes with the bodies that all allow, mean.
        residual_px: root mean square miss of the animal's centre, recorded pixels.
        misfit: how far it is off, were it alone to blame.
        warning: a sentence where a person should look.
    """

    name: str
    azimuth: float
    elevation: float
    distance: float
    lens: list[float]
    focal_512: float
    zoom: float
    recorded_pixels: float
    share: float
    overlap: float
    residual_px: float | None
    misfit: dict[str, Any] | None
    warning: str | None


class FrameNote(Record):
    """One usable frame.

    Attributes:
        frame: number in the videos.
        centre: of the animal, calibration's units, Z up.
        error: reprojection error of the centre.
        overlaps: per camera.
    """

    frame: int
    centre: list[float]
    error: float
    overlaps: list[float]


class RecordingReport(Record):
    """The whole.

    Attributes:
        name: of the data set.
        scale: world units per unit of the calibration.
        millimetres: per world unit.
        cameras: in the order of the views.
        frames: usable ones.
        dropped: number of a frame left out -> reason.
        mean_reprojection_px: of the centre, in pixels of 512 of an animal of usual size.
        largest_angle_to_rig_deg: how far the animal's way turns a camera away from its mean.
        overlap: mean over frames and cameras.
        undecided: mistakes that silhouettes cannot tell from what was given.
        may_leave: share of the animal that was allowed to leave the picture.
    """

    remedy = "run the `data` target again"

    name: str
    scale: float
    millimetres: float
    cameras: list[CameraNote]
    frames: list[FrameNote]
    dropped: dict[str, str]
    mean_reprojection_px: float
    largest_angle_to_rig_deg: float
    overlap: float
    undecided: list[str]
    may_leave: float

    def lines(self) -> Iterator[str]:
        """What is said at the end of the stage."""
        shares = sorted(c.share for c in self.cameras)
        yield (
            f"{len(self.frames)} samples, {len(self.dropped)} frames left out; centre reprojected within "
            f"{self.mean_reprojection_px:.2f} px, silhouettes fit one body by {self.overlap:.2f}; the animal fills "
            f"{shares[0]:.1%} to {shares[-1]:.1%} of the pictures; its way through the arena turns cameras by up to "
            f"{self.largest_angle_to_rig_deg:.1f} degrees."
        )
        for camera in self.cameras:
            if camera.warning:
                yield f"Warning: {camera.warning}"
        for mistake in self.undecided:
            yield f"Cannot be told from silhouettes: whether {mistake}."
        if self.may_leave:
            yield f"Up to {self.may_leave:.0%} of the animal, the end of its tail, may lie outside the pictures (may_leave)."
