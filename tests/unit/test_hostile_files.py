"""Every reader gets damaged, truncated, foreign and malicious files: it says which file is wrong, or the result is right.

The campaign is seeded and the same on every machine. `hostile/` holds the ways to spoil a file and the judge.
"""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hostile import on_config, on_logs, on_media, on_pickles, on_records, on_weights
from hostile.damage import Attack, whole_file
from hostile.good_files import (
    DECISION,
    EXPERIMENTS,
    PIXELS,
    VIEWS,
    WIDTH,
    attempt_lines,
    gslrm_state,
    log_lines,
    state_at,
    write_seeds,
)
from hostile.judging import GOOD, Outcome, Target, alike, judge, lay_out, not_finite

import mvfl

PACKAGE = Path(mvfl.__file__).parent
LEAST = 1000  # inputs in all
pytestmark = pytest.mark.filterwarnings("ignore")  # libraries warn of what they are fed


def readers() -> dict[str, Callable[[Path], Any]]:
    """Every reader of the package; each takes the folder that holds its files, named as `good_files` names them."""
    from mvfl.config.load import load_config
    from mvfl.data.calibration import convert_calibration, read_calibration
    from mvfl.data.latents import LatentCache
    from mvfl.data.masks import clean, read_mask
    from mvfl.data.pictures import read_rgba
    from mvfl.data.videos import read_frames
    from mvfl.geometry.rig import load_rig
    from mvfl.gslrm.checkpoint import load_gslrm
    from mvfl.gslrm.losses import load_vgg
    from mvfl.gslrm.ply import load_ply
    from mvfl.inspection.base_check import check_base
    from mvfl.inspection.status import as_json, read_status, status_table
    from mvfl.metrics.lpips import load_lpips
    from mvfl.mvdiffusion.unet import load_unet
    from mvfl.records.base import BaseRecord
    from mvfl.records.decision import DecisionRecord
    from mvfl.records.latents import LatentIndex
    from mvfl.records.manifest import Manifest
    from mvfl.records.prompts import read_prompts
    from mvfl.records.samples import read_sample
    from mvfl.runtime.fingerprint import Fingerprint
    from mvfl.runtime.lock import holder_of
    from mvfl.runtime.tracking import read_attempts, read_log
    from mvfl.runtime.training_state import TrainingState
    from mvfl.verdict.trend import loss_trend

    mark = Fingerprint(settings={"steps": 30}, inputs={"data": "0" * 16}, code="1" * 16)
    return {
        "config": lambda folder: load_config([folder / "workflow_config.yaml", folder / "hostile.yaml"]),
        "prompts": lambda folder: read_prompts(folder / "clr_embeds.pt", VIEWS, WIDTH),
        "unet": load_unet,
        "gslrm pt": lambda folder: load_gslrm(folder / "gslrm.pt", PIXELS),
        "gslrm safetensors": lambda folder: load_gslrm(folder / "gslrm.safetensors", PIXELS),
        "ply": lambda folder: load_ply(folder / "gaussians.ply"),
        "log": lambda folder: (rows := read_log(folder / "log.jsonl"), loss_trend(rows)),
        "attempts": read_attempts,
        "status": lambda folder: (rows := read_status(folder, {}), status_table(rows, folder), as_json(rows)),
        "decision": lambda folder: DecisionRecord.read(folder / DECISION),
        "calibration": lambda folder: read_calibration(folder / "cameras.json", ["0", "1", "2"], [(64, 64)] * 3),
        "pickle": lambda folder: (convert_calibration(folder / "new_cam.pkl", folder / "out.json"), _text(folder / "out.json")),
        "sample": lambda folder: read_sample(folder, 2),
        "rig": lambda folder: load_rig(str(folder / "rig.json"), PIXELS),
        "manifest": lambda folder: Manifest.read(folder / "manifest.json"),
        "base record": lambda folder: BaseRecord.read(folder / "base.json"),
        "base check": check_base,
        "picture": lambda folder: read_rgba(folder / "cam_000.png", PIXELS),
        "video": lambda folder: list(read_frames(folder / "video.mp4", {0, 1})),
        "calibration toml": lambda folder: read_calibration(folder / "cameras.toml", ["a", "b"], [(64, 64)] * 2),
        "calibration yaml": lambda folder: read_calibration(folder / "cameras.yml", ["a", "b"], [(64, 64)] * 2),
        "mask": lambda folder: clean(read_mask(folder / "000000.png")),
        "latent cache": lambda folder: (LatentIndex.read(folder / "index.json"), LatentCache.open(folder, "train")),
        "vgg": lambda folder: load_vgg(folder / "vgg19.safetensors"),
        "lpips": lambda folder: load_lpips(folder / "vgg16.pth", folder / "heads.pth"),
        "lock": lambda folder: holder_of(folder / "lock"),
        "training state": lambda folder: TrainingState(folder / "states", mark).load(99),
    }


