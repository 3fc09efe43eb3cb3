"""The closed body that a model's Gaussians enclose: volume, surface, an embedding of shape and posture, a mesh.

Gaussians lie on the skin and leave gaps, so that what they enclose is carved from their silhouettes all around: gaps smaller than
a silhouette do not matter, and hollows that no silhouette shows are filled.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mvfl.geometry.cameras import orbit_camera
from mvfl.geometry.hull import carve, grid_points, projection_matrices
from mvfl.geometry.tensors import camera_tensors
from mvfl.gslrm.export import filled_by, reach_of
from mvfl.gslrm.gaussians import SH_C0, Gaussians
from mvfl.gslrm.rendering import Renderer, render
from mvfl.runtime.files import InputError

# Silhouettes: rings of eight, and one from above; the animal is seen from below, too.
ELEVATIONS = (-45.0, -10.0, 25.0, 55.0)
AROUND = 8
SIZE = 112  # pixels of a silhouette
SIDE = 80  # voxels along the body's longest side, and a little more
COARSE = 20  # voxels per side that the embedding sees
SHELLS, DEGREES = 6, 7


@dataclass(frozen=True)
class Body:
    """A carved body.

    Attributes:
        occupied: smoothed occupancy of a cube of voxels around the origin, x, y, z, in 0..1.
        voxel: side of a voxel in world units.
    """

    occupied: Float[Tensor, "side side side"]
    voxel: float

    @property
    def volume(self) -> float:
        """In cubic world units."""
        return float(self.occupied.sum()) * self.voxel**3

    @property
    def surface(self) -> float:
        """In square world units: the integral of |gradient| over a smoothed body is the mean area of its level sets (coarea)."""
        return float(torch.stack(torch.gradient(self.occupied)).square().sum(0).sqrt().sum()) * self.voxel**2

    @cached_property
    def embedding(self) -> Float[Tensor, " value"]:
        """Shape and posture, whatever the place, heading and size: `spectrum` of the occupied voxels."""
        side = len(self.occupied)
        coarse = F.adaptive_avg_pool3d(self.occupied[None, None], COARSE)[0, 0].flatten()
        points = grid_points(COARSE, half=self.voxel * side / 2)
        return spectrum(points[coarse > 0], coarse[coarse > 0])

    def mesh(self, gaussians: Gaussians) -> tuple[Float[Tensor, "vertex 3"], Int[Tensor, "face 3"], Float[Tensor, "vertex 3"]]:
        """Vertices in world units, faces, and the colours (0..1) of the nearest Gaussians.

        Args:
            gaussians: that the body was carved from.

        Raises:
            ImportError: without scikit-image (the extra `mesh`).
            InputError: they are too faint to enclose anything.
        """
        from scipy.spatial import cKDTree
        from skimage.measure import marching_cubes

        padded = F.pad(self.occupied, (1,) * 6).numpy()
        if padded.max() <= 0.5:
            raise InputError("The Gaussians are too faint to enclose a body, so there is no mesh of them.")
        vertices, faces, _, _ = marching_cubes(padded, 0.5, spacing=(self.voxel,) * 3)
        middle = self.voxel * (len(padded) - 1) / 2
        placed = torch.from_numpy((vertices - middle).astype(np.float32))
        g = gaussians.detached()
        nearest = torch.from_numpy(cKDTree(g.xyz.numpy()).query(placed.numpy())[1])
        colours = (SH_C0 * g.sh[nearest, 0] + 0.5).clamp(0, 1)
        return placed, torch.from_numpy(faces[:, ::-1].astype(np.int64)), colours


@torch.no_grad()
def carved(gaussians: Gaussians, renderer: Renderer = "auto") -> Body:
    """What the Gaussians of one object enclose.

    Args:
        gaussians: around the origin.
        renderer: as for `render`.
    """
    step = 360 / AROUND
    around = [orbit_camera(step * (i + 0.5 * ring), e, size=SIZE) for ring, e in enumerate(ELEVATIONS) for i in range(AROUND)]
    cameras = filled_by(gaussians, [*around, orbit_camera(0.0, 90.0, size=SIZE)])
    c2w, intrinsics = (t.to(gaussians.xyz.device) for t in camera_tensors(cameras))
    alphas = render(gaussians, c2w, intrinsics, SIZE, SIZE, renderer=renderer).alphas.cpu()
    masks = (alphas > 0.5).float()
    half = 1.05 * reach_of(gaussians)
    points = grid_points(SIDE, half)
    inside = (carve(masks, projection_matrices(c2w.cpu(), intrinsics.cpu()), points) > 0.5).all(0)
    solid = inside.float().reshape(1, 1, SIDE, SIDE, SIDE)
    return Body(F.avg_pool3d(solid, 3, 1, 1)[0, 0], 2 * half / SIDE)


def spectrum(points: Float[Tensor, "point 3"], weights: Float[Tensor, " point"]) -> Float[Tensor, " value"]:
    """Power of the spherical harmonics of each degree on shells around the centre of mass.

    For shell k and degree l the norm of the coefficients c_klm over m, which no rotation changes (Kazhdan, Funkhouser, Rusinkiewicz
    2003, "Rotation invariant spherical harmonic representation of 3D shape descriptors"). By the addition theorem
    sum_m |c_klm|^2 = (2l + 1) / (4 pi) sum_ij w_ki w_kj P_l(cos of the angle between i and j), w_k a Gaussian window of the radius.
    Radii are counted in the root mean square radius, so that size does not matter. A mirrored body has the same values.

    Args:
        points: of a body.
        weights: how much of the body is at each.

    Returns:
        SHELLS x DEGREES values, degree fastest.
    """
    share = weights / weights.sum()
    offset = points - (points * share[:, None]).sum(0)
    radius = offset.norm(dim=1)
    typical = (share * radius.square()).sum().sqrt().clamp(min=1e-9)
    shells = torch.linspace(0.25, 2.0, SHELLS)
    window = torch.exp(-0.5 * ((radius / typical)[None] - shells[:, None]).square() / 0.2**2) * share
    directions = F.normalize(offset, dim=1)
    cosine = (directions @ directions.T).clamp(-1, 1)
    before, now, values = torch.ones_like(cosine), cosine, []
    for degree in range(DEGREES):
        legendre = before if degree == 0 else now
        power = torch.einsum("ki,ij,kj->k", window, legendre, window) * (2 * degree + 1) / (4 * torch.pi)
        values.append(power.clamp(min=0).sqrt())
        if degree > 0:
            before, now = now, ((2 * degree + 1) * cosine * now - degree * before) / (degree + 1)
    return torch.stack(values, 1).flatten()


@torch.no_grad()
def extent(gaussians: Gaussians) -> tuple[float, float, float]:
    """Length, width and height in world units: of the 1st to the 99th per cent of the opacity.

    Along the horizontal main axis, across it, and upwards.
    """
    xyz, weight = gaussians.xyz.detach().cpu(), gaussians.opacities.detach().cpu().flatten()
    flat = xyz[:, :2] - (xyz[:, :2] * weight[:, None]).sum(0) / weight.sum()
    _, axes = torch.linalg.eigh((flat * weight[:, None]).T @ flat)
    along = torch.cat([flat @ axes.flip(1), xyz[:, 2:]], 1)
    sizes = []
    for axis in along.T:
        order = axis.argsort()
        share = weight[order].cumsum(0) / weight.sum()
        low, high = (axis[order][int(torch.searchsorted(share, q).clamp(max=len(axis) - 1))] for q in (0.01, 0.99))
        sizes.append(float(high - low))
    return sizes[0], sizes[1], sizes[2]
