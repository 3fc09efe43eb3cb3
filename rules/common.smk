# Names of files and the settings that rules pass to stages.
import json

from snakemake.exceptions import WorkflowError

from mvfl.config.load import parse_config
from mvfl.config.schema import (
    Drawing,
    Generation,
    GslrmFinetuning,
    Training,
    TrainingRun,
)
from mvfl.routing import evaluation_step, follow, segment_ends
from mvfl.runtime.files import InputError, digest
from mvfl.runtime.launch import accelerate_command

try:
    CONFIG = parse_config(config, [Path(f) for f in workflow.configfiles])
except InputError as error:
    raise WorkflowError(str(error)) from None

RESULTS = str(CONFIG.results)


def any_of(names):
    return "|".join(sorted(names))


wildcard_constraints:
    experiment=any_of(CONFIG.experiments),
    dataset=any_of(CONFIG.datasets),
    base=any_of(CONFIG.bases),
    step=r"\d+",
    style=r"[a-z_]+",
    latents=r"[\w.-]+",
    scatteritem=r"\d+-of-\d+",


def experiment_of(name):
    return CONFIG.experiments[name]


def settings(model, kind=None, **more):
    """Typed settings as one line of JSON: what was validated is what runs.

    Only the fields that the stage's own type `kind` has are passed, so a change reruns what reads it.
    """
    fields = set(kind.model_fields) if kind else None
    return json.dumps(
        {**model.model_dump(mode="json", include=fields), **more}, sort_keys=True
    )


def decisive(model, kind, part=None):
    """What of the settings changes a result: all but the harmless ones, whose change must not repeat days of training.

    Rules track this. The settings themselves reach a shell command by a function of `input`, which Snakemake does not
    compare.
    """
    data = json.loads(settings(model, kind))
    if part:
        data[part] = {k: v for k, v in data[part].items() if k not in Training.harmless}
    return json.dumps(
        {k: v for k, v in data.items() if k not in kind.harmless}, sort_keys=True
    )


def manifest_of(dataset):
    return f"{RESULTS}/data/{dataset}/manifest.json"


def base_of(base):
    return f"{RESULTS}/base/{base}/base.json"


def prompts_of(name, step=None):
    e = experiment_of(name)
    style = e.prompt_style_at(int(step)) if step else e.prompt_style
    folder = f"{RESULTS}/prompts/{e.base}/{style}"
    return {"embeds": f"{folder}/clr_embeds.pt", "metadata": f"{folder}/metadata.json"}


def latents_name(name):
    """Experiments that share data, base and augmentation share one cache."""
    e = experiment_of(name)
    mark = digest([e.augmentation.model_dump(mode="json"), e.training.seed])[:8]
    return f"{e.dataset}-{e.base}-{mark}"


LATENTS = {latents_name(name): name for name in CONFIG.experiments}


def checkpoint_of(name, step=None):
    step = step or evaluation_step(CONFIG, name)
    return f"{RESULTS}/experiments/{name}/mvdiffusion/checkpoint-{step}/provenance.json"


def decision_of(name):
    return f"{RESULTS}/experiments/{name}/evaluation/step-{evaluation_step(CONFIG, name)}/decision.json"


def synthetic_of(name):
    return f"{RESULTS}/experiments/{name}/synthetic/manifest.json"


def synthetic_inputs(w):
    """What decides the generated views of an experiment."""
    e = experiment_of(w.experiment)
    return {
        "manifest": manifest_of(e.dataset),
        "base": base_of(e.base),
        "checkpoint": checkpoint_of(w.experiment),
        "prompts": prompts_of(w.experiment, evaluation_step(CONFIG, w.experiment))[
            "embeds"
        ],
    }


def gslrm_of(name):
    folder = f"{RESULTS}/experiments/{name}/gslrm"
    return {
        "weights": f"{folder}/gslrm.safetensors",
        "metrics": f"{folder}/metrics.json",
        "ply": f"{folder}/gaussians.ply",
        "turntable": f"{folder}/turntable.gif",
        "strip": f"{folder}/turntable.png",
        "renders": f"{folder}/renders.png",
    }


