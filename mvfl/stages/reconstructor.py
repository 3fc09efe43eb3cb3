"""Pictures to 3D with what was learned, as one thing that is loaded once: the multi-view sampler and GS-LRM."""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from pydantic import ValidationError
from torch import Tensor

from mvfl.config.bases import EMBEDDED
from mvfl.config.experiment import Generation, Sampling, ViewSampling
from mvfl.config.gslrm import GslrmFinetuning
from mvfl.config.patterns import natural
from mvfl.config.strict import ViewConditioning
from mvfl.data.framing import Framing
from mvfl.geometry.cameras import Camera, orbit_camera
from mvfl.geometry.rig import Rig, load_rig
from mvfl.geometry.tensors import camera_tensors
from mvfl.gslrm.checkpoint import load_gslrm
from mvfl.gslrm.export import PUBLISHED, Filters, visible_gaussians
from mvfl.gslrm.model import Gslrm
from mvfl.gslrm.unseen import chosen_inputs
from mvfl.gslrm.views import Views
from mvfl.layout import Checkpoint, Prompts, Reconstruction
from mvfl.metrics.image import predicted_mask
from mvfl.mvdiffusion.conditioning import TELLS_POSES
from mvfl.mvdiffusion.pipeline import MultiViewPipeline
from mvfl.mvdiffusion.sampling import Sampler, for_drawing
from mvfl.mvdiffusion.slots import WORDS
from mvfl.mvdiffusion.unet import WEIGHTS, with_views
from mvfl.records.base import gslrm_checkpoint, missing_parts
from mvfl.records.manifest import Manifest
from mvfl.records.prompts import read_prompts
from mvfl.records.provenance import Provenance
from mvfl.records.published import Published
from mvfl.records.record import first_fault
from mvfl.runtime.devices import device
from mvfl.runtime.files import InputError, digest, sha256
from mvfl.stages.model3d import Model3D
from mvfl.stages.prompts import embed_prompts

# How large animals were in the pictures that bases were trained on, in the middle.
EMBEDDED_FRAMING, PUBLISHED_FRAMING = Framing(0.3, (0.5, 0.5)), Framing(0.58, (0.5, 0.5))
SETTINGS, PROMPTS = "mvfl.json", "clr_embeds.pt"  # of a saved model
APART = 40.0  # degrees; a direction this far from all cameras is not shown by any


