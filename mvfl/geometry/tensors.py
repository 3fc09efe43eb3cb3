"""Cameras as tensors; apart from `cameras.py`, so that reading a configuration does not load torch."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvfl.geometry.cameras import Camera


def camera_tensors(cameras: list[Camera]) -> tuple[Float[Tensor, "view 4 4"], Float[Tensor, "view 4"]]:
    """Stack cameras as c2w [V, 4, 4] and (fx, fy, cx, cy) [V, 4], float32."""
    c2w = torch.from_numpy(np.stack([c.c2w for c in cameras])).float()
    intrinsics = torch.tensor([[c.fx, c.fy, c.cx, c.cy] for c in cameras], dtype=torch.float32)
    return c2w, intrinsics
