"""Coats and shading: draws one posed rodent from any camera under a light fixed in the world."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mvfl.data.rodent.body import Rodent, smoothstep
from mvfl.data.rodent.raster import rasterise, value_noise, vertex_normals
from mvfl.geometry.cameras import Camera


@dataclass
class Coat:
    """Colours in linear light."""

    back: tuple
    flank: tuple
    belly: tuple
    skin: tuple
    band: float  # strength of the agouti banding along the hair
    eye: tuple = (0.012, 0.010, 0.012)


COAT_COLOURS = {  # linear light
    "black": Coat((0.034, 0.030, 0.028), (0.044, 0.038, 0.034), (0.075, 0.064, 0.056), (0.260, 0.165, 0.145), 0.35),
    "agouti": Coat((0.135, 0.088, 0.048), (0.215, 0.145, 0.080), (0.430, 0.360, 0.270), (0.480, 0.300, 0.245), 1.0),
    "white": Coat((0.740, 0.715, 0.670), (0.770, 0.745, 0.705), (0.800, 0.780, 0.750), (0.780, 0.430, 0.370), 0.12,
                  (0.220, 0.020, 0.025)),
    "brown": Coat((0.090, 0.045, 0.025), (0.125, 0.065, 0.035), (0.230, 0.150, 0.100), (0.420, 0.240, 0.200), 0.4),
    "grey": Coat((0.150, 0.150, 0.160), (0.195, 0.195, 0.205), (0.400, 0.395, 0.390), (0.470, 0.290, 0.255), 0.5),
}  # fmt: skip


@dataclass(frozen=True)
class Light:
    """A lamp and the sky.

    Attributes:
        height: of the lamp: sine of its elevation; its azimuth is drawn.
        lamp, sky: strengths.
    """

    height: float = 0.89
    lamp: float = 1.15
    sky: float = 0.50


class Renderer:
    """Shades one posed rodent from any camera; the light is fixed in the world."""

    def __init__(
        self, rodent: Rodent, vertices: np.ndarray, scale: float, coat: Coat, seed: int, shells: int = 0, light: Light | None = None
    ):
        self.rodent, self.coat, self.seed, self.scale = rodent, coat, seed, scale
        self.vertices = vertices
        self.normals = vertex_normals(vertices, rodent.faces)
        if np.einsum("ij,ij->", self.normals, vertices - vertices.mean(0)) < 0:
            self.normals = -self.normals
        self.shells = shells
        rng = np.random.default_rng(seed)
        spin = rng.uniform(0, 2 * math.pi)
        self.light = light or Light()
        across = 0.45 if light is None else math.sqrt(1 - light.height**2)
        self.key = np.array([across * math.cos(spin), across * math.sin(spin), self.light.height])
        self.key /= np.linalg.norm(self.key)
        self._shadow_map()
        floor = vertices[:, 2].min()
        self.open_sky = 0.55 + 0.45 * smoothstep(0.0, 0.09 * scale, vertices[:, 2] - floor)

    def _shadow_map(self, size: int = 160) -> None:
        up = self.key
        side = np.cross(up, [1.0, 0.0, 0.0])
        side /= np.linalg.norm(side)
        basis = np.stack([side, np.cross(up, side), -up])
        light = self.vertices @ basis.T
        low, high = light[:, :2].min(0) - 0.02, light[:, :2].max(0) + 0.02
        self._light = (basis, low, (size - 1) / (high - low), size)
        shown = np.concatenate([(light[:, :2] - low) * self._light[2], light[:, 2:] + 10.0], 1)
        pixel, _, _, z = rasterise(shown, self.rodent.faces, size, size)
        depth = np.full(size * size, np.inf)
        depth[pixel] = z
        self._light_depth = depth.reshape(size, size)

    def lit(self, points: np.ndarray) -> np.ndarray:
        """Share of the key light that reaches the points (percentage-closer filter)."""
        basis, low, gain, size = self._light
        at = points @ basis.T
        uv = (at[:, :2] - low) * gain
        z = at[:, 2] + 10.0 - 0.012 * self.scale
        share = np.zeros(len(points))
        for du in (-1, 0, 1):
            for dv in (-1, 0, 1):
                c = np.clip((uv + [du, dv]).astype(np.int64), 0, size - 1)
                share += z <= self._light_depth[c[:, 1], c[:, 0]]
        return share / 9

    def fur_noise(self, rest: np.ndarray, along: float, across: float, seed: int) -> np.ndarray:
        """Noise fixed to the skin, stretched along the body, so that all views show the same hair."""
        return value_noise(rest * np.array([along, across, across]), self.seed * 7 + seed)

    def shade(self, face: np.ndarray, bary: np.ndarray, view_dir: np.ndarray, shell_height: float | None) -> np.ndarray:
        """Linear RGB at the fragments."""
        rod, coat = self.rodent, self.coat
        ids = rod.faces[face]
        mix = lambda a: np.einsum("kj,kj...->k...", bary, a[ids])
        rest, n, fur = mix(rod.rest), mix(self.normals), mix(rod.fur_length)
        place = mix(self.vertices)
        fine = self.fur_noise(rest, 260, 1100, 1)
        clump = self.fur_noise(rest, 90, 320, 2)
        broad = self.fur_noise(rest, 28, 40, 3)
        n = n + fur[:, None] * 0.55 * (np.stack([fine, self.fur_noise(rest, 260, 1100, 4), clump], 1) - 0.5)
        n /= np.linalg.norm(n, axis=1, keepdims=True)

        belly = np.clip(mix(rod.belly) + 0.25 * (clump - 0.5), 0, 1)
        colour = np.outer(1 - belly, coat.back) * 1.0
        side = np.clip(4 * belly * (1 - belly), 0, 1)[:, None]
        colour = colour + belly[:, None] * coat.belly
        colour = colour * (1 - 0.6 * side) + 0.6 * side * np.array(coat.flank)
        tone = 1 + coat.band * (0.9 * (fine - 0.5) + 0.7 * (clump - 0.5)) + 0.35 * (broad - 0.5) * (0.4 + coat.band)
        colour *= np.clip(tone, 0.25, 2.0)[:, None]
        bare = np.clip(mix(rod.mask_ear) * 0.75 + mix(rod.mask_tail) + mix(rod.mask_paw) + mix(rod.mask_nose), 0, 1)
        rings = 0.88 + 0.12 * np.sin(rest[:, 0] * 2600)
        skin = np.array(coat.skin) * np.where(mix(rod.mask_tail) > 0.5, rings, 1.0)[:, None]
        colour += bare[:, None] * (skin - colour)
        eye = mix(rod.is_eye)[:, None]
        colour += eye * (np.array(coat.eye) - colour)

        ndl = n @ self.key
        wrap = np.clip((ndl + 0.25) / 1.25, 0, 1) * (0.25 + 0.75 * self.lit(place))
        sky = (0.62 + 0.38 * n[:, 2]) * mix(self.open_sky)
        ndv = np.clip(-np.einsum("kj,kj->k", n, view_dir), 0, 1)
        sheen = fur * (1 - ndv) ** 3 * 0.10 * (0.3 + sky)
        half = self.key - view_dir
        half /= np.linalg.norm(half, axis=1, keepdims=True)
        ndh = np.clip(np.einsum("kj,kj->k", n, half), 0, 1)
        gloss = eye[:, 0] * 1.2 * ndh**60 + (1 - eye[:, 0]) * (0.035 * fur * ndh**12 + 0.04 * bare * ndh**25)
        light = self.light.lamp * wrap + self.light.sky * sky
        if shell_height is not None:  # hair roots lie in shade
            light = light * (0.72 + 0.38 * shell_height)
        return colour * light[:, None] + ((sheen + gloss * wrap)[:, None])

    def view(self, camera: Camera, supersample: int = 2) -> np.ndarray:
        """Draw the animal from one camera.

        Args:
            camera: pinhole camera in OpenCV axes; the world is Z-up.
            supersample: samples per pixel side.

        Returns:
            RGBA uint8 (h, w, 4) with straight alpha, colour 0 where alpha is 0.
        """
        ss, rod = supersample, self.rodent
        big = camera.resized(camera.width * ss, camera.height * ss)
        w, h = big.width, big.height
        eye = camera.position
        rgb = np.zeros((h * w, 3), np.float32)
        depth = np.full(h * w, np.inf, np.float32)
        layers = [None] + [(i + 1) / self.shells for i in range(self.shells)]
        for level in layers:
            vertices, keep = self.vertices, None
            if level is not None:
                hair = 0.0026 * self.scale * level * rod.fur_length[:, None]
                lean = np.array([0.0, 0.0, -0.35])
                vertices = vertices + hair * (self.normals + lean * level)

                def keep(face: np.ndarray, bary: np.ndarray, level: float = level) -> np.ndarray:
                    ids = rod.faces[face]
                    rest = np.einsum("kj,kjc->kc", bary, rod.rest[ids])
                    fur = np.einsum("kj,kj->k", bary, rod.fur_length[ids])
                    return (fur > 0.1) & (self.fur_noise(rest, 420, 1500, 5) > 0.30 + 0.42 * level)

            pixel, face, bary, z = rasterise(big.project(vertices), rod.faces, w, h, keep)
            near = np.flatnonzero(z < depth[pixel])
            pixel, face, bary, z = pixel[near], face[near], bary[near], z[near]
            place = np.einsum("kj,kjc->kc", bary, vertices[rod.faces[face]])
            view_dir = place - eye
            view_dir /= np.linalg.norm(view_dir, axis=1, keepdims=True)
            height = None if not self.shells else (0.0 if level is None else level)
            rgb[pixel] = self.shade(face, bary, view_dir, height)
            depth[pixel] = z
        hit = np.isfinite(depth).reshape(h, w)
        lin = rgb.reshape(h // ss, ss, w // ss, ss, 3).sum((1, 3))
        cover = hit.reshape(h // ss, ss, w // ss, ss).sum((1, 3))
        colour = np.clip(lin / np.maximum(cover, 1)[..., None], 0, 1)
        srgb = np.where(colour <= 0.0031308, 12.92 * colour, 1.055 * colour ** (1 / 2.4) - 0.055)
        out = np.concatenate([srgb, (cover / ss**2)[..., None]], 2)
        return (out * 255 + 0.5).astype(np.uint8)
