"""The speed benchmark runs the real training steps; here at tiny size."""

import pytest
import torch

from mvfl.gslrm.model import GslrmConfig
from mvfl.inspection.speed import PUBLISHED_UNET, time_gslrm_training, time_training
from mvfl.mvdiffusion.unet import build_unet

CPU = torch.device("cpu")
TINY_UNET = {
    **PUBLISHED_UNET, "sample_size": 8, "block_out_channels": [32, 32], "layers_per_block": 1, "cross_attention_dim": 32,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "attention_head_dim": [1, 1], "projection_class_embeddings_input_dim": 64,
}  # fmt: skip


def test_it_measures_the_published_unet() -> None:
    with torch.device("meta"):
        unet = build_unet(PUBLISHED_UNET)
    assert sum(p.numel() for p in unet.parameters()) == 870_184_644


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_row_holds_what_was_measured(checkpointing: bool) -> None:
    row = time_training(TINY_UNET, CPU, 1, batch_size=1, mixed_precision="no", gradient_checkpointing=checkpointing)
    assert row["seconds"] > 0 and row["objects"] == 1 and ("checkpointing" in row["what"]) == checkpointing
    assert row["objects_per_second"] == pytest.approx(1 / row["seconds"], rel=0.01) and "compiled" not in row["what"]


def test_gslrm_steps_are_measured_with_their_rendering() -> None:
    row = time_gslrm_training(GslrmConfig(image_size=16, width=64, layers=1), 1, CPU, 1, torch.bfloat16)
    assert row["seconds"] > 0