@dataclass(frozen=True)
class Reconstructor:
    """Turns pictures of animals into 3D models; made by `load`.

    Attributes:
        sampler: one picture to all views of the rig.
        gslrm: views to Gaussians, on the device to use.
        choice: how views are told and sampled, and which view may be the input.
        rig: cameras that a picture without its own is taken to belong to.
        manifest: data set that the experiment learned from; None for a base.
        sources: files that it was loaded from, by name, for provenance.
        input_views: most views that GS-LRM is given.
        filters: which Gaussians stay in a model.
        usual: how animals stand in the pictures that a base was trained on.
    """

    sampler: Sampler
    gslrm: Gslrm
    choice: ViewSampling
    rig: Rig
    manifest: Manifest | None = None
    sources: dict[str, Path | str] = field(default_factory=dict)
    input_views: int | None = None
    filters: Filters = PUBLISHED
    usual: Framing = PUBLISHED_FRAMING

    @cached_property
    def mark(self) -> str:
        """Changes with the weights that were loaded, and with how they are used."""
        weights = [sha256(Path(file)) if Path(file).is_file() else str(file) for file in self.sources.values()]
        prompts = hashlib.sha256(self.sampler.prompts.float().cpu().numpy().tobytes()).hexdigest()
        use = [self.rig.hash, self.choice.decisive(), self.input_views, self.gslrm.config.to_json()]
        return digest([*weights, prompts, *use])

    @property
    def image_size(self) -> int:
        """Pixels per side of the pictures."""
        return self.gslrm.config.image_size

    @staticmethod
    def load(
        source: Path | None = None, rig: str | Rig | None = None, gslrm: Path | None = None, fit_steps: int | None = None
    ) -> Reconstructor:
        """Weights of a finished experiment, of a base, or of the base that ships with mvfl.

        Args:
            source: `results/experiments/<name>`, a pipeline folder with `gslrm/`, or one that `save_pretrained` wrote; default: the
                embedded base.
            rig: of a base: cameras to draw, or the name of a rig; default: those that it was saved with, or `ring60`.
            gslrm: of a base: checkpoint; default: the one in its folder.
            fit_steps: steps in which Gaussians are fitted to the pictures they are made of; default: the experiment's, or none.

        Raises:
            InputError: a stage has not run, files are missing, damaged or changed since, or a rig is named for an experiment.
        """
        if source is None or not missing_parts(source):
            loaded = _of_base(source or EMBEDDED, rig, gslrm)
        elif isinstance(rig, str):
            raise InputError("--rig is of bases; an experiment draws the cameras that it was trained for.")
        else:
            loaded = _of_experiment(source)
        if fit_steps is not None:
            loaded.gslrm.config = replace(loaded.gslrm.config, fit_steps=fit_steps)
        return loaded

    def reference(self, view: int | None) -> int:
        """The view that a picture stands for.

        Raises:
            InputError: a view that the model does not start from.
        """
        fixed = None if self.choice.reference == "random" else self.choice.reference
        reference = view if view is not None else (fixed or 0)
        if not 0 <= reference < len(self.rig.cameras) or (fixed is not None and reference != fixed):
            allowed = f"0 to {len(self.rig.cameras) - 1}" if fixed is None else f"only {fixed}"
            raise InputError(f"--view {reference} is not a view that this experiment starts from ({allowed}).")
        return reference

    def __call__(
        self,
        pictures: Float[Tensor, "n 3 side side"],
        view: int | None = None,
        cameras: Sequence[list[Camera]] | None = None,
        seeds: Sequence[int] | None = None,
        millimetres: float | None = None,
    ) -> list[Model3D]:
        """One picture each to a 3D model each.

        Args:
            pictures: RGB over white in 0..1, framed as in training (`mvfl.data.framing.framed`).
            view: index of the camera that took them, among the rig's; default: the fixed reference, or 0.
            cameras: those that took each picture and its other views; default: the rig's.
            seeds: of the noise, a number per picture; default: the experiment's.
            millimetres: in one world unit of the cameras.
        """
        reference, count = self.reference(view), len(pictures)
        own = [self._resized(those) for those in cameras] if cameras else [self._resized(self.rig.cameras)] * count
        start = list(seeds) if seeds else [self.choice.sampling.seed] * count
        slots = self.sampler.sample(pictures, own, [reference] * count, [(s, 0, reference) for s in start])
        order = self.sampler.slot_views(reference)
        models = []
        for picture, sampled, those in zip(pictures, slots, own, strict=True):
            images = sampled[[order.index(v) for v in range(len(those))]]
            images[reference] = picture  # what was photographed is known better than what was sampled of it
            models.append(self._shaped(images, those, reference, millimetres))
        return models

    def from_views(
        self,
        images: Float[Tensor, "view 3 side side"],
        cameras: list[Camera],
        millimetres: float | None = None,
        complete: bool = False,
        seed: int | None = None,
    ) -> Model3D:
        """Several calibrated pictures of one moment straight to a 3D model.

        Args:
            images: RGB over white in 0..1.
            cameras: that took them; the animal within about +-1 of the origin, 2.7 away.
            millimetres: in one world unit of the cameras.
            complete: draw the directions that no camera shows, each from the nearest picture, and give them to GS-LRM, too: the
                rig's, or where the cameras are the rig's own, those of `ring60`.
            seed: of what is drawn; default: the experiment's.
        """
        own = self._resized(cameras)
        if not complete:
            return self._shaped(images, own, None, millimetres)
        drawn, added = self._missing_views(images, own, self.choice.sampling.seed if seed is None else seed)
        model = self._shaped(torch.cat([images, drawn]), own + added, None, millimetres)
        return replace(model, photographed=len(images))

    def _missing_views(
        self, images: Float[Tensor, "view 3 side side"], cameras: list[Camera], start: int
    ) -> tuple[Float[Tensor, "added 3 side side"], list[Camera]]:
        """Pictures from directions that lie apart from all cameras, drawn of the nearest picture each."""
        for rig in (self.rig, load_rig("ring60", self.image_size)):
            around, likeness = self._directions(rig, cameras)
            if missing := [v for v in range(len(around)) if likeness[v].max() < math.cos(math.radians(APART))]:
                break
        missing = missing[: max(0, (self.input_views or len(around)) - len(cameras))]
        drawn: dict[int, Tensor] = {}
        for near in sorted({int(likeness[v].argmax()) for v in missing}):
            wanted = [v for v in missing if int(likeness[v].argmax()) == near]
            spare = [v for v in range(len(around)) if v not in wanted]
            instead = max(spare, key=lambda v: likeness[v, near]) if spare else wanted.pop()  # this picture takes its slot
            those = [*around[:instead], cameras[near], *around[instead + 1 :]]
            sampler = replace(self.sampler, rig=Rig("around", those))
            seed = (start, 0, instead)
            (slots,) = sampler.sample(images[near : near + 1], [those], [instead], [seed], "missing views")
            order = sampler.slot_views(instead)
            drawn |= {v: slots[order.index(v)] for v in wanted}
        pictures = torch.stack(list(drawn.values())) if drawn else images[:0]
        return pictures, [around[v] for v in drawn]

    def _directions(self, rig: Rig, cameras: list[Camera]) -> tuple[list[Camera], np.ndarray]:
        """Cameras in a rig's directions, as far away as those given and with lenses as theirs; and the cosines to each of them."""
        distance = float(np.mean([np.linalg.norm(c.position) for c in cameras]))
        focal = float(np.mean([c.fx for c in cameras])) * 512 / self.image_size
        around = [orbit_camera(*c.spherical[:2], distance, self.image_size, focal) for c in rig.cameras]
        wanted, given = (np.stack([c.position / np.linalg.norm(c.position) for c in those]) for those in (around, cameras))
        return around, wanted @ given.T

    def _resized(self, cameras: Sequence[Camera]) -> list[Camera]:
        return [c.resized(self.image_size, self.image_size) for c in cameras]

    def _shaped(self, images: Tensor, cameras: list[Camera], reference: int | None, millimetres: float | None) -> Model3D:
        eight_bit = (images * 255).round() / 255  # GS-LRM sees 8-bit pictures, as it did in training
        views = Views(eight_bit, predicted_mask(eight_bit).float(), *camera_tensors(cameras))
        seen = views.select(chosen_inputs(len(images), self.input_views, reference))
        gaussians = visible_gaussians(self.gslrm, seen, "this picture", self.filters)
        return Model3D(gaussians, eight_bit, cameras, reference, millimetres)


