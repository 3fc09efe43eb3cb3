"""Ways to spoil a file that hold for every reader of a format. All are seeded: the same campaign on every machine."""

from __future__ import annotations

import io
import json
import os
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

SEED = 20261126
RUNS, RUN_BYTES = 2, 48  # zeroed runs per file, and their length
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)
Change = Callable[[Path, bytes], None]
Zeros = Literal["always", "many", "never"]


@dataclass(frozen=True)
class Attack:
    """One hostile input.

    Attributes:
        what: in words, for tables and failures.
        file: what is spoilt, relative to the folder that the reader is given.
        change: writes the spoilt file; takes its path, where nothing lies, and the good bytes.
        lossy: something was lost, so a result that differs from the good one is wrong.
        may_refuse: false where the reader has to go on without what is spoilt.
        apart: run in a process of its own, with little memory: it may hang or die in C.
        seconds: after these it counts as hanging.
        names: further files that the sentence may name instead.
    """

    what: str
    file: str
    change: Change
    lossy: bool = True
    may_refuse: bool = True
    apart: bool = False
    seconds: float = 20.0
    names: tuple[str, ...] = ()


def luck(*words: str) -> random.Random:
    """A generator of its own for each attack, so that adding one leaves the others as they were."""
    return random.Random(f"{SEED} {' '.join(words)}")


def fixed(content: bytes | str) -> Change:
    """Write these bytes, whatever was there."""
    data = content.encode() if isinstance(content, str) else content
    return lambda path, _good: _write(path, data)


def edited(edit: Callable[[bytes], bytes]) -> Change:
    """Write the good bytes, changed."""
    return lambda path, good: _write(path, edit(good))


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


# ------------------------------------------------------------------------------------------------ any file at all
def things(file: str, lossy: bool = True, may_refuse: bool = True) -> list[Attack]:
    """Something that is no ordinary file stands at the file's place; opening a pipe waits for ever."""
    places: dict[str, Change] = {
        "a folder in its place": lambda path, _good: path.mkdir(),
        "missing": lambda path, _good: None,
        "a pipe in its place": lambda path, _good: os.mkfifo(path),
        "a link to itself": lambda path, _good: path.symlink_to(path.name),
        "a link to nowhere": lambda path, _good: path.symlink_to("nowhere"),
    }
    return [
        Attack(what, file, change, lossy, may_refuse, apart="pipe" in what, seconds=15.0 if "pipe" in what else 20.0)
        for what, change in places.items()
    ]


def zeroed(good: bytes, start: int, length: int) -> bytes:
    """Some bytes set to zero, as a disk that lost power leaves them."""
    length = min(length, len(good) - start)
    return good[:start] + bytes(length) + good[start + length :]


