"""Commands that only look: progress, logs, decisions, plans, schemas, benchmarks."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from mvfl.cli.options import LOOK, PEOPLE, show
from mvfl.runtime.files import InputError

looking_app = typer.Typer()
slurm_app = typer.Typer(no_args_is_help=True, help="A SLURM cluster: will it take the jobs, and a profile for it.")
PROFILE = Path("profiles/slurm")
benchmark_app = typer.Typer(no_args_is_help=True, help="Benchmarks: the judging, speed at full size, a real recording.")


@looking_app.command(rich_help_panel=PEOPLE)
def doctor(files: Annotated[list[Path] | None, typer.Argument(help="configuration and overlays")] = None) -> None:
    """Look whether this machine and everything the configuration names are ready; status 1 when something is not."""
    from mvfl.config.load import load_with_base
    from mvfl.inspection.doctor import examine

    show(examine(load_with_base(files)))


@slurm_app.command("check")
def check_slurm(
    files: Annotated[list[Path] | None, typer.Argument(help="configuration and overlays")] = None,
    profile: Annotated[Path, typer.Option(help="folder of the profile")] = PROFILE,
    probe: Annotated[bool, typer.Option("--probe", help="then run `mvfl doctor` in a job of two minutes on a GPU node")] = False,
) -> None:
    """Compare what the profile and the experiments ask for with what this cluster has. Status 1 when something does not fit."""
    from mvfl.config.load import load_with_base
    from mvfl.inspection import slurm
    from mvfl.inspection.gpu_memory import needs

    good = True
    for finding in slurm.check(profile, needs(load_with_base(files))):
        good &= finding.good
        typer.echo(f"{'ok ' if finding.good else 'BAD'}  {finding.part:<24} {finding.text}")
    for line in slurm.probe(profile, files or []) if probe else ():
        good &= not line.startswith("BAD")
        typer.echo(f"node: {line}")
    if not good:
        raise typer.Exit(1)


@slurm_app.command("init")
def init_slurm(
    out: Annotated[Path, typer.Argument(help="folder of the new profile, profiles/<site>")],
    source: Annotated[Path, typer.Option(help="profile to start from")] = PROFILE,
) -> None:
    """Write a profile for this cluster: its partitions and time limits, squeue where accounting is off. Then check it."""
    import yaml

    from mvfl.inspection.slurm import site_profile
    from mvfl.runtime.files import write_text

    if (out / "config.yaml").exists():
        raise InputError(f"{out / 'config.yaml'} exists; name another folder, or delete it first.")
    settings = yaml.safe_dump(site_profile(source), sort_keys=False)
    write_text(out / "config.yaml", f"# Made by `mvfl slurm init`; use it with snakemake --profile {out}.\n{settings}")
    typer.echo(f"Wrote {out / 'config.yaml'}.")
    check_slurm(profile=out)


@looking_app.command("check-config", rich_help_panel=PEOPLE)
def check_config(files: Annotated[list[Path] | None, typer.Argument(help="configuration and overlays")] = None) -> None:
    """Validate workflow_config.yaml and overlays, all experiments at once."""
    from mvfl.config.load import load_with_base

    config = load_with_base(files)
    typer.echo(f"{len(config.experiments)} experiments are valid: {', '.join(config.experiments)}.")


@looking_app.command(rich_help_panel=PEOPLE)
def plan(files: Annotated[list[Path] | None, typer.Argument(help="configuration and overlays")] = None) -> None:
    """Print what every experiment costs, and the tree of decisions with the GPU hours of each way."""
    from rich.console import Console

    from mvfl.config.load import load_with_base
    from mvfl.inspection.plan import decision_tree, experiments_table

    config, console = load_with_base(files), Console()
    console.print(experiments_table(config))
    console.print(decision_tree(config))
    console.print("GPU hours: up to the verdict, as measured at full size (docs/performance.md) or in an earlier run here.")
    console.print("The jobs of a case: snakemake -n case_b")


@looking_app.command(rich_help_panel=LOOK)
def why(
    experiment: Annotated[str, typer.Argument(help="name of the experiment")],
    stage: Annotated[Literal["train", "synthetic", "gslrm"], typer.Argument(help="a stage that saves its state")],
    files: Annotated[list[Path] | None, typer.Argument(help="configuration and overlays")] = None,
) -> None:
    """Print what changed since a stage saved its state, and whether it goes on or begins anew."""
    from mvfl.config.load import load_with_base

    config = load_with_base(files)
    from mvfl.inspection import why as w

    typer.echo(w.why(config, experiment, stage))


@looking_app.command(rich_help_panel=LOOK)
def status(
    results: Annotated[Path, typer.Argument(help="results folder")] = Path("results"),
    watch: Annotated[bool, typer.Option("--watch", help="repeat until interrupted")] = False,
    every: Annotated[float, typer.Option(help="seconds between two looks", min=0.1)] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
) -> None:
    """Show how far every stage is: step, loss, speed, ETA, GPU, saved states, disk; from logs and SLURM's queue."""
    from rich.console import Console
    from rich.live import Live

    from mvfl.inspection import status as s

    if not results.is_dir():
        raise InputError(f"{results} does not exist; name the results folder of your configuration.")
    if as_json:
        typer.echo(s.as_json(s.read_status(results)))
    elif watch:
        with contextlib.suppress(KeyboardInterrupt), Live(s.status_table(s.read_status(results), results)) as live:
            while True:
                time.sleep(every)
                live.update(s.status_table(s.read_status(results), results))
    else:
        Console().print(s.status_table(s.read_status(results), results))


