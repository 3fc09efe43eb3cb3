"""Stage `latents`: encode all pictures of a data set once with a base's frozen towers."""

from __future__ import annotations

from mvfl.data.latents import CacheWriter
from mvfl.data.pictures import read_ahead
from mvfl.geometry.cameras import camera_rows
from mvfl.mvdiffusion.encoding import PLAIN, encode_pictures, variants_of
from mvfl.mvdiffusion.pipeline import MultiViewPipeline
from mvfl.records.base import BaseRecord
from mvfl.records.latents import LatentIndex
from mvfl.records.manifest import Manifest
from mvfl.runtime.devices import device
from mvfl.runtime.files import InputError, sweep_partials, written_aside
from mvfl.runtime.fingerprint import code_digest
from mvfl.runtime.progress import tracked
from mvfl.runtime.provenance import write_provenance
from mvfl.stages.jobs import LatentsJob


def run(job: LatentsJob) -> None:
    """Encode all samples into `job.out` (written aside, renamed when whole).

    Training samples get the variants of the augmentation, validation samples white and no tint.

    Raises:
        InputError: the base has pictures of another size, or the disk is full.
    """
    sweep_partials(job.out.parent, job.out.name)
    base, manifest = BaseRecord.read(job.base), Manifest.read(job.manifest)
    pipeline = MultiViewPipeline.from_pretrained(base.pipeline).to(device())
    if manifest.image_size != pipeline.image_size:
        raise InputError(
            f"Data set {manifest.name} has pictures of {manifest.image_size} px, the base samples {pipeline.image_size} px; set "
            f"image_size {pipeline.image_size} in datasets.{manifest.name}, or use another base."
        )
    with written_aside(job.out) as folder:
        folder.mkdir()
        for split, names, kind in (("train", manifest.train, job.augmentation), ("val", manifest.val, PLAIN)):
            writer = CacheWriter(folder, split, len(names))
            for i, rgba in tracked(enumerate(read_ahead(manifest, names)), f"latents {split}", len(names)):
                cameras = manifest.sample(names[i]).cameras[: manifest.views]
                encoded = encode_pictures(pipeline, rgba, variants_of(kind, job.seed, i))
                writer.write(i, {**encoded, "cameras": camera_rows(cameras)})
            writer.close()
        LatentIndex(
            data_hash=manifest.data_hash, rig=manifest.rig.to_json(), base_hash=base.hash, train=manifest.train, val=manifest.val,
            seed=job.seed, augmentation=job.augmentation, code=code_digest("mvfl.mvdiffusion.encoding"),
        ).write(folder / "index.json")  # fmt: skip
        settings = {"augmentation": job.augmentation.model_dump(mode="json"), "seed": job.seed}
        write_provenance(folder, "latents", settings, {"data": manifest.data_hash, "base": base.hash}, manifest.rig.hash)
