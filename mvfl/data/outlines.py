"""Do a recording's pictures belong to its masks? Where a mask ends, its picture has an edge.

All other evidence of a recording is taken from masks: a video of another take, or of another camera, would pass it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from mvfl.data.locating import Located
from mvfl.data.silhouettes import Silhouette
from mvfl.data.videos import read_frames
from mvfl.records.manifest import evenly
from mvfl.records.recording import RecordingReport

LOOKED_AT, AMONG = 8, 500  # moments, of the first ones of a recording: videos are decoded from their start
SHIFTS = [(d * math.cos(a), d * math.sin(a)) for d in (0.3, 0.6, 1.0) for a in np.arange(12) * math.pi / 6]
LEAST = 0.85  # of a real recording 1.00 in every camera; with the video of another one 0.37 to 0.79
INSIDE = 0.7  # of an outline that must lie in the picture after a shift


def outline_rank(picture: UInt8[np.ndarray, "height width"], silhouette: Silhouette) -> float:
    """Share of shifted outlines with weaker edges under them than the outline itself has: 1 where picture and mask belong together.

    Args:
        picture: grey.
        silhouette: of the same picture; shifts are 0.3 to 1 times the square root of its area.
    """
    smooth = cv2.GaussianBlur(picture, (5, 5), 0).astype(np.float32)
    edges = np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
    contours = cv2.findContours(silhouette.bits.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    outline = np.concatenate([c[:, 0] for c in contours]) + np.array(silhouette.corner)
    own, *others = (_strength(edges, outline, silhouette.area**0.5 * np.array(shift)) for shift in [(0.0, 0.0), *SHIFTS])
    compared = [own > other for other in others if not math.isnan(other)]
    return sum(compared) / len(compared) if compared else 1.0


def _strength(edges: np.ndarray, outline: np.ndarray, shift: np.ndarray) -> float:
    """Mean strength of edges along a shifted outline; NaN where too much of it leaves the picture."""
    columns, rows = np.round(outline + shift).astype(int).T
    inside = (columns >= 0) & (rows >= 0) & (columns < edges.shape[1]) & (rows < edges.shape[0])
    return float(edges[rows[inside], columns[inside]].mean()) if inside.mean() >= INSIDE else math.nan


def doubted(report: RecordingReport, videos: Sequence[Path], located: Sequence[Located]) -> RecordingReport:
    """The report with a warning for each camera whose pictures have no edges where its masks end.

    Args:
        report: of the recording.
        videos: one per camera.
        located: frames that are used.
    """
    moments = evenly(list(located[:AMONG]), LOOKED_AT)
    cameras = []
    for view, (note, video) in enumerate(zip(report.cameras, videos, strict=True)):
        pictures = dict(read_frames(video, {m.frame for m in moments}, "gray"))
        rank = float(np.mean([outline_rank(pictures[m.frame], m.silhouettes[view]) for m in moments]))
        if rank < LEAST:
            sentence = (
                f"in camera {note.name} the pictures have no edges where the masks end (agreement {rank:.2f}, usually 1.0): do "
                f"{video.name} and its masks belong to the same camera and the same take?"
            )
            note = note.model_copy(update={"warning": sentence})
        cameras.append(note)
    return report.model_copy(update={"cameras": cameras})
