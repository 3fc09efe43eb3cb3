"""The command line: one thin command per stage."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from mvfl.runtime.files import InputError
from mvfl.runtime.progress import open_log, say
from mvfl.runtime.training_state import EXIT_UNFINISHED, Unfinished

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
base_app = typer.Typer(no_args_is_help=True, help="Bases: pretrained pipelines that experiments start from.")
app.add_typer(base_app, name="base")

Log = Annotated[Path | None, typer.Option("--log", help="append progress lines to this file")]
Threads = Annotated[int, typer.Option("--threads", help="CPU threads or processes", min=1)]


@base_app.command("train")
def base_train(
    settings: Annotated[Path, typer.Option(help="YAML settings")] = Path("configs/embedded_base.yaml"),
    work: Annotated[Path, typer.Option(help="scratch folder")] = Path("results/embedded_base"),
    out: Annotated[Path, typer.Option(help="where the base goes")] = Path("mvfl/base/embedded"),
    stage: Annotated[list[str] | None, typer.Option(help="run only these stages, in order")] = None,
    threads: Threads = os.cpu_count() or 1,
    log: Log = None,
) -> None:
    """Train the embedded base from rendered rodents (one GPU)."""
    open_log(log)
    from mvfl.base.train import STAGES, load_base_training, train_base

    train_base(load_base_training(settings), work, out, threads, tuple(stage or STAGES))


def main() -> None:
    """Run the command line; every expected fault ends in a sentence and a truthful exit status."""
    try:
        app()
    except Unfinished as stop:
        say(str(stop))
        sys.exit(EXIT_UNFINISHED)
    except (InputError, ValueError, FloatingPointError, OSError) as error:
        say(f"Error: {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
