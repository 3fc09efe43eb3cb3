"""Skinned mesh of the rodent: MuJoCo's binary skin, mouse proportions and coat masks."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mvfl.data.rodent.skeleton import load_skeleton


@dataclass
class Skin:
    """Mesh, bones and skinning weights in bind pose."""

    vertices: np.ndarray  # (n, 3) bind pose
    faces: np.ndarray  # (m, 3)
    bone_names: list[str]
    bind_pos: np.ndarray  # (k, 3)
    bind_rot: np.ndarray  # (k, 3, 3)
    weights: np.ndarray  # (n, k), rows sum to one


def load_skin(path: Path) -> Skin:
    """Read MuJoCo's binary skin format."""
    raw = path.read_bytes()
    nv, nt, nf, nb = struct.unpack_from("<4i", raw)
    at = 16
    vertices = np.frombuffer(raw, "<f4", nv * 3, at).reshape(nv, 3).astype(float)
    at += nv * 12 + nt * 8
    faces = np.frombuffer(raw, "<i4", nf * 3, at).reshape(nf, 3).astype(np.int64)
    at += nf * 12
    names, positions, rotations = [], [], []
    weights = np.zeros((nv, nb))
    for b in range(nb):
        names.append(raw[at : at + 40].split(b"\0")[0].decode())
        positions.append(struct.unpack_from("<3f", raw, at + 40))
        w, x, y, z = np.array(struct.unpack_from("<4f", raw, at + 52))
        rotations.append(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
        )
        (n,) = struct.unpack_from("<i", raw, at + 68)
        at += 72
        ids = np.frombuffer(raw, "<i4", n, at)
        weights[ids, b] = np.frombuffer(raw, "<f4", n, at + 4 * n)
        at += 8 * n
    if at != len(raw):
        raise ValueError(f"{path}: {len(raw) - at} bytes left over; not a skin file of the known form")
    weights /= weights.sum(1, keepdims=True)
    return Skin(vertices, faces, names, np.array(positions), np.array(rotations), weights)


def _sphere(radius: float, rings: int = 8, segments: int = 12) -> tuple[np.ndarray, np.ndarray]:
    theta = np.linspace(0, math.pi, rings + 1)[:, None]
    phi = np.linspace(0, 2 * math.pi, segments, endpoint=False)[None, :]
    grid = np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta) * np.ones_like(phi)], -1).reshape(
        -1, 3
    )
    faces = []
    for r in range(rings):
        for s in range(segments):
            a, b = r * segments + s, r * segments + (s + 1) % segments
            faces += [(a, a + segments, b), (b, a + segments, b + segments)]
    return grid * radius, np.array(faces)


