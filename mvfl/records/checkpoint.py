"""Exported checkpoints, asked: which step, which rig, which weights."""

from __future__ import annotations

from mvfl.layout import Checkpoint
from mvfl.records.provenance import Provenance
from mvfl.runtime.files import InputError


def step_of(checkpoint: Checkpoint) -> int:
    """Optimiser step, from the folder's name.

    Raises:
        InputError: the folder is named otherwise.
    """
    name = checkpoint.folder.name
    if not name.removeprefix("checkpoint-").isdecimal():
        raise InputError(f"{checkpoint.folder} is not named checkpoint-<step>; give the folder its name back.")
    return int(name.removeprefix("checkpoint-"))


def require_rig(checkpoint: Checkpoint, rig_hash: str) -> None:
    """Refuse weights whose slots mean other cameras.

    Raises:
        InputError: missing, or trained on another rig.
    """
    trained_on = Provenance.read(checkpoint.provenance).rig_hash
    if trained_on != rig_hash:
        raise InputError(
            f"{checkpoint.folder} was trained on rig {trained_on}, the data set has rig {rig_hash}: slot i would be sampled for "
            "one camera and used with another. Train on this data set."
        )
