"""One command per stage: the job comes as JSON or in a file, and how to run it as options."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from mvfl.cli.options import PEOPLE, PLUMBING, Log, Minutes, Threads, begin, show
from mvfl.runtime.files import InputError

stages_app = typer.Typer()
base_app = typer.Typer(no_args_is_help=True, help="Bases: pretrained pipelines that experiments start from.")
stages_app.add_typer(base_app, name="base", rich_help_panel=PEOPLE)

JobText = Annotated[str, typer.Option("--job", help="the job as JSON, or a file that holds it; `mvfl schema STAGE` describes it")]
# Stage of `jobs.JOBS` -> command, module and function, help.
STAGES = {
    "data": ("data", "data:run", "Render a data set, prepare a recording, or check samples; write the manifest."),
    "latents": ("latents", "latents:run", "Encode all pictures of a data set into the latent cache."),
    "train": ("train", "train:run", "Train multi-view diffusion up to a step and export the EMA weights."),
    "score": ("score", "score:run", "Measure a checkpoint: metrics per slot, baselines, pictures."),
    "decide": ("decide", "decide:run", "Make a decision A-D of measurements."),
    "synthetic": ("synthetic", "synthetic:run", "Sample one piece of the views for GS-LRM; several jobs can share them."),
    "join": ("join", "join:join", "Make one data set of all pieces."),
    "gslrm": ("gslrm", "gslrm:run", "Fine-tune GS-LRM and write the 3D result."),
    "zero_shot": ("zero-shot", "zero_shot:run", "Judge a base's GS-LRM on recorded views, without training."),
    "models": ("models", "reconstruct:run_share", "Make one share of the 3D models of a data set."),
    "models_page": ("models-page", "models_page:run", "Write page, tables and viewer of all models."),
    "report": ("report", "report:run", "Write the page of an experiment."),
    "compare": ("compare", "compare:run", "Write a page and a table of several experiments."),
    "journal": ("journal", "journal:run", "Write journal.csv and journal.md from decisions, in order."),
    "fetch": ("fetch", "fetch:run", "Fetch a base from the model hub, at one commit; needs a network."),
    "base": ("prepare", "base:run", "Check or build a base and record its files."),
    "export": ("export", "export:run", "Make a base, with a card, of what an experiment learned from scratch."),
}


def read_job(stage: str, text: str) -> Any:
    """A stage's job from JSON or from a file.

    Raises:
        InputError: not JSON, or not this stage's job; names the first entry that is wrong.
    """
    from pydantic import ValidationError

    from mvfl.records.record import first_fault
    from mvfl.runtime.reading import parse_json, read_json
    from mvfl.stages.jobs import JOBS

    try:
        data = parse_json(text) if text.lstrip().startswith("{") else read_json(Path(text), "name the job's file with --job")
        return JOBS[stage].model_validate(data)
    except ValidationError as error:
        raise InputError(f"--job is no job of the stage '{stage}': {first_fault(error)}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"--job is not JSON: {error}") from error


def _add(app: typer.Typer, stage: str) -> None:
    """Make the command of a stage; it passes on what the stage's function asks for."""
    name, place, text = STAGES[stage]
    module, function = place.split(":")

    def command(job: JobText, minutes: Minutes = None, threads: Threads = 2, log: Log = None) -> None:
        parsed = read_job(stage, job)
        offered = {"minutes": minutes, "workers": begin(log, threads)}
        run = getattr(importlib.import_module(f"mvfl.stages.{module}"), function)
        run(parsed, **{k: v for k, v in offered.items() if k in inspect.signature(run).parameters})

    app.command(name, help=text, rich_help_panel=PLUMBING)(command)


@stages_app.command(rich_help_panel=PEOPLE)
def prompts(
    list_styles: Annotated[bool, typer.Option("--list-styles", help="print the styles and their strings")] = False,
    style: Annotated[str | None, typer.Option(help="style to encode")] = None,
    output_dir: Annotated[Path | None, typer.Option(help="default: mouse_prompt_embeds_<style>")] = None,
    base: Annotated[Path | None, typer.Option(help="base.json or pipeline folder; default: the embedded base")] = None,
    job: Annotated[str | None, typer.Option("--job", help="the job as JSON, in place of the other options")] = None,
    log: Log = None,
) -> None:
    """Encode one of five prompt styles with a base's own text encoder."""
    from mvfl.config.bases import EMBEDDED
    from mvfl.config.prompt_styles import STYLES
    from mvfl.stages.jobs import PromptsJob

    if list_styles:
        for name, entry in STYLES.items():
            typer.echo(f"{name}\n" + "\n".join(f"  {p}" for p in entry.prompts))
        return
    if job is None and style not in STYLES:
        raise InputError(f"--style must be one of {', '.join(STYLES)}; got {style}.")
    if job is not None:
        parsed = read_job("prompts", job)
    else:
        out = output_dir or Path(f"mouse_prompt_embeds_{style}")
        parsed = PromptsJob.model_validate({"style": style, "base": base or EMBEDDED, "out": out})
    begin(log, 2)
    from mvfl.stages.prompts import run

    run(parsed)


@base_app.command("check")
def check_base(
    folder: Annotated[Path, typer.Argument(help="pipeline folder in the published layout, or a base.json to verify")],
    gslrm: Annotated[Path | None, typer.Option(help="GS-LRM checkpoint")] = None,
) -> None:
    """Print what a folder holds, what fits and what is missing; status 1 when something does not."""
    if not folder.exists():
        raise InputError(f"{folder} does not exist; name a base's folder or its base.json.")
    from mvfl.inspection import base_check

    findings = base_check.check_base(folder, gslrm) if folder.is_dir() else base_check.check_record(folder)
    show(findings)


@base_app.command("original")
def write_original(
    experiment: Annotated[Path, typer.Argument(help="results/experiments/<name>, finished")],
    out: Annotated[Path, typer.Argument(help="folder to write")],
) -> None:
    """Write what an experiment learned in the original program's file layout, where that is exact."""
    from mvfl.stages import original

    original.write_original(experiment, out)


@base_app.command("save")
def save_model(
    experiment: Annotated[Path, typer.Argument(help="results/experiments/<name>, finished")],
    out: Annotated[Path, typer.Argument(help="folder to write")],
) -> None:
    """Write a finished experiment as one folder that others can load, with a card."""
    from mvfl.stages.publish import save_pretrained

    save_pretrained(experiment, out)


@base_app.command("push")
def push_model(
    experiment: Annotated[Path, typer.Argument(help="results/experiments/<name>, finished")],
    repo: Annotated[str, typer.Argument(help="owner/name on the model hub")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be uploaded; no network")] = False,
    public: Annotated[bool, typer.Option("--public", help="a new repository is private otherwise")] = False,
) -> None:
    """Put a finished experiment with its card on the model hub."""
    from mvfl.stages.publish import push_to_hub

    push_to_hub(experiment, repo, dry_run, public)


for _stage in STAGES:
    _add(base_app if _stage in ("fetch", "base", "export") else stages_app, _stage)


@stages_app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}, rich_help_panel=PLUMBING)
def launch(
    command: Annotated[list[str], typer.Argument(help="what to run, for example: mvfl train ...")],
    per_node: Annotated[int, typer.Option(help="processes per node, one per GPU", min=1)] = 1,
) -> None:
    """Start this node's processes of a run over several nodes; under srun with one task per node."""
    from mvfl.runtime.launch import launch_on_node

    launch_on_node(per_node, command)
