"""LPIPS, an optional extra: the user names the backbone and the heads, mvfl ships neither.

VGG-16 features after each block's last ReLU, unit-normalised over channels; squared differences are weighted by the
published heads, averaged over pixels and summed over blocks.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mvfl.runtime.files import InputError
from mvfl.runtime.reading import require_file
from mvfl.runtime.weights import load_strictly, read_tensors, require_sound

# Channels of torchvision's VGG-16 `features`; M is a 2 x 2 maximum.
LAYERS: tuple[int | str, ...] = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512)
TAPS = (3, 8, 15, 22, 29)  # index of the ReLU that ends each block
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class Lpips(nn.Module):
    """The metric; lower is more alike."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in LAYERS:
            if isinstance(width, str):
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
        self.features = nn.Sequential(*layers)
        self.heads = nn.ParameterList(nn.Parameter(torch.zeros(c)) for c in (64, 128, 256, 512, 512))
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Float[Tensor, "n 3 height width"], truth: Float[Tensor, "n 3 height width"]) -> Float[Tensor, " n"]:
        """Distance per picture; pictures in 0..1."""
        shift, scale = (torch.tensor(v, device=images.device).view(1, 3, 1, 1) for v in (SHIFT, SCALE))
        a, b = ((2 * x - 1 - shift) / scale for x in (images, truth))
        total = torch.zeros(len(images), device=images.device)
        tap = 0
        for i, layer in enumerate(self.features):
            a, b = layer(a), layer(b)
            if i in TAPS:
                difference = (F.normalize(a, dim=1, eps=1e-10) - F.normalize(b, dim=1, eps=1e-10)).square()
                total += (difference * self.heads[tap].view(1, -1, 1, 1)).sum(1).mean((1, 2))
                tap += 1
        return total


def load_lpips(backbone: Path, heads: Path) -> Lpips:
    """Read torchvision's VGG-16 (`features.<i>.weight|bias`) and LPIPS' heads (`lin<i>.model.1.weight`).

    Raises:
        InputError: a file is missing or damaged, or lacks a tensor.
    """
    model = Lpips()
    for path in (backbone, heads):
        require_file(path, "evaluation.lpips needs files that you bring")
    weights, lines = read_tensors(backbone, "VGG-16 weights"), read_tensors(heads, "LPIPS heads")
    try:
        wanted = {k: weights[k] for k in model.state_dict() if k.startswith("features.")}
        rows = {k: lines[k] for k in (f"lin{i}.model.1.weight" for i in range(len(TAPS)))}
    except KeyError as error:
        raise InputError(f"{backbone} and {heads} are not VGG-16 and LPIPS heads for it: {error} is missing.") from error
    require_sound(wanted, str(backbone))
    require_sound(rows, str(heads))
    wanted |= {f"heads.{i}": row.flatten() for i, row in enumerate(rows.values())}
    load_strictly(model, wanted, f"{backbone} with {heads}")
    return model.eval()
