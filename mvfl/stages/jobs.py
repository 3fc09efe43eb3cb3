"""The contract of each stage, stated once: what it is told, what it reads, where it writes.

The rules fill these types, `mvfl <stage> --job FILE|JSON` reads them, `mvfl schema` describes them. How a job is run (threads,
log, time budget) is not part of it. Nothing here loads torch, so that plans are quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field

from mvfl.config.bases import Base, HubBase
from mvfl.config.datasets import Dataset
from mvfl.config.evaluation import LpipsFiles, Scoring, Thresholds, Wandb
from mvfl.config.experiment import Augmentation, Experiment, Generation, TrainingRun, ViewSampling
from mvfl.config.gslrm import GslrmFinetuning
from mvfl.config.models import Reconstructing
from mvfl.config.strict import Case, PromptStyle, Strict, setting
from mvfl.layout import Checkpoint, Reconstruction, Verdict


class Made(NamedTuple):
    """Marks a path that another stage makes: a change of it asks for the job again.

    Attributes:
        files: of a folder, those to look at.
    """

    files: tuple[str, ...] = ()


class Job(Strict):
    """One run of a stage: settings and paths."""

    def inputs(self) -> dict[str, list[Path]]:
        """The files that other stages make, by the name of their field."""
        out: dict[str, list[Path]] = {}
        for name, field in type(self).model_fields.items():
            value, marks = getattr(self, name), [m for m in field.metadata if isinstance(m, Made)]
            if isinstance(value, Job):
                out |= value.inputs()
            elif marks and value is not None:
                paths = value if isinstance(value, list) else [value]
                out[name] = [p / f for p in paths for f in marks[0].files] if marks[0].files else list(paths)
        return out


File = Annotated[Path, Made()]
Trained = Annotated[Path, Made(Checkpoint.names), Field(description="checkpoint-<step> folder")]
BaseFile = Annotated[Path, Made(), Field(description="base.json")]


class DataJob(Job):
    """Render a data set, prepare a recording, or check existing samples; writes `manifest.json`."""

    name: str
    dataset: Dataset
    out: Path


class FetchJob(Job):
    """Fetch a base from the model hub; writes `fetched.json`."""

    base: HubBase
    out: Path


class BaseJob(Job):
    """Check or build a base; writes `base.json`."""

    base: Base
    fetched: Annotated[Path | None, Made(), Field(description="fetched.json of a base on the hub")] = None
    manifest: Annotated[Path | None, Made()] = Field(None, description="data set of a scratch base's autoencoder")
    out: Path


class PromptsJob(Job):
    """Encode a prompt style with a base's own text encoder; writes `clr_embeds.pt`."""

    style: PromptStyle
    base: Annotated[Path, Made(), Field(description="base.json, or a pipeline folder")]
    out: Path


class LatentsJob(Job):
    """Encode all pictures of a data set; writes the latent cache."""

    augmentation: Augmentation
    seed: int = Field(description="of the tints")
    manifest: File
    base: BaseFile
    out: Path


class TrainJob(Job):
    """Train multi-view diffusion up to a step; writes `checkpoint-<step>`."""

    run: TrainingRun
    wandb: Wandb = setting(Wandb(), "nothing")
    until_step: int = Field(ge=1)
    manifest: Path = Field(description="for validation; the latents stand for its pictures")
    base: BaseFile
    latents: Annotated[
        list[Path], Made(("index.json",)), Field(min_length=1, description="latent caches, that of the judged data set first")
    ]
    prompts: Annotated[Path, Made(), Field(description="clr_embeds.pt of this segment's prompt style")]
    start: Annotated[Path | None, Made(Checkpoint.names)] = Field(None, description="checkpoint of the segment before")
    state: Path = Field(description="training state and log; kept between runs")
    out: Path


class ScoreJob(Job):
    """Measure a checkpoint; writes `metrics.json` and pictures."""

    experiment: str
    sampling: ViewSampling
    scoring: Scoring
    manifest: File
    base: BaseFile
    checkpoint: Trained
    prompts: File
    out: Path


class DecideJob(Job):
    """Make a decision of measurements; writes `decision.json`."""

    thresholds: Thresholds
    override: Case | None = Field(None, description="a person's decision")
    metrics: File
    out: Path


class GenerationInputs(Job):
    """What decides generated views."""

    generation: Generation
    manifest: File
    base: BaseFile
    checkpoint: Trained
    prompts: File
    state: Path = Field(description="finished samples; outlasts jobs")


class SyntheticJob(Job):
    """Generate one piece of the synthetic views; lists them in `out`."""

    source: GenerationInputs
    piece: str = Field("1-of-1", description="which share of the samples, as 2-of-4")
    out: Path


