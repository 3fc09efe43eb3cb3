"""What a base holds, on disk: `base.json` with paths, sizes and SHA-256 of every file, written once and checked later."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from mvfl.runtime.files import InputError, digest, read_json, sha256, write_json

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


@dataclass(frozen=True)
class BaseRecord:
    """A checked base.

    Attributes:
        pipeline: folder in the published layout.
        gslrm: GS-LRM checkpoint, or None.
        hash: digest of all files.
    """

    pipeline: Path
    gslrm: Path | None
    hash: str


def missing_parts(pipeline: Path) -> list[str]:
    """Files of the published layout that a folder lacks."""
    missing = [f"{part}/{name}" for part, names in PARTS.items() for name in names if not (pipeline / part / name).is_file()]
    tokenizer = pipeline / "tokenizer"
    if not (tokenizer / "tokenizer.json").is_file():
        missing += [f"tokenizer/{n}" for n in ("vocab.json", "merges.txt") if not (tokenizer / n).is_file()]
    return missing


def is_whole(file: Path) -> bool:
    """Whether a weights file is as long as it says of itself; other files are not looked into."""
    if file.suffix in (".pt", ".pth", ".ckpt"):
        return zipfile.is_zipfile(file)  # torch's format keeps its directory at the end
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, "pt"):
                return True
        except SafetensorError:
            return False
    return True


def write_record(path: Path, pipeline: Path, gslrm: Path | None, source: dict[str, Any]) -> BaseRecord:
    """List, hash and record the files of a base.

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
    listing = {str(f): {"bytes": f.stat().st_size, "sha256": sha256(f)} for f in files}
    value = digest([entry["sha256"] for entry in listing.values()])
    write_json(
        path,
        {"pipeline": str(pipeline.resolve()), "gslrm": str(gslrm.resolve()) if gslrm else None, "hash": value,
         "source": source, "files": listing},
    )  # fmt: skip
    return BaseRecord(pipeline.resolve(), gslrm.resolve() if gslrm else None, value)


def read_record(path: Path) -> BaseRecord:
    """Read `base.json` and check that every file still has its recorded size."""
    data = read_json(path, "run the prepare_base rule first")
    for name, entry in data["files"].items():
        file = Path(name)
        if not file.is_file() or file.stat().st_size != entry["bytes"]:
            raise InputError(f"{file} is missing or changed since {path} was written; delete {path} and prepare the base again.")
    return BaseRecord(Path(data["pipeline"]), Path(data["gslrm"]) if data["gslrm"] else None, data["hash"])
