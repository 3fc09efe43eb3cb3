"""The whole of `workflow_config.yaml`, and whether its parts can work together: all that can be known before any job."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from mvfl.config.schema import (
    Base,
    Case,
    Dataset,
    EmbeddedBase,
    Evaluation,
    Experiment,
    LocalBase,
    MarkerlessDataset,
    Name,
    ScratchBase,
    Strict,
    Wandb,
)  # fmt: skip
from mvfl.geometry.cameras import CameraError
from mvfl.geometry.rig import Rig, load_rig

EMBEDDED = Path(__file__).parents[1] / "base" / "embedded"


class WorkflowConfig(Strict):
    """The whole of `workflow_config.yaml`, overlays applied."""

    results: Path = Field(Path("results"), description="folder for everything that is made")
    experiment: str = Field(description="experiment that `all` starts with")
    bases: dict[Name, Base]
    datasets: dict[Name, Dataset]
    defaults: dict[str, Any] = Field({}, description="merged under every experiment; same keys as an experiment")
    experiments: dict[Name, Experiment]
    evaluation: Evaluation = Evaluation()
    cases: dict[Literal["B", "C", "D"], str] = Field(description="experiment to run next for each case")
    decisions: dict[str, Case] = Field({}, description="a person's override per experiment; recorded beside the verdict")
    wandb: Wandb = Wandb()

    @model_validator(mode="after")
    def _names_exist(self) -> WorkflowConfig:
        def known(name: str, table: dict[str, Any], where: str) -> None:
            if name not in table:
                near = difflib.get_close_matches(name, table, n=1)
                hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(sorted(table))}."
                raise ValueError(f"{where}: '{name}' is not defined; {hint}")

        known(self.experiment, self.experiments, "experiment")
        for name, experiment in self.experiments.items():
            known(experiment.base, self.bases, f"experiments.{name}.base")
            known(experiment.dataset, self.datasets, f"experiments.{name}.dataset")
            step = experiment.evaluation_step or self.evaluation.step
            if step > experiment.training.steps:
                raise ValueError(
                    f"experiments.{name}: the verdict at step {step} lies beyond training.steps "
                    f"({experiment.training.steps}); lower evaluation.step or train longer."
                )
        for case, name in self.cases.items():
            known(name, self.experiments, f"cases.{case}")
        for name in self.decisions:
            known(name, self.experiments, "decisions")
        for name, base in self.bases.items():
            if isinstance(base, ScratchBase):
                known(base.dataset, self.datasets, f"bases.{name}.dataset")
        return self

    @model_validator(mode="after")
    def _experiments_can_run(self) -> WorkflowConfig:
        """What a stage would refuse hours later, as far as the configuration alone can tell."""
        for name, experiment in self.experiments.items():
            for fault in self._faults(experiment):
                raise ValueError(f"experiments.{name}: {fault}")
        return self

    def _faults(self, experiment: Experiment) -> Iterator[str]:
        dataset, base, shape = self.datasets[experiment.dataset], self.bases[experiment.base], experiment.gslrm
        rig = _rig_of(dataset)
        views = dataset.cameras if isinstance(dataset, MarkerlessDataset) else len(rig.cameras) if rig else 0
        size = image_size_of(base)
        if size is not None and size != dataset.image_size:
            yield (
                f"data set {experiment.dataset} has pictures of {dataset.image_size} px, base {experiment.base} draws {size} px; "
                f"set datasets.{experiment.dataset}.image_size to {size} or use another base."
            )
        if experiment.reference != "random" and experiment.reference >= views:
            yield f"reference {experiment.reference} does not exist: {experiment.dataset} has views 0 to {views - 1}."
        if experiment.reference != "random" and experiment.synthetic.references == "all":
            yield "synthetic.references 'all' needs reference 'random': the model would be asked for inputs it never saw."
        if experiment.view_conditioning == "relative_prompt" and not (rig and rig.is_symmetric):
            yield (
                f"view_conditioning relative_prompt needs a uniform ring, and {experiment.dataset} has none: the prompt words "
                "would mean other directions for every reference. Use relative_pose."
            )
        if shape.input_views > views:
            yield f"gslrm.input_views is {shape.input_views}, but {experiment.dataset} has {views} views."
        if shape.view_choice != "first" and shape.real_targets:
            yield (
                f"gslrm.view_choice '{shape.view_choice}' draws inputs and targets from the same sample, and real_targets are "
                "of another one than the generated inputs: use 'first', or real_targets: false."
            )
        if shape.losses.perceptual > 0 and shape.losses.vgg_path is not None and not shape.losses.vgg_path.is_file():
            yield f"gslrm.losses.vgg_path {shape.losses.vgg_path} does not exist."


def _rig_of(dataset: Dataset) -> Rig | None:
    """The rig that a data set names; a recording has its own, known after its calibration was read."""
    if isinstance(dataset, MarkerlessDataset):
        return None
    try:
        return load_rig(dataset.rig, dataset.image_size)
    except (CameraError, OSError) as error:
        raise ValueError(f"a data set's rig cannot be used: {error}") from error


def image_size_of(base: Base) -> int | None:
    """Pixels per side that a base draws; None where its files are not here yet (checked when latents are cached)."""
    if isinstance(base, ScratchBase):
        return base.image_size
    folder = EMBEDDED if isinstance(base, EmbeddedBase) else base.path if isinstance(base, LocalBase) else None
    configs = [folder / part / "config.json" for part in ("unet", "vae")] if folder else []
    if not configs or not all(c.is_file() for c in configs):
        return None
    unet, vae = (json.loads(c.read_text()) for c in configs)
    return unet["sample_size"] * 2 ** (len(vae["block_out_channels"]) - 1)
