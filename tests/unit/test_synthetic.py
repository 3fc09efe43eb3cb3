"""Generated views do not depend on how many jobs drew them, nor on how often one was interrupted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mvfl.config.schema import Experiment, Generation, Sampling, Synthetic, Wandb
from mvfl.data.samples import Manifest, read_manifest
from mvfl.mvdiffusion.training import TrainingPaths, train_segment
from mvfl.runtime.files import InputError
from mvfl.runtime.training_state import Unfinished
from mvfl.synthetic import Piece, SyntheticPaths, generate_piece, join_pieces

DRAWING = Generation(
    sampling=Sampling(steps=2, guidance=2.0, eta=1.0, batch_size=2), synthetic=Synthetic(train=3, val=1, references="all")
)


@pytest.fixture(scope="module")
def checkpoint(
    tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_latents: Path, tiny_prompts: Path, tiny_experiment: Experiment
) -> Path:
    root = tmp_path_factory.mktemp("checkpoint")
    out = root / "checkpoint-1"
    train_segment(tiny_experiment, 1, TrainingPaths(tiny_base, tiny_latents, tiny_prompts, root / "s", out), Wandb(mode="disabled"))
    return out


@pytest.fixture
def paths(tiny_manifest: Manifest, tiny_base: Path, checkpoint: Path, tiny_prompts: Path, tmp_path: Path) -> SyntheticPaths:
    return SyntheticPaths(tiny_manifest.root.parent / "manifest.json", tiny_base, checkpoint, tiny_prompts, tmp_path / "state")


def generate(paths: SyntheticPaths, count: int, out: Path) -> list[Path]:
    files = [out / f"{i}-of-{count}.json" for i in range(1, count + 1)]
    for i, file in enumerate(files, 1):
        generate_piece(DRAWING, paths, Piece(i, count), file)
    return files


def test_one_job_and_three_make_the_same_data_set(paths: SyntheticPaths, tmp_path: Path) -> None:
    from dataclasses import replace

    hashes = []
    for count in (1, 3):
        own = replace(paths, state=tmp_path / f"state{count}")
        joined = join_pieces(DRAWING, own, generate(own, count, tmp_path / f"p{count}"), tmp_path / f"out{count}")
        hashes.append(joined.data_hash)
    assert hashes[0] == hashes[1]
    manifest = read_manifest(tmp_path / "out3" / "manifest.json")
    assert (len(manifest.train), len(manifest.val)) == (18, 6)


def test_an_interrupted_piece_keeps_its_samples_and_goes_on(
    paths: SyntheticPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unfinished, match="Stopped after 0 of 12 batches"):
        generate_piece(DRAWING, paths, Piece(1, 1), tmp_path / "a.json", minutes=1e-9)
    generate_piece(DRAWING, paths, Piece(1, 1), tmp_path / "a.json")
    (folder,) = [f for f in paths.state.iterdir() if not f.name.startswith("piece")]
    victims = sorted(folder.glob("sample_*"))[:3]
    before = {v.name: (v / "images" / "cam_000.png").read_bytes() for v in victims}
    untouched = sorted(folder.glob("sample_*"))[-1] / "images" / "cam_000.png"
    time = untouched.stat().st_mtime_ns
    for victim in victims:
        shutil.rmtree(victim)
    (folder / f".{victims[0].name}.partial-99").mkdir()
    generate_piece(DRAWING, paths, Piece(1, 1), tmp_path / "b.json")
    assert {v.name: (v / "images" / "cam_000.png").read_bytes() for v in victims} == before
    assert untouched.stat().st_mtime_ns == time and not list(folder.glob(".*partial*"))
    assert json.loads((tmp_path / "a.json").read_text()) == json.loads((tmp_path / "b.json").read_text())


def test_pieces_that_do_not_belong_together_are_refused(paths: SyntheticPaths, tmp_path: Path) -> None:
    files = generate(paths, 2, tmp_path)
    with pytest.raises(InputError, match="hold 12 of 24 samples"):
        join_pieces(DRAWING, paths, files[:1], tmp_path / "out")
    with pytest.raises(InputError, match="which another piece has"):
        join_pieces(DRAWING, paths, [files[0], files[0]], tmp_path / "out")
    other = DRAWING.model_copy(update={"sampling": Sampling(steps=3)})
    with pytest.raises(InputError, match="other settings or another checkpoint"):
        join_pieces(other, paths, files, tmp_path / "out")
    picture = next(paths.state.glob("*/sample_*/images/cam_001.png"))
    picture.write_bytes(b"damaged")
    with pytest.raises(InputError, match="missing or changed since it was drawn"):
        join_pieces(DRAWING, paths, files, tmp_path / "out")
    assert not (tmp_path / "out" / "samples").exists()
    with pytest.raises(InputError, match="must look like 2-of-4"):
        Piece.parse("two")
