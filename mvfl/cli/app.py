"""`mvfl`: the commands in the order in which people need them, and how every one of them ends.

Stages import torch and diffusers inside the commands: `mvfl --help`, and mistakes in arguments, are answered at once.
"""

from __future__ import annotations

import errno
import importlib.util
import math
import os
import sys
import traceback
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from mvfl.cli.looking import benchmark_app, looking_app, slurm_app
from mvfl.cli.options import LOOK, PEOPLE, TERMINATED, Log, Threads, begin, numbers
from mvfl.cli.stages import stages_app
from mvfl.geometry.cameras import CameraError
from mvfl.runtime.endings import EXIT_UNFINISHED, Collapsed, TimeSpent, Unfinished, note_ending
from mvfl.runtime.files import InputError
from mvfl.runtime.launch import requeue
from mvfl.runtime.lock import Busy
from mvfl.runtime.progress import complain, say
from mvfl.runtime.reading import require_file

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
LOOPBACK = "127.0.0.1"
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> bool:
    if wanted:
        from mvfl import __version__

        typer.echo(f"mvfl {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _about(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version")] = False,
) -> None:
    """From calibrated cameras to single-image 3D of laboratory mice."""


def _require_there(pictures: list[Path], mask: Path | None, calibration: Path | None, experiment: Path | None) -> None:
    """Misspelled files are answered at once."""
    for picture in pictures:
        if not picture.is_dir():
            require_file(picture, "name a picture of one animal, a folder, a video or a sample")
    for file, what in ((mask, "a mask of the picture"), (calibration, "the calibration of the pictures' cameras")):
        if file is not None:
            require_file(file, f"name {what}")
    if experiment is not None and not experiment.is_dir():
        raise InputError(f"{experiment} does not exist; name the folder of a finished experiment, results/experiments/<name>.")


def _require_use(calibration: Path | None, up: str | None, unit_mm: float | None, recorded: datetime | None) -> None:
    """No option is given that nothing would read."""
    if calibration is None and (up, unit_mm) != (None, None):
        raise InputError("--up and --unit-mm tell how a --calibration is meant: give that, too.")
    if unit_mm is not None and not 0 < unit_mm < math.inf:
        raise InputError(f"--unit-mm is a length above zero; got {unit_mm}.")
    if recorded is not None and importlib.util.find_spec("pynwb") is None:
        raise InputError('--recorded is of NWB files, which need pynwb: pip install "mvfl[nwb]".')


