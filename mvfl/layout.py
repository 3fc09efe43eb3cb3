"""Every path of the results tree, once. Names may be Snakemake's wildcards, `{experiment}`, where a rule declares a pattern."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

Step = int | str


@dataclass(init=False, frozen=True)
class Files:
    """A folder of results; a subclass has one attribute per file, and `names` says what the files are called."""

    folder: Path
    names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, folder: Path) -> None:
        paths = [folder, *(folder / name for name in self.names)]
        for field, path in zip(fields(self), paths, strict=True):
            object.__setattr__(self, field.name, path)

    def declared(self) -> dict[str, str]:
        """The files that a rule declares, by attribute."""
        return {f.name: str(getattr(self, f.name)) for f in fields(self)[1:]}

    @property
    def provenance(self) -> Path:
        """What made the folder."""
        return self.folder / "provenance.json"


@dataclass(init=False, frozen=True)
class Verdict(Files):
    """`evaluation/step-<step>`: scores and baselines, recorded and sampled views, the training's loss; case and reasons."""

    names = ("metrics.json", "views.png", "loss.png", "decision.json")
    metrics: Path
    views: Path
    loss: Path
    decision: Path

    def scored(self) -> dict[str, str]:
        """The files of the stage `score`; the decision has a stage of its own."""
        return {name: file for name, file in self.declared().items() if name != "decision"}


@dataclass(init=False, frozen=True)
class Prompts(Files):
    """`prompts/<base>/<style>`: text embedding per slot, strings and encoder, cosines between views and between styles."""

    names = ("clr_embeds.pt", "metadata.json", "similarity.json", "similarity.png")
    embeds: Path
    metadata: Path
    similarity: Path
    picture: Path


@dataclass(init=False, frozen=True)
class Checkpoint(Files):
    """`checkpoint-<step>`: exported EMA weights, the one artefact that is judged and used, and the training's log up to there."""

    names = ("unet/config.json", "unet/diffusion_pytorch_model.safetensors", "log.jsonl", "provenance.json")
    config: Path
    weights: Path
    log: Path
    record: Path

    @property
    def unet(self) -> Path:
        """Folder of the UNet."""
        return self.weights.parent


@dataclass(init=False, frozen=True)
class Reconstruction(Files):
    """A `gslrm` folder: weights, scores, recorded pictures beside; of the first judged sample input, Gaussians, films, page."""

    names = (
        "gslrm.safetensors", "metrics.json", "gaussians.ply", "turntable.gif", "turntable.png", "renders.png", "viewer.html",
        "input.png",
    )  # fmt: skip
    weights: Path
    metrics: Path
    ply: Path
    turntable: Path
    strip: Path
    renders: Path
    viewer: Path
    given: Path


@dataclass(init=False, frozen=True)
class ZeroShot(Files):
    """What a base makes of recorded views without training: its page, scores, pictures, and a 3D model."""

    names = ("index.html", "metrics.json", "renders.png", "gaussians.ply", "turntable.gif", "turntable.png")
    page: Path
    metrics: Path
    renders: Path
    ply: Path
    turntable: Path
    strip: Path


@dataclass(init=False, frozen=True)
class Comparison(Files):
    """Several experiments side by side."""

    names = ("index.html", "experiments.csv")
    page: Path
    table: Path


@dataclass(init=False, frozen=True)
class Models(Files):
    """3D models of a data set's samples, a folder each: page, figures, shape and posture as numbers."""

    names = ("index.html", "models.csv", "embeddings.csv")
    page: Path
    table: Path
    embeddings: Path


