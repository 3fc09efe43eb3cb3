"""The whole of `workflow_config.yaml`, and whether its parts can work together: all that can be known before any job."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mvfl.config.agreement import generation_faults, gslrm_faults, perceptual_faults, view_faults
from mvfl.config.bases import Base, ScratchBase, image_size_of
from mvfl.config.datasets import Dataset, MarkerlessDataset
from mvfl.config.evaluation import Evaluation, Wandb
from mvfl.config.experiment import Experiment
from mvfl.config.models import Reconstructing
from mvfl.config.strict import Case, Name, Strict, UserPath, nearest
from mvfl.geometry.cameras import CameraError
from mvfl.geometry.rig import Rig, load_rig


class Sweep(Strict):
    """Experiments that are one another's but for some settings: one for each combination."""

    of: str = Field(description="experiment that is varied")
    vary: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(
        min_length=1, description="dotted setting -> its values, as training.learning_rate: [1e-5, 5e-5]"
    )

    def variants(self) -> list[tuple[str, dict[str, Any]]]:
        """Name and settings of each experiment, the settings by their dotted names."""
        out = []
        for values in itertools.product(*self.vary.values()):
            varied = dict(zip(self.vary, values, strict=True))
            marks = [f"{key.split('.')[-1]}-{value}" for key, value in varied.items()]
            out.append((re.sub(r"[^A-Za-z0-9_.-]", "_", "-".join([self.of, *marks])), varied))
        return out


RULES = ("mvdiffusion", "samples", "exhausted")  # train_mvdiffusion and so on


class WorkflowConfig(Strict):
    """The whole of `workflow_config.yaml`, overlays applied."""

    results: UserPath = Field(Path("results"), description="folder for everything that is made")
    experiment: str = Field(description="experiment that `all` starts with")
    bases: dict[Name, Base]
    datasets: dict[Name, Dataset]
    defaults: dict[str, Any] = Field({}, description="merged under every experiment; same keys as an experiment")
    experiments: dict[Name, Experiment]
    evaluation: Evaluation = Evaluation()
    cases: dict[Literal["B", "C", "D"], str] = Field(description="experiment to run next for each case")
    decisions: dict[str, Case] = Field({}, description="a person's override per experiment; recorded beside the verdict")
    wandb: Wandb = Wandb()
    container: str | None = Field(None, description="image of envs/mvfl.def, for --software-deployment-method apptainer")
    reconstruct: Reconstructing = Field(Reconstructing(), description="what the target `reconstruct` makes")
    sweep: Sweep | None = Field(None, description="experiments made by varying settings; run them with the target `sweep`")

    @classmethod
    def model_json_schema(cls, *args: Any, **options: Any) -> dict[str, Any]:
        """The schema that editors read: `defaults` are an experiment's keys, which no single place has to hold all of."""
        schema = super().model_json_schema(*args, **options)
        schema["$defs"]["Experiment"].pop("required", None)
        schema["properties"]["defaults"] = {"$ref": "#/$defs/Experiment", "description": cls.model_fields["defaults"].description}
        return schema

    @model_validator(mode="after")
    def _names_exist(self) -> WorkflowConfig:
        def known(name: str, table: dict[str, Any], where: str) -> None:
            if name not in table:
                raise ValueError(f"{where}: '{name}' is not defined; {nearest(name, sorted(table))}")

        known(self.experiment, self.experiments, "experiment")
        for name, experiment in self.experiments.items():
            known(experiment.base, self.bases, f"experiments.{name}.base")
            known(experiment.dataset, self.datasets, f"experiments.{name}.dataset")
            for other in experiment.also_learn_from:
                known(other, self.datasets, f"experiments.{name}.also_learn_from")
            if len(set(experiment.datasets)) < len(experiment.datasets):
                raise ValueError(f"experiments.{name}: a data set is named twice in dataset and also_learn_from; name each once.")
            step = experiment.evaluation_step or self.evaluation.step
            if step > experiment.training.steps:
                raise ValueError(
                    f"experiments.{name}: the verdict at step {step} lies beyond training.steps "
                    f"({experiment.training.steps}); lower evaluation.step or train longer."
                )
            if not step <= (drawn := experiment.synthetic.step or step) <= experiment.training.steps:
                raise ValueError(
                    f"experiments.{name}: synthetic.step {drawn} must lie between the verdict's step ({step}) and training.steps "
                    f"({experiment.training.steps})."
                )
            if name in RULES:
                raise ValueError(f"experiments.{name}: targets of this name would be called as rules are; choose another one.")
        for case, name in self.cases.items():
            known(name, self.experiments, f"cases.{case}")
        for name in self.decisions:
            known(name, self.experiments, "decisions")
        for name, base in self.bases.items():
            if isinstance(base, ScratchBase):
                known(base.dataset, self.datasets, f"bases.{name}.dataset")
        return self

    @model_validator(mode="after")
    def _folders_differ(self) -> WorkflowConfig:
        found: dict[str, tuple[str, str]] = {}
        for pair in ((d, e.base) for e in self.experiments.values() for d in e.datasets):
            if (other := found.setdefault("-".join(pair), pair)) != pair:
                raise ValueError(f"data set and base {pair} and {other} would share a folder; rename one of them.")
        return self

    @model_validator(mode="after")
    def _experiments_can_run(self) -> WorkflowConfig:
        """What a stage would refuse hours later, as far as the configuration alone can tell."""
        for name, experiment in self.experiments.items():
            for fault in self._faults(experiment):
                raise ValueError(f"experiments.{name}: {fault}")
        return self

    def _faults(self, experiment: Experiment) -> Iterator[str]:
        for name in experiment.datasets:
            dataset, size = self.datasets[name], image_size_of(self.bases[experiment.base])
            if size is not None and size != dataset.image_size:
                yield (
                    f"data set {name} has pictures of {dataset.image_size} px, base {experiment.base} samples {size} px; set "
                    f"datasets.{name}.image_size to {size} or use another base."
                )
            rig = _rig_of(dataset)
            yield from view_faults(experiment, name, self.views_of(name), rig is not None and rig.is_symmetric)
        yield from generation_faults(experiment)
        view, views = self.reconstruct.view, self.views_of(experiment.dataset)
        if view is not None and views is not None and view >= views:
            yield f"reconstruct.view {view} does not exist: {experiment.dataset} has views 0 to {views - 1}."
        yield from perceptual_faults(experiment.gslrm.losses, self.bases[experiment.base])
        for name in experiment.shown_to_gslrm:
            yield from gslrm_faults(experiment.gslrm, name, self.views_of(name))

    def views_of(self, name: str) -> int | None:
        """Cameras of a data set. Videos that do not exist yet say nothing; the stage asks again."""
        dataset = self.datasets[name]
        if isinstance(dataset, MarkerlessDataset):
            return len(dataset.camera_names()) or None
        rig = _rig_of(dataset)
        return len(rig.cameras) if rig else None


def _rig_of(dataset: Dataset) -> Rig | None:
    """The rig that a data set names; a recording has its own, known after its calibration was read."""
    if isinstance(dataset, MarkerlessDataset):
        return None
    try:
        return load_rig(dataset.rig, dataset.image_size)
    except CameraError as error:
        raise ValueError(f"a data set's rig cannot be used: {error}") from error