@app.command(rich_help_panel=PEOPLE)
def reconstruct(
    pictures: Annotated[list[Path], typer.Argument(help="of one animal each, cut out or on white; or folders, videos, samples")],
    experiment: Annotated[Path | None, typer.Option(help="results/experiments/<name>, or a base's folder")] = None,
    out: Annotated[Path, typer.Option(help="where the result goes")] = Path("reconstruction"),
    view: Annotated[int | None, typer.Option(help="camera that took the picture, or that it resembles most")] = None,
    all_views: Annotated[bool, typer.Option("--all-views", help="of samples: all views straight to 3D, nothing is drawn")] = False,
    calibration: Annotated[
        Path | None, typer.Option(help="of pictures that are one moment, each called as its camera: straight to 3D")
    ] = None,
    up: Annotated[str | None, typer.Option(help="of --calibration: z (default), -y ..., or a camera that stands level")] = None,
    unit_mm: Annotated[float | None, typer.Option(help="of --calibration: millimetres in one of its units (1)")] = None,
    complete: Annotated[bool, typer.Option("--complete", help="of several views: draw the directions that none shows")] = False,
    mask: Annotated[Path | None, typer.Option(help="of a single picture: white = animal")] = None,
    box: Annotated[str | None, typer.Option(help="of a single picture: left,top,width,height around the animal")] = None,
    auto: Annotated[bool, typer.Option("--auto", help="look for the animal, where it is not cut out")] = False,
    sam2: Annotated[Path | None, typer.Option(help="folder of SAM 2 weights (transformers) for outlines; default: GrabCut")] = None,
    elevations: Annotated[
        str | None, typer.Option(help="of the camera, if unknown: several, as 5,20,40,60; the best is kept")
    ] = None,
    reframe: Annotated[bool, typer.Option("--reframe", help="bring the animal to its usual size and place")] = False,
    every: Annotated[int, typer.Option(help="of videos and data sets: every n-th", min=1)] = 1,
    rig: Annotated[str | None, typer.Option(help="of a base: cameras to draw; default: its own, or ring60")] = None,
    seed: Annotated[int | None, typer.Option(help="of the noise; default: the experiment's")] = None,
    fit: Annotated[int | None, typer.Option(help="steps that fit the model to its pictures, 60 for recorded views", min=0)] = None,
    min_opacity: Annotated[float, typer.Option(help="leave out Gaussians below it", min=0, max=1)] = 0.04,
    max_size: Annotated[float, typer.Option(help="leave out larger ones in the lower half, world units", min=0)] = 0.1,
    crop: Annotated[str | None, typer.Option(help="leave out what lies outside x0,x1,y0,y1,z0,z1, world units")] = None,
    film: Annotated[bool, typer.Option("--film", help="also turntable.mp4, or film.mp4 of several; minutes on a CPU")] = False,
    also: Annotated[
        list[str] | None, typer.Option(help="further files: splat, compressed.ply, spz, sog, splats.glb, or meshes: glb, obj")
    ] = None,
    recorded: Annotated[datetime | None, typer.Option(help="when the recording began, for NWB")] = None,
    threads: Threads = 2,
    log: Log = None,
) -> None:
    """Turn pictures into 3D models (PLY) with what an experiment, or the base that ships with mvfl, has learned."""
    _require_there(pictures, mask, calibration, experiment)
    around: Any = numbers("--box", box, int, 4, "left,top,width,height") if box else None
    heights = numbers("--elevations", elevations, int) if elevations else ()
    if not all(-89 <= height <= 90 for height in heights):
        raise InputError(f"--elevations takes degrees above the horizon, -89 to 90; got {elevations}.")
    _require_use(calibration, up, unit_mm, recorded)
    inside: Any = numbers("--crop", crop, float, 6, "x0,x1,y0,y1,z0,z1") if crop else None
    begin(log, threads)
    from mvfl.data.calibrated import Calibration, up_of
    from mvfl.data.photos import Cut
    from mvfl.gslrm.export import Filters
    from mvfl.gslrm.formats import require_known
    from mvfl.stages.reconstruct import Extras, run
    from mvfl.stages.sources import Choice

    moment = Calibration(calibration, up_of(up or "z"), unit_mm or 1.0) if calibration else None
    filters = Filters(min_opacity, max_size, inside or Filters.box)
    choice = Choice(
        view=view, all_views=all_views, reframe=reframe, every=every, seed=seed, cut=Cut(mask, around, auto, sam2),
        elevations=tuple(map(float, heights)), calibration=moment, complete=complete, filters=filters,
    )  # fmt: skip
    run(pictures, out, experiment, choice, rig, Extras(film, require_known(also or []), recorded), fit)


@app.command("app", rich_help_panel=PEOPLE)
def serve(
    experiment: Annotated[Path | None, typer.Option(help="results/experiments/<name>, or a base's folder")] = None,
    host: Annotated[str, typer.Option(help="address to listen at; any other lets the network in")] = LOOPBACK,
    port: Annotated[int, typer.Option(help="port to listen at", min=1, max=65535)] = 7860,
    threads: Threads = 2,
) -> None:
    """Open a page on this machine: drop a picture, get a 3D animal that can be turned, and its files."""
    _require_there([], None, None, experiment)
    begin(None, threads)
    if host != LOOPBACK:
        say(f"Warning: anyone who reaches {host}:{port} can use this page and this machine's time.")
    from mvfl.stages.app import serve as serve_page

    serve_page(experiment, host, port, lambda address: say(f"Open {address} in a browser; Ctrl-C ends it."))


