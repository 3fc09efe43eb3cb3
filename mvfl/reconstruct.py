"""`mvfl reconstruct`: one picture of an animal -> six views -> a 3D model, with what a finished experiment has learned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from mvfl.config.schema import Generation, GslrmFinetuning
from mvfl.data.samples import Manifest, read_manifest, rgba_tensor, with_mask
from mvfl.evaluation.metrics import predicted_mask
from mvfl.evaluation.pictures import save_grid, to_pil
from mvfl.evaluation.scoring import draw_views
from mvfl.evaluation.stage import load_finetuned
from mvfl.geometry.tensors import camera_tensors
from mvfl.gslrm.checkpoint import load_gslrm
from mvfl.gslrm.stage import visible_gaussians, write_model
from mvfl.gslrm.training import Views
from mvfl.mvdiffusion.conditioning import slot_views
from mvfl.mvdiffusion.training import load_prompts
from mvfl.runtime.devices import device
from mvfl.runtime.files import InputError, read_json, sha256
from mvfl.runtime.progress import say
from mvfl.runtime.provenance import write_provenance

FRAMING_SAMPLES = 50  # training samples that tell how animals stand in the frame
MATCHES = 5  # of their pictures, those with the most similar outlines
OUTLINE_SIDE = 32  # pixels


@dataclass(frozen=True)
class Learned:
    """What a finished experiment holds, read from its provenance.

    Attributes:
        generation: how views are drawn.
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
    drawn = read_json(folder / "synthetic" / "provenance.json", "run the `synthetic` target first")
    shaped = read_json(folder / "gslrm" / "provenance.json", "run the `gslrm` target first")
    files = {key: _unchanged(drawn["inputs"], key) for key in ("checkpoint", "base", "manifest", "prompts")}
    return Learned(
        Generation.model_validate(drawn["settings"]), GslrmFinetuning.model_validate(shaped["settings"]),
        files["checkpoint"].parent, files["base"], files["manifest"], files["prompts"], folder / "gslrm" / "gslrm.safetensors",
    )  # fmt: skip


def _unchanged(inputs: dict[str, dict[str, str]], key: str) -> Path:
    if key not in inputs:
        raise InputError(f"The experiment does not record its {key}; run again with --forcerun join_synthetic.")
    path = Path(inputs[key]["file"])
    if not path.is_file():
        raise InputError(f"{path} does not exist from here; call mvfl reconstruct in the folder where snakemake ran.")
    if sha256(path) != inputs[key]["sha256"]:
        raise InputError(f"{path} changed since the experiment ran; run snakemake again before reconstructing.")
    return path


@dataclass(frozen=True)
class Framing:
    """How an animal stands in a square picture.

    Attributes:
        size_ratio: sqrt(foreground pixels / all pixels), the measure of size in the recorded data.
        centre: column and row of the mask's centre of mass, as shares of the side.
    """

    size_ratio: float
    centre: tuple[float, float]


def framing(alpha: Float[Tensor, "side side"]) -> Framing:
    """Framing of the animal in a mask."""
    mask = alpha > 0.5
    row, column = mask.nonzero().float().add(0.5).div(mask.shape[0]).mean(0).tolist()
    return Framing(float(mask.float().mean().sqrt()), (column, row))


def usual_framing(manifest: Manifest, rgba: Float[Tensor, "4 height width"]) -> Framing:
    """How training pictures of this outline are framed: the median of those whose silhouettes are most alike.

    A mouse seen from the front covers fewer pixels than the same mouse from the side, and its body stands elsewhere in the
    frame; the outline tells which of them this is.
    """
    wanted, known, alike = _outline(rgba), [], []
    for picture in _training_pictures(manifest):
        outline = _outline(picture)
        known.append(framing(picture[3]))
        alike.append(float(torch.minimum(outline, wanted).sum() / torch.maximum(outline, wanted).sum()))
    best = [known[i] for i in np.argsort(alike)[-MATCHES:]]
    rows = np.median([[f.size_ratio, *f.centre] for f in best], axis=0)
    return Framing(float(rows[0]), (float(rows[1]), float(rows[2])))


def _training_pictures(manifest: Manifest) -> Iterator[Float[Tensor, "4 height width"]]:
    step = max(1, len(manifest.train) // FRAMING_SAMPLES)
    for rgba in manifest.read_ahead(manifest.train[::step][:FRAMING_SAMPLES]):
        yield from rgba


def _outline(rgba: Float[Tensor, "4 height width"]) -> Float[Tensor, "side side"]:
    """The silhouette alone, in the middle of a small picture and of one size."""
    black = torch.cat([torch.zeros_like(rgba[:3]), rgba[3:]])
    return 1 - framed(black, OUTLINE_SIDE, Framing(0.25, (0.5, 0.5)))[0]


def read_picture(path: Path) -> Float[Tensor, "4 height width"]:
    """Any picture as RGBA in 0..1; without an alpha channel the animal is what differs from white.

    Raises:
        InputError: not a picture, or nothing in it.
    """
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)  # cameras and phones note how they were held
            rgba = rgba_tensor([with_mask(np.asarray(upright.convert("RGBA")), path)])[0]
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist.") from error
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise InputError(f"{path} cannot be read as a picture ({error}).") from error
    if not bool((rgba[3] > 0.5).any()):
        raise InputError(f"{path} shows no animal: its alpha channel is empty, or the picture is white.")
    return rgba


