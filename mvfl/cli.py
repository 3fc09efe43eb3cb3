"""The command line: one thin command per stage; settings arrive as one JSON value. Commands that only look: `cli_inspect.py`."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import TypeAdapter, ValidationError

from mvfl.cli_inspect import inspect_app
from mvfl.config import schema
from mvfl.runtime.devices import device, limit_threads
from mvfl.runtime.files import InputError, read_json, sweep_partials
from mvfl.runtime.lock import only_writer
from mvfl.runtime.progress import open_log, say
from mvfl.runtime.training_state import EXIT_UNFINISHED, Collapsed, Unfinished

# Stages import torch and diffusers inside the commands: `mvfl --help` and the light stages stay quick.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
base_app = typer.Typer(no_args_is_help=True, help="Bases: pretrained pipelines that experiments start from.")
app.add_typer(base_app, name="base")
app.add_typer(inspect_app)

Log = Annotated[Path | None, typer.Option("--log", help="append progress lines to this file")]
Threads = Annotated[int, typer.Option("--threads", help="CPU threads or processes", min=1)]
Minutes = Annotated[float | None, typer.Option(help="time budget; the stage saves and stops before it is spent")]
Settings = Annotated[str, typer.Option(help="settings as JSON, or @FILE")]
File = Annotated[Path, typer.Option()]
Out = Annotated[Path, typer.Option(help="where the result goes")]


def _parse(kind: Any, text: str) -> Any:
    """Settings from JSON or @FILE."""
    content = Path(text[1:]).read_text() if text.startswith("@") else text
    return TypeAdapter(kind).validate_python(json.loads(content))


class LatentSettings(schema.Augmentation):
    """What the stage `latents` reads."""

    seed: int = 42


def _begin(log: Path | None, threads: int) -> None:
    open_log(log)
    limit_threads(min(threads, os.cpu_count() or threads))


@app.command()
def data(name: Annotated[str, typer.Option()], settings: Settings, out: Out, threads: Threads = 2, log: Log = None) -> None:
    """Render a data set, prepare a recording, or check existing samples, and write the manifest."""
    _begin(log, threads)
    parsed = _parse(schema.Dataset, settings)
    sweep_partials(out)
    workers = min(threads, os.cpu_count() or 1)
    if isinstance(parsed, schema.RodentDataset):
        from mvfl.data.render import render_dataset

        render_dataset(name, parsed, out, workers)
    elif isinstance(parsed, schema.MarkerlessDataset):
        from mvfl.data.markerless import prepare_recording

        prepare_recording(name, parsed, out, workers)
    else:
        from mvfl.data.folder import check_folder

        check_folder(name, parsed, out)


@app.command()
def calibration(
    pickled: Annotated[Path, typer.Argument(help="new_cam.pkl: a list of cameras with R, T, K")],
    target: Annotated[Path, typer.Argument(help="JSON file to write")],
) -> None:
    """Convert a pickled calibration to JSON, once; only arrays are read, nothing in the pickle can run."""
    from mvfl.data.calibration import convert_calibration

    typer.echo(f"{convert_calibration(pickled, target)} cameras: {target}")


@base_app.command("prepare")
def base_prepare(settings: Settings, out: Out, manifest: Path | None = None, threads: Threads = 2, log: Log = None) -> None:
    """Check, download or build a base and record its files."""
    _begin(log, threads)
    from mvfl.base.prepare import prepare_base
    from mvfl.runtime.provenance import write_provenance

    parsed = _parse(schema.Base, settings)
    sweep_partials(out)
    record = prepare_base(parsed, out, manifest)
    inputs: dict[str, Path | str] = {"files": record.hash} | ({"manifest": manifest} if manifest else {})
    write_provenance(out, "base", parsed.model_dump(mode="json"), inputs)
    say(f"Base {record.hash}: pipeline {record.pipeline}, GS-LRM {record.gslrm or 'none'}.")


@base_app.command("check")
def base_check(
    folder: Annotated[Path, typer.Argument(help="pipeline folder in the published layout, or a base.json to verify")],
    gslrm: Annotated[Path | None, typer.Option(help="GS-LRM checkpoint")] = None,
) -> None:
    """Print what a folder holds, what fits and what is missing; status 1 when something does not."""
    from mvfl.base.check import check_base, check_record

    if not folder.exists():
        raise InputError(f"{folder} does not exist.")
    findings = check_base(folder, gslrm) if folder.is_dir() else check_record(folder)
    for finding in findings:
        typer.echo(f"{'ok ' if finding.good else 'BAD'}  {finding.part:<24} {finding.text}")
    if not all(f.good for f in findings):
        raise typer.Exit(1)


@base_app.command("train")
def base_train(
    settings: Annotated[Path, typer.Option(help="YAML settings")] = Path("configs/embedded_base.yaml"),
    work: Annotated[Path, typer.Option(help="scratch folder")] = Path("results/embedded_base"),
    out: Annotated[Path, typer.Option(help="where the base goes")] = Path("mvfl/base/embedded"),
    stage: Annotated[list[str] | None, typer.Option(help="run only these stages, in order")] = None,
    threads: Threads = 2,
    log: Log = None,
) -> None:
    """Train the embedded base from rendered rodents (one GPU)."""
    _begin(log, threads)
    from mvfl.base.train import STAGES, load_base_training, train_base

    train_base(load_base_training(settings), work, out, threads, tuple(stage or STAGES))


@app.command()
def prompts(
    list_styles: Annotated[bool, typer.Option("--list-styles", help="print the styles and their strings")] = False,
    style: Annotated[str | None, typer.Option(help="style to encode")] = None,
    output_dir: Annotated[Path | None, typer.Option(help="default: mouse_prompt_embeds_<style>")] = None,
    base: Annotated[Path | None, typer.Option(help="base.json or pipeline folder; default: the embedded base")] = None,
    log: Log = None,
) -> None:
    """Encode one of five prompt styles with a base's own text encoder."""
    _begin(log, 2)
    from mvfl.base.record import read_record
    from mvfl.config.workflow import EMBEDDED
    from mvfl.prompts import STYLES, embed_prompts
    from mvfl.runtime.provenance import write_provenance

    if list_styles:
        for name, entry in STYLES.items():
            typer.echo(f"{name}\n" + "\n".join(f"  {p}" for p in entry.prompts))
        return
    if style not in STYLES:
        raise InputError(f"--style must be one of {', '.join(STYLES)}; got {style}.")
    folder = EMBEDDED if base is None else read_record(base).pipeline if base.suffix == ".json" else base
    width = read_json(folder / "unet" / "config.json", "name a base with a unet/ folder")["cross_attention_dim"]
    out = output_dir or Path(f"mouse_prompt_embeds_{style}")
    embed_prompts(style, folder, out, width=width)
    source = str(folder) if base is None else base
    write_provenance(out, "prompts", {"style": style}, {"base": source})
    say(f"Wrote {out / 'clr_embeds.pt'}.")


