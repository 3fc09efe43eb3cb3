"""What many reconstructions became together: tables of figures, a page, a viewer and a film that go through all of them."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from mvfl.config.patterns import natural
from mvfl.gslrm.export import save_film
from mvfl.gslrm.gaussians import Gaussians
from mvfl.gslrm.ply import load_ply
from mvfl.records.reconstructed import ModelRecord, ModelsList
from mvfl.runtime.devices import device
from mvfl.runtime.files import write_csv, written_aside
from mvfl.runtime.progress import say
from mvfl.stages.jobs import ModelsPageJob
from mvfl.stages.nwb import write_nwb
from mvfl.stages.pages import inline, links, write_page
from mvfl.stages.viewer_page import every_nth, write_sequence

CUT_OUT = "cut_out.png"
PAGE_FILES = (
    "index.html", "models.csv", "models.parquet", "embeddings.csv", "embeddings.parquet", "models.nwb", "viewer.html", "film.mp4",
)  # fmt: skip
SHOWN = 16  # models on the page, 0.2 MB each
Row = tuple[Path, ModelRecord]
NOWHERE: Mapping[str, Path] = {}


def run(job: ModelsPageJob) -> None:
    """Write the page of all models that the pieces list, in the order of their names.

    Raises:
        InputError: a piece or a model is missing or damaged.
    """
    lists = [ModelsList.read(piece) for piece in job.pieces]
    folders = [job.out / name for name in sorted((name for part in lists for name in part.names), key=natural)]
    left_out = [sentence for part in lists for sentence in part.left_out]
    summarise(job.out, folders, job.reconstruct.film, left_out, job.pages, job.reconstruct.recorded)


def summarise(
    out: Path, folders: list[Path], film: bool = False, left_out: Sequence[str] = (), pages: Mapping[str, Path] = NOWHERE,
    recorded: datetime | None = None,
) -> None:  # fmt: skip
    """Write tables, a page with the least certain models first, and of several models a viewer that goes through them.

    That is `index.html`, `models.csv` and `embeddings.csv`; of several `viewer.html` and `film.mp4`; the tables as Parquet and
    `models.nwb`, too, where pyarrow and pynwb are installed.

    Args:
        out: gets the files.
        folders: of the models, in order.
        film: whether to write the film.
        left_out: pictures that gave none, and why.
        pages: to link to, by what they are called.
        recorded: when the session began, for NWB.
    """
    rows = [(folder, ModelRecord.read(folder / "model.json")) for folder in folders]
    figures = [{**r.model_dump(exclude={"embedding"}), "ply": str((f / "gaussians.ply").relative_to(out))} for f, r in rows]
    _write_table(out / "models.csv", figures)
    _write_table(out / "embeddings.csv", [{"name": r.name, **{f"e{i}": v for i, v in enumerate(r.embedding)}} for _, r in rows])
    write_nwb(out / "models.nwb", [record for _, record in rows], recorded)
    every = 0
    if len(rows) > 1:
        every = every_nth(len(rows), max(record.gaussians for _, record in rows))
        shown = [(record.name, load_ply(folder / "gaussians.ply")) for folder, record in rows[::every]]
        write_sequence(out / "viewer.html", shown, f"{len(rows)} 3D models")
        if film:
            save_film(_Stored([folder / "gaussians.ply" for folder in folders]), out / "film.mp4")
    ranked = sorted(rows, key=lambda row: row[1].agreement)
    agreement = [record.agreement for _, record in ranked]
    write_page(
        out / "index.html", "reconstructed", models=[_shown(out, row) for row in ranked[:SHOWN]], count=len(rows),
        median=agreement[len(agreement) // 2], every=every, film=(out / "film.mp4").is_file() and film,
        left_out=left_out, pages=links(out / "index.html", pages),
    )  # fmt: skip
    say(f"{len(rows)} models; look at {out / 'index.html'}, figures in {out / 'models.csv'}.")


class _Stored(Sequence[Gaussians]):
    """Models that lie on disk; one of them is in memory, on the device to use."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files
        self.latest: tuple[int, Gaussians] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Gaussians:  # type: ignore[override]
        if self.latest is None or self.latest[0] != index:
            self.latest = (index, Gaussians(*(t.to(device()) for t in vars(load_ply(self.files[index])).values())))
        return self.latest[1]


def _shown(out: Path, row: Row) -> dict[str, Any]:
    """What the page shows of a model."""
    folder, record = row
    given = folder / CUT_OUT
    return {
        "record": record, "folder": str(folder.relative_to(out)), "given": inline(given) if given.is_file() else None,
        "views": inline(folder / "views.png"), "turntable": inline(folder / "turntable.gif"),
    }  # fmt: skip


def _write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """CSV, and Parquet beside it where pyarrow is installed."""
    write_csv(path, rows)
    if importlib.util.find_spec("pyarrow"):
        import pyarrow
        import pyarrow.parquet

        with written_aside(path.with_suffix(".parquet")) as temporary:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), temporary)
