"""What a slot is told: its place relative to the reference, and pose columns that start at zero."""

from __future__ import annotations

import pytest
import torch

from mvfl.geometry.rig import load_rig
from mvfl.mvdiffusion.conditioning import pose_features, slot_table
from mvfl.mvdiffusion.pipeline import MultiViewPipeline
from mvfl.mvdiffusion.unet import build_unet, with_view_conditioning
from mvfl.runtime.files import InputError


def test_relative_slots_start_at_the_reference_and_absolute_ones_do_not() -> None:
    rig = load_rig("ring60")
    relative = slot_table(rig, "relative_pose")
    assert relative.views[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert relative.views[2].tolist() == [2, 1, 0, 5, 4, 3]
    assert slot_table(rig, "absolute_prompt").views[4].tolist() == [0, 5, 4, 3, 2, 1]
    assert slot_table(rig, "relative_prompt").poses is None


def test_poses_of_a_symmetric_rig_are_the_same_for_every_reference_and_of_the_measured_rig_are_not() -> None:
    ring, measured = load_rig("ring60"), load_rig("markerless_mouse_1")
    torch.testing.assert_close(pose_features(ring, 0), pose_features(ring, 4), atol=1e-5, rtol=0)
    assert float((pose_features(measured, 0) - pose_features(measured, 4)).abs().max()) > 0.1


@torch.no_grad()
def test_pose_columns_start_at_zero_so_that_step_0_equals_the_source(tiny_pipeline: MultiViewPipeline) -> None:
    config = {**tiny_pipeline.unet.config, "view_conditioning": "prompt", "projection_class_embeddings_input_dim": 128}
    source = build_unet(config).eval()
    wider = with_view_conditioning(source, "relative_pose").eval()
    assert source.config.view_conditioning == "prompt" and wider.config.view_conditioning == "relative_pose"
    x, t = torch.randn(6, 8, 16, 16), torch.tensor(500)
    text, labels = torch.randn(6, 77, 64), torch.randn(6, 128)
    poses = pose_features(load_rig("ring60"), 0)
    before = source(x, t, encoder_hidden_states=text, class_labels=labels).sample
    after = wider(x, t, encoder_hidden_states=text, class_labels=torch.cat([labels, poses], 1)).sample
    torch.testing.assert_close(after, before, atol=2e-5, rtol=0)  # a wider matrix product rounds otherwise
    with pytest.raises(InputError, match="leave its pose columns unfed"):
        with_view_conditioning(wider, "prompt")