@dataclass(frozen=True)
class Learned:
    """What a finished experiment holds, read from its provenance.

    Attributes:
        generation: how views are sampled.
        gslrm: how GS-LRM was fine-tuned.
        checkpoint: multi-view checkpoint folder.
        base, manifest, prompts, weights: files.
    """

    generation: Generation
    gslrm: GslrmFinetuning
    checkpoint: Path
    base: Path
    manifest: Path
    prompts: Path
    weights: Path


def read_experiment(folder: Path) -> Learned:
    """Follow the provenance of an experiment's results to the files that made them.

    Args:
        folder: `results/experiments/<name>` with the stages `synthetic` (but for `gslrm.inputs: real`) and `gslrm` done.

    Raises:
        InputError: no experiment, a stage has not run, or a file changed since.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist; name the folder of a finished experiment, results/experiments/<name>.")
    shaped = folder / "gslrm" / "provenance.json"
    if not shaped.is_file():
        raise InputError(f"{shaped} does not exist; run the `gslrm` target of this experiment first.")
    shapes, generated = Provenance.read(shaped), folder / "synthetic" / "provenance.json"
    if judged := shapes.settings.get("inputs") == "real" and not generated.is_file():  # nothing had to be drawn
        verdicts = sorted(folder.glob("evaluation/step-*/provenance.json"), key=lambda file: natural(file.parent.name))
        generated = verdicts[-1] if verdicts else folder / "evaluation" / "provenance.json"
    if not generated.is_file():
        raise InputError(f"{generated} does not exist; run the `{'evaluate' if judged else 'synthetic'}` target first.")
    views = Provenance.read(generated)
    files = {key: views.unchanged(key) for key in ("checkpoint", "base", "manifest", "prompts")}
    try:
        generation = Generation.model_validate(views.settings["sampling"] if judged else views.settings)
        gslrm = GslrmFinetuning.model_validate(shapes.settings)
    except ValidationError as error:
        raise InputError(f"{folder} was made with other settings than this mvfl knows ({first_fault(error)}).") from error
    return Learned(
        generation, gslrm, files["checkpoint"].parent, files["base"], files["manifest"], files["prompts"],
        Reconstruction(folder / "gslrm").weights,
    )  # fmt: skip


def _of_experiment(folder: Path) -> Reconstructor:
    learned = read_experiment(folder)
    manifest = Manifest.read(learned.manifest)
    sampler = Sampler.load(learned.base, learned.checkpoint, learned.prompts, manifest.rig, learned.generation)
    gslrm = load_gslrm(learned.weights, manifest.image_size, learned.gslrm.clip_xyz, learned.gslrm.fit_steps).to(device())
    sources: dict[str, Path | str] = {
        "base": learned.base, "checkpoint": Checkpoint(learned.checkpoint).provenance, "gslrm": learned.weights,
    }  # fmt: skip
    return Reconstructor(sampler, gslrm, learned.generation, manifest.rig, manifest, sources, learned.gslrm.input_views)


def _of_base(folder: Path, wanted: str | Rig | None, gslrm: Path | None) -> Reconstructor:
    """A pipeline as it is, or as `mvfl base save` wrote it.

    A base that is told its cameras takes any input view, the published one the first.
    """
    weights = gslrm or gslrm_checkpoint(folder)
    if weights is None:
        raise InputError(f"{folder} holds no GS-LRM checkpoint in gslrm/; copy the whole base.")
    pipeline = MultiViewPipeline.from_pretrained(folder)
    config = pipeline.unet.config
    size = config.sample_size * 2 ** (len(pipeline.vae.config.block_out_channels) - 1)
    saved = Published.read(folder / SETTINGS) if (folder / SETTINGS).is_file() else None
    choice = saved.choice if saved else _usual_choice(folder, config.get("view_conditioning", "prompt"))
    if isinstance(wanted, Rig):
        rig = wanted
    else:
        rig = Rig.from_json(saved.rig, str(folder / SETTINGS)) if saved and wanted is None else load_rig(wanted or "ring60", size)
    with_views(pipeline.unet, len(rig.cameras))
    sampler = Sampler(for_drawing(pipeline), _prompts_of(folder, config), rig, choice.view_conditioning, choice.sampling)
    sources: dict[str, Path | str] = {"base": str(folder), "unet": folder / "unet" / WEIGHTS, "gslrm": weights}
    usual = EMBEDDED_FRAMING if folder.resolve() == EMBEDDED else PUBLISHED_FRAMING
    used = (saved.clip_xyz, saved.fit_steps) if saved else (False, 0)
    model = load_gslrm(weights, size, *used).to(device())
    return Reconstructor(
        sampler, model, choice, rig, sources=sources, input_views=saved.input_views if saved else None,
        usual=Framing(saved.size_ratio, saved.centre) if saved else usual,
    )  # fmt: skip


def _usual_choice(folder: Path, conditioning: ViewConditioning) -> ViewSampling:
    """How views of a base that says nothing of it are told and sampled."""
    return ViewSampling(
        reference="random" if conditioning in TELLS_POSES else 0, view_conditioning=conditioning,
        sampling=Sampling(guidance=2.0 if folder.resolve() == EMBEDDED else 3.0),
    )  # fmt: skip


def _prompts_of(folder: Path, config: Any) -> Tensor:
    """The embeddings that a saved model was trained with, or those of the usual style by the base's own text encoder."""
    if (folder / PROMPTS).is_file():
        return read_prompts(folder / PROMPTS, WORDS, config.cross_attention_dim)
    with tempfile.TemporaryDirectory() as place:
        embed_prompts("mouse_elevated", folder, Path(place), config.cross_attention_dim)
        return read_prompts(Prompts(Path(place)).embeds, WORDS, config.cross_attention_dim)
