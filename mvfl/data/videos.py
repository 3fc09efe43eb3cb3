"""Synchronised videos: size, number of frames, and the frames themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import av
import numpy as np

from mvfl.runtime.files import InputError
from mvfl.runtime.reading import named_errors, require_file


def open_video(path: Path) -> av.container.InputContainer:
    """A video, opened for decoding with threads.

    Raises:
        InputError: missing, or no video.
    """
    require_file(path, "set the videos and masks patterns of the data set ('{camera}' is 0, 1 ...)")
    with named_errors(path, "a video", "it is truncated or damaged: copy it again"):
        container = av.open(str(path))
        container.streams.video[0].thread_type = "AUTO"
    return container


def common_size(paths: list[Path]) -> tuple[int, int]:
    """Width and height in pixels of videos that must agree.

    Raises:
        InputError: they do not.
    """
    sizes = {}
    for path in paths:
        with open_video(path) as container:
            stream = container.streams.video[0]
            sizes[path] = (stream.width, stream.height)
    for path, size in sizes.items():
        if size != sizes[paths[0]]:
            raise InputError(
                f"{path} is {size[0]} x {size[1]} pixels, {paths[0]} {sizes[paths[0]][0]} x {sizes[paths[0]][1]}; they must agree."
            )
    return sizes[paths[0]]


def frame_count(paths: list[Path]) -> int:
    """Frames of synchronised videos, counted by their packets; all must have the same number.

    Raises:
        InputError: they have not, or one of them is damaged.
    """

    def count(path: Path) -> int:
        with open_video(path) as container, named_errors(path, "a video", "it is damaged: copy it again"):
            return sum(1 for packet in container.demux(video=0) if packet.size)

    counts = {path: count(path) for path in paths}
    for path, number in counts.items():
        if number != counts[paths[0]]:
            raise InputError(f"{path} has {number} frames, {paths[0]} has {counts[paths[0]]}: the videos are not synchronised.")
    return counts[paths[0]]


def read_frames(paths: list[Path], wanted: set[int]) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Wanted frames of synchronised videos in order, RGB uint8 [height, width, 3] per video.

    Raises:
        InputError: a video ends early or is damaged.
    """
    last = max(wanted)
    with ExitStack() as stack:
        streams = [stack.enter_context(open_video(p)).decode(video=0) for p in paths]
        for number in range(last + 1):
            frames = []
            for path, stream in zip(paths, streams, strict=True):
                try:
                    frames.append(next(stream))
                    if frames[-1].is_corrupt:
                        raise StopIteration
                except (StopIteration, av.FFmpegError) as error:
                    raise InputError(f"{path} ends or breaks at frame {number}, frame {last} is needed: copy it again.") from error
            if number in wanted:
                yield number, [frame.to_ndarray(format="rgb24") for frame in frames]
