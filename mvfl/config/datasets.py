"""Settings of data sets: rendered animals, folders of samples, recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, PositiveFloat, PositiveInt, Tag, model_validator

from mvfl.config.patterns import fill, names_cameras, names_in
from mvfl.config.strict import Coat, Fraction, Name, Pose, Strict, UserPath, UserPattern, nearest

Vector = Annotated[list[float], Field(min_length=3, max_length=3)]


class RodentDataset(Strict):
    """Pictures of the embedded articulated rodent, rendered on the CPU."""

    kind: Literal["rodent"]
    rig: UserPattern = Field("ring60", description="built-in rig name or JSON file")
    image_size: PositiveInt = 128
    train: PositiveInt = Field(description="training samples")
    val: PositiveInt = Field(description="validation samples")
    test: int = Field(0, ge=0, description="samples that nothing is trained or chosen by; 3D scores are reported on them")
    extra_views: int = Field(0, ge=0, description="further cameras per sample, drawn at random, for held-out scores")
    seed: int = Field(0, ge=0)
    coats: list[Coat] = Field(["black", "agouti", "white", "brown", "grey"], min_length=1)
    poses: list[Pose] = Field(["stand", "walk", "crouch", "turn", "sniff", "rear", "groom"], min_length=1)
    fill: Fraction = Field(0.6, description="share of the frame that the animal without its tail spans")
    fur_layers: int = Field(0, ge=0, description="hair shells; 4 from 256 px on looks best")
    any_rig: Fraction = Field(
        0.0, description="share of samples with cameras of their own: other directions, distances and lenses, in the rig's order"
    )
    varied_light: bool = Field(False, description="lamps from other directions and of other strengths in every sample")
    without_colour: Fraction = Field(0.0, description="share of samples in grey, as infrared cameras record")


class TimeBlocks(Strict):
    """How moments that follow each other are divided: training, verdicts and choices, reporting."""

    val_fraction: float = Field(0.1, gt=0, lt=0.5, description="share of samples, one time block: verdicts and choices")
    test_fraction: float = Field(
        0.1, ge=0, lt=0.5, description="share of samples, the last time block: nothing is trained or chosen by it; 0: none"
    )
    gap: int = Field(5, ge=0, description="samples dropped between the blocks")


class FolderDataset(TimeBlocks):
    """Existing sample folders (`sample_*/images`, `opencv_cameras.json`)."""

    kind: Literal["folder"]
    path: UserPath
    rig: UserPattern = Field(
        description="built-in rig name or JSON file that names the order of the views; samples keep their own cameras"
    )
    image_size: PositiveInt = 512
    extra_views: int = Field(0, ge=0, description="frames per sample after the rig's, for held-out scores")
    max_reprojection_px: PositiveFloat = Field(
        25.0, description="error of the masks' triangulated centre, in pixels of 512, median over samples"
    )
    min_silhouette_overlap: Fraction = Field(
        0.55, description="overlap of the masks with the body that all of them allow, median; from 64 px on"
    )
    max_clipped: Fraction = Field(0.1, description="share of pictures in which the animal may touch the border")


class LevelCamera(Strict):
    """Up is what a camera that stands level calls up."""

    level_camera: str


class Floor(Strict):
    """Up is across three points of the floor, in the calibration's units, anticlockwise as seen from above."""

    floor: Annotated[list[Vector], Field(min_length=3, max_length=3)]


Up = Literal["x", "y", "z", "-x", "-y", "-z"] | Vector | LevelCamera | Floor


CameraName = Annotated[Name, BeforeValidator(lambda name: str(name) if type(name) is int else name)]  # YAML reads 0 as a number
Cameras = Annotated[
    Annotated[list[CameraName], Tag("names")] | Annotated[PositiveInt, Tag("count")],
    Discriminator(lambda given: "names" if isinstance(given, list) else "count"),
]


