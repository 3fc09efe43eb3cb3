"""Bases: complete and whole or refused, fetched from a cache without a network, verified by hash."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from mvfl.config.bases import EMBEDDED, EmbeddedBase, HubBase, LocalBase
from mvfl.inspection.base_check import check_base, check_record
from mvfl.mvdiffusion.unet import load_unet
from mvfl.records.base import BaseRecord
from mvfl.runtime.files import InputError
from mvfl.stages import fetch, user_files
from mvfl.stages.base import prepare_base
from mvfl.stages.jobs import FetchJob


def test_base_check_says_what_fits_and_what_is_missing(tiny_base: Path, tmp_path: Path) -> None:
    pipeline = tiny_base.parent / "pipeline"
    assert all(f.good for f in check_base(pipeline))
    shutil.copytree(pipeline, tmp_path / "half")
    (tmp_path / "half" / "tokenizer" / "tokenizer.json").unlink()
    (tmp_path / "half" / "tokenizer" / "merges.txt").unlink()
    config = tmp_path / "half" / "text_encoder" / "config.json"
    config.write_text(config.read_text().replace('"hidden_size": 64', '"hidden_size": 768'))
    bad = {f.part: f.text for f in check_base(tmp_path / "half") if not f.good}
    assert bad == {"tokenizer": "missing: tokenizer/merges.txt", "prompt width": "text encoder 768, UNet 64"}


def test_another_version_of_the_base_that_ships_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = EmbeddedBase(kind="embedded")
    before = user_files.weights_mark(shipped)
    (tmp_path / "gslrm").mkdir()
    monkeypatch.setattr(user_files, "EMBEDDED", tmp_path)
    copy = shutil.copy(EMBEDDED / "gslrm" / "gslrm.safetensors", tmp_path / "gslrm")
    first = user_files.weights_mark(shipped)
    Path(copy).touch()
    assert user_files.weights_mark(shipped) == first, "the time of a checkout means nothing"
    Path(copy).write_bytes(b"other weights")
    assert len({before, first, user_files.weights_mark(shipped)}) == 3


def test_weights_that_were_cut_short_are_no_base(tiny_base: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_base.parent / "pipeline", tmp_path / "cut")
    weights = tmp_path / "cut" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(InputError, match=r"unet/diffusion_pytorch_model\.safetensors: the file ends too early"):
        prepare_base(LocalBase(kind="local", path=tmp_path / "cut"), tmp_path / "out")
    assert not (tmp_path / "out" / "base.json").exists()
    with pytest.raises(InputError, match="damaged or cut short"):
        load_unet(tmp_path / "cut" / "unet")


def test_a_hub_base_is_used_offline_from_the_cache_and_its_absence_is_explained(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    revision = "0123456789abcdef0123456789abcdef01234567"
    settings = HubBase(kind="hub", repo="lab/mouse", revision=revision, gslrm="gslrm/gslrm.safetensors")
    with pytest.raises(InputError, match=f"lab/mouse at revision {revision} could not be fetched.*kind 'local'"):
        fetch.run(FetchJob(base=settings, out=tmp_path / "a"))
    with pytest.raises(InputError, match="run the fetch_base rule"):
        prepare_base(settings, tmp_path / "a")
    snapshot = tmp_path / "models--lab--mouse" / "snapshots" / revision
    shutil.copytree(tiny_base.parent / "pipeline", snapshot / "mvdiffusion" / "pipeckpts")
    shutil.move(snapshot / "mvdiffusion" / "pipeckpts" / "gslrm", snapshot / "gslrm")
    assert fetch.run(FetchJob(base=settings, out=tmp_path / "b")).commit == revision
    record = prepare_base(settings, tmp_path / "b", fetched=tmp_path / "b" / "fetched.json")
    assert record.source["commit"] == revision
    assert record.pipeline == (snapshot / "mvdiffusion" / "pipeckpts").resolve() and record.gslrm is not None
    assert record.hash == BaseRecord.read(tiny_base).hash


def test_a_recorded_base_is_verified_by_hash(tiny_base: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_base.parent / "pipeline", tmp_path / "p")
    prepare_base(LocalBase(kind="local", path=tmp_path / "p"), tmp_path)
    assert all(f.good for f in check_record(tmp_path / "base.json"))
    weights = tmp_path / "p" / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1  # the size stays
    weights.write_bytes(content)
    (tmp_path / "p" / "vae" / "config.json").unlink()
    bad = [f.text for f in check_record(tmp_path / "base.json") if not f.good]
    assert len(bad) == 2 and any("differs from the recorded SHA-256" in b for b in bad) and any("is missing" in b for b in bad)


def test_a_folder_without_gslrm_is_refused_before_anything_is_trained(tiny_base: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_base.parent / "pipeline", tmp_path / "p", ignore=shutil.ignore_patterns("gslrm"))
    with pytest.raises(InputError, match=r"holds no GS-LRM checkpoint in gslrm/; set bases\.<name>\.gslrm"):
        prepare_base(LocalBase(kind="local", path=tmp_path / "p"), tmp_path)
    assert not (tmp_path / "base.json").exists()


def test_a_branch_is_pinned_to_its_commit_and_its_files_go_where_compute_nodes_see_them(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import huggingface_hub

    commit, asked = "f" * 40, []

    def download(
        repo: str, revision: str, allow_patterns: list[str], local_dir: Path | None = None, local_files_only: bool = False
    ) -> str:
        asked.append((revision, local_files_only))
        if local_files_only:
            raise LocalEntryNotFoundError("not here")
        assert local_dir is not None and local_dir.is_relative_to(tmp_path / "base")
        shutil.copytree(tiny_base.parent / "pipeline", local_dir / "mvdiffusion" / "pipeckpts", dirs_exist_ok=True)
        return str(local_dir)

    monkeypatch.delenv("HF_HOME", raising=False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", lambda *_args, **_kw: SimpleNamespace(sha=commit))
    settings = HubBase(kind="hub", repo="lab/mouse", revision="main", gslrm=None)
    fetched = fetch.run(FetchJob(base=settings, out=tmp_path / "base"))
    assert asked == [("main", True), (commit, False)], "never the branch, which may move between the files"
    assert f"write revision: {commit}" in capsys.readouterr().err and fetched.pipeline.is_dir()
