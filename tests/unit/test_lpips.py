"""LPIPS, from files that the user brings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mvfl.metrics.lpips import TAPS, Lpips, load_lpips
from mvfl.runtime.files import InputError


def test_lpips_needs_its_files_and_is_zero_for_equal_pictures(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = {k: torch.randn_like(v) * 0.05 for k, v in Lpips().state_dict().items() if k.startswith("features.")}
    torch.save({**state, "classifier.0.weight": torch.zeros(1)}, tmp_path / "vgg16.pth")
    widths = (64, 128, 256, 512, 512)
    torch.save({f"lin{i}.model.1.weight": torch.rand(1, widths[i], 1, 1) for i in range(len(TAPS))}, tmp_path / "vgg.pth")
    model = load_lpips(tmp_path / "vgg16.pth", tmp_path / "vgg.pth")
    image = torch.rand(2, 3, 32, 32)
    assert model(image, image).abs().max() == 0
    near, far = (model(image, (image + s * torch.randn_like(image)).clamp(0, 1)) for s in (0.05, 0.4))
    assert (near < far).all() and (near > 0).all()
    with pytest.raises(InputError, match="needs files that you bring"):
        load_lpips(tmp_path / "none.pth", tmp_path / "vgg.pth")
    with pytest.raises(InputError, match="is missing"):
        load_lpips(tmp_path / "vgg.pth", tmp_path / "vgg.pth")