class MarkerlessDataset(TimeBlocks):
    """A recording: synchronised videos of calibrated cameras, with a mask for every picture."""

    kind: Literal["markerless"]
    folder: UserPath = Field(Path(), description="where the files below lie")
    calibration: UserPath = Field(
        description="JSON, pickle, TOML (anipose, caliscope), YAML or XML (OpenCV); {camera}: a file each"
    )
    videos: UserPattern = Field(description="pattern of the videos; {camera} stands for the cameras' names")
    masks: UserPattern | None = Field(
        None, description="pattern of mask videos, or of folders of PNG files; default: the data stage makes them (`mvfl masks`)"
    )
    sam2: UserPath | None = Field(
        None, description="folder of SAM 2 weights (transformers) for masks that are made; default: GrabCut"
    )
    cameras: Cameras | None = Field(None, description="names, or how many of 0, 1 ...; default: as many as there are videos")
    up: Up = Field("z", description="an axis or vector of the calibration's world, {level_camera: NAME}, or {floor: three points}")
    unit_mm: PositiveFloat = Field(1.0, description="millimetres in one unit of the calibration")
    image_size: PositiveInt = 512
    zoom: Literal["each", "one", "none"] = Field(
        "each", description="focal length that fills the picture: of each camera, one for all, or the models' own"
    )
    may_leave: float = Field(0.0, ge=0, le=0.3, description="share of the animal, its tail's end, that may leave the picture")
    first_frame: int = Field(0, ge=0)
    every: PositiveInt = Field(5, description="use every n-th frame")
    exclude: list[int] = Field([], description="frames to leave out, for example where the recording jumps")
    max_reprojection_px: PositiveFloat = Field(
        25.0, description="mean error of the masks' triangulated centre, in pixels of 512 that the animal's frame has"
    )
    min_silhouette_overlap: Fraction = Field(
        0.5, description="overlap of the masks with the body that all of them allow, whatever the animal's size"
    )
    max_dropped: Fraction = Field(0.2, description="share of frames that may be unfit before the recording is refused")

    @model_validator(mode="after")
    def _cameras_are_there_once(self) -> MarkerlessDataset:
        if isinstance(self.cameras, list):
            if twice := sorted({name for name in self.cameras if self.cameras.count(name) > 1}):
                raise ValueError(f"cameras names {', '.join(twice)} twice; each camera has one name.")
            if isinstance(self.up, LevelCamera) and self.up.level_camera not in self.cameras:
                raise ValueError(
                    f"up.level_camera: '{self.up.level_camera}' is no camera; {nearest(self.up.level_camera, self.cameras)}"
                )
        return self

    @model_validator(mode="after")
    def _patterns_name_cameras(self) -> MarkerlessDataset:
        for key in ("videos", "masks"):
            if (pattern := getattr(self, key)) is not None and not names_cameras(pattern):
                raise ValueError(f"{key} must hold {{camera}} and no other braces, for example videos/{{camera}}.mp4.")
        return self

    def camera_names(self) -> list[str]:
        """Names of the cameras: as listed, or as the files that fit the pattern of the videos."""
        if isinstance(self.cameras, list):
            return list(self.cameras)
        if isinstance(self.cameras, int):
            return [str(c) for c in range(self.cameras)]
        return names_in(str(self.folder / self.videos))

    def calibrations(self) -> list[Path]:
        """The file of the calibration, or those of all cameras."""
        return list(dict.fromkeys(self.folder / fill(str(self.calibration), name) for name in self.camera_names()))

    def files_of(self, key: Literal["videos", "masks"]) -> list[Path]:
        """The videos or the masks, one per camera; no masks where none are named."""
        pattern = self.videos if key == "videos" else self.masks
        return [] if pattern is None else [self.folder / fill(pattern, name) for name in self.camera_names()]

    def frames(self, count: int) -> list[int]:
        """Numbers of the frames to use, of a recording of `count` frames."""
        left_out = set(self.exclude)
        return [n for n in range(self.first_frame, count, self.every) if n not in left_out]


Dataset = Annotated[RodentDataset | FolderDataset | MarkerlessDataset, Field(discriminator="kind")]