@app.command()
def latents(settings: Settings, manifest: File, base: File, out: Out, threads: Threads = 2, log: Log = None) -> None:
    """Encode all pictures of a data set into the latent cache."""
    _begin(log, threads)
    from mvfl.base.record import read_record
    from mvfl.data.latents import cache_latents
    from mvfl.data.samples import read_manifest
    from mvfl.mvdiffusion.pipeline import MultiViewPipeline

    parsed = _parse(LatentSettings, settings)
    sweep_partials(out.parent, out.name)
    record = read_record(base)
    pipeline = MultiViewPipeline.from_pretrained(record.pipeline).to(device())
    cache_latents(read_manifest(manifest), pipeline, parsed, parsed.seed, record.hash, out)


@app.command()
def train(
    settings: Settings,
    until_step: Annotated[int, typer.Option(min=1)],
    manifest: File,
    base: File,
    latents: Annotated[Path, typer.Option(help="index.json of the latent cache")],
    prompts: Annotated[Path, typer.Option(help="clr_embeds.pt")],
    state: Annotated[Path, typer.Option(help="folder of the training state; kept between runs")],
    out: Out,
    start: Annotated[Path | None, typer.Option(help="provenance.json of the checkpoint before this segment")] = None,
    wandb: Annotated[str, typer.Option(help="W&B settings as JSON")] = "{}",
    minutes: Minutes = None,
    threads: Threads = 2,
    log: Log = None,
) -> None:
    """Train multi-view diffusion up to a step and export the EMA weights."""
    _begin(log, threads)
    from mvfl.mvdiffusion.training import TrainingPaths, train_segment
    from mvfl.mvdiffusion.validation import Validation

    experiment = _parse(schema.TrainingRun, settings)
    paths = TrainingPaths(base, latents.parent, prompts, state, out, start.parent if start else None)
    validation = Validation(manifest, experiment, prompts, state / "validation")
    first = os.environ.get("RANK", "0") == "0"  # of several processes of one job, one holds the lock
    with only_writer(state) if first else contextlib.nullcontext():
        train_segment(experiment, until_step, paths, _parse(schema.Wandb, wandb), minutes, validation)