@app.command(rich_help_panel=PEOPLE)
def calibration(
    pickled: Annotated[Path, typer.Argument(help="new_cam.pkl: a list of cameras with R, T, K")],
    target: Annotated[Path, typer.Argument(help="JSON file to write")],
) -> None:
    """Convert a pickled calibration to JSON, once; only arrays are read, nothing in the pickle can run."""
    if target.exists():
        raise InputError(f"{target} exists; name another file, or delete it.")
    from mvfl.data.calibration import convert_calibration

    typer.echo(f"{convert_calibration(pickled, target)} cameras: {target}")


@app.command(rich_help_panel=PEOPLE)
def masks(
    calibration: Annotated[Path, typer.Option(help="of the cameras")],
    videos: Annotated[str, typer.Option(help="pattern with {camera}, as video_{camera}.mp4")],
    out: Annotated[Path, typer.Option(help="gets a folder of masks per camera, and overlay pictures")] = Path("masks"),
    every: Annotated[int, typer.Option(help="use every n-th frame", min=1)] = 5,
    sam2: Annotated[Path | None, typer.Option(help="folder of SAM 2 weights (transformers); default: GrabCut")] = None,
    threads: Threads = 2,
    log: Log = None,
) -> None:
    """Find the animal in calibrated videos and write its masks; the data stage does the same where no masks are named."""
    from pydantic import ValidationError

    from mvfl.config.datasets import MarkerlessDataset
    from mvfl.records.record import first_fault

    named = {"kind": "markerless", "calibration": calibration, "videos": videos, "every": every, "sam2": sam2}
    try:
        settings = MarkerlessDataset.model_validate(named)
    except ValidationError as error:
        raise InputError(first_fault(error)) from error
    workers = begin(log, threads)
    from mvfl.data.recording import make_masks_of

    make_masks_of(settings, out, workers)


app.add_typer(looking_app)
app.add_typer(slurm_app, name="slurm", rich_help_panel=PEOPLE)
app.add_typer(benchmark_app, name="benchmark", rich_help_panel=LOOK)
app.add_typer(stages_app)


NO_PLACE = (errno.ENOTDIR, errno.EEXIST, errno.EROFS, errno.EACCES, errno.EPERM)


def _is_sentence(error: Exception) -> bool:
    """Whether an error was written for people: ours are, a library's own ValueError is a fault of the program."""
    if isinstance(error, InputError | CameraError | FloatingPointError | OSError):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    return isinstance(error, ValueError) and bool(frames) and str(Path(__file__).parents[1]) in frames[-1].filename


def _may_pass(error: Exception) -> bool:
    """Whether the same job could succeed later as it is: another one held the lock, or the disk did not answer."""
    return any(isinstance(e, Busy | OSError) and not isinstance(e, FileNotFoundError) for e in (error, error.__cause__))


def main() -> None:
    """Run the command line; every expected fault ends in a sentence and a truthful exit status."""
    try:
        app()
    except SystemExit as end:
        note_ending("done" if not end.code else "failed" if end.code == TERMINATED else "mistake")
        raise
    except Unfinished as stop:
        say(str(stop))
        note_ending("time_spent" if isinstance(stop, TimeSpent) else "failed")
        if isinstance(stop, TimeSpent):
            requeue()
        sys.exit(EXIT_UNFINISHED)
    except Collapsed as stop:
        say(str(stop))
        note_ending("mistake")
        sys.exit(1)
    except Exception as error:  # the log of a job must hold whatever ended it
        if _is_sentence(error):
            remedy = "; name another place, or mend its rights." if isinstance(error, OSError) and error.errno in NO_PLACE else ""
            complain(f"Error: {error}{remedy}")
            note_ending("failed" if _may_pass(error) else "mistake")
        else:
            note_ending("failed")
            say(traceback.format_exc())
            remedy = (
                "use a smaller batch_size, or a card with more memory" if "out of memory" in str(error) else "see the lines above"
            )
            complain(f"Error: {type(error).__name__}: {error}; {remedy}.")
        sys.exit(1)


if __name__ == "__main__":
    main()
