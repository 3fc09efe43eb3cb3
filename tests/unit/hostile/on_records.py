"""Hostile JSON: what stages, calibrations and locks leave for others."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hostile.damage import Attack, Change, edited, fixed, json_values, json_wholes, whole_file
from hostile.good_files import DECISION

Camera = dict[str, Any]


def json_attacks(file: str, places: dict[str, str]) -> list[Attack]:
    """All that can be done to one JSON file."""
    return [*whole_file(file, text=True), *json_wholes(file), *json_values(file, places)]


def decision_attacks() -> list[Attack]:
    """`decision.json`."""
    return json_attacks(
        DECISION,
        {
            "experiment": "text", "step": "number", "case": "case", "meaning": "text", "overridden": "case", "override": "case?",
            "computed": "table", "computed.case": "case", "computed.reasons": "list", "computed.good_slots": "list",
            "computed.view_consistency": "positive", "computed.thresholds": "map", "computed.crossed": "list", "loss": "number?",
            "loss_state": "text", "reached": "number?",
        },
    )  # fmt: skip


FRAME = {"w": "positive", "h": "positive", "fx": "positive", "fy": "positive", "cx": "number", "cy": "number", "w2c": "list"}


def sample_attacks() -> list[Attack]:
    """`opencv_cameras.json` of a sample, and its pictures."""
    frame = {f"frames.1.{key}": kind for key, kind in FRAME.items()}
    places = {"frames": "list", "frames.1": "table", **frame, "frames.1.w2c.0": "list", "frames.1.w2c.0.0": "positive"}
    places |= {"frames.1.w2c.0.3": "number", "frames.1.file_path": "text?", "frames.1.view_id": "any"}
    # Whether a picture is there is looked at here; whether it can be read, when it is read.
    gone = [a for a in whole_file("images/cam_001.png", few=True) if a.what in ("missing", "a folder in its place")]
    return [*json_attacks("opencv_cameras.json", places), *gone, *edited_cameras("opencv_cameras.json")]


def rig_attacks() -> list[Attack]:
    """A rig file."""
    frame = {f"frames.2.{key}": kind for key, kind in FRAME.items()}
    places = {"name": "any", "frames": "list", "frames.2": "entry", **frame, "frames.2.w2c.1": "list"}
    places["frames.2.w2c.1.1"] = "positive"
    return [*json_attacks("rig.json", places), *edited_cameras("rig.json")]


def edited_cameras(file: str) -> list[Attack]:
    """Cameras of the right form that no picture can belong to."""
    edits: dict[str, Callable[[Camera], object]] = {
        "a matrix that scales": lambda f: f.update(w2c=[[2 * v for v in row] for row in f["w2c"]]),
        "a matrix that mirrors": lambda f: f["w2c"].__setitem__(0, [-v for v in f["w2c"][0]]),
        "a ragged matrix": lambda f: f["w2c"][1].pop(),
        "a matrix of texts": lambda f: f.update(w2c=[["x"] * 4] * 4),
        "a matrix with a table in it": lambda f: f["w2c"][1].__setitem__(2, {}),
        "a matrix of 400 digits": lambda f: f["w2c"][0].__setitem__(3, 10**400),
        "a focal length of 400 digits": lambda f: f.update(fx=10**400),
        "a width of 0": lambda f: f.update(w=0),
        "a width of half a pixel": lambda f: f.update(w=0.5),
        "a focal length of 0": lambda f: f.update(fx=0),
        "an empty matrix": lambda f: f.update(w2c=[]),
        "the origin behind the camera": lambda f: f["w2c"][2].__setitem__(3, -1.0),
    }
    return [Attack(what, file, _with_camera("frames", edit)) for what, edit in edits.items()]


def _with_camera(table: str, edit: Callable[[Camera], object]) -> Change:
    """Change the second camera of a list."""

    def change(good: bytes) -> bytes:
        data = json.loads(good)
        edit(data[table][1])
        return json.dumps(data).encode()

    return edited(change)


def manifest_attacks() -> list[Attack]:
    """`manifest.json`."""
    places = {
        "name": "text", "root": "text", "image_size": "positive", "rig": "table", "rig.frames": "list",
        "rig.frames.0.fx": "positive", "train": "list", "train.0": "name", "val": "list", "data_hash": "text", "files": "any",
        "files.0": "any",
    }  # fmt: skip
    return json_attacks("manifest.json", places)


def base_record_attacks() -> list[Attack]:
    """`base.json`."""
    places = {
        "pipeline": "text", "gslrm": "text?", "hash": "text", "source": "any", "files": "table", "files.0": "entry",
        "files.0.bytes": "positive", "files.1.sha256": "any",
    }  # fmt: skip
    return json_attacks("base.json", places)


def calibration_attacks() -> list[Attack]:
    """`cameras.json` of a recording."""
    places = {
        "cameras": "list", "cameras.1": "entry", "cameras.1.R": "list", "cameras.1.T": "list", "cameras.1.K": "list",
        "cameras.1.R.0": "list", "cameras.1.R.0.0": "positive", "cameras.1.T.0": "number", "cameras.1.K.0.0": "positive",
        "cameras.1.K.0.2": "number", "cameras.1.K.2.2": "positive",
    }  # fmt: skip

    edits: dict[str, Callable[[Camera], object]] = {
        "R that scales": lambda c: c.update(R=[[2 * v for v in row] for row in c["R"]]),
        "R that mirrors": lambda c: c["R"].__setitem__(0, [-v for v in c["R"][0]]),
        "R ragged": lambda c: c["R"][0].pop(),
        "R of texts": lambda c: c.update(R=[["a", "b", "c"]] * 3),
        "T of 4 numbers": lambda c: c.update(T=[1, 2, 3, 4]),
        "T of 400 digits": lambda c: c.update(T=[10**400, 0, 0]),
        "K with focal length 0": lambda c: c["K"][0].__setitem__(0, 0),
        "K with focal length -1": lambda c: c["K"][1].__setitem__(1, -1),
        "K with a skew": lambda c: c["K"][0].__setitem__(1, 30.0),
        "K of zeros": lambda c: c.update(K=[[0, 0, 0]] * 3),
        "K 3 x 4": lambda c: c.update(K=[[*row, 0] for row in c["K"]]),
    }
    return [
        *json_attacks("cameras.json", places),
        *(Attack(what, "cameras.json", _with_camera("cameras", edit)) for what, edit in edits.items()),
        Attack("no cameras", "cameras.json", fixed('{"cameras": []}')),
    ]


def lock_attacks() -> list[Attack]:
    """A lock file: whatever stands in it, nobody must be stopped by it."""
    places = {"host": "any", "pid": "any", "slurm_job": "any"}
    rights = {"lossy": False, "may_refuse": False}
    return [*whole_file("lock", text=True, **rights), *json_wholes("lock", **rights), *json_values("lock", places, **rights)]