@app.command()
def evaluate(
    name: Annotated[str, typer.Option()],
    settings: Settings,
    step: Annotated[int, typer.Option()],
    manifest: File,
    base: File,
    checkpoint: Annotated[Path, typer.Option(help="provenance.json of the checkpoint")],
    prompts: Annotated[Path, typer.Option()],
    train_log: Annotated[Path, typer.Option(help="log.jsonl")],
    out: Out,
    evaluation: Annotated[str, typer.Option(help="evaluation settings as JSON")] = "{}",
    override: Annotated[Literal["A", "B", "C", "D"] | None, typer.Option(help="a person's decision")] = None,
    threads: Threads = 2,
    log: Log = None,
) -> None:
    """Judge a checkpoint: metrics per slot, baselines, decision A-D."""
    _begin(log, threads)
    from mvfl.evaluation.stage import EvaluationPaths, evaluate_checkpoint

    paths = EvaluationPaths(manifest, base, checkpoint.parent, prompts, train_log, out)
    parsed = _parse(schema.Evaluation, evaluation)
    evaluate_checkpoint(name, _parse(schema.Drawing, settings), step, parsed, override, paths)
    decision = read_json(out / "decision.json", "run again")
    say(f"Case {decision['case']}: {' '.join(decision['computed']['reasons'])}")


@app.command()
def synthetic(
    settings: Settings,
    manifest: File,
    base: File,
    checkpoint: Annotated[Path, typer.Option(help="provenance.json of the checkpoint")],
    prompts: Annotated[Path, typer.Option()],
    state: Annotated[Path, typer.Option(help="folder of the finished samples; outlasts jobs")],
    out: Annotated[Path, typer.Option(help="JSON file that lists the piece")],
    piece: Annotated[str, typer.Option(help="which share of the samples, as 2-of-4")] = "1-of-1",
    minutes: Minutes = None,
    threads: Threads = 2,
    log: Log = None,
) -> None:
    """Draw six views per sample for GS-LRM; several jobs can share the samples."""
    _begin(log, threads)
    from mvfl.synthetic import Piece, SyntheticPaths, generate_piece

    paths = SyntheticPaths(manifest, base, checkpoint.parent, prompts, state)
    generate_piece(_parse(schema.Generation, settings), paths, Piece.parse(piece), out, minutes)


@app.command("join-synthetic")
def join_synthetic(
    pieces: Annotated[list[Path], typer.Argument(help="files of `mvfl synthetic`")],
    settings: Settings,
    manifest: File,
    base: File,
    checkpoint: Annotated[Path, typer.Option(help="provenance.json of the checkpoint")],
    prompts: Annotated[Path, typer.Option()],
    state: Annotated[Path, typer.Option(help="folder of the finished samples")],
    out: Out,
    log: Log = None,
) -> None:
    """Make one data set of all pieces."""
    _begin(log, 2)
    from mvfl.synthetic import SyntheticPaths, join_pieces

    join_pieces(_parse(schema.Generation, settings), SyntheticPaths(manifest, base, checkpoint.parent, prompts, state), pieces, out)


