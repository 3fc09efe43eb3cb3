"""Gaussians fitted to the pictures that they were made from: what a network guesses, gradient steps make exact."""

from __future__ import annotations

import torch

from mvfl.gslrm.gaussians import Gaussians
from mvfl.gslrm.rendering import Renderer, render
from mvfl.gslrm.views import Views

# Adam's step of each parameter; centres in world units, an animal is about one of them long. Measured: docs/performance.md.
RATES = {"xyz": 5e-4, "sh": 5e-3, "log_scales": 5e-3, "rotations": 5e-3, "opacity_logits": 2e-2}
SILHOUETTE = 0.2  # weight of the silhouettes' squared error beside that of the colours


@torch.enable_grad()
def fitted(gaussians: Gaussians, views: Views, steps: int, renderer: Renderer = "auto") -> Gaussians:
    """The Gaussians after steps that bring their renderings nearer to pictures of the same object, one camera a step, in turn.

    Args:
        gaussians: of one object; where they begin.
        views: the pictures, with masks.
        steps: of Adam.
        renderer: as for `render`.
    """
    parameters = {name: value.detach().clone().requires_grad_() for name, value in vars(gaussians).items()}
    groups = [{"params": [value], "lr": RATES[name]} for name, value in parameters.items()]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    height, width = views.images.shape[-2:]
    for step in range(steps):
        here = views.select([step % len(views.images)])
        drawn = render(Gaussians(**parameters), here.c2w, here.intrinsics, height, width, renderer)
        loss = (drawn.images - here.images).square().mean() + SILHOUETTE * (drawn.alphas - here.alphas).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Gaussians(**{name: value.detach() for name, value in parameters.items()})
