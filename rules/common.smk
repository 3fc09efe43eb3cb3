# What must be Snakemake's own: the configuration, wildcards, and functions of wildcards. The thinking: mvfl/stages/planning.py.
import json
import sys

from snakemake.exceptions import WorkflowError
from snakemake.jobs import Job

from mvfl.config.load import parse_config
from mvfl.config.routing import ending
from mvfl.config.strict import CASES
from mvfl.records.decision import DecisionRecord
from mvfl.records.provenance import still_the_same
from mvfl.runtime.endings import allowed_restarts, growing
from mvfl.runtime.files import InputError
from mvfl.runtime.launch import launch_prefix
from mvfl.stages.forced import Forced
from mvfl.stages.planning import Plan

# Without activation, the commands of Snakemake's own environment are meant; a cluster's job may ask to be started again.
OWN_JOB = "export MVFL_OWN_JOB=1; " if workflow.remote_exec else ""
shell.prefix(
    f'set -euo pipefail; PATH="$PATH:{Path(sys.executable).parent}"; {OWN_JOB}'
)

try:
    CONFIG = parse_config(config, [Path(f) for f in workflow.configfiles])
except InputError as error:
    raise WorkflowError(str(error)) from None

PLAN = Plan(CONFIG)
LAYOUT = PLAN.layout


FORCED = Forced(
    PLAN,
    workflow,
    lambda name: gather.synthetic(str(LAYOUT.piece(name, "{scatteritem}"))),
)


# Not in dry runs; a job of a cluster finds what was set aside here, whichever node it runs on.
onstart:
    if workflow.is_main_process:
        FORCED.set_aside()


# A job's note beside its log decides whether it is started again: a spent time budget is no failure, a mistake stays one.
if workflow.is_main_process:
    Job.restart_times = property(
        lambda job: allowed_restarts(job.log, job.rule.restart_times)
    )


def shown(files, category, **kinds):
    """Declared files, some of them in `snakemake --report`: attribute -> caption and what the page's list calls it."""
    for name, (caption, kind) in kinds.items():
        labels = {"of": category, "shows": kind}
        files[name] = report(
            files[name], f"captions/{caption}.rst", category=category, labels=labels
        )
    return files


def any_of(names):
    return "|".join(sorted(names)) or "(?!)"


wildcard_constraints:
    experiment=any_of(CONFIG.experiments),
    dataset=any_of(CONFIG.datasets),
    base=any_of(CONFIG.bases),
    step=r"\d+",
    style=r"[a-z_]+",
    latents=r"[\w.-]+",
    group="judged|sweep",
    scatteritem=r"\d+-of-\d+",


# Job of a rule from its wildcards; all rules, the command line and `mvfl plan` use the same ones.
JOBS = {
    "data": lambda w: PLAN.data(w.dataset),
    "fetch": lambda w: PLAN.fetch(w.base),
    "base": lambda w: PLAN.base(w.base),
    "prompts": lambda w: PLAN.prompts(w.base, w.style),
    "latents": lambda w: PLAN.latents(w.latents),
    "train": lambda w: PLAN.train(w.experiment, int(w.step)),
    "score": lambda w: PLAN.score(w.experiment, int(w.step)),
    "decide": lambda w: PLAN.decide(w.experiment, int(w.step)),
    "generation": lambda w: PLAN.generation(w.experiment),
    "synthetic": lambda w: PLAN.synthetic(w.experiment, w.scatteritem),
    "gslrm": lambda w: PLAN.gslrm(w.experiment),
    "zero_shot": lambda w: PLAN.zero_shot(w.dataset, w.base),
    "compare": lambda w: PLAN.compare(w.group),
    "report": lambda w: PLAN.report(w.experiment, decided_case(w.experiment)),
    "export": lambda w: PLAN.export(w.experiment),
}


# What a stage noted of the prompts that it read: their content decides, not their date. All that they are made of (the base,
# the style) is an input or a parameter of these stages, too, so that a change of it is never overlooked.
NOTED = {
    "train": lambda w: LAYOUT.checkpoint(w.experiment, w.step).provenance,
    "score": lambda w: LAYOUT.verdict(w.experiment, w.step).provenance,
    "generation": lambda w: LAYOUT.synthetic(w.experiment).with_name("provenance.json"),
    "synthetic": lambda w: LAYOUT.synthetic(w.experiment).with_name("provenance.json"),
}


def inputs_of(stage):
    """Files that a stage reads; for `unpack`."""

    def named(w):
        files = JOBS[stage](w).inputs()
        same = stage in NOTED and still_the_same(NOTED[stage](w), "prompts")
        dated = lambda key, file: ancient(file) if same and key == "prompts" else file
        return {k: [dated(k, str(f)) for f in v] for k, v in files.items()}

    return named


def job_of(stage):
    """The whole job as JSON. A function of `input` too, which Snakemake does not compare with earlier runs."""
    return lambda w, input: JOBS[stage](w).model_dump_json()


def decisive(stage):
    """What of a job changes results; this is what Snakemake compares."""
    return lambda w: json.dumps(JOBS[stage](w).decisive(), sort_keys=True)


def decided_case(name):
    """A person's decision, or the recorded one; for that it raises inside Snakemake until the checkpoint rule has run."""
    if name in CONFIG.decisions:
        return CONFIG.decisions[name]
    step = PLAN.verdict_step(name)
    output = checkpoints.decide.get(experiment=name, step=step).output
    return DecisionRecord.read(Path(output.decision)).case


def planned(case):
    """All files of a case, plannable without any evaluation."""
    try:
        return PLAN.case_files(case)
    except InputError as error:
        raise WorkflowError(str(error)) from None
