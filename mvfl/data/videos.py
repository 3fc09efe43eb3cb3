"""Synchronised videos: size, number of frames, and the frames themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import Full, Queue
from threading import Event, Thread
from typing import Any, Literal, TypeVar

import av
import numpy as np

from mvfl.runtime.files import InputError
from mvfl.runtime.reading import named_errors, require_file

Item = TypeVar("Item")
DEPTH = 4  # frames that a thread may be ahead


def ahead(items: Iterator[Item], depth: int = DEPTH) -> Iterator[Item]:
    """The same items, made by a thread while earlier ones are worked on. What it raises is raised here."""
    queue: Queue[tuple[str, Any]] = Queue(depth)
    left = Event()

    def put(entry: tuple[str, Any]) -> bool:
        while not left.is_set():
            with suppress(Full):
                queue.put(entry, timeout=0.2)
                return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(("item", item)):
                    return
            put(("end", None))
        except BaseException as error:  # it belongs to whoever waits for the items
            put(("error", error))

    Thread(target=work, daemon=True).start()
    try:
        while True:
            kind, value = queue.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        left.set()


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


def video_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels.

    Raises:
        InputError: missing, or no video.
    """
    with open_video(path) as container:
        stream = container.streams.video[0]
        first = next(container.decode(video=0), None)
        turned = first is not None and first.rotation % 180 != 0
        return (stream.height, stream.width) if turned else (stream.width, stream.height)


def frame_count(path: Path) -> int:
    """Frames of a video, counted by its packets.

    Raises:
        InputError: missing or damaged.
    """
    with open_video(path) as container, named_errors(path, "a video", "it is damaged: copy it again"):
        # A part that was cut out without encoding it anew holds packets that no player shows.
        return sum(1 for packet in container.demux(video=0) if packet.size and not packet.is_discard)


def common_count(paths: Sequence[Path]) -> int:
    """Frames of synchronised videos; all must have the same number.

    Raises:
        InputError: they have not, or one of them is damaged.
    """
    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(frame_count, paths))
    for path, number in zip(paths, counts, strict=True):
        if number != counts[0]:
            raise InputError(f"{path} has {number} frames, {paths[0]} has {counts[0]}: the videos are not synchronised.")
    return counts[0]


def read_frames(path: Path, wanted: set[int], form: Literal["gray", "rgb24"] = "rgb24") -> Iterator[tuple[int, np.ndarray]]:
    """Wanted frames of a video in order, upright as players and OpenCV show them, uint8 [height, width] or [height, width, 3].

    Raises:
        InputError: the video ends early or is damaged.
    """
    last = max(wanted, default=-1)
    with open_video(path) as container:
        stream = container.decode(video=0)
        for number in range(last + 1):
            try:
                frame = next(stream)
                if frame.is_corrupt:
                    raise StopIteration
            except (StopIteration, av.FFmpegError) as error:
                raise InputError(f"{path} ends or breaks at frame {number}, frame {last} is needed: copy it again.") from error
            if number in wanted:
                # The file may say that it was filmed on its side or upside down, in degrees against the clock.
                yield number, np.ascontiguousarray(np.rot90(frame.to_ndarray(format=form), frame.rotation // 90))
