"""Outlines by SAM 2 (Ravi et al. 2024), through transformers' own classes; the weights are the user's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from mvfl.data.mask_making import Picture
from mvfl.data.masks import cleaned
from mvfl.runtime.devices import device
from mvfl.runtime.files import InputError
from mvfl.runtime.reading import named_errors

MEAN, SPREAD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)  # of ImageNet
WIDER = 0.35  # of the patch's box on each side: a tail and a nose reach beyond the patch


class SamOutliner:
    """Finds the animal in a box about a patch of it.

    Args:
        folder: `Sam2Model.save_pretrained`'s.

    Raises:
        InputError: missing, or of another kind.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import Sam2Model

        remedy = "name the folder of SAM 2 weights in transformers' form, for example a copy of facebook/sam2.1-hiera-small"
        if not (folder / "config.json").is_file():
            raise InputError(f"{folder} holds no config.json; {remedy}.")
        with named_errors(folder, "SAM 2 weights", remedy):
            self.model: Any = Sam2Model.from_pretrained(folder, local_files_only=True).eval().to(device())
            self.side = int(self.model.config.vision_config.backbone_config.image_size[0])

    def __call__(self, picture: Picture, hint: np.ndarray) -> np.ndarray:
        """The animal's mask, 0 or 255, from a picture and a patch of it."""
        x, y, width, height = cv2.boundingRect(hint.view(np.uint8))
        more, (rows, columns) = WIDER * max(width, height), hint.shape
        corners = (max(0.0, x - more), max(0.0, y - more), min(columns, x + width + more), min(rows, y + height + more))
        return self.in_box(picture, corners)

    @torch.no_grad()
    def in_box(self, picture: Picture, corners: tuple[float, float, float, float]) -> np.ndarray:
        """The animal's mask, 0 or 255, from a picture and a box around it: left, top, right, bottom."""
        rows, columns = picture.shape[:2]
        # As SAM 2's own processor does, which would need torchvision: a square picture, boxes scaled with it.
        scaled = [v * self.side / n for v, n in zip(corners, (columns, rows) * 2, strict=True)]
        pixels = cv2.resize(picture, (self.side, self.side), interpolation=cv2.INTER_LINEAR).astype(np.float32) / 255
        values = torch.from_numpy((pixels - MEAN) / SPREAD).permute(2, 0, 1)[None].to(self.model.device)
        boxes = torch.tensor([[scaled]], dtype=torch.float32, device=self.model.device)
        logits = self.model(pixel_values=values, input_boxes=boxes, multimask_output=False).pred_masks.float().cpu()
        full = torch.nn.functional.interpolate(logits.flatten(0, 1), (rows, columns), mode="bilinear", align_corners=False)[0, 0]
        return cleaned((full > 0).numpy().astype(np.uint8) * 255)
