"""What all records have in common: written whole, read back typed, refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import ValidationError

from mvfl.config.strict import Strict
from mvfl.runtime.files import InputError, write_json
from mvfl.runtime.reading import read_table

R = TypeVar("R", bound="Record")


class Record(Strict):
    """A JSON file between stages."""

    remedy: ClassVar[str] = "delete it and run the workflow again"

    @classmethod
    def read(cls: type[R], path: Path) -> R:
        """Read and check a file.

        Raises:
            InputError: missing, damaged, or of another kind; names the first entry that is wrong.
        """
        return cls.parse(read_table(path, cls.remedy), path)

    @classmethod
    def parse(cls: type[R], data: dict[str, Any], path: Path) -> R:
        """Check what was read from `path`.

        Raises:
            InputError: names the first entry that is wrong.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise InputError(f"{path} is not what it should be: {first_fault(error)}; {cls.remedy}.") from error

    def write(self, path: Path) -> None:
        """Write atomically."""
        write_json(path, self.model_dump(mode="json"))


def first_fault(error: ValidationError) -> str:
    """Place and reason of the first fault of a validation."""
    fault = error.errors()[0]
    place = ".".join(str(part) for part in fault["loc"]) or "the whole"
    return f"{place}: {fault['msg'].removeprefix('Value error, ')}"[:300]
