"""Latents: every variant of a picture is encoded, and tints come from the seed alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch

from mvfl.config.experiment import Augmentation
from mvfl.data.latents import LatentCache
from mvfl.data.pictures import composite
from mvfl.geometry.cameras import Camera, camera_of_row, camera_rows, orbit_camera
from mvfl.mvdiffusion.encoding import PLAIN, tinted, variants_of
from mvfl.records.manifest import Manifest
from mvfl.stages import latents
from mvfl.stages.jobs import LatentsJob
from mvfl.verdict.scores import load_truth


def test_a_tint_leaves_the_background_alone() -> None:
    rgba = torch.rand(6, 4, 8, 8)
    rgba[:, 3] = (rgba[:, 3] > 0.5).float()
    out = composite(tinted(rgba, 1.1, 0.9), 1.0)
    outside = rgba[:, 3:].expand(-1, 3, -1, -1) == 0
    assert torch.equal(out[outside], torch.ones_like(out[outside]))
    torch.testing.assert_close(tinted(rgba, 1.0, 1.0), rgba)


def test_the_latent_cache_holds_every_variant(tiny_latents: Path) -> None:
    train, val = LatentCache.open(tiny_latents, "train"), LatentCache.open(tiny_latents, "val")
    assert train.moments.shape == (4, 2, 6, 8, 16, 16) and train.embeds.shape == (4, 2, 6, 64)
    assert val.variants == 1 and len(val) == 2
    assert not np.array_equal(train.moments[:, 0], train.moments[:, 1])


def test_tints_come_from_the_seed_alone() -> None:
    a = Augmentation(backgrounds=["white", "gray"], tints=3)
    assert variants_of(a, 1, 5) == variants_of(a, 1, 5) != variants_of(a, 2, 5)
    assert variants_of(a, 1, 5)[:2] == [(1.0, 1.0, 1.0), (0.5, 1.0, 1.0)]


def test_every_stage_is_told_the_camera_that_took_the_picture(tmp_path: Path, tiny_data: Path, tiny_base: Path) -> None:
    """An animal that walked: the cameras of one sample stand 8 degrees and a tenth further than the rig's."""
    known = Manifest.read(tiny_data)
    shutil.copytree(known.root, tmp_path / "samples")
    name = known.train[1]
    file = tmp_path / "samples" / name / "opencv_cameras.json"
    content = json.loads(file.read_text())
    for view, frame in enumerate(content["frames"]):
        azimuth, elevation, distance = Camera.from_frame(frame, "x").spherical
        walked = orbit_camera(azimuth + 8, elevation, distance * 1.1, known.image_size)
        frame["w2c"] = walked.to_frame(view)["w2c"]
    file.write_text(json.dumps(content))
    manifest = tmp_path / "manifest.json"
    Manifest.write(manifest, "walked", tmp_path / "samples", known.rig, known.image_size, known.train, [name])
    job = LatentsJob(augmentation=PLAIN, seed=0, manifest=manifest, base=tiny_base, out=tmp_path / "cache")
    latents.run(job)
    own = [c.spherical for c in Manifest.read(manifest).sample(name).cameras[:6]]
    cameras = LatentCache.open(tmp_path / "cache", "train").cameras
    assert [camera_of_row(row).spherical for row in cameras[1]] == own
    np.testing.assert_array_equal(cameras[0], camera_rows(known.rig.cameras), "the others stayed")
    truth = load_truth(Manifest.read(manifest), [(name, 2)], "relative_pose")
    assert [c.spherical for c in truth.cameras[0]] == own, "and so is the verdict"
