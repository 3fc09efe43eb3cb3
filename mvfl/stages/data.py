"""Stage `data`: samples and their manifest, rendered, made of a recording, or checked where they are."""

from __future__ import annotations

from mvfl.config.datasets import MarkerlessDataset, RodentDataset
from mvfl.data.folder import check_folder
from mvfl.data.recording import prepare_recording
from mvfl.data.render import render_dataset
from mvfl.records.manifest import Manifest
from mvfl.runtime.files import sweep_partials
from mvfl.stages.jobs import DataJob


def run(job: DataJob, workers: int = 2) -> Manifest:
    """Make or check a data set and write its manifest.

    Args:
        job: settings and paths.
        workers: processes or threads.

    Raises:
        InputError: a file is missing or damaged, or pictures and cameras do not belong together.
    """
    sweep_partials(job.out)
    if isinstance(job.dataset, RodentDataset):
        return render_dataset(job.name, job.dataset, job.out, workers)
    if isinstance(job.dataset, MarkerlessDataset):
        return prepare_recording(job.name, job.dataset, job.out, workers)
    return check_folder(job.name, job.dataset, job.out, workers)
