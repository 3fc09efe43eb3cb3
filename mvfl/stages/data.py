"""Stage `data`: samples and their manifest, rendered, made of a recording, or checked where they are."""

from __future__ import annotations

from mvfl.config.datasets import MarkerlessDataset, RodentDataset
from mvfl.data.folder import check_folder
from mvfl.data.recording import prepare_recording
from mvfl.data.render import render_dataset
from mvfl.records.manifest import Manifest
from mvfl.records.recording import RecordingReport
from mvfl.runtime.files import sweep_partials
from mvfl.runtime.progress import say
from mvfl.stages.data_report import write_data_report
from mvfl.stages.jobs import DataJob


def run(job: DataJob, workers: int = 2) -> Manifest:
    """Make or check a data set and write its manifest and its page, `report.html`.

    Args:
        job: settings and paths.
        workers: processes or threads.

    Raises:
        InputError: a file is missing or damaged, or pictures and cameras do not belong together.
    """
    sweep_partials(job.out)
    manifest = _make(job, workers)
    recorded = isinstance(job.dataset, MarkerlessDataset)
    write_data_report(manifest, job.out, RecordingReport.read(job.out / "recording.json") if recorded else None)
    say(f"Look at {job.out / 'report.html'}.")
    return manifest


def _make(job: DataJob, workers: int) -> Manifest:
    if isinstance(job.dataset, RodentDataset):
        return render_dataset(job.name, job.dataset, job.out, workers)
    if isinstance(job.dataset, MarkerlessDataset):
        return prepare_recording(job.name, job.dataset, job.out, workers)
    return check_folder(job.name, job.dataset, job.out, workers)
