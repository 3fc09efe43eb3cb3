"""mvfl: from calibrated cameras to single-image 3D of laboratory mice.

The parts that scripts and notebooks use; each is loaded when it is first asked for:

- `Camera`, `Rig`, `load_rig`, `orbit_camera`: cameras and what the slots of a model mean.
- `load_config`, `Layout`, `Plan`: the workflow's configuration, its paths and its jobs.
- `Manifest`, `view_pictures`: data sets and their pictures.
- `MultiViewPipeline`, `Sampler`: one picture to six views.
- `Gslrm`, `load_gslrm`, `Gaussians`, `render`, `load_ply`, `save_ply`: views to 3D Gaussians, their pictures and files.
- `Reconstructor`: pictures to 3D models with what an experiment, a base, or the shipped base has learned.
- `DecisionRecord`: verdicts.
- `InputError`: what everything raises when a file or a setting cannot be used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.4.0"

if TYPE_CHECKING:
    from mvfl.config.load import load_config
    from mvfl.data.pictures import view_pictures
    from mvfl.geometry.cameras import Camera, orbit_camera
    from mvfl.geometry.rig import Rig, load_rig
    from mvfl.gslrm.checkpoint import load_gslrm
    from mvfl.gslrm.gaussians import Gaussians
    from mvfl.gslrm.model import Gslrm
    from mvfl.gslrm.ply import load_ply, save_ply
    from mvfl.gslrm.rendering import render
    from mvfl.layout import Layout
    from mvfl.mvdiffusion.pipeline import MultiViewPipeline
    from mvfl.mvdiffusion.sampling import Sampler
    from mvfl.records.decision import DecisionRecord
    from mvfl.records.manifest import Manifest
    from mvfl.runtime.files import InputError
    from mvfl.stages.planning import Plan
    from mvfl.stages.publish import push_to_hub, save_pretrained
    from mvfl.stages.reconstructor import Reconstructor

_PLACES = {
    "config.load": "load_config", "data.pictures": "view_pictures", "geometry.cameras": "Camera orbit_camera",
    "geometry.rig": "Rig load_rig", "gslrm.checkpoint": "load_gslrm", "gslrm.gaussians": "Gaussians", "gslrm.model": "Gslrm",
    "gslrm.ply": "load_ply save_ply", "gslrm.rendering": "render", "layout": "Layout",
    "mvdiffusion.pipeline": "MultiViewPipeline", "mvdiffusion.sampling": "Sampler", "records.decision": "DecisionRecord",
    "records.manifest": "Manifest", "runtime.files": "InputError", "stages.planning": "Plan",
    "stages.publish": "push_to_hub save_pretrained", "stages.reconstructor": "Reconstructor",
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _PLACES.items() for name in names.split()}

__all__ = ["Camera", "DecisionRecord", "Gaussians", "Gslrm", "InputError", "Layout", "Manifest", "MultiViewPipeline", "Plan",
           "Reconstructor", "Rig", "Sampler", "load_config", "load_gslrm", "load_ply", "load_rig", "orbit_camera", "push_to_hub",
           "render", "save_ply", "save_pretrained", "view_pictures"]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Load a part when it is first asked for."""
    if name not in _MODULE_OF:
        raise AttributeError(f"mvfl has no '{name}'; it offers {', '.join(__all__)}.")
    return getattr(importlib.import_module(f"mvfl.{_MODULE_OF[name]}"), name)
