"""Generated views do not depend on how many jobs sampled them, nor on how often one was interrupted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from mvfl.config.experiment import Generation, Sampling, Synthetic
from mvfl.config.strict import Solver
from mvfl.data.pictures import composite, view_pictures
from mvfl.mvdiffusion.sampling import Sampler
from mvfl.records.manifest import Manifest
from mvfl.records.pieces import Piece
from mvfl.runtime.endings import Unfinished
from mvfl.runtime.files import InputError
from mvfl.stages.jobs import GenerationInputs, JoinJob, SyntheticJob, TrainJob
from mvfl.stages.join import join
from mvfl.stages.pairs import planned_pairs, source_of
from mvfl.stages.synthetic import run
from mvfl.stages.train import train
from mvfl.verdict.scores import Truth

GENERATION = Generation(
    sampling=Sampling(steps=2, guidance=2.0, eta=1.0, batch_size=2), synthetic=Synthetic(train=3, val=1, references="all")
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, train_job: Callable[..., TrainJob]) -> Path:
    job = train_job(tmp_path_factory.mktemp("checkpoint"), 1)
    train(job)
    return job.out


@pytest.fixture
def source(tiny_data: Path, tiny_base: Path, checkpoint: Path, tiny_prompts: Path, tmp_path: Path) -> GenerationInputs:
    return GenerationInputs(
        generation=GENERATION, manifest=tiny_data, base=tiny_base, checkpoint=checkpoint, prompts=tiny_prompts,
        state=tmp_path / "state",
    )  # fmt: skip


def generate(source: GenerationInputs, count: int, out: Path) -> list[Path]:
    """All pieces of `count` jobs."""
    pieces = [f"{i}-of-{count}" for i in range(1, count + 1)]
    for piece in pieces:
        run(SyntheticJob(source=source, piece=piece, out=out / f"{piece}.json"))
    return [out / f"{piece}.json" for piece in pieces]


def with_changes(source: GenerationInputs, **changes: Any) -> GenerationInputs:
    return source.model_copy(update=changes)


def test_one_job_and_three_make_the_same_data_set(source: GenerationInputs, tmp_path: Path) -> None:
    hashes = []
    for count in (1, 3):
        own = with_changes(source, state=tmp_path / f"state{count}")
        pieces = generate(own, count, tmp_path / f"p{count}")
        hashes.append(join(JoinJob(source=own, pieces=pieces, out=tmp_path / f"out{count}")).data_hash)
    assert hashes[0] == hashes[1]
    manifest = Manifest.read(tmp_path / "out3" / "manifest.json")
    assert (len(manifest.train), len(manifest.val)) == (18, 6)


def test_an_interrupted_piece_keeps_its_samples_and_goes_on(source: GenerationInputs, tmp_path: Path) -> None:
    first, again = (SyntheticJob(source=source, out=tmp_path / name) for name in ("a.json", "b.json"))
    with pytest.raises(Unfinished, match="Stopped after 0 of 12 batches"):
        run(first, minutes=1e-9)
    run(first)
    (folder,) = [f for f in source.state.iterdir() if f.is_dir() and not f.name.startswith("piece")]
    victims = sorted(folder.glob("sample_*"))[:3]
    before = {v.name: (v / "images" / "cam_000.png").read_bytes() for v in victims}
    untouched = sorted(folder.glob("sample_*"))[-1] / "images" / "cam_000.png"
    time = untouched.stat().st_mtime_ns
    for victim in victims:
        shutil.rmtree(victim)
    (folder / f".{victims[0].name}.partial-99").mkdir()
    run(again)
    assert {v.name: (v / "images" / "cam_000.png").read_bytes() for v in victims} == before
    assert untouched.stat().st_mtime_ns == time and not list(folder.glob(".*partial*"))
    assert json.loads(first.out.read_text()) == json.loads(again.out.read_text())


def test_pieces_that_do_not_belong_together_are_refused(source: GenerationInputs, tmp_path: Path) -> None:
    files = generate(source, 2, tmp_path)

    def joined(pieces: list[Path], source: GenerationInputs = source) -> None:
        join(JoinJob(source=source, pieces=pieces, out=tmp_path / "out"))

    with pytest.raises(InputError, match="hold 12 of 24 samples"):
        joined(files[:1])
    with pytest.raises(InputError, match="which another piece has"):
        joined([files[0], files[0]])
    with pytest.raises(InputError, match="other settings or another checkpoint"):
        joined(files, with_changes(source, generation=GENERATION.model_copy(update={"sampling": Sampling(steps=3)})))
    picture = next(source.state.glob("*/sample_*/images/cam_001.png"))
    picture.write_bytes(b"damaged")
    with pytest.raises(InputError, match="missing or changed since it was made"):
        joined(files)
    assert not (tmp_path / "out" / "samples").exists()


def test_a_compiled_sampler_fills_up_the_last_batch_and_draws_the_same(source: GenerationInputs, tiny_truth: Truth) -> None:
    manifest = Manifest.read(source.manifest)
    sampler = Sampler.load(source.base, source.checkpoint, source.prompts, manifest.rig, GENERATION)
    shown: list[int] = []
    filled = replace(sampler, compiled=True)  # without a compiler here: what matters is the filling
    filled.pipeline.unet.register_forward_pre_hook(lambda _m, args: shown.append(len(args[0])))
    inputs = (tiny_truth.inputs[:3], tiny_truth.cameras[:3], tiny_truth.references[:3], [(1, i) for i in range(3)])
    images = filled.sample(*inputs)
    assert set(shown) == {2 * 2 * 6} and len(images) == 3
    assert torch.allclose(images, sampler.sample(*inputs), atol=1e-5)


def test_networks_that_only_draw_are_kept_in_bf16_where_the_card_computes_in_it(
    source: GenerationInputs, tiny_truth: Truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = Manifest.read(source.manifest)
    load = lambda: Sampler.load(source.base, source.checkpoint, source.prompts, manifest.rig, GENERATION)  # noqa: E731
    inputs = (tiny_truth.inputs[:2], tiny_truth.cameras[:2], tiny_truth.references[:2], [(1, i) for i in range(2)])
    usual = load()
    exact = usual.sample(*inputs)
    monkeypatch.setattr("mvfl.mvdiffusion.sampling.half_precision", lambda _place: torch.bfloat16)
    half = load()
    networks = (half.pipeline.unet, half.pipeline.vae, half.pipeline.image_encoder)
    assert {p.dtype for network in networks for p in network.parameters()} == {torch.bfloat16}
    close = half.sample(*inputs)
    assert close.dtype == torch.float32 and 0 < float((close - exact).abs().mean()) < 0.02
    cast = usual.sample(*inputs)  # as a validation during training does: float32 weights, cast at each call
    assert {p.dtype for p in usual.pipeline.unet.parameters()} == {torch.float32}
    assert 0 < float((cast - exact).abs().mean()) < 0.02


@pytest.mark.parametrize("solver", get_args(Solver))
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_every_solver_draws_from_each_pair_s_own_seed_alone(
    solver: Solver, eta: float, source: GenerationInputs, tiny_truth: Truth
) -> None:
    manifest = Manifest.read(source.manifest)
    choice = GENERATION.model_copy(update={"sampling": Sampling(solver=solver, steps=3, guidance=2.0, eta=eta, batch_size=3)})
    sampler = Sampler.load(source.base, source.checkpoint, source.prompts, manifest.rig, choice)
    seeds = [(1, i) for i in range(3)]
    truth = (tiny_truth.inputs[:3], tiny_truth.cameras[:3], tiny_truth.references[:3])
    together = sampler.sample(*truth, seeds)
    assert torch.equal(together, sampler.sample(*truth, seeds)), "nothing comes from elsewhere"
    alone = sampler.sample(truth[0][2:], truth[1][2:], truth[2][2:], seeds[2:])
    assert torch.allclose(alone[0], together[2], atol=1e-4)
    other = sampler.sample(truth[0][2:], truth[1][2:], truth[2][2:], [(1, 7)])
    assert not torch.allclose(other, alone, atol=1e-3)


def test_the_input_keeps_its_own_picture_among_the_generated_views(source: GenerationInputs, tmp_path: Path) -> None:
    pieces = generate(source, 1, tmp_path)
    manifest, made = Manifest.read(source.manifest), join(JoinJob(source=source, pieces=pieces, out=tmp_path / "out"))
    for name in made.train[:6]:
        sample, reference = source_of(name)
        recorded = composite(view_pictures(manifest, manifest.sample(sample), range(6)), 1.0)
        generated = composite(view_pictures(made, made.sample(name), range(6), keep_background=True), 1.0)
        apart = (recorded - generated).abs().amax((1, 2, 3))
        assert apart[reference] <= 0.51 / 255 and all(apart[v] > 0.1 for v in range(6) if v != reference)


def test_a_piece_has_a_number_and_a_count() -> None:
    assert Piece.parse("2-of-4") == Piece(2, 4)
    with pytest.raises(InputError, match="must look like 2-of-4"):
        Piece.parse("two")
    with pytest.raises(InputError, match="does not exist"):
        Piece.parse("5-of-4")


@pytest.mark.parametrize(
    ("references", "first", "count"), [("first", [0, 0, 0], 3), ("in_turn", [0, 1, 2], 3), ("all", [0, 1, 2], 18)]
)
def test_input_views_are_the_first_each_in_turn_or_all(
    tiny_manifest: Manifest, references: str, first: list[int], count: int
) -> None:
    generation = GENERATION.model_copy(update={"synthetic": Synthetic.model_validate({"train": 3, "references": references})})
    pairs = planned_pairs(tiny_manifest, generation)["train"]
    assert len(pairs) == count and [reference for _, reference in pairs[:3]] == first
    assert len({name for name, _ in pairs}) == 3