def report_of(name):
    return f"{RESULTS}/experiments/{name}/report/index.html"


def state_of(name, stage):
    """Training state: never a declared output, so that Snakemake never deletes it."""
    return f"{RESULTS}/state/{name}/{stage}"


def decided_case(name):
    """The recorded decision; raises inside Snakemake until the checkpoint rule has run."""
    step = evaluation_step(CONFIG, name)
    output = checkpoints.evaluate_checkpoint.get(experiment=name, step=step).output
    return json.loads(Path(output.decision).read_text())["case"]


def decided_files(_wildcards):
    route = follow(CONFIG, decided_case)
    files = [report_of(name) for name, _ in route.visited] + [f"{RESULTS}/journal.csv"]
    if route.converged:
        files += gslrm_of(route.converged).values()
    else:
        files.append(f"{RESULTS}/exhausted")
    return files


def visited_decisions(_wildcards):
    return [decision_of(name) for name, _ in follow(CONFIG, decided_case).visited]


def case_files(case):
    """All files of a case, without asking for a decision."""
    if case != "A" and case not in CONFIG.cases:
        raise WorkflowError(f"cases.{case} names no experiment; add it to the config.")
    name = CONFIG.experiment if case == "A" else CONFIG.cases[case]
    return [
        decision_of(CONFIG.experiment),
        decision_of(name),
        *gslrm_of(name).values(),
        report_of(name),
    ]


def existing(*paths):
    """Those that exist: a missing one is named by the stage, in a sentence."""
    return [str(p) for p in paths if Path(p).is_file()]


def recorded_files(w):
    """Files of a person that decide a data set: mended cameras or masks must not be overlooked."""
    data = CONFIG.datasets[w.dataset]
    if data.kind == "markerless":
        patterns = [data.videos, data.masks]
        films = [p.format(camera=c) for p in patterns for c in range(data.cameras)]
        return existing(data.calibration, *films)
    cameras = (
        sorted(data.path.glob("sample_*/opencv_cameras.json"))
        if data.kind == "folder"
        else []
    )
    return existing(data.rig, *cameras)


def pictures_mark(w):
    """Changes when any picture of a person's folder is replaced; listing thousands as inputs would be slow."""
    data = CONFIG.datasets[w.dataset]
    if data.kind != "folder":
        return ""
    files = sorted(data.path.glob("sample_*/images/*"))
    return digest([[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files])


def scratch_data(w):
    base = CONFIG.bases[w.base]
    return [manifest_of(base.dataset)] if base.kind == "scratch" else []


def weights_files(w):
    """Weights of a person's base folder, so that an exchange of them is noticed."""
    base = CONFIG.bases[w.base]
    if base.kind != "local":
        return []
    return existing(
        *sorted(base.path.glob("*/*.*")), *([base.gslrm] if base.gslrm else [])
    )


def segment_start(w):
    """The exported checkpoint that the segment up to `step` continues from."""
    before = [s for s in segment_ends(CONFIG, w.experiment) if s < int(w.step)]
    return [checkpoint_of(w.experiment, before[-1])] if before else []


def launch_command(resources, threads):
    """What stands before `mvfl train`: nothing for one process, since a launcher would swallow signals and exit status.

    Several nodes: nodes, tasks (the same number), mpi: srun, tasks_per_gpu: 0 and gres: "gpu:N" instead of gpu.
    """
    nodes = int(resources.get("nodes", 1))
    if nodes > 1:
        gpus = str(resources.gres).split(":")[-1]
        return (
            f"srun --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 --gres={resources.gres}"
            f" --cpus-per-task={threads} --kill-on-bad-exit=1 mvfl launch --per-node {gpus}"
        )
    gpus = int(resources.get("gpu", 0))
    return "" if gpus < 2 else " ".join(accelerate_command(gpus))


def converged_gslrm(w):
    """The 3D result belongs on the page only where the verdict was A."""
    return (
        list(gslrm_of(w.experiment).values())
        if decided_case(w.experiment) == "A"
        else []
    )
