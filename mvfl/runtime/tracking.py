"""Numbers and pictures of a run: a JSONL file always, Weights & Biases beside it."""

from __future__ import annotations

import json
import math
import os
import secrets
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from PIL import Image

from mvfl.config.schema import Wandb
from mvfl.runtime.progress import say


class Tracker:
    """Logs to `<folder>/log.jsonl` and to a W&B run; a context manager, so that the run is finished on every way out.

    Args:
        folder: holds the log, the W&B id (a resumed job continues the same run) and offline data.
        settings: project, entity and mode.
        name, group: of the W&B run.
        config: hyperparameters to record.
        active: false on all processes but the first.
    """

    def __init__(self, folder: Path, settings: Wandb, name: str, group: str, config: dict[str, Any], active: bool = True) -> None:
        self.folder, self.active = folder, active
        self.run: Any = None
        if not active:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self.file = open(folder / "log.jsonl", "a", encoding="utf-8", buffering=1)
        mode = settings.mode if settings.mode != "auto" else _automatic_mode()
        if mode != "disabled":
            import wandb

            id_file = folder / "wandb_id"
            if not id_file.exists():
                id_file.write_text(secrets.token_hex(4))
            self.run = wandb.init(
                project=settings.project, entity=settings.entity, name=name, group=group, config=config, mode=mode,
                dir=str(folder), id=id_file.read_text(), resume="allow" if mode == "online" else None,
                settings=wandb.Settings(console="off", silent=True),
            )  # fmt: skip

    def log(self, step: int, values: dict[str, float]) -> None:
        """Record scalars of one step; NaN is kept as null in the file."""
        if not self.active:
            return
        clean = {k: (v if math.isfinite(v) else None) for k, v in values.items()}
        print(json.dumps({"step": step, "time": round(time.time(), 3), **clean}), file=self.file)
        if self.run is not None:
            self.run.log(values, step=step)

    def log_image(self, name: str, path: Path, step: int) -> None:
        """Record a picture that lies on disk."""
        if self.run is not None:
            import wandb

            self.run.log({name: wandb.Image(Image.open(path))}, step=step)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        if not self.active:
            return
        self.file.close()
        if self.run is not None:
            self.run.finish(exit_code=0 if kind is None else 1)


def _automatic_mode() -> Literal["online", "offline", "disabled", "shared"]:
    match os.environ.get("WANDB_MODE"):
        case "disabled":
            return "disabled"
        case "offline":
            return "offline"
        case "online":
            return "online"
    has_key = "WANDB_API_KEY" in os.environ or (
        (Path.home() / ".netrc").is_file() and "wandb" in (Path.home() / ".netrc").read_text()
    )
    if not has_key:
        say("No W&B key found: the run is recorded offline (`wandb sync` sends it later).")
    return "online" if has_key else "offline"


def read_log(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSONL log; where steps repeat after a resumption the later row wins."""
    rows: dict[tuple[int, tuple[str, ...]], dict[str, Any]] = {}
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # the last line of a killed job
        rows[(row["step"], tuple(sorted(row)))] = row
    return sorted(rows.values(), key=lambda r: r["step"])
