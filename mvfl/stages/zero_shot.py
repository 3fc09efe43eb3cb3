"""Stage `zero_shot`: what the base's GS-LRM makes of recorded views without any training, judged by cameras that it did not see.

The cheapest decisive experiment: if this is good already, nothing needs to be trained for 3D from several views; if it is bad,
fine-tuning has a figure to beat. Beside it stands the visual hull, which needs no network at all.
"""

from __future__ import annotations

from dataclasses import replace

from mvfl.gslrm.checkpoint import load_gslrm
from mvfl.gslrm.export import visible_gaussians, write_model
from mvfl.layout import ZeroShot
from mvfl.metrics.pictures import save_grid
from mvfl.records.manifest import Manifest, evenly
from mvfl.runtime.devices import device
from mvfl.runtime.progress import say
from mvfl.runtime.provenance import write_provenance
from mvfl.stages.gslrm import Sources, checkpoint_of, score_models
from mvfl.stages.jobs import ZeroShotJob
from mvfl.stages.pages import inline, write_page

LABELS = {
    "hull": "the coloured visual hull (no network)", "copy": "the picture of the nearest camera", "mean": "mean of all pictures",
    "blank": "blank picture",
}  # fmt: skip


def run(job: ZeroShotJob) -> None:
    """Reconstruct validation samples from their recorded views and score cameras that were left out.

    Raises:
        InputError: the base has no GS-LRM, or its pictures have another size.
    """
    weights, manifest, out = checkpoint_of(job.base), Manifest.read(job.manifest), ZeroShot(job.out)
    chosen = replace(manifest, val=evenly(manifest.judging, job.samples), test=())
    settings = job.gslrm.model_copy(update={"inputs": "real", "real_targets": True})
    sources = Sources(chosen, chosen, settings)
    grid, scores = score_models(sources, {"model": weights})
    scores = scores.model_copy(update={"block": "test" if manifest.test else "val"})
    job.out.mkdir(parents=True, exist_ok=True)
    scores.write(out.metrics)
    save_grid(out.renders, grid)
    model = load_gslrm(weights, manifest.image_size, settings.clip_xyz, settings.fit_steps).to(device())
    gaussians = visible_gaussians(model, sources.seen(chosen.val[0]), chosen.val[0])
    write_model(gaussians, settings.turntable_views, manifest.image_size, settings.renderer, job.out)
    rows = [("GS-LRM of the base, not trained", scores.mean)]
    rows += [(label, scores.baselines[key]) for key, label in LABELS.items() if key in scores.baselines]
    pictures = {"renders": out.renders, "strip": out.strip, "turntable": out.turntable}
    write_page(
        out.page, "zero_shot", name=manifest.name, samples=len(chosen.val), judges=scores.judges, rows=rows,
        cameras=scores.per_target(), hull="hull" in scores.baselines, best={m: max(row[m] for _, row in rows) for m in scores.mean},
        images={key: inline(file) for key, file in pictures.items()},
    )  # fmt: skip
    write_provenance(job.out, "zero_shot", settings.model_dump(mode="json"), {"base": job.base, "manifest": job.manifest})
    best = max((k for k in scores.baselines), key=lambda k: scores.baselines[k]["foreground_psnr"])
    say(
        f"GS-LRM without training: {scores.mean['foreground_psnr']:.2f} dB, overlap {scores.mean['mask_iou']:.3f}, on "
        f"{scores.judges}; "
        f"best without a network ({best}): {scores.baselines[best]['foreground_psnr']:.2f} dB, "
        f"{scores.baselines[best]['mask_iou']:.3f}. Look at {out.page}."
    )
