"""3D Gaussians: raw network channels -> parameters -> activated values, spherical harmonics, filters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

SH_C0 = 0.28209479177387814
SH_C1 = 0.4886025119029199
SH_C2 = (1.0925484305920792, -1.0925484305920792, 0.31539156525252005, -1.0925484305920792, 0.5462742152960396)
SH_C3 = (
    -0.5900435899266435, 2.890611442640554, -0.4570457994644658, 0.3731763325901154,
    -0.4570457994644658, 1.445305721320277, -0.5900435899266435,
)  # fmt: skip
LOG_SCALE_BIAS, LOG_SCALE_CAP, OPACITY_BIAS = -2.3, -1.2, -2.0


@dataclass(frozen=True)
class Gaussians:
    """Gaussians of one object, before activation.

    Attributes:
        xyz: centres in world units [n, 3].
        sh: spherical-harmonics coefficients [n, (degree+1)^2, 3].
        log_scales: logarithm of the standard deviations [n, 3].
        rotations: quaternions (w, x, y, z), not normalised [n, 4].
        opacity_logits: before the sigmoid [n, 1].
    """

    xyz: Float[Tensor, "n 3"]
    sh: Float[Tensor, "n coefficient 3"]
    log_scales: Float[Tensor, "n 3"]
    rotations: Float[Tensor, "n 4"]
    opacity_logits: Float[Tensor, "n 1"]

    def __len__(self) -> int:
        return len(self.xyz)

    @property
    def scales(self) -> Float[Tensor, "n 3"]:
        """Standard deviations in world units."""
        return self.log_scales.exp()

    @property
    def opacities(self) -> Float[Tensor, "n 1"]:
        """Opacities in 0..1."""
        return self.opacity_logits.sigmoid()

    @property
    def quaternions(self) -> Float[Tensor, "n 4"]:
        """Unit quaternions (w, x, y, z)."""
        return torch.nn.functional.normalize(self.rotations, dim=-1)

    @property
    def covariances(self) -> Float[Tensor, "n 3 3"]:
        """R diag(scale^2) R^T."""
        m = rotation_matrices(self.rotations) * self.scales[:, None, :]
        return m @ m.transpose(1, 2)

    def __getitem__(self, index: Int[Tensor, " k"] | Bool[Tensor, " n"]) -> Gaussians:
        return Gaussians(self.xyz[index], self.sh[index], self.log_scales[index], self.rotations[index], self.opacity_logits[index])

    def detached(self) -> Gaussians:
        """The same values without a graph, float32, on the CPU."""
        return Gaussians(*(t.detach().float().cpu() for t in vars(self).values()))


def split_channels(raw: Float[Tensor, "*batch channel"], sh_degree: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Cut raw channels into xyz 3, SH 3S (coefficient-major), log-scales 3, rotation 4, opacity 1, with their offsets.

    log-scale = min(raw - 2.3, -1.2), an upper limit of 0.301; opacity logit = raw - 2.0.
    """
    sh_size = 3 * (sh_degree + 1) ** 2
    xyz, sh, scaling, rotation, opacity = raw.split([3, sh_size, 3, 4, 1], dim=-1)
    sh = rearrange(sh, "... (s c) -> ... s c", c=3)
    return xyz, sh, (scaling + LOG_SCALE_BIAS).clamp(max=LOG_SCALE_CAP), rotation, opacity + OPACITY_BIAS


def rotation_matrices(quaternions: Float[Tensor, "n 4"]) -> Float[Tensor, "n 3 3"]:
    """Rotation matrices of quaternions (w, x, y, z), normalised first."""
    w, x, y, z = torch.nn.functional.normalize(quaternions, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def evaluate_sh(
    coefficients: Float[Tensor, "*#batch coefficient 3"], directions: Float[Tensor, "*#batch 3"]
) -> Float[Tensor, "*batch 3"]:
    """Spherical harmonics of degree 0..3 in unit viewing directions, without the 0.5 that colours add; batches broadcast."""
    c = coefficients.unbind(-2)
    value = SH_C0 * c[0]
    if len(c) > 1:
        x, y, z = (d[..., None] for d in directions.unbind(-1))
        value = value - SH_C1 * y * c[1] + SH_C1 * z * c[2] - SH_C1 * x * c[3]
    if len(c) > 4:
        xx, yy, zz = x * x, y * y, z * z
        value = (
            value + SH_C2[0] * x * y * c[4] + SH_C2[1] * y * z * c[5] + SH_C2[2] * (2 * zz - xx - yy) * c[6]
            + SH_C2[3] * x * z * c[7] + SH_C2[4] * (xx - yy) * c[8]
        )  # fmt: skip
    if len(c) > 9:
        value = (
            value + SH_C3[0] * y * (3 * xx - yy) * c[9] + SH_C3[1] * x * y * z * c[10]
            + SH_C3[2] * y * (4 * zz - xx - yy) * c[11] + SH_C3[3] * z * (2 * zz - 3 * xx - 3 * yy) * c[12]
            + SH_C3[4] * x * (4 * zz - xx - yy) * c[13] + SH_C3[5] * z * (xx - yy) * c[14]
            + SH_C3[6] * x * (xx - 3 * yy) * c[15]
        )  # fmt: skip
    return value


def view_colours(
    xyz: Float[Tensor, "*#batch 3"], sh: Float[Tensor, "*#batch coefficient 3"], camera_position: Float[Tensor, "*#batch 3"]
) -> Float[Tensor, "*batch 3"]:
    """RGB of Gaussians seen from a camera: SH plus 0.5, clamped below at 0 only; batches broadcast."""
    directions = torch.nn.functional.normalize(xyz - camera_position, dim=-1)
    return (evaluate_sh(sh, directions) + 0.5).clamp(min=0)


def filter_indices(
    gaussians: Gaussians,
    min_opacity: float | None = None,
    max_scale: float | None = None,
    floater: float | None = None,
    box: tuple[float, float, float, float, float, float] | None = None,
    camera_origins: Float[Tensor, "camera 3"] | None = None,
    distance_quantiles: tuple[float, float] = (0.0001, 1.0),
) -> Int[Tensor, " k"]:
    """Indices that survive the published filters, applied in this order, each optional.

    Args:
        gaussians: of one object.
        min_opacity: keep opacity above it.
        max_scale: keep the largest scale below it, or z > 0.
        floater: drop points with |x| and |y| above it and z below minus it.
        box: keep x0 <= x <= x1, y0 <= y <= y1, z0 <= z <= z1.
        camera_origins: drop points outside the quantiles of distance (over those left) to any camera.
        distance_quantiles: low and high quantile.
    """
    x, y, z = gaussians.xyz.unbind(-1)
    keep = torch.ones_like(x, dtype=torch.bool)
    if min_opacity is not None:
        keep &= gaussians.opacities[:, 0] > min_opacity
    if max_scale is not None:
        keep &= (gaussians.scales.amax(-1) < max_scale) | (z > 0)
    if floater is not None:
        keep &= ~((x.abs() > floater) & (y.abs() > floater) & (z < -floater))
    if box is not None:
        for value, low, high in zip((x, y, z), box[::2], box[1::2], strict=True):
            keep &= (value >= low) & (value <= high)
    index = keep.nonzero()[:, 0]
    if camera_origins is not None:
        distances = torch.cdist(camera_origins, gaussians.xyz[index])
        low_high = torch.quantile(distances, torch.tensor(distance_quantiles, device=x.device), dim=1)
        inside = (distances >= low_high[0][:, None]) & (distances <= low_high[1][:, None])
        index = index[inside.all(0)]
    return index
