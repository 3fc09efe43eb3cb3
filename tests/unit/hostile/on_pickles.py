"""Hostile pickles in place of a calibration: code, sizes that take all memory, opcodes that no pickler writes."""

from __future__ import annotations

import pickle
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hostile.damage import Attack, Change, fixed, whole_file
from hostile.good_files import recorded_arrays
from hostile.judging import MARKER


def pickle_attacks() -> list[Attack]:
    """`new_cam.pkl`: what a pickle from elsewhere may hold."""
    file = "new_cam.pkl"
    out = [replace(a, apart=True) for a in whole_file(file, zeros="many")]
    out += [Attack(f"code: {what}", file, _malicious(call), apart=True) for what, call in CALLS.items()]
    out += [Attack(f"opcodes: {what}", file, fixed(content), apart=True, seconds=20.0) for what, content in _opcodes().items()]
    arrays = recorded_arrays()

    def one(**entry: Any) -> list[dict[str, Any]]:
        return [{**arrays[0], **entry}, *arrays[1:]]

    nan, loop = arrays[0]["R"] * np.nan, []
    loop.append(loop)
    nested: Any = [1.0]
    for _ in range(10):
        nested = [nested] * 10
    objects: dict[str, Any] = {
        "a number": 5, "None": None, "a text": "text", "an empty list": [], "a list of numbers": [1, 2],
        "a list of lists": [[1], [2]],
        "a table with names for keys": {"left": arrays[0], "right": arrays[1]}, "a table with None as a key": {None: arrays[0]},
        "a table of numbers": {0: 5}, "R missing": [{k: v for k, v in arrays[0].items() if k != "R"}], "R NaN": one(R=nan),
        "T infinite": one(T=np.array([np.inf, 0, 0])), "R of texts": one(R=np.array([["a", "b"]])),
        "R complex": one(R=arrays[0]["R"] * 1j),
        "R of objects": one(R=np.array([None, {}, []], dtype=object)), "R ragged": one(R=[[1, 2], [3]]),
        "R a table": one(R={"a": 1}),
        "R 2 x 2": one(R=np.eye(2)), "K with focal length 0": one(K=np.zeros((3, 3))),
        "R of dates": one(R=np.array(["2026-11-26"] * 3, "M8[D]")),
        "a list that holds itself": loop, "R that holds itself": one(R=loop), "ten lists of ten lists": one(R=nested),
        "a big integer": one(T=[10**400, 0, 0]), "a set": {1, 2}, "bytes": b"abc",
    }  # fmt: skip
    # Whether cameras of the right form make sense is looked at when the JSON is read.
    later = ("R 2 x 2", "K with focal length 0")
    for what, content in objects.items():
        out.append(Attack(f"holds {what}", file, fixed(pickle.dumps(content, protocol=4)), lossy=what not in later, apart=True))
    table = pickle.dumps({str(i): entry for i, entry in enumerate(arrays)})
    return [*out, Attack("holds a table with numbers for keys", file, fixed(table), lossy=False, apart=True)]


CALLS = {
    "os.system": ("os", "system", "touch '{}'"), "posix.system": ("posix", "system", "touch '{}'"),
    "eval": ("builtins", "eval", "__import__('os').system(\"touch '{}'\")"), "exec": ("builtins", "exec", "open('{}', 'w')"),
    "subprocess": ("subprocess", "getoutput", "touch '{}'"), "a name with dots": ("numpy", "ndarray.__class__", "{}"),
    "numpy that runs code": ("numpy.testing._private.utils", "runstring", "open('{}', 'w')"),
    "numpy.load": ("numpy", "load", "{}"), "runpy": ("runpy", "run_path", "{}"),
    "a module that is none": ("no.such", "thing", "{}"),
    "pathlib": ("pathlib", "Path", "{}"), "torch": ("torch", "load", "{}"),
}  # fmt: skip


