"""Loose pictures of calibrated cameras: one animal in one moment, whatever the units and the place of the world."""

from __future__ import annotations

import csv
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mvfl.data.calibrated import Calibration, read_moment, up_of
from mvfl.data.calibration import convert_calibration
from mvfl.data.photos import BY_ALPHA, Cut
from mvfl.data.rodent.sampling import make_sample
from mvfl.geometry.cameras import Camera, orbit_camera
from mvfl.geometry.rig import Rig, load_rig
from mvfl.mvdiffusion.sampling import Sampler
from mvfl.runtime.files import InputError
from mvfl.stages.reconstruct import run
from mvfl.stages.reconstructor import Reconstructor
from mvfl.stages.sources import Choice

MILLIMETRES, AWAY = 145.0, np.array([300.0, -120.0, 80.0])  # of a world unit; where the animal stands in the lab's world


def in_the_lab(camera: Camera) -> dict[str, np.ndarray]:
    """Calibration of a camera in millimetres, about another origin."""
    rotation = camera.w2c[:3, :3]
    return {
        "R": rotation, "T": (MILLIMETRES * camera.w2c[:3, 3] - rotation @ AWAY)[:, None],
        "K": np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]]),
    }  # fmt: skip


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures 0.png to 3.png of one animal, cut out; the same on a bench in `bench`; the calibration."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "bench").mkdir()
    cameras = [replace(c, width=160, height=160) for c in load_rig("ring60", 160).cameras[:4]]
    drawn = make_sample((9, 1), cameras, ["black"], ["stand"], 0.6, 0, frame_cameras=len(cameras)).pictures
    noise = np.random.default_rng(0).normal(0, 3, (160, 160, 3))
    for number, picture in enumerate(drawn):
        Image.fromarray(picture).save(folder / f"{number}.png")
        alpha = picture[..., 3:] / 255
        bench = alpha * picture[..., :3] + (1 - alpha) * 170 + noise
        Image.fromarray(bench.clip(0, 255).astype(np.uint8)).save(folder / "bench" / f"{number}.png")
    (folder / "cam.pkl").write_bytes(pickle.dumps([in_the_lab(camera) for camera in cameras]))
    convert_calibration(folder / "cam.pkl", folder / "cameras.json")
    return folder


def pictures(lab: Path) -> list[Path]:
    return [lab / f"{number}.png" for number in range(4)]


def test_the_animal_is_brought_to_the_middle_of_the_models_world(lab: Path) -> None:
    moment = read_moment(pictures(lab), BY_ALPHA, Calibration(lab / "cameras.json"), 64)
    assert moment.rgba.shape == (4, 4, 64, 64)
    assert np.mean([c.spherical[2] for c in moment.cameras]) == pytest.approx(2.7)
    assert moment.millimetres == pytest.approx(MILLIMETRES, rel=0.03), "its cameras were 2.7 units away already"
    for picture, camera, own in zip(moment.rgba, moment.cameras, load_rig("ring60").cameras, strict=False):
        assert picture[3].mean() > 0.05 and not picture[3, 0].any() and not picture[3, :, 0].any(), "large and whole"
        assert abs((camera.spherical[0] - own.spherical[0] + 180) % 360 - 180) < 6


def test_where_nothing_is_cut_out_all_cameras_together_find_the_animal(lab: Path) -> None:
    cut = read_moment(pictures(lab), BY_ALPHA, Calibration(lab / "cameras.json"), 64)
    found = read_moment([lab / "bench" / p.name for p in pictures(lab)], Cut(auto=True), Calibration(lab / "cameras.json"), 64)
    for a, b in zip(cut.rgba[:, 3] > 0.5, found.rgba[:, 3] > 0.5, strict=True):
        assert (a & b).sum() / (a | b).sum() > 0.6


def test_they_become_one_model_in_millimetres_and_missing_directions_can_be_drawn(
    lab: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("SIZE", 24), ("AROUND", 3), ("SIDE", 24)):  # random weights draw large Gaussians, which take long
        monkeypatch.setattr(f"mvfl.gslrm.body.{name}", value)
    base, calibration = tiny_base.parent / "pipeline", Calibration(lab / "cameras.json")
    run(pictures(lab)[:2], tmp_path / "two", base, Choice(calibration=calibration))
    (row,) = csv.DictReader((tmp_path / "two" / "models.csv").read_text().splitlines())
    assert row["unit"] == "mm" and (tmp_path / "two" / "gaussians.ply").is_file()
    assert len(list((tmp_path / "two" / "views").glob("*.png"))) == 2
    before = (tmp_path / "two" / "gaussians.ply").stat().st_mtime_ns
    run(pictures(lab)[:2], tmp_path / "two", base, Choice(calibration=calibration))
    assert (tmp_path / "two" / "gaussians.ply").stat().st_mtime_ns == before, "what is there is kept"
    run(pictures(lab)[:2], tmp_path / "more", base, Choice(calibration=calibration, complete=True))
    assert len(list((tmp_path / "more" / "views").glob("*.png"))) == 6, "four of the ring's directions lie apart from both"
    with pytest.raises(InputError, match="--calibration is of loose pictures of one moment"):
        run(pictures(lab), tmp_path / "x", base, Choice(calibration=calibration, view=1))


