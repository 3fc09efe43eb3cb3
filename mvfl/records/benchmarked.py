"""`metrics.json` of `mvfl benchmark real`."""

from __future__ import annotations

from mvfl.records.record import Record
from mvfl.records.scores import Block, Metrics, mean_of

Table = dict[str, dict[str, Metrics]]  # camera -> what made the pictures -> means over the frames


class RecordingBenchmark(Record):
    """How well cameras of a recording are predicted from its others.

    Attributes:
        dataset: name.
        frames: samples that were judged.
        block: of the samples: `test`, which nothing was chosen by, or `val` where the data set has no test block.
        from_one: by the camera that was the input; means over all other cameras.
        from_others: by the camera that was left out; all others were the inputs.
    """

    remedy = "run `mvfl benchmark real` again"

    dataset: str
    frames: list[str]
    block: Block
    from_one: Table
    from_others: Table


def mean_row(table: Table) -> dict[str, Metrics]:
    """Means over the cameras of a table."""
    kinds = next(iter(table.values()))
    return {kind: mean_of([row[kind] for row in table.values()]) for kind in kinds}