def _malicious(call: tuple[str, str, str]) -> Change:
    module, name, text = call

    def change(path: Path, _good: bytes) -> None:
        argument = text.format(path.with_name(MARKER)).encode()
        head = b"\x80\x04" + _text(module.encode()) + _text(name.encode()) + b"\x93"
        path.write_bytes(head + _text(argument) + b"\x85R.")

    return change


def _text(data: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(data)) + data


def _opcodes() -> dict[str, bytes]:
    """Pickles that no pickler writes."""
    array = b"cnumpy.core.multiarray\n_reconstruct\n"
    four_gib = b"\x8a\x05\x00\x00\x00\x00\x01"  # LONG1 2^32
    return {
        "an array of 4 GiB": array + b"(cnumpy\nndarray\n(" + four_gib + b"tC\x01btR.",
        "an array of 4 GiB by its class": b"cnumpy\nndarray\n(" + four_gib + b"C\x01bt\x85R.",
        "an array of 2^62 bytes": array + b"(cnumpy\nndarray\n(\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x40tC\x01btR.",
        "an array of a negative shape": array + b"(cnumpy\nndarray\n(J\xff\xff\xff\xfftC\x01btR.",
        "an array of no class": array + b"(I1\n(I0\ntC\x01btR.",
        "an array with a state of text": array + b"(cnumpy\nndarray\n(I0\ntC\x01btR" + _text(b"state") + b"b.",
        "a type of no sense": b"cnumpy\ndtype\n" + _text(b"O9,q,(x)") + b"\x85R.",
        "a type with a state of numbers": b"cnumpy\ndtype\n" + _text(b"f8") + b"\x85R(I1\nI2\ntb.",
        "a codec that is none": b"c_codecs\nencode\n" + _text(b"a") + _text(b"no-such-codec") + b"\x86R.",
        "a memo index of 10^8": b"\x80\x04]r" + struct.pack("<I", 10**8) + b".",
        "a memo index of 2^31 - 1": b"\x80\x04]r" + struct.pack("<I", 2**31 - 1) + b".",
        "a memo index of 2^32 - 1": b"\x80\x04]r" + struct.pack("<I", 2**32 - 1) + b".",
        "a memo index in text": b"]p100000000\n.",
        "a memo index that is negative": b"]p-5\n.",
        "a memo entry that was never put": b"\x80\x04h\x07.",
        "2 GiB of bytes that are not there": b"\x80\x04\x8e" + struct.pack("<Q", 2**31) + b"abc.",
        "2^40 bytes that are not there": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"abc.",
        "2^63 bytes that are not there": b"\x80\x04\x8e" + struct.pack("<Q", 2**63) + b"abc.",
        "a byte array of 2 GiB that is not there": b"\x80\x05\x96" + struct.pack("<Q", 2**31) + b"abc.",
        "a text of 2^40 bytes that is not there": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"abc.",
        "a frame of 2^60 bytes": b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"].",
        "an integer of 2 GiB": b"\x80\x04\x8b" + struct.pack("<I", 2**31 - 1) + b"abc.",
        "an integer of negative length": b"\x80\x04\x8b\xff\xff\xff\xff.",
        "an integer of 100,000 digits": b"I" + b"9" * 100_000 + b"\n.",
        "lists nested deep": b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".",
        "tuples nested deep": b"\x80\x04)" + b"\x85" * 100_000 + b".",
        "marks nested deep": b"\x80\x04" + b"(" * 100_000 + b".",
        "an object kept elsewhere": b"Psomewhere\n.",
        "nothing on the stack": b"\x80\x04.",
        "a protocol of 99": b"\x80\x63].",
        "an extension": b"\x80\x02\x82\x01.",
        "a buffer from outside": b"\x80\x05\x97.",
        "an unknown opcode": b"\x80\x04\xff.",
        "a global outside ASCII": b"c\xff\xfe\nx\n.",
        "a global without an end": b"cnumpy",
        "a build on a list": b"]" + _text(b"x") + b"b.",
        "an append to a number": b"I1\nI2\na.",
        "an entry in a list": b"\x80\x04]I1\nI2\ns.",
        "a list as a key": b"}]I1\ns.",
        "no stop": b"\x80\x04]",
    }
