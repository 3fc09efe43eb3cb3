"""Stage `fetch`: the files of a base on the model hub, at one commit. It runs where the network is; all other stages need none."""

from __future__ import annotations

import os
from pathlib import Path

from mvfl.config.bases import HubBase
from mvfl.records.base import Fetched
from mvfl.runtime.files import InputError
from mvfl.runtime.progress import say
from mvfl.stages.jobs import FetchJob


def run(job: FetchJob) -> Fetched:
    """Fetch what is not here yet, and write where it lies and which commit it is.

    The hub's own cache is used where the files are there already, or where HF_HOME names one that projects share; otherwise
    they go below `job.out`, which compute nodes see. Broken transfers resume.

    Raises:
        InputError: the hub cannot be reached, or has no such revision.
    """
    base = job.base
    root, commit = cached(base) or _downloaded(base, job.out)
    if base.revision != commit:
        say(f"Revision {base.revision} of {base.repo} is commit {commit} today; write revision: {commit} to keep it.")
    fetched = Fetched(
        repo=base.repo, revision=base.revision, commit=commit, pipeline=root / base.pipeline,
        gslrm=root / base.gslrm if base.gslrm else None,
    )  # fmt: skip
    fetched.write(job.out / "fetched.json")
    say(f"{base.repo} at commit {commit} lies in {root}.")
    return fetched


def _wanted(base: HubBase) -> list[str]:
    return [f"{base.pipeline}/**"] + ([base.gslrm] if base.gslrm else [])


def cached(base: HubBase) -> tuple[Path, str] | None:
    """Folder and commit of a revision that is in the hub's cache as a whole; a snapshot's folder is called like its commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        root = Path(snapshot_download(base.repo, revision=base.revision, allow_patterns=_wanted(base), local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    whole = (root / base.pipeline / "unet" / "config.json").is_file() and (base.gslrm is None or (root / base.gslrm).is_file())
    return (root, root.name) if whole else None


def _downloaded(base: HubBase, out: Path) -> tuple[Path, str]:
    from huggingface_hub import HfApi, snapshot_download

    try:
        commit = HfApi().repo_info(base.repo, revision=base.revision).sha or base.revision
        place = None if "HF_HOME" in os.environ else out / "files" / commit
        return Path(snapshot_download(base.repo, revision=commit, allow_patterns=_wanted(base), local_dir=place)), commit
    except Exception as error:  # the hub's client passes on whatever its transport raises
        raise InputError(
            f"{base.repo} at revision {base.revision} could not be fetched ({error}). On a machine without a "
            "network, copy the folder there and use a base of kind 'local'."
        ) from error