class JoinJob(Job):
    """Make one data set of all pieces; writes `manifest.json`."""

    source: GenerationInputs
    pieces: Annotated[list[Path], Made(), Field(min_length=1)]
    out: Path


class GslrmJob(Job):
    """Fine-tune GS-LRM and write weights, scores, PLY and turntable."""

    gslrm: GslrmFinetuning
    wandb: Wandb = setting(Wandb(), "nothing")
    run_name: str = setting("gslrm", "nothing", description="of the W&B run")
    lpips: LpipsFiles | None = setting(None, "pictures", description="adds LPIPS to the scores")
    base: BaseFile
    real: Annotated[Path, Made(), Field(description="manifest of the recorded data")]
    synthetic: Annotated[Path | None, Made()] = Field(None, description="manifest of the generated views, where they are inputs")
    others: Annotated[list[Path], Made()] = Field([], description="manifests of recordings to learn from besides")
    state: Path
    out: Path


class ZeroShotJob(Job):
    """Judge a base's GS-LRM on recorded views, without training; writes its page, scores and a 3D model."""

    gslrm: GslrmFinetuning
    samples: int = Field(8, ge=1, description="validation samples to judge, spread evenly")
    base: BaseFile
    manifest: File
    out: Path


class ModelsJob(Job):
    """Make one share of the 3D models of a data set's samples; lists them in `out`."""

    reconstruct: Reconstructing
    experiment: Path = Field(description="its folder, with the stages `synthetic` (or `evaluate`) and `gslrm` done")
    manifest: File
    views: Annotated[Path | None, Made(), Field(description="manifest of the experiment's generated views")] = None
    evaluation: Annotated[Path | None, Made(Verdict.names[:1]), Field(description="its verdict, where nothing is generated")] = None
    gslrm: Annotated[Path, Made(Reconstruction.names[:1]), Field(description="folder of its GS-LRM result")]
    piece: str = Field("1-of-1", description="which share of the samples, as 2-of-4")
    folder: Path = Field(description="gets a folder per model")
    out: Path


class ModelsPageJob(Job):
    """Write page, tables, viewer and film of all models."""

    reconstruct: Reconstructing
    pieces: Annotated[list[Path], Made(), Field(min_length=1)]
    pages: dict[str, Path] = Field({}, description="pages to link to, by what they are called")
    out: Path


class ReportJob(Job):
    """Write the page of an experiment."""

    name: str
    experiment: Experiment
    rendered: bool = Field(False, description="whether the pictures are rendered, not recorded")
    evaluation: Annotated[Path, Made(Verdict.names), Field(description="folder of the verdict")]
    gslrm: Annotated[Path | None, Made(Reconstruction.names)] = Field(None, description="folder of the GS-LRM result")
    data_page: Path | None = Field(None, description="page of the data set, to link to")
    out: Path


class JournalJob(Job):
    """Write the table of all verdicts, in order."""

    cases: dict[str, str]
    ending: str = Field(description="how the run ended, in a sentence")
    decisions: Annotated[list[Path], Made()]
    table: Path
    page: Path


class CompareJob(Job):
    """Write a page and a table of several experiments."""

    experiments: dict[str, Experiment]
    ending: str = Field(description="how the run ended, in a sentence")
    converged: str | None = None
    evaluations: Annotated[list[Path], Made(Verdict.names), Field(description="folders of the verdicts, in the same order")]
    logs: Annotated[list[Path], Made(), Field(description="logs of the trainings, in the same order")]
    reconstructions: Annotated[list[Path], Made(Reconstruction.names[1:2])] = Field(
        [], description="folders of GS-LRM results, of those that have one"
    )
    pages: dict[str, Path] = Field({}, description="experiment -> its page, of those that have one")
    out: Path


class ExportJob(Job):
    """Make a base, in half precision and with a card, of what an experiment learned from a scratch base."""

    experiment: Experiment
    base: BaseFile
    checkpoint: Trained
    evaluation: Annotated[Path, Made(Verdict.names[:1]), Field(description="folder of its verdict")]
    gslrm: Annotated[Path, Made(Reconstruction.names[:2]), Field(description="folder of its GS-LRM result")]
    out: Path


JOBS: dict[str, type[Job]] = {
    "data": DataJob, "fetch": FetchJob, "base": BaseJob, "prompts": PromptsJob, "latents": LatentsJob, "train": TrainJob,
    "score": ScoreJob, "decide": DecideJob, "synthetic": SyntheticJob, "join": JoinJob, "gslrm": GslrmJob,
    "zero_shot": ZeroShotJob, "report": ReportJob, "compare": CompareJob, "models": ModelsJob,
    "models_page": ModelsPageJob, "journal": JournalJob, "export": ExportJob,
}  # fmt: skip
