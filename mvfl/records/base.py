"""`base.json`: what a base holds, with the size and SHA-256 of every file, written once and checked later."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mvfl.config.strict import Strict
from mvfl.records.record import Record
from mvfl.runtime.files import InputError, digest, sha256
from mvfl.runtime.reading import is_whole

PARTS: dict[str, tuple[str, ...]] = {
    "unet": ("config.json", "diffusion_pytorch_model.safetensors"),
    "vae": ("config.json", "diffusion_pytorch_model.safetensors"),
    "image_encoder": ("config.json", "model.safetensors"),
    "text_encoder": ("config.json", "model.safetensors"),
    "tokenizer": ("tokenizer_config.json",),
    "feature_extractor": ("preprocessor_config.json",),
    "image_normalizer": ("config.json", "diffusion_pytorch_model.safetensors"),
    "image_noising_scheduler": ("scheduler_config.json",),
    "scheduler": ("scheduler_config.json",),
}


class BaseFile(Strict):
    """One file of a base."""

    bytes: int
    sha256: str


class BaseRecord(Record):
    """A checked base.

    Attributes:
        pipeline: folder in the published layout.
        gslrm: GS-LRM checkpoint, or None.
        hash: digest of all files.
        source: the settings that it was made from.
        files: every file.
    """

    remedy = "run the prepare_base rule first"

    pipeline: Path
    gslrm: Path | None
    hash: str
    source: dict[str, Any]
    files: dict[Path, BaseFile]

    def require_unchanged(self, path: Path) -> BaseRecord:
        """Check that every file still has its recorded size.

        Raises:
            InputError: a file is missing or has another size.
        """
        for file, entry in self.files.items():
            if not file.is_file() or file.stat().st_size != entry.bytes:
                raise InputError(
                    f"{file} is missing or changed since {path} was written; delete {path} and prepare the base again."
                )
        return self

    @classmethod
    def read(cls, path: Path) -> BaseRecord:
        """Read `base.json` and check that every file still has its recorded size."""
        return super().read(path).require_unchanged(path)


class Fetched(Record):
    """`fetched.json`: where the files of a base on the model hub lie, and which commit they are.

    Attributes:
        repo, revision: as asked for.
        commit: what the revision was.
        pipeline: folder in the published layout.
        gslrm: checkpoint, or None.
    """

    remedy = "run the fetch_base rule first"

    repo: str
    revision: str
    commit: str
    pipeline: Path
    gslrm: Path | None


def missing_parts(pipeline: Path) -> list[str]:
    """Files of the published layout that a folder lacks."""
    missing = [f"{part}/{name}" for part, names in PARTS.items() for name in names if not (pipeline / part / name).is_file()]
    tokenizer = pipeline / "tokenizer"
    if not (tokenizer / "tokenizer.json").is_file():
        missing += [f"tokenizer/{n}" for n in ("vocab.json", "merges.txt") if not (tokenizer / n).is_file()]
    return missing


def gslrm_checkpoint(folder: Path) -> Path | None:
    """The GS-LRM checkpoint that lies in a base's folder: the first file of `gslrm/`."""
    return next(iter(sorted((folder / "gslrm").glob("*"))), None)


def record_base(path: Path, pipeline: Path, gslrm: Path | None, source: dict[str, Any]) -> BaseRecord:
    """List, hash and record the files of a base.

    Args:
        path: `base.json` to write.
        pipeline: folder in the published layout.
        gslrm: GS-LRM checkpoint, or None.
        source: settings to keep beside the hashes.

    Raises:
        InputError: parts are missing or cut short; all of them are named.
    """
    if missing := missing_parts(pipeline):
        raise InputError(
            f"{pipeline} is not a complete base; missing: {', '.join(missing)}. Copy the whole published folder; there "
            "are no substitute weights."
        )
    if gslrm is not None and not gslrm.is_file():
        raise InputError(f"GS-LRM checkpoint {gslrm} does not exist; name it in bases.<name>.gslrm.")
    files = [f for part in PARTS for f in sorted((pipeline / part).iterdir()) if f.is_file()]
    files += [gslrm] if gslrm else []
    if broken := [str(f) for f in files if not is_whole(f)]:
        raise InputError(f"{', '.join(broken)}: the file ends too early or is no weights file; copy or download it again.")
    with ThreadPoolExecutor(4) as readers:  # gigabytes, and hashing runs without Python's lock
        listing = {f: BaseFile(bytes=f.stat().st_size, sha256=h) for f, h in zip(files, readers.map(sha256, files), strict=True)}
    value = digest([entry.sha256 for entry in listing.values()])
    record = BaseRecord(
        pipeline=pipeline.resolve(), gslrm=gslrm.resolve() if gslrm else None, hash=value, source=source, files=listing
    )
    record.write(path)
    return record