def flipped(good: bytes, count: int, rng: random.Random) -> bytes:
    """Single bits changed."""
    out = bytearray(good)
    for _ in range(count):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def whole_file(
    file: str, text: bool = False, zeros: Zeros = "always", few: bool = False, lossy: bool = True, may_refuse: bool = True
) -> list[Attack]:
    """Cuts, zeros, flips, random and foreign content, things that are no files.

    Args:
        file: to spoil.
        text: of a text format, for which bytes outside UTF-8 are damage.
        zeros: when they are seen as damage: among weights a few are numbers, but a matrix of them is none; elsewhere any
            number may be zero.
        few: a third of all, for large files.
        lossy, may_refuse: as of `Attack`.
    """
    changes: dict[str, Change] = {"empty": fixed(b""), "1 byte": edited(lambda good: good[:1])}
    for percent in (50, 90) if few else (10, 50, 75, 90):
        changes[f"cut at {percent} %"] = edited(lambda good, p=percent: good[: len(good) * p // 100])
    changes["cut by 1 byte"] = edited(lambda good: good[:-1])
    changes["second half zeroed"] = edited(lambda good: zeroed(good, len(good) // 2, len(good)))
    changes["all zeros"] = edited(lambda good: bytes(len(good)))
    changes["random bytes"] = edited(lambda good: luck(file, "random bytes").randbytes(min(len(good), 4096)))
    foreign = {"a picture": PNG, "JSON": b'{"a": [1, 2]}\n', "prose": b"This is no such file.\n", "an archive": _archive()}
    for name, content in list(foreign.items())[: 2 if few else 4]:
        changes[f"{name} in its place"] = fixed(content)
    if text:
        changes["a byte outside UTF-8 at the start"] = edited(lambda good: b"\xff" + good)
        changes["bytes outside UTF-8 inside"] = edited(lambda good: good[: len(good) // 2] + b"\xc3\x28" + good[len(good) // 2 :])
        changes["UTF-16"] = edited(lambda good: good.decode().encode("utf-16"))
    hidden = ("second half zeroed",) if zeros == "never" else ()
    out = [Attack(what, file, change, lossy and what not in hidden, may_refuse) for what, change in changes.items()]
    for number in range(1 if few else RUNS):
        start = luck(file, "zeros", str(number)).random()
        change = edited(lambda good, s=start: zeroed(good, int(s * len(good)), RUN_BYTES))
        out.append(Attack(f"{RUN_BYTES} zeros at {start:.0%}", file, change, lossy and zeros == "always", may_refuse))
    for number, count in enumerate((1, 64) if few else (1, 1, 8, 64)):
        change = edited(lambda good, n=number, c=count: flipped(good, c, luck(file, "flips", str(n))))
        out.append(Attack(f"{count} flipped bits ({number})", file, change, False, may_refuse))
    return out + things(file, lossy, may_refuse)


def _archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("a.txt"), "text")
    return buffer.getvalue()


# ----------------------------------------------------------------------------------------------------------- JSON
DEEP = 100_000
TOKENS = {
    "null": "null", "a list": '[1, "x"]', "a text": '"x"', "a table": '{"x": 1}', "-1": "-1", "NaN": "NaN",
    "Infinity": "Infinity", "1e400": "1e400", "a text of 100 kB": f'"{"x" * 100_000}"', "5000 digits": "9" * 5000,
}  # fmt: skip
ALWAYS, DRAWN = ("null", "NaN"), 2  # tried at every place, and how many others are drawn for it
# What may stand at a place without harm, by the kind that its specification names.
FITTING = {
    "number": {"-1"}, "positive": set(), "text": {"a text", "a text of 100 kB"}, "case": set(), "list": set(), "table": set(),
    "map": {"a table"}, "entry": {"removed"}, "name": {"removed", "a text", "a text of 100 kB"}, "any": {"removed", *TOKENS},
}  # fmt: skip


def json_values(file: str, places: Mapping[str, str], lossy: bool = True, may_refuse: bool = True) -> list[Attack]:
    """Each place of a JSON file removed, and replaced by what does not belong there.

    Args:
        file: to spoil.
        places: place ("frames.1.fx"; in tables a number counts entries) -> kind of value, with `?` where null or nothing
            will do.
        lossy, may_refuse: as of `Attack`.
    """
    out = []
    for place, kind in places.items():
        rng = luck(file, place)
        drawn = rng.sample([t for t in TOKENS if t not in ALWAYS], DRAWN)
        fitting = FITTING[kind.rstrip("?")] | ({"removed", "null"} if kind.endswith("?") else set())
        for what in ("removed", *ALWAYS, *drawn):
            change = edited(lambda good, p=place, w=what: _with_token(good, p, TOKENS.get(w)))
            out.append(Attack(f"{place}: {what}", file, change, lossy and what not in fitting, may_refuse))
    deepest = luck(file, "deep").choice(list(places))
    nested = "[" * DEEP + "]" * DEEP
    change = edited(lambda good: _with_token(good, deepest, nested))
    return [*out, Attack(f"{deepest}: lists nested {DEEP} deep", file, change, lossy, may_refuse, apart=True)]


def json_wholes(file: str, lossy: bool = True, may_refuse: bool = True) -> list[Attack]:
    """JSON, but not the kind of value that the file should hold; and text around it."""
    texts = {
        "an empty list": "[]", "an empty table": "{}", "null": "null", "a number": "42", "a text": '"text"', "true": "true",
        "NaN": "NaN", "a list of tables": '[{"a": 1}]', "nested tables": '{"a":' * DEEP + "1" + "}" * DEEP,
        "open lists": "[" * DEEP,
    }  # fmt: skip
    out = [
        Attack(f"the whole: {what}", file, fixed(text), lossy, may_refuse, apart=len(text) > 1000) for what, text in texts.items()
    ]
    twice = edited(lambda good: good + good)
    return [*out, Attack("the whole twice", file, twice, lossy, may_refuse), byte_order_mark(file, may_refuse)]


def byte_order_mark(file: str, may_refuse: bool = True) -> Attack:
    """Editors on Windows put one at the start; nothing is lost."""
    return Attack("a byte order mark", file, edited(lambda good: b"\xef\xbb\xbf" + good), False, may_refuse)


def _with_token(good: bytes, place: str, token: str | None) -> bytes:
    """JSON with the value at a place replaced by raw text, or removed."""
    data = json.loads(good)
    *before, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    node: Any = data
    for part in before:
        node = node[_key(node, part)]
    key = _key(node, last)
    if token is None:
        del node[key]
    else:
        node[key] = "@@HERE@@"
    return json.dumps(data, indent=1).replace('"@@HERE@@"', token or "").encode()


def _key(node: Any, part: int | str) -> Any:
    """In a table whose keys are not known beforehand a number counts its entries."""
    return list(node)[part] if isinstance(node, dict) and isinstance(part, int) else part


# ------------------------------------------------------------------------------------------------- weights, pictures
def safetensors_headers(file: str, few: bool = False) -> list[Attack]:
    """Lengths, names and places that a safetensors header should not claim."""

    def raw(header: bytes, rest: bytes = b"", length: int | None = None) -> bytes:
        return struct.pack("<Q", len(header) if length is None else length) + header + rest

    def one(**entry: Any) -> bytes:
        table = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **entry}}
        return raw(json.dumps(table).encode(), bytes(8))

    contents = {
        "header of 2^64 - 1 bytes": raw(b"{}", length=2**64 - 1),
        "header of 2^40 bytes": raw(b"{}", length=2**40),
        "header longer than the file": raw(b"{}", length=4000),
        "no tensors": raw(b"{}"),
        "header is a list": raw(b"[]"),
        "header is no JSON": raw(b"{'a': 1}"),
        "header nested deep": raw(b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
        "header of length 0": raw(b""),
        "unknown type": one(dtype="Q7"),
        "offsets beyond the end": one(data_offsets=[0, 2**50]),
        "offsets backwards": one(data_offsets=[8, 0]),
        "shape beyond 64 bits": one(shape=[2**40, 2**40]),
        "negative shape": one(shape=[-2]),
        "another network's tensor": one(),
        "metadata is no table": raw(b'{"__metadata__": 5}'),
        "header outside UTF-8": raw(b'{"\xff\xfe": 1}'),
    }
    chosen = list(contents.items())[:4] if few else contents.items()
    return [Attack(what, file, fixed(content), apart="deep" in what) for what, content in chosen]


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG file, with a checksum that fits."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
