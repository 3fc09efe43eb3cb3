"""`provenance.json`, read back: where an output came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from mvfl.config.strict import Strict
from mvfl.records.record import Record
from mvfl.runtime.files import InputError, sha256


class InputFile(Strict):
    """A file that was read, with its hash at that time."""

    file: Path
    sha256: str


class Provenance(Record):
    """What a stage noted of itself; entries that later versions add are kept."""

    model_config = ConfigDict(extra="allow", frozen=True)
    remedy = "run the stage that makes it"

    stage: str
    settings: Any
    inputs: dict[str, InputFile | str]
    rig_hash: str | None = None
    mvfl: str = "unknown"
    commit: str = "unknown"
    device: str = "unknown"

    def unchanged(self, key: str) -> Path:
        """An input's file, if it is still what the stage read.

        Raises:
            InputError: not recorded, not there, or changed since.
        """
        entry = self.inputs.get(key)
        if not isinstance(entry, InputFile):
            raise InputError(f"The stage {self.stage} does not record its {key}; run it again.")
        if not entry.file.is_file():
            raise InputError(f"{entry.file} does not exist from here; call mvfl in the folder where snakemake ran.")
        if sha256(entry.file) != entry.sha256:
            raise InputError(f"{entry.file} changed since the stage {self.stage} read it; run snakemake again.")
        return entry.file


def still_the_same(record: Path, key: str) -> bool:
    """Whether an input has the content that `record` noted, however new the file is; False where that cannot be told.

    Args:
        record: a stage's `provenance.json`.
        key: of the input.
    """
    try:
        Provenance.read(record).unchanged(key)
    except InputError:
        return False
    return True
