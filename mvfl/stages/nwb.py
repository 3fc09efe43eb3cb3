"""`models.nwb`: the figures of 3D models for programs of behaviour labs (Neurodata Without Borders), where pynwb is installed."""

from __future__ import annotations

import importlib.util
import re
import warnings
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from mvfl.records.reconstructed import ModelRecord
from mvfl.runtime.files import digest, written_aside

FRAME = re.compile(r"(\d+)$")  # samples and frames of videos end with their number
COLUMNS = {
    "agreement": "overlap (IoU) of the model's outline with the photographed one: confidence",
    "length": "along the horizontal main axis, {unit}", "width": "across it, {unit}", "height": "upwards, {unit}",
    "volume": "of the closed body, cubic {unit}", "surface": "of the closed body, square {unit}",
}  # fmt: skip


def write_nwb(path: Path, records: Sequence[ModelRecord], recorded: datetime | None = None) -> None:
    """Write one table, a row per model, as the processing module `behavior`; nothing where pynwb is not installed.

    Args:
        path: of the file.
        records: in the order of the recording.
        recorded: when the session began; default: now, which the file then says.
    """
    if not importlib.util.find_spec("pynwb"):
        return
    from hdmf.common import DynamicTable, VectorData
    from pynwb import NWBHDF5IO, NWBFile

    told = "" if recorded else " When the session was recorded is not known: session_start_time is when this file was written."
    start = (recorded or datetime.now()).astimezone()
    described = f"3D models of a mouse, a row per picture or moment.{told}"
    content = NWBFile(
        session_description=described, identifier=digest([record.model_dump() for record in records]), session_start_time=start
    )
    frames = [int(found[1]) if (found := FRAME.search(record.name)) else -1 for record in records]
    columns = [
        VectorData(name="source", description="name of the picture or sample", data=[record.name for record in records]),
        VectorData(name="frame", description="number that its name ends with; -1: none", data=frames),
    ]
    for name, text in COLUMNS.items():
        description = text.format(unit=records[0].unit)
        columns.append(VectorData(name=name, description=description, data=[float(getattr(record, name)) for record in records]))
    vectors, text = [record.embedding for record in records], "of shape and posture, whatever place, heading and size"
    columns.append(VectorData(name="embedding", description=text, data=vectors))
    table = DynamicTable(name="models", description="figures of mvfl's 3D models", columns=columns)
    content.create_processing_module("behavior", "shape and posture of the animal").add(table)
    with written_aside(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The file path provided")  # it gets its ending when it is whole
        with NWBHDF5IO(str(temporary), "w") as file:
            file.write(content)
