"""Stage `base`: make a base ready and record it; no kind of base ever falls back to another."""

from __future__ import annotations

from pathlib import Path

from mvfl.config.bases import EMBEDDED, Base, EmbeddedBase, HubBase, LocalBase, ScratchBase
from mvfl.records.base import BaseRecord, Fetched, gslrm_checkpoint, missing_parts, record_base
from mvfl.runtime.files import InputError, sweep_partials
from mvfl.runtime.progress import say
from mvfl.runtime.provenance import write_provenance
from mvfl.stages.jobs import BaseJob


def run(job: BaseJob) -> BaseRecord:
    """Check or build a base and write `job.out/base.json`.

    Raises:
        InputError: files are missing or damaged.
    """
    sweep_partials(job.out)
    record = prepare_base(job.base, job.out, job.manifest, job.fetched)
    inputs: dict[str, Path | str] = {"files": record.hash} | ({"manifest": job.manifest} if job.manifest else {})
    write_provenance(job.out, "base", job.base.model_dump(mode="json"), inputs)
    say(f"Base {record.hash}: pipeline {record.pipeline}, GS-LRM {record.gslrm or 'none'}.")
    return record


def prepare_base(settings: Base, out: Path, manifest: Path | None = None, fetched: Path | None = None) -> BaseRecord:
    """The stage without its provenance.

    Args:
        settings: kind of base.
        out: folder of the base among the results.
        manifest: data set for the autoencoder of a scratch base.
        fetched: where the files of a base on the hub lie.
    """
    if isinstance(settings, HubBase):
        if fetched is None:
            raise InputError(f"The files of {settings.repo} are fetched first; run the fetch_base rule.")
        there = Fetched.read(fetched)
        source = settings.model_dump(mode="json") | {"commit": there.commit}
        return record_base(out / "base.json", there.pipeline, there.gslrm, source)
    pipeline, gslrm = _files_of(settings, out, manifest)
    return record_base(out / "base.json", pipeline, gslrm, settings.model_dump(mode="json"))


def _files_of(settings: EmbeddedBase | LocalBase | ScratchBase, out: Path, manifest: Path | None) -> tuple[Path, Path | None]:
    """Folder of the pipeline, and the GS-LRM checkpoint."""
    if isinstance(settings, EmbeddedBase):
        if not EMBEDDED.is_dir():
            raise InputError(f"{EMBEDDED} does not exist: the embedded base was not installed. Install mvfl again.")
        return EMBEDDED, EMBEDDED / "gslrm" / "gslrm.safetensors"
    if isinstance(settings, LocalBase):
        if not settings.path.is_dir():
            raise InputError(f"Base folder {settings.path} does not exist; set bases.<name>.path.")
        gslrm = settings.gslrm or gslrm_checkpoint(settings.path)
        if gslrm is None and not missing_parts(settings.path):  # found now, not after the multi-view training
            raise InputError(
                f"Base folder {settings.path} holds no GS-LRM checkpoint in gslrm/; set bases.<name>.gslrm "
                "(of the published files: gslrm/ckpt_0000000000021125.pt)."
            )
        return settings.path, gslrm
    if manifest is None:
        raise InputError("A scratch base trains its autoencoder on a data set; none was given.")
    from mvfl.stages.scratch import build_scratch  # torch and diffusers; a base that is there already is only hashed

    return build_scratch(settings, out, manifest)
