"""Settings of the target `reconstruct`: a 3D model of every moment of a data set."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from mvfl.config.strict import Strict, setting

Format = Literal["splat", "compressed.ply", "spz", "sog", "splats.glb", "glb", "obj"]


class Reconstructing(Strict):
    """Of which pictures models are made, and what is written of them."""

    every: PositiveInt = Field(1, description="use every n-th sample of the data set")
    view: int | None = Field(None, ge=0, description="camera whose picture is used; default: the experiment's reference, or 0")
    all_views: bool = Field(False, description="all recorded views straight to 3D; nothing is drawn")
    complete: bool = Field(False, description="with all_views: draw the directions that no camera shows")
    film: bool = setting(False, "nothing", description="a film that goes round all models")
    recorded: datetime | None = setting(None, "nothing", description="when the recording began, for NWB: 2026-03-01T10:00:00+01:00")
    formats: list[Format] = Field([], description="further files of each model")

    @model_validator(mode="after")
    def _agree(self) -> Reconstructing:
        if self.complete and not self.all_views:
            raise ValueError("complete draws what all_views leaves open: set all_views, or leave complete out.")
        if self.all_views and self.view is not None:
            raise ValueError("view is of one camera and all_views of all: set one of them.")
        return self
