"""`mvfl reconstruct`: one picture of an animal -> six views -> a 3D model, with what a finished experiment has learned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from pydantic import ValidationError
from torch import Tensor

from mvfl.config.experiment import Generation
from mvfl.config.gslrm import GslrmFinetuning
from mvfl.data.framing import framed, framing, read_picture, training_pictures, usual_framing
from mvfl.geometry.tensors import camera_tensors
from mvfl.gslrm.checkpoint import load_gslrm
from mvfl.gslrm.export import save_film, visible_gaussians, write_model
from mvfl.gslrm.views import Views
from mvfl.layout import Checkpoint, Reconstruction
from mvfl.metrics.image import predicted_mask
from mvfl.metrics.pictures import save_grid, to_pil
from mvfl.mvdiffusion.sampling import Sampler
from mvfl.records.manifest import Manifest
from mvfl.records.provenance import Provenance
from mvfl.records.record import first_fault
from mvfl.runtime.devices import device
from mvfl.runtime.files import InputError
from mvfl.runtime.progress import say
from mvfl.runtime.provenance import write_provenance


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
        folder: `results/experiments/<name>` with the stages `synthetic` and `gslrm` done.

    Raises:
        InputError: a stage has not run, or a file changed since.
    """
    generated, shaped = (folder / stage / "provenance.json" for stage in ("synthetic", "gslrm"))
    for path, target in ((generated, "synthetic"), (shaped, "gslrm")):
        if not path.is_file():
            raise InputError(f"{path} does not exist; run the `{target}` target first.")
    views, shapes = Provenance.read(generated), Provenance.read(shaped)
    files = {key: views.unchanged(key) for key in ("checkpoint", "base", "manifest", "prompts")}
    try:
        generation, gslrm = Generation.model_validate(views.settings), GslrmFinetuning.model_validate(shapes.settings)
    except ValidationError as error:
        raise InputError(f"{folder} was made with other settings than this mvfl knows ({first_fault(error)}).") from error
    return Learned(
        generation, gslrm, files["checkpoint"].parent, files["base"], files["manifest"], files["prompts"],
        Reconstruction(folder / "gslrm").weights,
    )  # fmt: skip


def reconstruct_picture(
    picture: Path, experiment: Path, out: Path, view: int | None = None, reframe: bool = False, seed: int | None = None,
    film: bool = False,
) -> None:  # fmt: skip
    """Sample six views from one picture and make a 3D model of them.

    Args:
        picture: of one animal, cut out (alpha) or on white.
        experiment: `results/experiments/<name>`.
        out: gets `views/`, `views.png`, `gaussians.ply`, `turntable.gif`, `turntable.png`, `provenance.json`.
        view: the rig's camera that the picture resembles; default: the fixed reference, or 0.
        reframe: bring the animal to the size and place that training pictures of its outline have, for pictures of other
            cameras. A picture of the rig needs no reframing: its own frame says where the animal is and how large.
        seed: of the noise; default: the experiment's.
        film: also write `turntable.mp4`.

    Raises:
        InputError: see the helpers; or a view that the experiment was not trained to start from.
    """
    rgba = read_picture(picture)
    learned = read_experiment(experiment)
    manifest, generation = Manifest.read(learned.manifest), learned.generation
    reference = _reference(generation, manifest, view)
    shown = framed(rgba, manifest.image_size, usual_framing(manifest, rgba) if reframe else None)
    if not reframe:
        _warn_of_unusual_size(manifest, rgba)
    sampler = Sampler.load(learned.base, learned.checkpoint, learned.prompts, manifest.rig, generation)
    start = generation.sampling.seed if seed is None else seed
    slots = sampler.sample(shown[None], [manifest.rig.cameras], [reference], [(start, 0, reference)])[0]
    order = sampler.slot_views(reference)
    images = slots[[order.index(v) for v in range(manifest.views)]]
    images[reference] = shown  # what was photographed is known better than what was sampled of it
    (out / "views").mkdir(parents=True, exist_ok=True)
    for v, image in enumerate(images):
        to_pil(image).save(out / "views" / f"cam_{v:03d}.png")
    save_grid(out / "views.png", [("your picture", shown[None]), ("sampled views", slots)])
    # GS-LRM sees 8-bit pictures, as it did in training.
    eight_bit = (images * 255).round() / 255
    views = Views(eight_bit, predicted_mask(eight_bit).float(), *camera_tensors(manifest.rig.cameras))
    model = load_gslrm(learned.weights, manifest.image_size, learned.gslrm.clip_xyz).to(device())
    gaussians = visible_gaussians(model, views.select(slice(learned.gslrm.input_views)), str(picture))
    write_model(gaussians, learned.gslrm.turntable_views, manifest.image_size, learned.gslrm.renderer, out)
    if film:
        save_film(gaussians, out / "turntable.mp4", renderer=learned.gslrm.renderer)
    inputs: dict[str, Path | str] = {
        "picture": picture, "base": learned.base, "checkpoint": Checkpoint(learned.checkpoint).provenance,
        "gslrm": learned.weights,
    }  # fmt: skip
    settings = {"view": reference, "reframe": reframe, "seed": start, "generation": generation.model_dump(mode="json")}
    write_provenance(out, "reconstruct", settings, inputs, manifest.rig.hash)
    say(f"{len(gaussians)} Gaussians: {out / 'gaussians.ply'}; look at {out / 'views.png'} and {out / 'turntable.gif'}.")


def _reference(generation: Generation, manifest: Manifest, view: int | None) -> int:
    """The view that the picture stands for."""
    fixed = None if generation.reference == "random" else generation.reference
    reference = view if view is not None else (fixed or 0)
    if not 0 <= reference < manifest.views or (fixed is not None and reference != fixed):
        allowed = f"0 to {manifest.views - 1}" if fixed is None else f"only {fixed}"
        raise InputError(f"--view {reference} is not a view that this experiment starts from ({allowed}).")
    return reference


def _warn_of_unusual_size(manifest: Manifest, rgba: Float[Tensor, "4 side side"]) -> None:
    ratio = framing(rgba[3]).size_ratio
    usual = [framing(picture[3]).size_ratio for picture in training_pictures(manifest)]
    if not 0.8 * min(usual) <= ratio <= 1.25 * max(usual):
        say(
            f"Warning: the animal has a size ratio of {ratio:.2f}, in training {min(usual):.2f} to {max(usual):.2f}; try --reframe."
        )
