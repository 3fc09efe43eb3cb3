"""Rendering of Gaussians: gsplat on CUDA, a torch reference rasteriser everywhere. The thin boundary to gsplat.

Conventions of the original 3DGS rasteriser as gsplat implements them: 0.3 px^2 added to the diagonal of the 2D
covariance, no compensation for it, fragments with alpha below 1/255 skipped, alpha capped at 0.999, compositing
stops when the transmittance falls to 1e-4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mvfl.gslrm.gaussians import Gaussians, view_colours
from mvfl.runtime.files import InputError

Renderer = Literal["auto", "gsplat", "torch"]
NEAR, FAR = 0.2, 100.0
BLUR = 0.3
MIN_ALPHA, MAX_ALPHA, MIN_TRANSMITTANCE = 1 / 255, 0.999, 1e-4
EXTENT = 3.33  # gsplat's cut-off, in standard deviations


class Rendering(NamedTuple):
    """Pictures of one object, or of several stacked.

    Attributes:
        images: RGB over the background, not clamped [..., view, 3, height, width].
        alphas: accumulated opacity [..., view, 1, height, width].
    """

    images: Float[Tensor, "*batch v 3 height width"]
    alphas: Float[Tensor, "*batch v 1 height width"]


def render(
    gaussians: Gaussians,
    c2w: Float[Tensor, "v 4 4"],
    intrinsics: Float[Tensor, "v 4"],
    height: int,
    width: int,
    renderer: Renderer = "auto",
    background: float = 1.0,
) -> Rendering:
    """Render one object from several cameras.

    Args:
        gaussians: one object.
        c2w: camera-to-world, OpenCV axes.
        intrinsics: fx, fy, cx, cy in pixels.
        height, width: picture size in pixels.
        renderer: `auto` is gsplat on CUDA and the torch rasteriser elsewhere.
        background: grey level in 0..1; 1 is white.
    """
    rendered = render_objects([gaussians], c2w[None], intrinsics[None], height, width, renderer, background)
    return Rendering(rendered.images[0], rendered.alphas[0])


def render_objects(
    objects: Sequence[Gaussians],
    c2w: Float[Tensor, "b v 4 4"],
    intrinsics: Float[Tensor, "b v 4"],
    height: int,
    width: int,
    renderer: Renderer = "auto",
    background: float = 1.0,
) -> Rendering:
    """Render objects with equally many Gaussians, each from its own cameras; arguments as in `render`.

    gsplat renders them all in one call: an object at a time, launching kernels takes longer than running them.
    """
    if renderer == "gsplat" or (renderer == "auto" and objects[0].xyz.is_cuda):
        return _render_gsplat(objects, c2w, intrinsics, height, width, background)
    images, alphas = [], []
    for gaussians, poses, lenses in zip(objects, c2w, intrinsics, strict=True):
        views = [_render_torch(gaussians, m, k, height, width, background) for m, k in zip(poses, lenses, strict=True)]
        images.append(torch.stack([v[0] for v in views]))
        alphas.append(torch.stack([v[1] for v in views]))
    return Rendering(torch.stack(images), torch.stack(alphas))


def _render_gsplat(
    objects: Sequence[Gaussians], c2w: Tensor, intrinsics: Tensor, height: int, width: int, background: float
) -> Rendering:
    from gsplat import rasterization

    if not objects[0].xyz.is_cuda:
        raise InputError("gsplat has no CPU path; use renderer: torch (or auto) on a machine without CUDA.")
    k = torch.zeros(*c2w.shape[:2], 3, 3, device=c2w.device)
    k[..., 0, 0], k[..., 1, 1], k[..., 0, 2], k[..., 1, 2] = intrinsics.unbind(-1)
    k[..., 2, 2] = 1
    fields = [(g.xyz, g.sh, g.quaternions, g.scales, g.opacities[:, 0]) for g in objects]
    xyz, sh, *shapes = (torch.stack(field) for field in zip(*fields, strict=True))
    centres = c2w[..., None, :3, 3]
    same_from_everywhere = sh.shape[2] == 1
    colours = view_colours(xyz, sh, centres[:, 0]) if same_from_everywhere else view_colours(xyz[:, None], sh[:, None], centres)
    images, alphas, _ = rasterization(
        xyz, *shapes, colours, torch.linalg.inv(c2w), k, width, height,
        near_plane=NEAR, far_plane=FAR, eps2d=BLUR, packed=False, rasterize_mode="classic",
        backgrounds=torch.full((*c2w.shape[:2], 3), background, device=c2w.device),
    )  # fmt: skip
    return Rendering(images.movedim(-1, -3), alphas.movedim(-1, -3))


def _project(g: Gaussians, w2c: Tensor, intrinsics: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centres [n, 2], 2D covariances (xx, xy, yy) [n, 3], depths [n] and a mask of what can be seen."""
    fx, fy, cx, cy = intrinsics.unbind()
    rotation = w2c[:3, :3]
    camera = g.xyz @ rotation.T + w2c[:3, 3]
    x, y, z = camera.unbind(-1)
    seen = (z > NEAR) & (z < FAR)
    z = torch.where(seen, z, torch.ones_like(z))
    # Rays far outside the picture would make the local affine approximation explode: limit them as 3DGS does.
    tan_x, tan_y = 0.5 * width / fx, 0.5 * height / fy
    tx = z * torch.clamp(x / z, -(cx / fx + 0.3 * tan_x), (width - cx) / fx + 0.3 * tan_x)
    ty = z * torch.clamp(y / z, -(cy / fy + 0.3 * tan_y), (height - cy) / fy + 0.3 * tan_y)
    zero = torch.zeros_like(z)
    jacobian = torch.stack([fx / z, zero, -fx * tx / z**2, zero, fy / z, -fy * ty / z**2], -1).unflatten(-1, (2, 3))
    m = jacobian @ rotation
    covariance = m @ g.covariances @ m.transpose(1, 2)
    flat = torch.stack([covariance[:, 0, 0] + BLUR, covariance[:, 0, 1], covariance[:, 1, 1] + BLUR], -1)
    return torch.stack([fx * x / z + cx, fy * y / z + cy], -1), flat, z, seen