def framed(rgba: Float[Tensor, "4 height width"], size: int, wanted: Framing | None) -> Float[Tensor, "3 size size"]:
    """The picture over white as the models know it.

    Args:
        rgba: straight alpha.
        size: pixels per side of the result.
        wanted: size and place of the animal; None keeps the frame of a square picture.

    Raises:
        InputError: a picture that is not square and is to be kept as it is.
    """
    height, width = rgba.shape[-2:]
    if wanted is None:
        if height != width:
            raise InputError(f"The picture is {width} x {height} pixels; it must be square, or use --reframe.")
        corner, side = (0.0, 0.0), float(width)
    else:
        mask = rgba[3] > 0.5
        row, column = mask.nonzero().float().add(0.5).mean(0).tolist()
        side = float(mask.sum().sqrt()) / wanted.size_ratio
        corner = (column - side * wanted.centre[0], row - side * wanted.centre[1])
    # Colours are weighted by alpha, so that nothing of the background bleeds into the outline.
    premultiplied = torch.cat([rgba[:3] * rgba[3:], rgba[3:]])
    planes = [Image.fromarray(plane.numpy()) for plane in premultiplied]
    box = (*corner, corner[0] + side, corner[1] + side)
    pad = int(np.ceil(max(0.0, -box[0], -box[1], box[2] - width, box[3] - height)))
    resized = []
    for plane in planes:
        canvas = Image.new("F", (width + 2 * pad, height + 2 * pad), 0)
        canvas.paste(plane, (pad, pad))
        shifted = tuple(v + pad for v in box)
        resized.append(np.asarray(canvas.resize((size, size), Image.Resampling.LANCZOS, box=shifted)))  # type: ignore[arg-type]
    out = torch.from_numpy(np.stack(resized)).clamp(0, 1)
    return (out[:3] + 1 - out[3:]).clamp(0, 1)


def reconstruct_picture(
    picture: Path, experiment: Path, out: Path, view: int | None = None, reframe: bool = False, seed: int | None = None
) -> None:
    """Draw six views from one picture and make a 3D model of them.

    Args:
        picture: of one animal, cut out (alpha) or on white.
        experiment: `results/experiments/<name>`.
        out: gets `views/`, `views.png`, `gaussians.ply`, `turntable.gif`, `turntable.png`, `provenance.json`.
        view: the rig's camera that the picture resembles; default: the fixed reference, or 0.
        reframe: bring the animal to the size and place that training pictures of its outline have, for pictures of other
            cameras. A picture of the rig needs no reframing: its own frame says where the animal is and how large.
        seed: of the noise; default: the experiment's.

    Raises:
        InputError: see the helpers; or a view that the experiment was not trained to start from.
    """
    rgba = read_picture(picture)
    learned = read_experiment(experiment)
    manifest = read_manifest(learned.manifest)
    generation = learned.generation
    fixed = None if generation.reference == "random" else generation.reference
    reference = view if view is not None else (fixed or 0)
    if not 0 <= reference < manifest.views or (fixed is not None and reference != fixed):
        allowed = f"0 to {manifest.views - 1}" if fixed is None else f"only {fixed}"
        raise InputError(f"--view {reference} is not a view that this experiment starts from ({allowed}).")
    shown = framed(rgba, manifest.image_size, usual_framing(manifest, rgba) if reframe else None)
    if not reframe:
        _warn_of_unusual_size(manifest, rgba)
    pipeline = load_finetuned(learned.base, learned.checkpoint, manifest.rig.hash)
    start = generation.sampling.seed if seed is None else seed
    slots = draw_views(
        pipeline, shown[None], [reference], [(start, 0, reference)], manifest, generation.view_conditioning,
        load_prompts(learned.prompts, pipeline.unet), generation.sampling,
    )[0]  # fmt: skip
    order = slot_views(manifest.rig, reference, generation.view_conditioning)
    images = slots[[order.index(v) for v in range(manifest.views)]]
    (out / "views").mkdir(parents=True, exist_ok=True)
    for v, image in enumerate(images):
        to_pil(image).save(out / "views" / f"cam_{v:03d}.png")
    save_grid(out / "views.png", [("your picture", shown[None]), ("drawn views", slots)])
    # GS-LRM sees 8-bit pictures, as it did in training.
    eight_bit = (images * 255).round() / 255
    c2w, intrinsics = camera_tensors(manifest.rig.cameras)
    views = Views(eight_bit, predicted_mask(eight_bit).float(), c2w, intrinsics).select(slice(learned.gslrm.input_views))
    model = load_gslrm(learned.weights, manifest.image_size, learned.gslrm.clip_xyz).to(device())
    gaussians = visible_gaussians(model, views, str(picture))
    write_model(gaussians, learned.gslrm.turntable_views, manifest.image_size, learned.gslrm.renderer, out)
    inputs: dict[str, Path | str] = {
        "picture": picture, "base": learned.base, "checkpoint": learned.checkpoint / "provenance.json", "gslrm": learned.weights,
    }  # fmt: skip
    settings = {"view": reference, "reframe": reframe, "seed": start, "generation": generation.model_dump(mode="json")}
    write_provenance(out, "reconstruct", settings, inputs, manifest.rig.hash)
    say(f"{len(gaussians)} Gaussians: {out / 'gaussians.ply'}; look at {out / 'views.png'} and {out / 'turntable.gif'}.")


def _warn_of_unusual_size(manifest: Manifest, rgba: Float[Tensor, "4 side side"]) -> None:
    ratio = framing(rgba[3]).size_ratio
    usual = [framing(picture[3]).size_ratio for picture in _training_pictures(manifest)]
    if not 0.8 * min(usual) <= ratio <= 1.25 * max(usual):
        say(
            f"Warning: the animal has a size ratio of {ratio:.2f}, in training {min(usual):.2f} to {max(usual):.2f}; try --reframe."
        )
