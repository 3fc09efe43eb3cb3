"""Stage `prompts`: a style, encoded with the base's own text encoder, with its similarity to the others."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import torch
from transformers import CLIPTextModel, CLIPTokenizer

from mvfl.config.prompt_styles import STYLES
from mvfl.config.strict import PromptStyle
from mvfl.layout import Prompts
from mvfl.mvdiffusion.encoding import cosine_similarity, encode_prompts
from mvfl.mvdiffusion.unet import read_architecture
from mvfl.records.base import BaseRecord
from mvfl.records.prompts import PromptMetadata
from mvfl.runtime.files import InputError, digest, sha256, write_json, written_aside
from mvfl.runtime.progress import say
from mvfl.runtime.provenance import write_provenance
from mvfl.runtime.reading import named_errors
from mvfl.stages.jobs import PromptsJob

matplotlib.use("Agg")


def run(job: PromptsJob) -> None:
    """Encode a style into `clr_embeds.pt` [view, 77, width], `metadata.json`, `similarity.json` and `similarity.png`.

    Raises:
        InputError: the text encoder is missing or damaged, or does not fit the UNet.
    """
    folder = BaseRecord.read(job.base).pipeline if job.base.suffix == ".json" else job.base
    config = read_architecture(folder / "unet").config
    embed_prompts(job.style, folder, job.out, config.cross_attention_dim)
    source = job.base if job.base.suffix == ".json" else str(job.base)
    write_provenance(job.out, "prompts", {"style": job.style}, {"base": source})
    say(f"Wrote {Prompts(job.out).embeds}.")


def embed_prompts(style: PromptStyle, base: Path, folder: Path, width: int) -> None:
    """Encode a style with a pipeline's own text encoder.

    Args:
        style: one of `STYLES`.
        base: pipeline folder with `tokenizer/` and `text_encoder/`.
        folder: where the files go.
        width: of the cross attention of the UNet that will read the file.

    Raises:
        InputError: the text encoder is missing or damaged, or does not fit the UNet.
    """
    tokenizer, encoder = _load_text_encoder(base, width)
    chosen, out = STYLES[style], Prompts(folder)
    everything = {name: encode_prompts(s.prompts, tokenizer, encoder) for name, s in STYLES.items()}
    embeds = everything[style]
    if not torch.isfinite(embeds).all():
        raise InputError(f"The text encoder of {base} gives NaN or infinity; its weights are damaged.")
    between_views = cosine_similarity(embeds)
    between_styles = cosine_similarity(torch.stack([e.flatten(0, 1) for e in everything.values()]))
    folder.mkdir(parents=True, exist_ok=True)  # may be a folder of the user's: only our own files are written
    with written_aside(out.picture) as temporary:
        _plot_matrices(temporary, style, chosen.views, between_views, list(everything), between_styles)
    tables = {"views": (chosen.views, between_views), "styles": (list(everything), between_styles)}
    write_json(out.similarity, {k: {"names": n, "cosine": m.round(4).tolist()} for k, (n, m) in tables.items()})
    PromptMetadata(
        style=style, views=list(chosen.views), color_prompts=chosen.prompts, normal_prompts=chosen.normal_prompts,
        shape=list(embeds.shape), dtype="float16",
        encoder={"kind": type(encoder).__name__, "width": encoder.config.hidden_size,
                 "sha256": sha256(base / "text_encoder" / "model.safetensors")},
        sha256=digest(embeds.numpy().tobytes().hex()),
    ).write(out.metadata)  # fmt: skip
    with written_aside(out.embeds) as temporary:
        torch.save(embeds.clone(), temporary)


def _load_text_encoder(base: Path, width: int) -> tuple[CLIPTokenizer, CLIPTextModel]:
    for part in ("tokenizer", "text_encoder"):
        if not (base / part).is_dir():
            raise InputError(f"{base / part} does not exist; prompts need the base's own text encoder. There are no substitutes.")
    with named_errors(base, "a base with tokenizer and text encoder", "copy the published folder again"):
        tokenizer = CLIPTokenizer.from_pretrained(str(base / "tokenizer"))
        encoder = CLIPTextModel.from_pretrained(str(base / "text_encoder"), dtype=torch.float32).eval()
    if encoder.config.hidden_size != width:
        raise InputError(
            f"The text encoder of {base} is {encoder.config.hidden_size} wide, the UNet's cross attention needs {width}; "
            "they come from different models. Use the text encoder that belongs to the UNet."
        )
    return tokenizer, encoder


def _plot_matrices(path: Path, style: str, views: tuple[str, ...], a: np.ndarray, styles: list[str], b: np.ndarray) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained")
    for ax, names, matrix, title in ((axes[0], list(views), a, f"views of '{style}'"), (axes[1], styles, b, "styles (all views)")):
        ax.imshow(matrix, cmap="viridis", vmin=min(0.0, float(matrix.min())), vmax=1)
        ax.set_xticks(range(len(names)), names, rotation=45, ha="right")
        ax.set_yticks(range(len(names)), names)
        for (i, j), value in np.ndenumerate(matrix):
            ax.text(j, i, f"{value:.2f}", ha="center", va="center", color="white" if value < 0.8 else "black", fontsize=8)
        ax.set_title(f"Cosine similarity: {title}")
    figure.savefig(path, dpi=110, format="png")
    plt.close(figure)