@app.command()
def gslrm(
    settings: Settings,
    base: File,
    real: Annotated[Path, typer.Option(help="manifest of the recorded data")],
    synthetic: Annotated[Path, typer.Option(help="manifest of the generated views")],
    state: Annotated[Path, typer.Option()],
    out: Out,
    run: Annotated[str, typer.Option(help="name of the W&B run")] = "gslrm",
    wandb: Annotated[str, typer.Option()] = "{}",
    minutes: Minutes = None,
    threads: Threads = 2,
    log: Log = None,
) -> None:
    """Fine-tune GS-LRM and write the 3D result."""
    _begin(log, threads)
    from mvfl.gslrm.stage import GslrmPaths, run_gslrm

    paths = GslrmPaths(base, real, synthetic, state, out)
    with only_writer(state):
        run_gslrm(_parse(schema.GslrmFinetuning, settings), _parse(schema.Wandb, wandb), run, paths, minutes)


@app.command()
def reconstruct(
    picture: Annotated[Path, typer.Argument(help="one animal, cut out (alpha) or on white")],
    experiment: Annotated[Path, typer.Option(help="folder of a finished experiment, results/experiments/<name>")],
    out: Out = Path("reconstruction"),
    view: Annotated[int | None, typer.Option(help="camera of the rig that the picture resembles most")] = None,
    reframe: Annotated[bool, typer.Option("--reframe", help="bring the animal to its usual size and place")] = False,
    seed: Annotated[int | None, typer.Option(help="of the noise; default: the experiment's")] = None,
    threads: Threads = 2,
    log: Log = None,
) -> None:
    """Turn one picture into six views and a 3D model (PLY), with what an experiment has learned."""
    _begin(log, threads)
    from mvfl.reconstruct import reconstruct_picture

    reconstruct_picture(picture, experiment, out, view, reframe, seed)


@app.command()
def report(
    name: Annotated[str, typer.Option()],
    settings: Settings,
    decision: File,
    out: Out,
    gslrm: Annotated[Path | None, typer.Option(help="folder of the GS-LRM result")] = None,
    log: Log = None,
) -> None:
    """Write the page of an experiment."""
    _begin(log, 1)
    from mvfl.evaluation.page import render_page

    render_page(name, _parse(schema.Experiment, settings), decision, gslrm, out)


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def launch(
    command: Annotated[list[str], typer.Argument(help="what to run, for example: mvfl train ...")],
    per_node: Annotated[int, typer.Option(help="processes per node, one per GPU", min=1)] = 1,
) -> None:
    """Start this node's processes of a run over several nodes; under srun with one task per node."""
    from mvfl.runtime.launch import launch_on_node

    launch_on_node(per_node, command)


@app.command()
def journal(
    decisions: list[Path],
    cases: Annotated[str, typer.Option(help="case -> experiment as JSON")],
    table: Annotated[Path, typer.Option()],
    page: Annotated[Path, typer.Option()],
    log: Log = None,
) -> None:
    """Write journal.csv and journal.md from decisions, in order."""
    _begin(log, 1)
    from mvfl.journal import write_journal

    write_journal(json.loads(cases), decisions, table, page)


def main() -> None:
    """Run the command line; every expected fault ends in a sentence and a truthful exit status."""
    try:
        app()
    except Unfinished as stop:
        say(str(stop))
        sys.exit(EXIT_UNFINISHED)
    except Collapsed as stop:
        say(str(stop))
        sys.exit(1)
    except (InputError, ValidationError, ValueError, FloatingPointError, OSError) as error:
        say(f"Error: {error}")
        sys.exit(1)
    except Exception as error:  # the log of a job must hold whatever ended it
        say(traceback.format_exc())
        remedy = "use a smaller batch_size, or a card with more memory" if "out of memory" in str(error) else "see the lines above"
        say(f"Error: {type(error).__name__}: {error}; {remedy}.")
        sys.exit(1)


if __name__ == "__main__":
    main()
