"""Postures: trunk, neck and tail are drawn, paws and tail are then solved onto the floor."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from mvfl.data.rodent.body import Rodent
from mvfl.data.rodent.skeleton import axis_rotations


def euler_rotation(yaw: float, pitch: float, roll: float = 0.0) -> np.ndarray:
    """Roll about x, then pitch (nose up positive) about -y, then yaw about z."""
    one = lambda axis, a: axis_rotations(np.array(axis, float), np.array([a]))[0]
    return one((0, 0, 1), yaw) @ one((0, -1, 0), pitch) @ one((1, 0, 0), roll)


SPINE_BEND = ("vertebra_2_bend", "vertebra_5_bend")
SPINE_EXTEND = ("vertebra_1_extend", "vertebra_4_extend")
SPINE_TWIST = ("vertebra_3_twist", "vertebra_6_twist")
NECK_BEND = ("vertebra_cervical_4_bend", "vertebra_cervical_1_bend")
NECK_EXTEND = ("vertebra_cervical_5_extend", "vertebra_cervical_2_extend", "vertebra_atlant_extend")
LIMBS = {
    "hind_L": ("toe_L", ("hip_L_supinate", "hip_L_abduct", "hip_L_extend", "knee_L", "ankle_L", "toe_L")),
    "hind_R": ("toe_R", ("hip_R_supinate", "hip_R_abduct", "hip_R_extend", "knee_R", "ankle_R", "toe_R")),
    "fore_L": ("finger_L", ("scapula_L_abduct", "shoulder_L", "shoulder_sup_L", "elbow_L", "wrist_L", "finger_L")),
    "fore_R": ("finger_R", ("scapula_R_abduct", "shoulder_R", "shoulder_sup_R", "elbow_R", "wrist_R", "finger_R")),
}
JAW_SHUT = -0.55  # past the hinge's own limit (-0.30), where the skin still gapes
SOLE = 0.0015  # height of a paw's last joint above the floor when the paw rests


def _spine_and_tail(rodent: Rodent, rng: np.random.Generator, name: str) -> tuple[np.ndarray, float, float, float]:
    """Angles of trunk, neck and tail (j,), and the trunk's pitch, arch and lift."""
    q = np.zeros(len(rodent.low))
    put = lambda names, total: [q.__setitem__(rodent.joint[n], total / len(names)) for n in names]
    normal = rng.normal

    bend, arch, neck, nod = normal(0, 0.15), normal(0.05, 0.08), normal(0, 0.25), normal(-0.05, 0.15)
    pitch = lift = 0.0
    if name == "crouch":
        arch, lift, nod = rng.uniform(0.25, 0.6), rng.uniform(-0.016, -0.006), normal(0.15, 0.15)
    elif name == "turn":
        side = rng.choice([-1, 1])
        bend, neck = side * rng.uniform(0.45, 0.95), side * rng.uniform(0.3, 0.8)
    elif name == "sniff":
        nod, pitch = rng.uniform(0.25, 0.6), -rng.uniform(0.02, 0.12)
    elif name == "rear":
        pitch, arch, nod = rng.uniform(0.65, 1.05), rng.uniform(-0.05, 0.25), rng.uniform(0.2, 0.7)
    elif name == "groom":
        pitch, arch, nod = rng.uniform(0.55, 0.8), rng.uniform(0.25, 0.5), rng.uniform(0.9, 1.3)
    put(SPINE_BEND, bend)
    put(SPINE_EXTEND, -arch)  # these hinges arch the back when negative (they act on the hind part)
    put(SPINE_TWIST, normal(0, 0.08))
    put(NECK_BEND, neck)
    put(NECK_EXTEND, nod)
    q[rodent.joint["vertebra_axis_twist"]] = normal(0, 0.12)
    # Tail: one smooth sideways sweep, a curl towards the tip, a slight lift.
    sweep, curl, phase = normal(0, 0.07) + 0.05 * bend, normal(0, 0.10), rng.uniform(0, 2 * math.pi)
    for n, i in rodent.joint.items():
        if n.startswith("vertebra_C") and n[10].isdigit():
            k = int(n[10:].split("_")[0]) / 30
            if n.endswith("bend"):
                q[i] = sweep + curl * math.sin(2.2 * math.pi * k + phase) * (0.4 + k)
            else:
                q[i] = normal(0, 0.02) + (0.02 if k < 0.3 else 0.0)
    q = np.clip(q, rodent.low, rodent.high)
    q[rodent.joint["mandible"]] = JAW_SHUT
    return q, pitch, arch, lift


class _Places(NamedTuple):
    """Where the body is when the limbs are placed, in metres."""

    paws: dict[str, np.ndarray]
    pelvis: np.ndarray
    pelvis_rest: np.ndarray
    heading: float
    height: float
    skull: np.ndarray


