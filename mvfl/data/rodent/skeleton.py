"""Skeleton of the rodent: a tree of bodies with hinge joints, read from MuJoCo's XML."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass
class Skeleton:
    """A tree of bodies with hinge joints; index 0 is the torso."""

    body_names: list[str] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    offsets: list[np.ndarray] = field(default_factory=list)
    rotations: list[np.ndarray] = field(default_factory=list)
    body_joints: list[list[int]] = field(default_factory=list)
    joint_names: list[str] = field(default_factory=list)
    joint_axes: list[np.ndarray] = field(default_factory=list)
    joint_anchors: list[np.ndarray] = field(default_factory=list)
    joint_ranges: list[tuple[float, float]] = field(default_factory=list)
    eyes: list[tuple[np.ndarray, float]] = field(default_factory=list)

    def forward(self, angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """World rotations (B, n, 3, 3) and origins (B, n, 3) for angles (B, j).

        The torso body sits at the origin with no rotation.
        """
        batch = angles.shape[0]
        count = len(self.body_names)
        rot = np.empty((batch, count, 3, 3))
        pos = np.empty((batch, count, 3))
        for b in range(count):
            parent = self.parents[b]
            if parent < 0:
                rot[:, b], pos[:, b] = np.eye(3), 0.0
                continue
            r = rot[:, parent] @ self.rotations[b]
            p = pos[:, parent] + rot[:, parent] @ self.offsets[b]
            for j in self.body_joints[b]:
                turned = r @ axis_rotations(self.joint_axes[j], angles[:, j])
                anchor = self.joint_anchors[j]
                p = p + r @ anchor - turned @ anchor
                r = turned
            rot[:, b], pos[:, b] = r, p
        return rot, pos


def axis_rotations(axis: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Rotation matrices about one unit axis for a vector of angles."""
    x, y, z = axis
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    s, c = np.sin(angles)[:, None, None], np.cos(angles)[:, None, None]
    return np.eye(3) + s * k + (1 - c) * (k @ k)


def _numbers(text: str | None, fallback: str) -> np.ndarray:
    return np.array((text or fallback).split(), dtype=float)


def load_skeleton(path: Path) -> Skeleton:
    """Read the body tree, its hinges (with inherited defaults) and the eyes."""
    root = ElementTree.parse(path).getroot()
    defaults, torso = root.find("default"), root.find("worldbody/body")
    if defaults is None or torso is None:
        raise ValueError(f"{path} is not the rodent's model: no <default> or no <body>.")
    joint_defaults: dict[str, dict[str, str]] = {}

    def read_defaults(node: ElementTree.Element, inherited: dict[str, str], name: str) -> None:
        own = dict(inherited)
        for joint in node.findall("joint"):
            own.update(joint.attrib)
        joint_defaults[name] = own
        for child in node.findall("default"):
            read_defaults(child, own, child.get("class", ""))

    read_defaults(defaults, {}, "")
    skeleton = Skeleton()

    def read_body(node: ElementTree.Element, parent: int) -> None:
        index = len(skeleton.body_names)
        skeleton.body_names.append(node.get("name", ""))
        skeleton.parents.append(parent)
        skeleton.offsets.append(_numbers(node.get("pos"), "0 0 0"))
        ex, ey, ez = _numbers(node.get("euler"), "0 0 0")
        skeleton.rotations.append(
            axis_rotations(np.array([1.0, 0, 0]), np.array([ex]))[0]
            @ axis_rotations(np.array([0, 1.0, 0]), np.array([ey]))[0]
            @ axis_rotations(np.array([0, 0, 1.0]), np.array([ez]))[0]
        )
        skeleton.body_joints.append([])
        for joint in node.findall("joint"):
            attrs = {**joint_defaults[joint.get("class", "")], **joint.attrib}
            axis = _numbers(attrs.get("axis"), "0 0 1")
            skeleton.body_joints[index].append(len(skeleton.joint_names))
            skeleton.joint_names.append(attrs["name"])
            skeleton.joint_axes.append(axis / np.linalg.norm(axis))
            skeleton.joint_anchors.append(_numbers(attrs.get("pos"), "0 0 0"))
            low, high = _numbers(attrs.get("range"), "0 0")
            skeleton.joint_ranges.append((low, high))
        for geom in node.findall("geom"):
            if geom.get("name", "").startswith("eye_"):
                skeleton.eyes.append((_numbers(geom.get("pos"), "0 0 0"), _numbers(geom.get("size"), "0.004")[0]))
        for child in node.findall("body"):
            read_body(child, index)

    read_body(torso, -1)
    return skeleton