def azimuths(self: Sampler, inputs: torch.Tensor, cameras: list[list[Camera]], references: list[int], *_: object) -> torch.Tensor:
    """Each view in the colour of its camera's azimuth, and black where the given picture stands; in slot order."""
    drawn = [torch.full((3, 8, 8), c.spherical[0] % 360 / 360 + 0.1) for c in cameras[0]]
    drawn[references[0]] = torch.zeros(3, 8, 8)
    return torch.stack([drawn[view] for view in self.slot_views(references[0])])[None]


@pytest.mark.parametrize("elevation", [20.0, 84.0])
def test_missing_directions_are_drawn_for_their_own_cameras(
    elevation: float, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From above, all directions of the ring are missing, and the given picture still needs a slot."""
    monkeypatch.setattr(Sampler, "sample", azimuths)
    made = Reconstructor.load(tiny_base.parent / "pipeline")
    pictures, cameras = made._missing_views(torch.ones(1, 3, 8, 8), [orbit_camera(0, elevation, size=32)], 4)
    assert len(cameras) == 5 and len(pictures) == 5
    for picture, camera in zip(pictures, cameras, strict=True):
        assert float(picture.mean()) == pytest.approx(camera.spherical[0] % 360 / 360 + 0.1)


def test_where_the_cameras_are_the_rigs_own_the_rings_directions_are_drawn(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sampler, "sample", azimuths)
    own = [orbit_camera(azimuth, 10, size=32) for azimuth in (0, 20, 40)]
    made = Reconstructor.load(tiny_base.parent / "pipeline", Rig("three", own))
    _, cameras = made._missing_views(torch.ones(3, 3, 8, 8), own, 4)
    assert sorted(round(c.spherical[0] % 360) for c in cameras) == [120, 180, 240]


def test_a_model_of_other_than_six_cameras_draws_the_rings_directions_too(tiny_base: Path) -> None:
    own = [orbit_camera(azimuth, 10, size=32) for azimuth in (0, 20, 40, 60)]
    made = Reconstructor.load(tiny_base.parent / "pipeline", Rig("four", own))
    pictures, cameras = made._missing_views(torch.ones(4, 3, 32, 32), own, 4)
    assert len(pictures) == len(cameras) > 0
    assert made.sampler.pipeline.unet.config.num_views == 4, "it goes on as it was"


def test_pictures_are_in_natural_order_for_a_calibration_without_names(lab: Path) -> None:
    moments = [
        read_moment(order, BY_ALPHA, Calibration(lab / "cameras.json"), 64) for order in (pictures(lab), pictures(lab)[::-1])
    ]
    assert torch.equal(moments[0].rgba, moments[1].rgba)


def test_a_world_that_does_not_stand_upright_or_has_another_unit_is_said(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for up in ("-z", "y"):
        with pytest.raises(InputError, match="Z axis does not point up"):
            read_moment(pictures(lab), BY_ALPHA, Calibration(lab / "cameras.json", up_of(up)), 64)
    for unit, said in ((1.0, False), (0.1, True)):
        read_moment(pictures(lab), BY_ALPHA, Calibration(lab / "cameras.json", unit_mm=unit), 64)
        assert ("lengths in mm are wrong otherwise" in capsys.readouterr().err) is said


def test_what_does_not_belong_together_is_said(lab: Path) -> None:
    swapped = [Image.open(lab / f"{number}.png") for number in (1, 0, 3, 2)]
    (lab / "swapped").mkdir(exist_ok=True)
    for number, picture in enumerate(swapped):
        picture.save(lab / "swapped" / f"{number}.png")
    with pytest.raises(InputError, match=r"0, 1, 2, 3 do not show one animal where .*cameras\.json has their cameras"):
        read_moment([lab / "swapped" / p.name for p in pictures(lab)], BY_ALPHA, Calibration(lab / "cameras.json"), 64)
    with pytest.raises(InputError, match="two or more pictures of one moment"):
        read_moment(pictures(lab)[:1], BY_ALPHA, Calibration(lab / "cameras.json"), 64)
    Image.open(lab / "0.png").save(lab / "elsewhere.png")
    with pytest.raises(InputError, match="elsewhere"):
        read_moment([lab / "0.png", lab / "elsewhere.png"], BY_ALPHA, Calibration(lab / "cameras.json"), 64)
    assert up_of("-z") == "-z" and up_of("side").level_camera == "side"