def _paw_targets(rng: np.random.Generator, name: str, grounded: list[str], at: _Places, torso: np.ndarray) -> dict[str, np.ndarray]:
    """Where each paw shall be: on the floor near its rest place, or before the face."""
    stride = rng.uniform(0.010, 0.024) if name == "walk" else rng.uniform(0.0, 0.006)
    cycle = rng.uniform(0, 2 * math.pi)
    targets: dict[str, np.ndarray] = {}
    for key in grounded:
        swing = stride * math.sin(cycle + (math.pi if key in ("hind_L", "fore_R") else 0.0))
        p = at.paws[key].copy()
        if key.startswith("hind"):
            local = p[:2] - at.pelvis_rest[:2]
            c, s = math.cos(at.heading), math.sin(at.heading)
            p[:2] = at.pelvis[:2] + np.array([c * local[0] - s * local[1], s * local[0] + c * local[1]])
        p[0] += swing
        p[:2] += rng.normal(0, 0.002, 2)
        p[2] = SOLE - at.height + (max(0.0, math.cos(cycle)) * stride * 0.35 if name == "walk" and swing > 0 else 0.0)
        targets[key] = p
    if name in ("rear", "groom"):
        for key, side in (("fore_L", 1), ("fore_R", -1)):
            if name == "groom":
                targets[key] = at.skull + np.array([0.012, side * 0.011, -0.020]) + rng.normal(0, 0.003, 3)
            else:
                targets[key] = torso @ (at.paws[key] * np.array([0.75, 0.8, 0.72]) + np.array([0.02, 0, 0]))
                targets[key] += rng.normal(0, 0.004, 3)
    return targets


def sample_pose(rodent: Rodent, rng: np.random.Generator, name: str) -> tuple[np.ndarray, np.ndarray, float]:
    """A random posture of a named kind: joint angles (j,), torso rotation and torso height.

    Trunk, neck and tail angles are drawn first; the limbs are then solved so that
    the paws meant to bear weight stand on the floor (z = 0) near their rest places.
    """
    q, pitch, arch, lift = _spine_and_tail(rodent, rng, name)
    normal = rng.normal
    if name not in ("rear", "groom"):
        pitch -= 0.45 * arch  # share the back's curve between chest and hips
    torso = euler_rotation(0.0, pitch, normal(0, 0.03))
    _, rest_pos = rodent.skeleton.forward(np.zeros((1, len(q))))
    rest_paws = {k: rest_pos[0, rodent.body[v[0]]] for k, v in LIMBS.items()}
    rest_height = -min(p[2] for p in rest_paws.values()) + SOLE
    grounded = ["hind_L", "hind_R"] if name in ("rear", "groom") else list(LIMBS)
    height = rest_height + lift + normal(0, 0.002)
    # The hind paws belong under the pelvis: move their rest places with it.
    rot, pos = rodent.skeleton.forward(q[None])
    here = torso @ pos[0, rodent.body["pelvis"]]
    there = rest_pos[0, rodent.body["pelvis"]]
    turn = torso @ rot[0, rodent.body["pelvis"]]
    heading = math.atan2(turn[1, 0], turn[0, 0])
    if name in ("rear", "groom"):
        height = there[2] + rest_height - here[2] - rng.uniform(0.0, 0.014)
    places = _Places(rest_paws, here, there, heading, height, torso @ pos[0, rodent.body["skull"]])
    targets = _paw_targets(rng, name, grounded, places, torso)
    # The tail trails on the floor, or is carried with its tip a little up.
    carried = rng.uniform(0, 0.02) if rng.random() < 0.6 else rng.uniform(0.02, 0.05)
    tail = {f"vertebra_C{k}": 0.003 - height + carried * (k - 12) / 18 for k in (12, 18, 24, 30)}
    q = solve_limbs(rodent, q, torso, targets, tail, rng)
    return q, torso, height


def solve_limbs(
    rodent: Rodent,
    q: np.ndarray,
    torso: np.ndarray,
    targets: dict[str, np.ndarray],
    tail: dict[str, float],
    rng: np.random.Generator,
    steps: int = 20,
) -> np.ndarray:
    """Damped least squares: limbs to their paw targets, the tail to its heights.

    Both are given in the frame of the torso's origin with the floor's z axis.
    """
    limb = [rodent.joint[n] for _, names in LIMBS.values() for n in names]
    stem = [i for n, i in rodent.joint.items() if n.startswith("vertebra_C") and n[10].isdigit() and "extend" in n]
    free = np.array(limb + stem)
    low, high = rodent.low.copy(), rodent.high.copy()
    low[stem] *= 1.7  # the tail's root bends further than the rig's own limits
    high[stem] *= 1.7
    bodies = [rodent.body[LIMBS[k][0]] for k in targets]
    tail_bodies = [rodent.body[k] for k in tail]
    goal = np.concatenate([np.array(list(targets.values())).ravel(), 0.5 * np.array(list(tail.values()))])
    q = q.copy()
    home = np.clip(q[free] + rng.normal(0, 0.03, len(free)), low[free], high[free])
    q[free] = home
    eps, pull = 1e-4, 2e-3
    for _ in range(steps):
        batch = np.repeat(q[None], len(free) + 1, 0)
        batch[np.arange(len(free)) + 1, free] += eps
        _, pos = rodent.skeleton.forward(batch)
        paws = (pos[:, bodies] @ torso.T).reshape(len(batch), -1)
        heights = 0.5 * (pos[:, tail_bodies] @ torso.T)[:, :, 2]
        now = np.concatenate([paws, heights], 1)
        jac = (now[1:] - now[:1]).T / eps
        err = goal - now[0]
        a = jac.T @ jac + (pull**2 + 1e-6) * np.eye(len(free))
        step = np.linalg.solve(a, jac.T @ err + pull**2 * (home - q[free]))
        q[free] = np.clip(q[free] + np.clip(step, -0.35, 0.35), low[free], high[free])
    return q