@dataclass(frozen=True)
class Layout:
    """The results tree.

    Attributes:
        results: its root.
    """

    results: Path

    def manifest(self, dataset: str) -> Path:
        """`manifest.json` of a data set."""
        return self.results / "data" / dataset / "manifest.json"

    def data_page(self, dataset: str) -> Path:
        """Page of a data set."""
        return self.manifest(dataset).with_name("report.html")

    def base(self, base: str) -> Path:
        """`base.json` of a base."""
        return self.results / "base" / base / "base.json"

    def fetched(self, base: str) -> Path:
        """`fetched.json` of a base on the model hub."""
        return self.results / "base" / base / "fetched.json"

    def prompts(self, base: str, style: str) -> Prompts:
        """Prompt embeddings of a style under a base."""
        return Prompts(self.results / "prompts" / base / style)

    def latents(self, cache: str) -> Path:
        """`index.json` of a latent cache."""
        return self.results / "latents" / cache / "index.json"

    def experiment(self, name: str) -> Path:
        """Folder of an experiment."""
        return self.results / "experiments" / name

    def checkpoint(self, name: str, step: Step) -> Checkpoint:
        """Exported weights of an experiment at a step."""
        return Checkpoint(self.experiment(name) / "mvdiffusion" / f"checkpoint-{step}")

    def verdict(self, name: str, step: Step) -> Verdict:
        """Verdict on an experiment at a step."""
        return Verdict(self.experiment(name) / "evaluation" / f"step-{step}")

    def states(self) -> list[Path]:
        """State folders of all experiments and stages, in order of names."""
        return sorted(self.results.glob("state/*/*"))

    def logs(self) -> list[Path]:
        """Logs of all jobs whose rule has several."""
        return sorted(self.results.glob("logs/*/*.log"))

    def decisions(self) -> list[Path]:
        """All decisions that were reached, in order of names."""
        return sorted(self.results.glob("experiments/*/evaluation/step-*/decision.json"))

    def synthetic(self, name: str) -> Path:
        """`manifest.json` of an experiment's generated views."""
        return self.experiment(name) / "synthetic" / "manifest.json"

    def piece(self, name: str, piece: str) -> Path:
        """List of one job's share of the generated views."""
        return self.experiment(name) / "synthetic" / "pieces" / f"{piece}.json"

    def reconstruction(self, name: str) -> Reconstruction:
        """GS-LRM result of an experiment."""
        return Reconstruction(self.experiment(name) / "gslrm")

    def models(self, name: str) -> Models:
        """3D models of all samples, made with an experiment."""
        return Models(self.experiment(name) / "models")

    def models_piece(self, name: str, piece: str) -> Path:
        """List of one job's share of the models."""
        return self.models(name).folder / "pieces" / f"{piece}.json"

    def zero_shot(self, dataset: str, base: str) -> ZeroShot:
        """Zero-shot test of a base's GS-LRM on a data set."""
        return ZeroShot(self.results / "zero_shot" / f"{dataset}-{base}")

    def real_benchmark(self, dataset: str) -> Path:
        """Folder of `mvfl benchmark real` on a recording."""
        return self.results / "real_benchmark" / dataset

    def report(self, name: str) -> Path:
        """Page of an experiment."""
        return self.experiment(name) / "report" / "index.html"

    def export(self, name: str) -> Path:
        """Card of the base that was made of an experiment."""
        return self.experiment(name) / "base" / "card.json"

    def state(self, name: str, stage: str) -> Path:
        """Training state: never a declared output, so that Snakemake never deletes it. `*` stands for all."""
        return self.results / "state" / name / stage

    def comparison(self, group: str) -> Comparison:
        """Page and table of several experiments: those `judged` so far, or those of the `sweep`."""
        return Comparison(self.results / "compare" / group)

    @property
    def journal(self) -> Path:
        """Table of all verdicts; its page is `journal.md`."""
        return self.results / "journal.csv"

    @property
    def exhausted(self) -> Path:
        """Never made: its rule ends a run in which no experiment is left."""
        return self.results / "exhausted"

    def log(self, rule: str, name: str = "") -> str:
        """Log of a rule; `name` tells its jobs apart."""
        return str(self.results / "logs" / rule / f"{name}.log" if name else self.results / "logs" / f"{rule}.log")

    def benchmark(self, rule: str, name: str = "") -> str:
        """Benchmark of a rule; `name` tells its jobs apart."""
        return str(self.results / "benchmarks" / rule / f"{name}.tsv" if name else self.results / "benchmarks" / f"{rule}.tsv")
