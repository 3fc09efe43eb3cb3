"""From a configuration to jobs: what each stage of each experiment is told. The rules and the command line ask here.

Nothing here loads torch, so that plans are quick.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from mvfl.config.bases import HubBase, ScratchBase
from mvfl.config.datasets import RodentDataset
from mvfl.config.evaluation import Scoring
from mvfl.config.experiment import Experiment, Generation, TrainingRun, ViewSampling
from mvfl.config.routing import Route, drawing_step, ending, evaluation_step, follow, segment_ends
from mvfl.config.strict import Case, part_of
from mvfl.config.workflow import WorkflowConfig
from mvfl.layout import Layout
from mvfl.records.decision import DecisionRecord
from mvfl.runtime.files import InputError, digest
from mvfl.stages import jobs


class Plan:
    """The jobs of a configuration.

    Args:
        config: validated.
    """

    def __init__(self, config: WorkflowConfig) -> None:
        self.config, self.layout = config, Layout(config.results)
        # Experiments that share data, base and augmentation share one cache.
        self.caches = {
            self.latents_name(name, dataset): (name, dataset) for name, e in config.experiments.items() for dataset in e.datasets
        }

    def experiment(self, name: str) -> Experiment:
        """Settings of an experiment."""
        return self.config.experiments[name]

    def verdict_step(self, name: str) -> int:
        """Optimiser step at which an experiment is judged."""
        return evaluation_step(self.config, name)

    def latents_name(self, name: str, dataset: str) -> str:
        """Name of an experiment's latent cache of one data set."""
        e = self.experiment(name)
        mark = digest([e.augmentation.model_dump(mode="json"), e.training.seed])[:8]
        return f"{dataset}-{e.base}-{mark}"

    # ---------------------------------------------------------------------------------------------------- jobs
    def data(self, dataset: str) -> jobs.DataJob:
        """Make or check a data set."""
        return jobs.DataJob(name=dataset, dataset=self.config.datasets[dataset], out=self.layout.manifest(dataset).parent)

    def fetch(self, base: str) -> jobs.FetchJob:
        """Fetch a base from the model hub."""
        return jobs.FetchJob.model_validate({"base": self.config.bases[base], "out": self.layout.fetched(base).parent})

    def base(self, base: str) -> jobs.BaseJob:
        """Prepare a base."""
        settings, layout = self.config.bases[base], self.layout
        manifest = layout.manifest(settings.dataset) if isinstance(settings, ScratchBase) else None
        fetched = layout.fetched(base) if base in self.hub_bases() else None
        return jobs.BaseJob(base=settings, manifest=manifest, fetched=fetched, out=layout.base(base).parent)

    def hub_bases(self) -> list[str]:
        """Bases that have to be fetched."""
        return [name for name, base in self.config.bases.items() if isinstance(base, HubBase)]

    def prompts(self, base: str, style: str) -> jobs.PromptsJob:
        """Encode a prompt style."""
        return jobs.PromptsJob.model_validate(
            {"style": style, "base": self.layout.base(base), "out": self.layout.prompts(base, style).folder}
        )

    def latents(self, cache: str) -> jobs.LatentsJob:
        """Encode the pictures of a data set."""
        name, dataset = self.caches[cache]
        e = self.experiment(name)
        return jobs.LatentsJob(
            augmentation=e.augmentation, seed=e.training.seed, manifest=self.layout.manifest(dataset),
            base=self.layout.base(e.base), out=self.layout.latents(cache).parent,
        )  # fmt: skip

    def train(self, name: str, step: int) -> jobs.TrainJob:
        """Train an experiment up to a step, from the last cut before it."""
        e, layout = self.experiment(name), self.layout
        before = [s for s in segment_ends(self.config, name) if s < step]
        return jobs.TrainJob(
            run=part_of(e, TrainingRun), wandb=self.config.wandb, until_step=step, manifest=layout.manifest(e.dataset),
            base=layout.base(e.base), latents=[layout.latents(self.latents_name(name, d)).parent for d in e.datasets],
            prompts=layout.prompts(e.base, e.prompt_style_at(step)).embeds,
            start=layout.checkpoint(name, before[-1]).folder if before else None,
            state=layout.state(name, "mvdiffusion"), out=layout.checkpoint(name, step).folder,
        )  # fmt: skip

    def score(self, name: str, step: int) -> jobs.ScoreJob:
        """Measure an experiment at a step."""
        e, layout = self.experiment(name), self.layout
        return jobs.ScoreJob(
            experiment=name, sampling=part_of(e, ViewSampling), scoring=part_of(self.config.evaluation, Scoring),
            manifest=layout.manifest(e.dataset), base=layout.base(e.base),
            checkpoint=layout.checkpoint(name, step).folder, prompts=layout.prompts(e.base, e.prompt_style_at(step)).embeds,
            out=layout.verdict(name, step).folder,
        )  # fmt: skip

    def scoring_megabytes(self, name: str) -> int:
        """Memory of a verdict: five sets of pictures of all pairs (recorded, drawn, three that need no model), and the networks."""
        e, scoring = self.experiment(name), self.config.evaluation
        views = self.config.views_of(e.dataset) or 6
        pairs = scoring.samples * (views if e.reference == "random" and scoring.references == "all" else 1)
        return max(24_000, 8000 + round(5.3 * pairs * views * 12 * self.config.datasets[e.dataset].image_size ** 2 / 1e6))

    def decide(self, name: str, step: int) -> jobs.DecideJob:
        """Make a decision of an experiment's measurements."""
        verdict = self.layout.verdict(name, step)
        return jobs.DecideJob(
            thresholds=self.config.evaluation.thresholds, override=self.config.decisions.get(name), metrics=verdict.metrics,
            out=verdict.decision,
        )  # fmt: skip

    def generation(self, name: str) -> jobs.GenerationInputs:
        """What decides an experiment's generated views: the checkpoint that was judged, or a later one."""
        e, layout, step = self.experiment(name), self.layout, drawing_step(self.config, name)
        return jobs.GenerationInputs(
            generation=part_of(e, Generation), manifest=layout.manifest(e.dataset), base=layout.base(e.base),
            checkpoint=layout.checkpoint(name, step).folder, prompts=layout.prompts(e.base, e.prompt_style_at(step)).embeds,
            state=layout.state(name, "synthetic"),
        )  # fmt: skip

    def synthetic(self, name: str, piece: str) -> jobs.SyntheticJob:
        """Generate one piece of an experiment's views."""
        return jobs.SyntheticJob(source=self.generation(name), piece=piece, out=self.layout.piece(name, piece))

    def join(self, name: str, pieces: Iterable[str | Path]) -> jobs.JoinJob:
        """Make one data set of an experiment's pieces."""
        return jobs.JoinJob(source=self.generation(name), pieces=[Path(p) for p in pieces], out=self.layout.synthetic(name).parent)

    def gslrm(self, name: str) -> jobs.GslrmJob:
        """Fine-tune GS-LRM on an experiment's generated views, or on the recorded ones."""
        e, layout = self.experiment(name), self.layout
        return jobs.GslrmJob(
            gslrm=e.gslrm, wandb=self.config.wandb, run_name=f"gslrm_{e.wandb_run}", lpips=self.config.evaluation.lpips,
            base=layout.base(e.base),
            real=layout.manifest(e.dataset), synthetic=layout.synthetic(name) if e.gslrm.generated else None,
            others=[layout.manifest(d) for d in e.shown_to_gslrm[1:]],
            state=layout.state(name, "gslrm"), out=layout.reconstruction(name).folder,
        )  # fmt: skip

    def zero_shot(self, dataset: str, base: str) -> jobs.ZeroShotJob:
        """Judge a base's GS-LRM on recorded views, untrained, as the first experiment with both would use it."""
        order = [self.config.experiment, *self.config.experiments]
        found = [n for n in order if (self.experiment(n).dataset, self.experiment(n).base) == (dataset, base)]
        return jobs.ZeroShotJob(
            gslrm=self.experiment((found or order)[0]).gslrm, base=self.layout.base(base), manifest=self.layout.manifest(dataset),
            out=self.layout.zero_shot(dataset, base).folder,
        )  # fmt: skip

    def models(self, name: str, piece: str) -> jobs.ModelsJob:
        """Make one share of the 3D models of an experiment's data set."""
        layout, generated = self.layout, self.experiment(name).gslrm.generated
        return jobs.ModelsJob(
            reconstruct=self.config.reconstruct, experiment=layout.experiment(name),
            manifest=layout.manifest(self.experiment(name).dataset), views=layout.synthetic(name) if generated else None,
            evaluation=None if generated else layout.verdict(name, self.verdict_step(name)).folder,
            gslrm=layout.reconstruction(name).folder, piece=piece, folder=layout.models(name).folder,
            out=layout.models_piece(name, piece),
        )  # fmt: skip

    def models_page(self, name: str, pieces: Iterable[str | Path]) -> jobs.ModelsPageJob:
        """Write the page of all models."""
        settings, out = self.config.reconstruct, self.layout.models(name).folder
        e = self.experiment(name)
        pages = {f"the experiment {name}": self.layout.report(name), f"the data set {e.dataset}": self.layout.data_page(e.dataset)}
        return jobs.ModelsPageJob(reconstruct=settings, pieces=[Path(p) for p in pieces], pages=pages, out=out)

    def report(self, name: str, case: Case) -> jobs.ReportJob:
        """Write an experiment's page; the 3D result belongs on it only where the verdict was A."""
        layout, e = self.layout, self.experiment(name)
        return jobs.ReportJob(
            name=name, experiment=e, rendered=isinstance(self.config.datasets[e.dataset], RodentDataset),
            evaluation=layout.verdict(name, self.verdict_step(name)).folder,
            gslrm=layout.reconstruction(name).folder if case == "A" else None,
            data_page=layout.data_page(e.dataset), out=layout.report(name),
        )  # fmt: skip

    def journal(self, route: Route) -> jobs.JournalJob:
        """Write the table of the verdicts on a route."""
        return jobs.JournalJob(
            cases={case: name for case, name in self.config.cases.items()}, ending=ending(self.config, route),
            decisions=[self.decision(n) for n, _ in route.visited],
            table=self.layout.journal, page=self.layout.journal.with_suffix(".md"),
        )  # fmt: skip

    def compare(self, group: str) -> jobs.CompareJob:
        """Compare experiments: those of the sweep, or all that were judged.

        Args:
            group: `sweep` or `judged`.

        Raises:
            InputError: the configuration has no sweep, or nothing was judged yet.
        """
        layout, everyone = self.layout, list(self.config.experiments)
        route = self.known_route() if group == "judged" else None
        swept = [name for name, _ in self.config.sweep.variants()] if self.config.sweep else []
        names = swept if group == "sweep" else [n for n in everyone if self._is_judged(n)]
        if not names:
            need = "the configuration has no `sweep`" if group == "sweep" else "no experiment was judged yet; run `evaluate` first"
            raise InputError(f"There is nothing to compare: {need}.")
        found = [layout.reconstruction(n).folder for n in names if layout.reconstruction(n).metrics.is_file()]
        return jobs.CompareJob(
            experiments={n: self.experiment(n) for n in names}, ending=ending(self.config, route) if route else "",
            converged=route.converged if route else None, reconstructions=found,
            evaluations=[layout.verdict(n, self.verdict_step(n)).folder for n in names],
            logs=[layout.checkpoint(n, self.verdict_step(n)).log for n in names], out=layout.comparison(group).folder,
            pages={n: layout.report(n) for n in names if layout.report(n).is_file()},
        )  # fmt: skip

    def export(self, name: str) -> jobs.ExportJob:
        """Make a base of what an experiment learned."""
        e, layout, step = self.experiment(name), self.layout, self.verdict_step(name)
        return jobs.ExportJob(
            experiment=e, base=layout.base(e.base), checkpoint=layout.checkpoint(name, step).folder,
            evaluation=layout.verdict(name, step).folder, gslrm=layout.reconstruction(name).folder, out=layout.export(name),
        )  # fmt: skip

    # --------------------------------------------------------------------------------------------------- targets
    def decision(self, name: str) -> Path:
        """An experiment's decision."""
        return self.layout.verdict(name, self.verdict_step(name)).decision

    def results_of(self, name: str) -> list[str]:
        """The 3D result and the page of an experiment."""
        return [*self.layout.reconstruction(name).declared().values(), str(self.layout.report(name))]

    def stage_files(self, name: str) -> dict[str, list[str]]:
        """What each stage of an experiment makes, by the stage's name."""
        layout = self.layout
        e, step = self.experiment(name), self.verdict_step(name)
        paths = {
            "synthetic": layout.synthetic(name), "report": layout.report(name), "base": layout.export(name),
        }  # fmt: skip
        checkpoint, verdict, model = layout.checkpoint(name, step), layout.verdict(name, step), layout.reconstruction(name)
        folders = {"train": checkpoint, "evaluate": verdict, "gslrm": model, "zero_shot": layout.zero_shot(e.dataset, e.base)}
        folders["reconstruct"] = layout.models(name)
        styles = dict.fromkeys([*(phase.prompt_style for phase in e.curriculum), e.prompt_style])
        several = {
            "data": [str(layout.manifest(d)) for d in e.datasets],
            "prompts": [str(layout.prompts(e.base, style).embeds) for style in styles],
        }
        return several | {k: [str(v)] for k, v in paths.items()} | {k: list(f.declared().values()) for k, f in folders.items()}

    def targets(self) -> dict[str, list[str]]:
        """Stages of the first experiment by their name (`train`), of all experiments by both names (`train_mouse_6x_aug`)."""
        everything = {
            f"{stage}_{name}": files for name in self.config.experiments for stage, files in self.stage_files(name).items()
        }
        comparisons = {"compare": "judged"} | ({"sweep": "sweep"} if self.config.sweep else {})
        pages = {target: list(self.layout.comparison(group).declared().values()) for target, group in comparisons.items()}
        return self.stage_files(self.config.experiment) | everything | pages

    def trained(self, name: str) -> list[int]:
        """Ends of an experiment's training segments up to the verdict."""
        return [s for s in segment_ends(self.config, name) if s <= self.verdict_step(name)]

    def route(self, case_of: Callable[[str], Case]) -> Route:
        """Follow the decisions from the first experiment on; `case_of` may raise where one is not known yet."""
        return follow(self.config, case_of)

    def _is_judged(self, name: str) -> bool:
        """Whether all that a comparison reads of an experiment is there."""
        step = self.verdict_step(name)
        files = [*self.layout.verdict(name, step).declared().values(), str(self.layout.checkpoint(name, step).log)]
        return all(Path(file).is_file() for file in files)

    def judged_mark(self) -> str:
        """Changes when any verdict or 3D result was made anew; a comparison must not ask for them to be made."""
        found = [self.layout.reconstruction(n).metrics for n in self.config.experiments] + self.layout.decisions()
        return digest([[str(f), f.stat().st_mtime_ns] for f in found if f.is_file()])

    def known_route(self) -> Route | None:
        """The way that recorded decisions lead, or None where one is still to come."""

        def case_of(name: str) -> Case:
            return self.config.decisions.get(name) or DecisionRecord.read(self.decision(name)).case

        try:
            return self.route(case_of)
        except InputError:
            return None

    def decided_files(self, case_of: Callable[[str], Case]) -> list[str]:
        """What a whole run makes: pages and journal of all visited experiments, and the 3D result of the converged one."""
        route = self.route(case_of)
        files = [str(self.layout.report(name)) for name, _ in route.visited] + [str(self.layout.journal)]
        # Snakemake makes a lost file again only where a target, or a job that must run, asks for it by name.
        files += [file for name, _ in route.visited for stage in ("train", "evaluate") for file in self.stage_files(name)[stage]]
        return files + (self.results_of(route.converged) if route.converged else [str(self.layout.exhausted)])

    def case_files(self, case: Case) -> list[str]:
        """All files of a case, without asking for a decision."""
        return [str(self.decision(name)) for name in self.case_experiments(case)] + self.results_of(self.case_experiments(case)[-1])

    def case_experiments(self, case: Case) -> list[str]:
        """The first experiment, and the one that a case goes on with.

        Raises:
            InputError: the configuration names none for this case.
        """
        if case == "A":
            return [self.config.experiment]
        if case not in self.config.cases:
            raise InputError(f"cases.{case} names no experiment; add it to the configuration.")
        return list(dict.fromkeys([self.config.experiment, self.config.cases[case]]))
