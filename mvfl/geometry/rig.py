"""Camera rigs: what each slot of a multi-view model means in space.

A rig is data, never a constant inside a stage. The images that a model samples in slot i belong to the
camera that it was trained on for slot i, so a rig's hash travels from the data to GS-LRM.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mvfl.geometry.cameras import FOCAL_512, ORBIT_DISTANCE, Camera, CameraError, orbit_camera

# (azimuth deg, elevation deg, distance, focal length at 512 px) per camera.
BUILT_IN_RIGS: dict[str, list[tuple[float, float, float, float]]] = {
    # The published inference layout, in slot order; the subject faces -y.
    "facelift": [(a, 0.0, ORBIT_DISTANCE, FOCAL_512) for a in (270.0, 225.0, 180.0, 90.0, 0.0, 315.0)],
    "ring60": [(60.0 * i, 20.0, ORBIT_DISTANCE, FOCAL_512) for i in range(6)],
    # Measured: the recorded mouse rig, scaled to a mean distance of 2.7, true focal lengths.
    "markerless_mouse_1": [
        (-147.0, 14.9, 2.005, 816.2), (34.0, 20.6, 3.377, 778.4), (86.1, 11.3, 2.963, 815.2),
        (-11.3, 10.7, 2.770, 803.1), (144.0, 26.5, 2.593, 809.2), (-64.1, 30.8, 2.491, 818.5),
    ],
}  # fmt: skip


class Disagreement(NamedTuple):
    """Largest differences between a rig and other cameras.

    Attributes:
        angle: degrees, of viewing place and orientation.
        focal: relative, of the focal lengths.
        distance: relative, of the distance to the origin.
        centre: of the principal point, as a share of the picture's width.
    """

    angle: float
    focal: float
    distance: float
    centre: float


@dataclass(frozen=True)
class Rig:
    """Six (or another number of) cameras with a name.

    Attributes:
        name: for messages and pages.
        cameras: one per view index, in the order of the image files.
    """

    name: str
    cameras: list[Camera]

    @property
    def hash(self) -> str:
        """Twelve hex digits that change when any camera moves by more than 1e-4 (size excluded)."""
        rows = []
        for camera in self.cameras:
            unit = camera.resized(512, 512)
            numbers = [unit.fx, unit.fy, unit.cx, unit.cy, *unit.w2c[:3].ravel()]
            rows.append([round(float(v), 4) + 0.0 for v in numbers])
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:12]

    def resized(self, size: int) -> Rig:
        """The rig for square images of another size."""
        return Rig(self.name, [c.resized(size, size) for c in self.cameras])

    def slot_order(self, reference: int) -> list[int]:
        """View index per slot when `reference` is slot 0, going round with falling azimuth.

        This is the order of the prompt words front, front-right, right, back, left, front-left: seen from
        above, the camera moves clockwise (domain of the published model, `facelift` rig).
        """
        azimuths = [c.spherical[0] for c in self.cameras]
        start = azimuths[reference]
        return sorted(range(len(azimuths)), key=lambda v: (round((start - azimuths[v]) % 360, 6) % 360, v))

    @property
    def is_symmetric(self) -> bool:
        """Whether the rotation from each camera to the next maps the rig onto itself (a uniform ring)."""
        count = len(self.cameras)
        order = self.slot_order(0)
        reference = self.cameras[0]
        for slot, view in enumerate(order):
            angle = -2 * math.pi * slot / count
            spin = np.eye(4)
            spin[:2, :2] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
            turned = reference.w2c @ np.linalg.inv(spin)
            camera = self.cameras[view]
            if not np.allclose(turned, camera.w2c, atol=1e-3) or abs(camera.fx - reference.fx) > 1e-2 * reference.fx:
                return False
        return True

    def to_json(self) -> dict[str, Any]:
        """A dictionary that `from_json` reads back."""
        return {"name": self.name, "hash": self.hash, "frames": [c.to_frame(i) for i, c in enumerate(self.cameras)]}

    @staticmethod
    def from_json(data: Any, where: str) -> Rig:
        """Read a rig; raises `CameraError` naming `where` when a camera is impossible."""
        frames = data.get("frames") if isinstance(data, dict) else None
        if not isinstance(frames, list) or not frames:
            raise CameraError(f"{where}: no 'frames' list; a rig needs one entry per camera.")
        cameras = [Camera.from_frame(f, f"{where}, view {i}") for i, f in enumerate(frames)]
        return Rig(str(data.get("name", "unnamed")), cameras)

    def disagreement(self, cameras: list[Camera]) -> Disagreement:
        """How far other cameras are from the rig's, at the worst."""
        rows = []
        for mine, other in zip(self.cameras, cameras, strict=True):
            other = other.resized(mine.width, mine.height)
            a, b = mine.position, other.position
            cosine = float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
            twist = (np.trace(mine.w2c[:3, :3] @ other.w2c[:3, :3].T) - 1) / 2
            angle = max(math.degrees(math.acos(min(1.0, max(-1.0, v)))) for v in (cosine, twist))
            focal = max(abs(mine.fx / other.fx - 1), abs(mine.fy / other.fy - 1))
            distance = abs(float(np.linalg.norm(b) / np.linalg.norm(a)) - 1)
            rows.append((angle, focal, distance, math.hypot(mine.cx - other.cx, mine.cy - other.cy) / mine.width))
        return Disagreement(*(max(column) for column in zip(*rows, strict=True)))

    def nearest_views(self, cameras: list[Camera]) -> list[int]:
        """For each of some cameras, the index of the rig's camera that stands in the nearest direction from the animal."""
        mine, theirs = (np.array([c.position / np.linalg.norm(c.position) for c in own]) for own in (self.cameras, cameras))
        return (theirs @ mine.T).argmax(1).tolist()

    @property
    def mean_distance(self) -> float:
        """Mean distance between the cameras and the world's origin, in world units; the published models know 2.7."""
        return float(np.mean([np.linalg.norm(c.position) for c in self.cameras]))


def load_rig(name_or_path: str, size: int = 512) -> Rig:
    """A built-in rig by name, or one from a JSON file with `frames`.

    Raises:
        CameraError: neither a built-in name nor a readable file.
    """
    if name_or_path in BUILT_IN_RIGS:
        rows = BUILT_IN_RIGS[name_or_path]
        return Rig(name_or_path, [orbit_camera(a, e, d, size, f) for a, e, d, f in rows])
    path = Path(name_or_path)
    if not _is_file(path):
        names = ", ".join(sorted(BUILT_IN_RIGS))
        raise CameraError(f"Rig '{name_or_path}' is neither built in ({names}) nor a JSON file that exists.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CameraError(f"{path} cannot be read as a rig ({error}); see docs/data.md for its form.") from error
    return Rig.from_json(content, str(path)).resized(size)


def _is_file(path: Path) -> bool:
    """Whether a path leads to an ordinary file; a name that no system can have leads nowhere."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
