"""Settings of data sets: rendered animals, folders of samples, recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from mvfl.config.strict import Coat, Fraction, Pose, Strict


class RodentDataset(Strict):
    """Pictures of the embedded articulated rodent, rendered on the CPU."""

    kind: Literal["rodent"]
    rig: str = Field("ring60", description="built-in rig name or JSON file")
    image_size: PositiveInt = 128
    train: PositiveInt = Field(description="training samples")
    val: PositiveInt = Field(description="validation samples")
    extra_views: int = Field(0, ge=0, description="further cameras per sample, drawn at random, for held-out scores")
    seed: int = 0
    coats: list[Coat] = Field(["black", "agouti", "white", "brown", "grey"], min_length=1)
    poses: list[Pose] = Field(["stand", "walk", "crouch", "turn", "sniff", "rear", "groom"], min_length=1)
    fill: Fraction = Field(0.6, description="share of the frame that the animal without its tail spans")
    fur_layers: int = Field(0, ge=0, description="hair shells; 4 from 256 px on looks best")


class FolderDataset(Strict):
    """Existing sample folders (`sample_*/images`, `opencv_cameras.json`)."""

    kind: Literal["folder"]
    path: Path
    rig: str = Field(description="built-in rig name or JSON file that names the order of the views; samples keep their own cameras")
    image_size: PositiveInt = 512
    val_fraction: float = Field(0.1, gt=0, lt=0.5, description="share of samples, one time block at the end")
    gap: int = Field(5, ge=0, description="samples dropped between the training and the validation block")
    extra_views: int = Field(0, ge=0, description="frames per sample after the rig's, for held-out scores")
    max_reprojection_px: PositiveFloat = Field(
        25.0, description="error of the masks' triangulated centre, in pixels of 512, median over samples"
    )
    min_silhouette_overlap: Fraction = Field(
        0.65, description="overlap of the masks with the body that all of them allow, median; from 128 px on"
    )
    max_clipped: Fraction = Field(0.1, description="share of pictures in which the animal may touch the border")


class MarkerlessDataset(Strict):
    """A recording: synchronised, undistorted videos of calibrated cameras, with a mask video for each."""

    kind: Literal["markerless"]
    calibration: Path = Field(description="JSON with R, T, K per camera; `mvfl calibration` writes it from a pickle")
    videos: str = Field(description="pattern of the videos, with {camera} for 0, 1 ...")
    masks: str = Field(description="pattern of the mask videos; the animal is brighter than 127")
    cameras: PositiveInt = Field(6, description="number of cameras")
    image_size: PositiveInt = 512
    first_frame: int = Field(0, ge=0)
    every: PositiveInt = Field(5, description="use every n-th frame")
    exclude: list[int] = Field([], description="frames to leave out, for example where the recording jumps")
    max_reprojection_px: PositiveFloat = Field(
        25.0, description="mean error of the masks' triangulated centre, in pixels of the prepared picture"
    )
    min_silhouette_overlap: Fraction = Field(
        0.65, description="overlap of the masks with the body that all of them allow; mixed-up cameras stay below"
    )
    max_dropped: Fraction = Field(0.2, description="share of frames that may be unfit before the recording is refused")
    val_fraction: float = Field(0.1, gt=0, lt=0.5, description="share of samples, one time block at the end")
    gap: int = Field(5, ge=0, description="samples dropped between the training and the validation block")

    @model_validator(mode="after")
    def _patterns_name_cameras(self) -> MarkerlessDataset:
        for key in ("videos", "masks"):
            pattern = getattr(self, key)
            try:
                fits = "{camera}" in pattern and pattern.format(camera=0)
            except (KeyError, IndexError, ValueError, AttributeError):
                fits = False
            if not fits:
                raise ValueError(f"{key} must hold {{camera}} and no other braces, for example videos_undist/{{camera}}.mp4.")
        return self

    def masks_and_videos(self) -> tuple[list[Path], list[Path]]:
        """The mask videos and the videos, one of each per camera."""
        masks, videos = ([Path(p.format(camera=c)) for c in range(self.cameras)] for p in (self.masks, self.videos))
        return masks, videos


Dataset = Annotated[RodentDataset | FolderDataset | MarkerlessDataset, Field(discriminator="kind")]
