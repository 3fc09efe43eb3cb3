"""What one job of the stage `synthetic` made: `pieces/2-of-4.json`."""

from __future__ import annotations

from dataclasses import dataclass

from mvfl.records.record import Record
from mvfl.runtime.files import InputError


@dataclass(frozen=True)
class Piece:
    """One job's share: piece `number` of `count`, counted from 1."""

    number: int
    count: int

    @staticmethod
    def parse(text: str) -> Piece:
        """Read `2-of-4`.

        Raises:
            InputError: another form, or a piece that does not exist.
        """
        try:
            number, count = (int(part) for part in text.split("-of-"))
        except ValueError as error:
            raise InputError(f"A piece must look like 2-of-4; got {text}.") from error
        if not 1 <= number <= count:
            raise InputError(f"Piece {text} does not exist.")
        return Piece(number, count)


class PieceList(Record):
    """The samples of a piece.

    Attributes:
        mark: fingerprint of what decided the pictures.
        samples: sample -> file -> SHA-256.
    """

    remedy = "run again with --forcerun generate_synthetic"

    mark: str
    samples: dict[str, dict[str, str]]