def _render_torch(
    g: Gaussians, c2w: Tensor, intrinsics: Tensor, height: int, width: int, background: float
) -> tuple[Tensor, Tensor]:
    """One view by explicit fragments: list every (Gaussian, pixel) pair, sort by pixel, composite front to back."""
    centres, covariances, depths, seen = _project(g, torch.linalg.inv(c2w), intrinsics, height, width)
    xx, xy, yy = covariances.unbind(-1)
    opacities = g.opacities[:, 0]
    with torch.no_grad():
        determinant = xx * yy - xy**2
        drawn = seen & (determinant > 0) & (opacities > MIN_ALPHA)
        reach = torch.sqrt(2 * torch.log((opacities * 255).clamp(min=1))).clamp(max=EXTENT)
        low = torch.stack([centres[:, 0] - reach * xx.sqrt(), centres[:, 1] - reach * yy.sqrt()], -1)
        high = torch.stack([centres[:, 0] + reach * xx.sqrt(), centres[:, 1] + reach * yy.sqrt()], -1)
        limit = torch.tensor([width, height], device=low.device)
        # Pixel centres lie at +0.5.
        low = (low - 0.5).ceil().clamp(min=0)
        high = torch.minimum((high - 0.5).floor() + 1, limit)
        span = (high - low).clamp(min=0)
        drawn &= (span > 0).all(-1)
        order = torch.nonzero(drawn)[:, 0]
        order = order[torch.argsort(depths[order], stable=True)]
        low, span = low[order].long(), span[order].long()
        counts = span[:, 0] * span[:, 1]
        member = torch.repeat_interleave(torch.arange(len(order), device=low.device), counts)
        step = torch.arange(len(member), device=low.device) - (counts.cumsum(0) - counts)[member]
        column = low[member, 0] + step % span[member, 0]
        row = low[member, 1] + step // span[member, 0]
        pixel = row * width + column
    # index_select, not indexing: its backward pass adds in a fixed order, so runs repeat bit for bit.
    conic_determinant = (xx * yy - xy**2)[order]
    inverse = torch.stack([yy[order], -xy[order], xx[order]], -1) / conic_determinant[:, None]
    packed = torch.cat([centres[order], inverse, opacities[order, None]], -1).index_select(0, member)
    dx = packed[:, 0] - (column + 0.5)
    dy = packed[:, 1] - (row + 0.5)
    power = 0.5 * (packed[:, 2] * dx * dx + packed[:, 4] * dy * dy) + packed[:, 3] * dx * dy
    alpha = (packed[:, 5] * torch.exp(-power)).clamp(max=MAX_ALPHA)
    with torch.no_grad():
        kept = torch.nonzero((alpha >= MIN_ALPHA) & (power >= 0))[:, 0]
        kept = kept[torch.argsort(pixel[kept], stable=True)]  # members rise with depth, so each pixel stays sorted
        pixel, member = pixel[kept], member[kept]
        first = torch.ones_like(pixel, dtype=torch.bool)
        first[1:] = pixel[1:] != pixel[:-1]
        start = torch.cummax(torch.where(first, torch.arange(len(pixel), device=pixel.device), 0), 0).values
    alpha = alpha[kept]
    # Double precision: the running sum spans all pixels of the picture.
    log_pass = torch.log1p(-alpha.double())
    running = log_pass.cumsum(0)
    before = running - log_pass
    log_transmittance = before - before.index_select(0, start)
    with torch.no_grad():
        alive = (log_transmittance + log_pass).exp() > MIN_TRANSMITTANCE
    weight = (alpha * log_transmittance.exp().to(alpha.dtype)) * alive
    colours = view_colours(g.xyz, g.sh, c2w[:3, 3])[order].index_select(0, member)
    values = torch.cat([colours * weight[:, None], weight[:, None]], -1)
    canvas = torch.zeros(height * width, 4, device=values.device, dtype=values.dtype).index_add(0, pixel, values)
    canvas = canvas.T.reshape(4, height, width)
    coverage = canvas[3:]
    return canvas[:3] + background * (1 - coverage), coverage
