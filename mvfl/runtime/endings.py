"""How a job can end before its work is done, in good order."""

from __future__ import annotations

EXIT_UNFINISHED = 75  # EX_TEMPFAIL: run me again and I go on


class Unfinished(Exception):
    """The job stopped itself in good order before its last step; running it again goes on from the saved state."""


class Collapsed(Exception):
    """Training was ended because the views repeat the input or stand in the wrong slots."""
