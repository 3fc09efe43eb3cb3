"""Stage `prompts`: five styles, encoded with the base's own text encoder, with their similarity."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from mvfl.config.schema import PromptStyle
from mvfl.runtime.files import InputError, digest, sha256, write_json, written_aside

matplotlib.use("Agg")


@dataclass(frozen=True)
class Style:
    """One prompt style: six words and a template with `{view}`."""

    views: tuple[str, ...]
    template: str
    normal_template: str

    @property
    def prompts(self) -> list[str]:
        """The strings, one per slot."""
        return [self.template.format(view=v) for v in self.views]

    @property
    def normal_prompts(self) -> list[str]:
        """The strings for normal or depth maps; recorded, not used in training."""
        return [self.normal_template.format(view=v) for v in self.views]


_HYPHENS = ("front", "front-right", "right", "back", "left", "front-left")
_ELEVATED = "a rendering image of a 3D model, {view} view, from above at an angle, "
STYLES: dict[PromptStyle, Style] = {
    "facelift": Style(
        ("front", "front_right", "right", "back", "left", "front_left"),
        "a rendering image of 3D models, {view} view, color map.",
        "a rendering image of 3D models, {view} view, normal map.",
    ),
    "mouse_elevated": Style(
        ("top-front", "top-front-right", "top-right", "top-back", "top-left", "top-front-left"),
        _ELEVATED + "color map.",
        _ELEVATED + "normal map.",
    ),
    "realistic": Style(
        _HYPHENS,
        "a photograph of a mouse, {view} view, from above at an angle.",
        "a depth image of a mouse, {view} view, from above at an angle.",
    ),
    "hybrid": Style(
        _HYPHENS,
        "a multi-view image of a mouse, {view} view, elevated camera.",
        "a normal map of a mouse, {view} view, elevated camera.",
    ),
    "simple": Style(_HYPHENS, "a mouse, {view} view, top-down angle.", "a mouse depth map, {view} view, top-down angle."),
}


@torch.no_grad()
def encode(prompts: list[str], tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> Float[Tensor, "prompt token width"]:
    """Last hidden state after the final layer norm, padded to the tokenizer's length, no attention mask, float16."""
    tokens = tokenizer(prompts, padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt")
    return text_encoder(tokens.input_ids.to(text_encoder.device))[0].half().cpu()


def cosine_similarity(embeds: Float[Tensor, "prompt token width"]) -> np.ndarray:
    """Cosines between flattened embeddings [n, n]."""
    flat = torch.nn.functional.normalize(embeds.float().flatten(1), dim=1)
    return (flat @ flat.T).numpy()


def embed_prompts(style: PromptStyle, base: Path, out: Path, views: int = 6, width: int | None = None) -> None:
    """Encode a style into `out/clr_embeds.pt` [views, 77, C], `metadata.json`, `similarity.json` and `similarity.png`.

    Args:
        style: one of `STYLES`.
        base: pipeline folder with `tokenizer/` and `text_encoder/`.
        out: output folder.
        views: slots of the model.
        width: cross-attention width of the UNet that will read the file.

    Raises:
        InputError: the text encoder is missing or its width does not fit the UNet.
    """
    for part in ("tokenizer", "text_encoder"):
        if not (base / part).is_dir():
            raise InputError(f"{base / part} does not exist; prompts need the base's own text encoder. There are no substitutes.")
    tokenizer = CLIPTokenizer.from_pretrained(str(base / "tokenizer"))
    encoder = CLIPTextModel.from_pretrained(str(base / "text_encoder"), dtype=torch.float32).eval()
    if width is not None and encoder.config.hidden_size != width:
        raise InputError(
            f"The text encoder of {base} is {encoder.config.hidden_size} wide, the UNet's cross attention needs {width}; "
            "they come from different models. Use the text encoder that belongs to the UNet."
        )
    if len(STYLES[style].views) != views:
        raise InputError(f"Style '{style}' has {len(STYLES[style].views)} views, the model draws {views}.")
    everything = {name: encode(s.prompts, tokenizer, encoder) for name, s in STYLES.items()}
    embeds = everything[style]
    if not torch.isfinite(embeds).all():
        raise InputError(f"The text encoder of {base} gives NaN or infinity; its weights are damaged.")
    between_views = cosine_similarity(embeds)
    between_styles = cosine_similarity(torch.stack([e.flatten(0, 1) for e in everything.values()]))
    chosen = STYLES[style]
    out.mkdir(parents=True, exist_ok=True)  # may be a folder of the user's: only our own files are written
    with written_aside(out / "similarity.png") as temporary:
        _draw_matrices(temporary, style, chosen.views, between_views, list(everything), between_styles)
    write_json(
        out / "similarity.json",
        {
            "views": {"names": chosen.views, "cosine": between_views.round(4).tolist()},
            "styles": {"names": list(everything), "cosine": between_styles.round(4).tolist()},
        },
    )
    write_json(
        out / "metadata.json",
        {
            "style": style, "views": chosen.views, "color_prompts": chosen.prompts,
            "normal_prompts": chosen.normal_prompts, "shape": list(embeds.shape), "dtype": "float16",
            "encoder": {"kind": type(encoder).__name__, "width": encoder.config.hidden_size,
                        "sha256": sha256(base / "text_encoder" / "model.safetensors")},
            "sha256": digest(embeds.numpy().tobytes().hex()),
        },
    )  # fmt: skip
    with written_aside(out / "clr_embeds.pt") as temporary:
        torch.save(embeds.clone(), temporary)


def _draw_matrices(path: Path, style: str, views: tuple[str, ...], a: np.ndarray, styles: list[str], b: np.ndarray) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained")
    for ax, names, matrix, title in (
        (axes[0], list(views), a, f"views of '{style}'"),
        (axes[1], styles, b, "styles (all views)"),
    ):
        ax.imshow(matrix, cmap="viridis", vmin=min(0.0, float(matrix.min())), vmax=1)
        ax.set_xticks(range(len(names)), names, rotation=45, ha="right")
        ax.set_yticks(range(len(names)), names)
        for (i, j), value in np.ndenumerate(matrix):
            ax.text(j, i, f"{value:.2f}", ha="center", va="center", color="white" if value < 0.8 else "black", fontsize=8)
        ax.set_title(f"Cosine similarity: {title}")
    figure.savefig(path, dpi=110, format="png")
    plt.close(figure)
