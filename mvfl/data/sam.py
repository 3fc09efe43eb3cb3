"""Outlines by SAM 2 (Ravi et al. 2024), through transformers' own classes; the weights are the user's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from mvfl.data.mask_making import Picture
from mvfl.data.masks import clean
from mvfl.runtime.devices import device
from mvfl.runtime.files import InputError
from mvfl.runtime.reading import named_errors

WIDER = 0.35  # of the patch's box on each side: a tail and a nose reach beyond the patch


class SamOutliner:
    """Finds the animal in a box about a patch of it.

    Args:
        folder: `Sam2Model.save_pretrained`'s, with its processor.

    Raises:
        InputError: missing, or of another kind.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import Sam2Model, Sam2Processor

        remedy = "name the folder of SAM 2 weights in transformers' form, for example a copy of facebook/sam2.1-hiera-small"
        if not (folder / "config.json").is_file():
            raise InputError(f"{folder} holds no config.json; {remedy}.")
        with named_errors(folder, "SAM 2 weights", remedy):
            self.model: Any = Sam2Model.from_pretrained(folder, local_files_only=True).eval().to(device())
            self.processor: Any = Sam2Processor.from_pretrained(folder, local_files_only=True)

    @torch.no_grad()
    def __call__(self, picture: Picture, hint: np.ndarray) -> np.ndarray:
        """The animal's mask, 0 or 255, from a picture and a patch of it."""
        x, y, width, height = cv2.boundingRect(hint.view(np.uint8))
        more = WIDER * max(width, height)
        box = [
            max(0.0, x - more), max(0.0, y - more), min(hint.shape[1], x + width + more), min(hint.shape[0], y + height + more),
        ]  # fmt: skip
        asked = self.processor(images=picture, input_boxes=[[[float(v) for v in box]]], return_tensors="pt").to(self.model.device)
        seen = self.model(**asked, multimask_output=False)
        mask = self.processor.post_process_masks(seen.pred_masks.cpu(), asked["original_sizes"].cpu())[0]
        found = np.ascontiguousarray(mask.reshape(-1, *hint.shape)[0].numpy().astype(np.uint8) * 255)
        silhouette = clean(found).silhouette
        out = np.zeros(hint.shape, np.uint8)
        if silhouette is not None:
            silhouette.draw(out, 255)
        return out