@looking_app.command(rich_help_panel=LOOK)
def logs(
    experiment: Annotated[str, typer.Argument(help="name of the experiment")],
    results: Annotated[Path, typer.Option(help="results folder")] = Path("results"),
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on as the log grows and the next stage begins")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="lines from the end", min=0)] = 20,
) -> None:
    """Print the end of the log that an experiment wrote last."""
    from mvfl.inspection.status import log_lines

    with contextlib.suppress(KeyboardInterrupt):
        for line in log_lines(results, experiment, lines, follow):
            typer.echo(line)


@looking_app.command(rich_help_panel=LOOK)
def summary(results: Annotated[Path, typer.Argument(help="results folder")] = Path("results")) -> None:
    """Print every decision with the paths of its page and 3D file."""
    from mvfl.layout import Layout
    from mvfl.records.decision import DecisionRecord

    if not (found := Layout(results).decisions()):
        raise InputError(f"No decision in {results}; run the workflow first.")
    for path in found:
        try:
            record = DecisionRecord.read(path)
        except InputError as error:  # one damaged decision must not hide the others
            typer.echo(f"BAD  {error}")
            continue
        note = f" (set by a person; the measurements say {record.computed.case})" if record.overridden else ""
        typer.echo(f"{record.experiment}, step {record.step}: case {record.case}{note}")
        typer.echo(f"  {' '.join(record.computed.reasons)}")
        layout = Layout(results)
        files = {"page": layout.report(record.experiment), "3D": layout.reconstruction(record.experiment).ply}
        for label, file in files.items():
            if file.is_file():
                typer.echo(f"  {label}: {file}")


@looking_app.command("schema", rich_help_panel=LOOK)
def print_schema(
    of: Annotated[str, typer.Argument(help="config (workflow_config.yaml), decision (decision.json), or a stage's job")] = "config",
) -> None:
    """Print a JSON schema."""
    from pydantic import BaseModel

    from mvfl.config.workflow import WorkflowConfig
    from mvfl.records.decision import DecisionRecord
    from mvfl.stages.jobs import JOBS

    models: dict[str, type[BaseModel]] = {"config": WorkflowConfig, "decision": DecisionRecord, **JOBS}
    if of not in models:
        raise InputError(f"There is no schema of '{of}'; choose {', '.join(models)}.")
    typer.echo(json.dumps(models[of].model_json_schema(), indent=1))