def embedded_base() -> Path:
    """The base that ships with the package."""
    return PACKAGE / "embedded_base"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


# --------------------------------------------------------------------------------- what makes a result right or wrong
def missing_rows(rows: list[Any], folder: Path, name: str) -> str | None:
    """Every line that is as it was must have come through."""
    path = folder / name
    if not path.is_file():
        return None
    good = {line.encode() for line in (log_lines() + attempt_lines()).splitlines()}
    whole = [json.loads(line) for line in path.read_bytes().split(b"\n") if line in good]
    tables = [row for row in rows if isinstance(row, dict)]
    lost = [row for row in whole if not any(row.items() <= found.items() for found in tables)]  # a reader may add entries
    odd = [row for row in rows if not isinstance(row, dict)]
    return f"{len(lost)} good rows are gone" if lost else f"a row that is a {type(odd[0]).__name__}" if odd else None


def log_fault(result: tuple[list[Any], Any], folder: Path) -> str | None:
    """Good rows are there, and the trend of the loss can be drawn from what was read."""
    rows, trend = result
    return missing_rows(rows, folder, "log.jsonl") or (not_finite(trend, folder) and "the trend of the loss is no number")


def attempts_fault(rows: list[Any], folder: Path) -> str | None:
    """Good rows are there, and all say what happened, as all who read them expect."""
    silent = [row for row in rows if isinstance(row, dict) and not isinstance(row.get("event"), str)]
    return missing_rows(rows, folder, "attempts.jsonl") or ("a row without an event" if silent else None)


def status_fault(result: tuple[list[Any], Any, str], _folder: Path) -> str | None:
    """The experiments beside the spoilt one are shown as if nothing had happened, to people and to programs."""
    rows, _, for_programs = result
    if "NaN" in for_programs or "Infinity" in for_programs:
        return "what programs read is no JSON, for it holds NaN or infinity"
    others = [(r.experiment, r.state, r.step, r.until, r.saved) for r in rows if r.experiment != EXPERIMENTS[1]]
    wanted = [(name, "finished", 20, 100, 20) for name in (EXPERIMENTS[0], EXPERIMENTS[2])]
    return None if others == wanted else f"the other experiments' rows are {others}"


def lock_fault(holder: Any, _folder: Path) -> str | None:
    """Somebody or nobody."""
    return None if holder is None or isinstance(holder, dict) else f"a {type(holder).__name__} for a holder"


def state_lost(result: tuple[int, Any], good: tuple[int, Any]) -> bool:
    """Neither the newest state, unharmed, nor the one before it."""
    return not alike(result, good) and not alike(result, (10, state_at(10)))


def bad_findings(findings: list[Any]) -> str | None:
    """What a check of a base found wrong; a part that lost something and has no such finding was wrongly accepted."""
    return "; ".join(f"{f.part}: {f.text}" for f in findings if not f.good) or None


def targets() -> dict[str, Target]:
    """The readers, with what each one's results have to be like."""
    read = readers()
    special = {
        "log": Target(read["log"], log_fault),
        "attempts": Target(read["attempts"], attempts_fault),
        "status": Target(read["status"], status_fault),
        "lock": Target(read["lock"], lock_fault),
        "base check": Target(read["base check"], complaint=bad_findings, lost=lambda _result, _good: True),
        "training state": Target(read["training state"], lost=state_lost),
        "latent cache": Target(read["latent cache"]),  # gigabytes that are mapped, not read
    }
    return {name: special.get(name, Target(reader, not_finite)) for name, reader in read.items()}