def smoothstep(low: float, high: float, x: np.ndarray) -> np.ndarray:
    """Cubic step from 0 at `low` to 1 at `high`."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


EYE_OUT = 1.06  # how far the eyeballs sit from the midline, against the rig's own


class Rodent:
    """The rig, a mesh with eyes, and per-vertex coat masks."""

    def __init__(self, assets: Path):
        self.skeleton = load_skeleton(assets / "rodent.xml")
        skin = load_skin(assets / "rodent_walker_skin.skn")
        self.bones = np.array([self.skeleton.body_names.index(n) for n in skin.bone_names])
        self.joint = {n: i for i, n in enumerate(self.skeleton.joint_names)}
        self.body = {n: i for i, n in enumerate(self.skeleton.body_names)}
        low, high = np.array(self.skeleton.joint_ranges).T
        self.low, self.high = low, high

        group = {n: i for i, n in enumerate(skin.bone_names)}

        def weight(*names: str) -> np.ndarray:
            return skin.weights[:, [group[n] for n in names]].sum(1)

        rest = skin.vertices
        skull = skin.bind_pos[group["skull"]]
        rel = rest - skull
        head = weight("skull", "jaw")
        # Ears: the flat flaps that rise above and beside the back of the skull.
        ear = (head > 0.5) & (rel[:, 2] > 0.0085) & (rel[:, 0] < -0.004) & (np.abs(rel[:, 1]) > 0.0075)
        tail = weight(*[f"vertebra_C{i}" for i in range(4, 31)])
        paws = weight("foot_L", "foot_R", "toe_L", "toe_R", "hand_L", "hand_R", "finger_L", "finger_R")
        nose = head * smoothstep(0.034, 0.039, rel[:, 0])
        self.mask_ear = ear.astype(float)
        self.mask_tail = smoothstep(0.35, 0.9, tail)
        self.mask_paw = smoothstep(0.55, 0.98, paws)
        self.mask_nose = nose
        torso = rest[:, 2] - np.interp(rest[:, 0], [-0.06, 0.0, 0.05, 0.1], [0.070, 0.076, 0.072, 0.076])
        limbs = weight(*[f"{part}_{s}" for s in "LR" for part in ("upper_leg", "lower_leg", "foot", "toe")])
        limbs = limbs + weight(*[f"{part}_{s}" for s in "LR" for part in ("upper_arm", "lower_arm", "hand", "finger")])
        self.belly = smoothstep(0.0, -0.030, torso) * (1 - tail) * (1 - 0.8 * limbs)
        shank = weight(*[f"{part}_{s}" for s in "LR" for part in ("lower_leg", "foot", "lower_arm", "hand")])

        rest = self._mouse_proportions(rest, rel, ear, head, weight)
        self.rest, self.faces, w, self.is_eye = self._with_eyes(rest, skin, skull, group["skull"])
        pad = len(self.rest) - len(rest)
        for name in ("mask_ear", "mask_tail", "mask_paw", "mask_nose", "belly"):
            setattr(self, name, np.concatenate([getattr(self, name), np.zeros(pad)]))
        self.bulk = np.append(weight(*[f"vertebra_C{i}" for i in range(16, 31)]) < 0.5, np.ones(pad, bool))
        self.bind_rot, self.bind_pos = skin.bind_rot, skin.bind_pos
        # Few bones act on a vertex: keep the strongest four, which is what skinning then reads.
        self.top_bones = np.argsort(-w, 1)[:, :4]
        top = np.take_along_axis(w, self.top_bones, 1)
        self.top_weights = top / top.sum(1, keepdims=True)
        self.fur_length = self._fur(rel, head, shank)

    def _fur(self, rel: np.ndarray, head: np.ndarray, shank: np.ndarray) -> np.ndarray:
        """Length of the hair per vertex, 1 on the trunk."""
        length = np.clip(
            (1 - self.mask_ear) * (1 - self.mask_tail) * (1 - self.mask_paw) * (1 - self.mask_nose) * (1 - self.is_eye), 0, 1
        )
        # Hair is short on the face and on the lower limbs.
        length[: len(rel)] *= 1 - 0.75 * head * smoothstep(-0.008, 0.02, rel[:, 0])
        length[: len(rel)] *= 1 - 0.65 * shank
        for centre, radius in self.skeleton.eyes:
            length[: len(rel)] *= smoothstep(radius, 2.2 * radius, np.linalg.norm(rel - centre, axis=1))
        return length

    def _with_eyes(
        self, rest: np.ndarray, skin: Skin, skull: np.ndarray, bone: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Vertices, faces, bone weights and a mask of the eyes: the skin with two spheres that follow the skull."""
        vertices, faces, weights = [rest], [skin.faces], [skin.weights]
        kind = [np.zeros(len(rest))]
        base = len(rest)
        for centre, radius in self.skeleton.eyes:
            sphere, sphere_faces = _sphere(radius)
            centre = centre * np.array([1.0, EYE_OUT, 1.0])
            vertices.append(sphere + skull + centre)
            faces.append(sphere_faces + base)
            w = np.zeros((len(sphere), weights[0].shape[1]))
            w[:, bone] = 1
            weights.append(w)
            kind.append(np.ones(len(sphere)))
            base += len(sphere)
        return np.concatenate(vertices), np.concatenate(faces), np.concatenate(weights), np.concatenate(kind)

    @staticmethod
    def _mouse_proportions(
        rest: np.ndarray, rel: np.ndarray, ear: np.ndarray, head: np.ndarray, weight: Callable[..., np.ndarray]
    ) -> np.ndarray:
        """Round the trunk, enlarge the ears and shorten the muzzle a little."""
        out = rest.copy()
        for side in (-1, 1):
            flap = ear & (np.sign(rel[:, 1]) == side)
            if not flap.any():
                continue
            root = rest[flap][np.argsort(rest[flap][:, 2])[: max(4, flap.sum() // 6)]].mean(0)
            grow = smoothstep(0.0, 0.010, np.linalg.norm(rest[flap] - root, axis=1))[:, None]
            out[flap] += grow * (rest[flap] - root) * 0.42
        muzzle = head * smoothstep(0.004, 0.03, rel[:, 0])
        out[:, 0] -= muzzle * 0.22 * np.clip(rel[:, 0] - 0.004, 0, None)
        trunk = weight("torso", "pelvis", *[f"vertebra_{i}" for i in range(1, 7)])
        trunk = trunk * smoothstep(0.035, 0.055, rest[:, 2])
        out[:, 1] += trunk * 0.14 * rest[:, 1]
        return out

    def skinned(self, rot: np.ndarray, pos: np.ndarray) -> np.ndarray:
        """Linear blend skinning of the mesh for one pose (n, 3, 3), (n, 3)."""
        r = rot[self.bones] @ np.swapaxes(self.bind_rot, 1, 2)
        t = pos[self.bones] - np.einsum("kij,kj->ki", r, self.bind_pos)
        m = np.concatenate([r, t[:, :, None]], 2).reshape(len(r), 12)
        blended = np.einsum("nk,nkf->nf", self.top_weights, m[self.top_bones]).reshape(-1, 3, 4)
        return np.einsum("nij,nj->ni", blended[:, :, :3], self.rest) + blended[:, :, 3]