@benchmark_app.command("decision")
def benchmark_decision(
    worlds: Annotated[int, typer.Option(help="sets of animals; half of them fit the thresholds", min=2)] = 10,
    size: Annotated[int, typer.Option(help="pixels", min=16)] = 64,
    pairs: Annotated[int, typer.Option(help="animals per prediction set", min=1)] = 4,
    networks: Annotated[
        int, typer.Option(help="sets of animals that the embedded base samples, half of them for fitting", min=0)
    ] = 4,
    seed: Annotated[int, typer.Option(min=0)] = 100,
    out: Annotated[Path | None, typer.Option(help="JSON file for all figures")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads", min=1)] = 2,
) -> None:
    """Judge prediction sets whose case is known, and print the confusion matrix."""
    from mvfl.config.strict import CASES
    from mvfl.runtime.threads import limit_threads
    from mvfl.verdict.benchmark import run_benchmark

    limit_threads(min(threads, os.cpu_count() or threads))
    result = run_benchmark(worlds, size, pairs, seed, networks, out)
    for title, table, share in (
        ("thresholds fitted on the other half", result["confusion"], result["accuracy"]),
        ("default thresholds", result["confusion_with_defaults"], result["accuracy_with_defaults"]),
    ):
        typer.echo(f"{result['sets']} sets, reported on {result['reported_on']}; {title}: {share:.1%} right")
        typer.echo("right \\ decided  " + "  ".join(f"{c:>4}" for c in CASES))
        for case, row in zip(CASES, table, strict=True):
            typer.echo(f"{case:>15}  " + "  ".join(f"{n:>4}" for n in row))
    for entry in result["wrong"]:
        typer.echo(f"wrong: {entry['kind']}: {entry['right']} taken for {entry['decided']}")


@benchmark_app.command("speed")
def benchmark_speed(
    repeats: Annotated[int, typer.Option(help="measured steps per row; the median counts", min=1)] = 5,
    out: Annotated[Path | None, typer.Option(help="JSON file for all figures")] = None,
) -> None:
    """Time and memory of the published models at full size on this GPU, with random weights in bf16."""
    from mvfl.inspection.speed import measure_speed
    from mvfl.runtime.devices import describe_device, device
    from mvfl.runtime.files import write_json

    if device().type != "cuda":
        raise InputError("mvfl benchmark speed measures the full-size models and needs a CUDA GPU; there is none here.")
    rows = measure_speed(device(), repeats)
    typer.echo(describe_device())
    for row in rows:
        typer.echo(f"{row['what']:<55} objects {row['objects']}  {row['seconds']} s  {row['peak_gib']} GiB")
    if out is not None:
        write_json(out, {"device": describe_device(), "rows": rows})


@benchmark_app.command("real")
def benchmark_real(
    folder: Annotated[Path, typer.Argument(help="folder of the recording: calibration, videos, masks")],
    files: Annotated[
        list[Path] | None, typer.Option("--configfile", help="configuration; its first data set is the recording")
    ] = None,
    untrained: Annotated[
        bool, typer.Option("--untrained", help="judge the base alone; without it the workflow trains first")
    ] = False,
    samples: Annotated[int, typer.Option(help="moments of the test block to judge", min=1)] = 8,
    threads: Annotated[int, typer.Option(help="CPU threads", min=1)] = 2,
) -> None:
    """3D of a real recording, from one camera and from all but one, judged by the others; before and after fine-tuning."""
    from mvfl.records.benchmarked import mean_row
    from mvfl.runtime.threads import limit_threads
    from mvfl.stages import real_benchmark

    limit_threads(min(threads, os.cpu_count() or threads))
    manifest, models, out = real_benchmark.prepared(folder, files or [Path("configs/real_mouse.yaml")], not untrained)
    result = real_benchmark.run(manifest, models, samples, out)
    for title, table in (("from one camera", result.from_one), ("from all but one", result.from_others)):
        typer.echo(f"{title}, {len(result.frames)} moments: PSNR (dB) and overlap, mean and by camera {', '.join(table)}")
        for kind in next(iter(table.values())):
            rows = [mean_row(table)[kind], *(row[kind] for row in table.values())]
            typer.echo(f"  {kind:<18}" + "".join(f"{r['foreground_psnr']:>8.2f} {r['mask_iou']:.3f}" for r in rows))
