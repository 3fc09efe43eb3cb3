# What must be Snakemake's own: the configuration, wildcards, checkpoints. The thinking: mvfl/stages/planning.py and rule_inputs.py.
import sys

from snakemake.exceptions import WorkflowError
from snakemake.jobs import Job

from mvfl.config.load import parse_config
from mvfl.config.routing import ending
from mvfl.config.strict import CASES
from mvfl.records.decision import DecisionRecord
from mvfl.runtime.endings import allowed_restarts, growing
from mvfl.runtime.files import InputError
from mvfl.runtime.launch import launch_prefix
from mvfl.stages import user_files
from mvfl.stages.rule_inputs import Asked
from mvfl.stages.forced import Forced
from mvfl.stages.planning import Plan

# Without activation, the commands of Snakemake's own environment are meant; a cluster's job may ask to be started again.
OWN_JOB = "export MVFL_OWN_JOB=1; " if workflow.remote_exec else ""
shell.prefix(
    f'set -euo pipefail; PATH="$PATH:{Path(sys.executable).parent}"; {OWN_JOB}'
)

try:
    *overlays, basis = map(Path, workflow.configfiles)  # the Snakefile's own is last
    CONFIG = parse_config(config, [basis, *overlays], sys.argv)
except InputError as error:
    raise WorkflowError(str(error)) from None

PLAN = Plan(CONFIG)
LAYOUT = PLAN.layout
FORCED = Forced(PLAN, workflow, gather)


# Not in dry runs; a job of a cluster finds what was set aside here, whichever node it runs on.
onstart:
    if workflow.is_main_process:
        FORCED.set_aside()


# Snakemake 9 can forget a job that is about to be started again when a decision changes the plan, and would end with status 0.
onsuccess:
    if workflow.is_main_process and not workflow.touch:
        if left := sorted({job.rule.name for job in workflow.dag.needrun_jobs()}):
            raise WorkflowError(
                f"Not run: {', '.join(left)}. Run the same command again to go on."
            )


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


ASKED = Asked(PLAN, decided_case)