def attacks(scratch: Path) -> dict[str, list[Attack]]:
    """The whole campaign; `scratch` is for files on the way."""
    weights = gslrm_state()
    return {
        "config": on_config.config_attacks(),
        "prompts": on_weights.prompts_attacks(),
        "unet": on_weights.unet_attacks(),
        "gslrm pt": on_weights.gslrm_pt_attacks(weights),
        "gslrm safetensors": on_weights.gslrm_safetensors_attacks(weights),
        "ply": on_media.ply_attacks(),
        "log": on_logs.log_attacks(),
        "attempts": on_logs.attempts_attacks(),
        "status": on_logs.status_attacks(socket.gethostname()),
        "decision": on_records.decision_attacks(),
        "calibration": on_records.calibration_attacks(),
        "pickle": on_pickles.pickle_attacks(),
        "sample": on_records.sample_attacks(),
        "rig": on_records.rig_attacks(),
        "manifest": on_records.manifest_attacks(),
        "base record": on_records.base_record_attacks(),
        "base check": on_weights.base_check_attacks(),
        "picture": on_media.picture_attacks(),
        "video": on_media.video_attacks(scratch),
        "latent cache": on_media.latent_cache_attacks(),
        "calibration toml": whole_file("cameras.toml", text=True),
        "calibration yaml": whole_file("cameras.yml", text=True),
        "mask": [a for a in whole_file("000000.png") if not a.what.startswith("a picture")],  # another picture is a mask too
        "vgg": on_weights.vgg_attacks(),
        "lpips": on_weights.lpips_attacks(),
        "lock": on_records.lock_attacks(),
        "training state": on_weights.training_state_attacks(),
    }


READERS = (
    "config", "prompts", "unet", "gslrm pt", "gslrm safetensors", "ply", "log", "attempts", "status", "decision", "calibration",
    "pickle", "sample", "rig", "manifest", "base record", "base check", "picture", "video", "latent cache", "vgg", "lpips",
    "lock", "training state", "calibration toml", "calibration yaml", "mask",
)  # fmt: skip


class Campaign:
    """Good files, attacks and readers, made once.

    Args:
        root: folder to work in.
        aims: the readers.
        base: the embedded base.
    """

    def __init__(self, root: Path, aims: dict[str, Target], base: Path) -> None:
        self.root, self.aims = root, aims
        self.seeds = write_seeds(root / "seeds", PACKAGE.parent / "workflow_config.yaml", base)
        aims["training state"].read(self.seeds["training state"])  # writes its mark there
        self.attacks = attacks(root)

    def good(self, reader: str) -> Any:
        """What the good files say."""
        lay_out(self.seeds[reader], self.root / "case", None)
        with quick_networks():
            return self.aims[reader].read(self.root / "case")

    def run(self, reader: str) -> list[tuple[Attack, Outcome]]:
        """All attacks on one reader."""
        good, folder = self.good(reader), self.root / "case"
        with quick_networks():
            return [(a, judge(self.aims[reader], self.seeds[reader], folder, a, good)) for a in self.attacks[reader]]


def quick_networks() -> Any:
    """Convolutions whose first weights nobody draws: all are read from files here, and drawing takes most of the time."""
    return mock.patch.object(torch.nn.Conv2d, "reset_parameters", lambda self: None)


# -------------------------------------------------------------------------------------------------------------- tests
@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # forked children must not wait for threads that they do not have
    yield Campaign(tmp_path_factory.mktemp("hostile"), targets(), embedded_base())
    torch.set_num_threads(threads)


@pytest.mark.parametrize("reader", READERS)
def test_the_good_files_are_read(campaign: Campaign, reader: str) -> None:
    aim = campaign.aims[reader]
    result = campaign.good(reader)
    assert aim.fault(result, campaign.root / "case") is None and aim.complaint(result) is None


@pytest.mark.parametrize("reader", READERS)
def test_a_hostile_file_ends_in_a_sentence_or_does_no_harm(campaign: Campaign, reader: str) -> None:
    wrong = [f"{a.what} ({a.file}): {o.kind}: {o.detail}" for a, o in campaign.run(reader) if o.kind not in GOOD]
    assert not wrong, f"{len(wrong)} of {len(campaign.attacks[reader])} inputs of {reader}:\n" + "\n".join(wrong)


def test_no_two_inputs_of_a_reader_are_called_the_same(campaign: Campaign) -> None:
    for reader, inputs in campaign.attacks.items():
        twice = [name for name, count in Counter((a.file, a.what) for a in inputs).items() if count > 1]
        assert not twice, reader


def test_the_campaign_is_large_enough(campaign: Campaign) -> None:
    assert set(campaign.attacks) == set(READERS) == set(campaign.aims)
    assert sum(len(inputs) for inputs in campaign.attacks.values()) >= LEAST
