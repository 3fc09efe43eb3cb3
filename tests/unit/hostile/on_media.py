"""Hostile point clouds, arrays, pictures and videos."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from PIL import Image

from hostile.damage import PNG, Attack, Change, edited, fixed, json_values, json_wholes, png_chunk, whole_file
from hostile.good_files import PIXELS, picture, write_video
from hostile.judging import MARKER


def ply_attacks() -> list[Attack]:
    """`gaussians.ply`."""
    file = "gaussians.ply"
    out = whole_file(file, zeros="never")
    swaps = {
        "no vertices": (b"element vertex 20", b"element vertex 0"), "a vertex too many": (b"vertex 20", b"vertex 21"),
        "10^12 vertices": (b"vertex 20", b"vertex 1000000000000"), "-1 vertices": (b"vertex 20", b"vertex -1"),
        "many vertices": (b"vertex 20", b"vertex many"), "another element": (b"element vertex", b"element face"),
        "no such format": (b"binary_little_endian 1.0", b"binary_middle_endian 1.0"), "text": (b"binary_little_endian", b"ascii"),
        "another version": (b"little_endian 1.0", b"little_endian 9.9"), "no format": (b"format binary_little_endian 1.0\n", b""),
        "x missing": (b"property float x\n", b""), "opacity renamed": (b"float opacity", b"float transparency"),
        "an unknown type": (b"property float x", b"property quad x"),
        "a list for x": (b"property float x", b"property list uchar float x"),
        "a property twice": (b"property float y", b"property float x"), "no end": (b"end_header\n", b""),
        "a byte outside ASCII": (b"property float x", b"property float \xff"), "no magic": (b"ply\n", b"plx\n"),
        "NUL in the header": (b"element", b"ele\x00ment"), "x of bytes": (b"property float x", b"property uchar x"),
    }  # fmt: skip
    for what, (old, new) in swaps.items():
        swapped = edited(lambda good, o=old, n=new: good.replace(o, n, 1))
        out.append(Attack(f"header: {what}", file, swapped, apart="10^12" in what))
    for what, value in {"NaN": float("nan"), "infinity": float("inf")}.items():
        for at in (0, 15, -4):  # x, f_dc_0, the last quaternion number of the last vertex

            def poisoned(good: bytes, v: float = value, a: int = at) -> bytes:
                start = good.index(b"end_header\n") + 11 + a if a >= 0 else len(good) + a
                return good[:start] + struct.pack("<f", v) + good[start + 4 :]

            out.append(Attack(f"{what} at byte {at}", file, edited(poisoned)))
    return out


def latent_cache_attacks() -> list[Attack]:
    """Arrays and the index of a latent cache."""
    moments, embeds, index = "train_moments.npy", "train_embeds.npy", "index.json"
    out = [*whole_file(moments, zeros="never"), *whole_file(embeds, zeros="never", few=True)]

    def rewritten(edit: Callable[[np.ndarray], np.ndarray]) -> Change:
        def change(good: bytes) -> bytes:
            buffer = io.BytesIO()
            np.save(buffer, edit(np.load(io.BytesIO(good))))
            return buffer.getvalue()

        return edited(change)

    arrays: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "a sample less": lambda a: a[:-1], "a view less": lambda a: a[:, :, :1], "no samples": lambda a: a[:0],
        "flat": lambda a: a.ravel(),
        "no dimension": lambda a: a.ravel()[0], "objects": lambda a: a.astype(object), "texts": lambda a: a.astype("U"),
        "records": lambda a: np.zeros(3, [("a", "f4"), ("b", "i2")]), "complex numbers": lambda a: a.astype(complex),
    }  # fmt: skip
    for file in (moments, embeds):
        out += [Attack(f"{file}: {what}", file, rewritten(edit)) for what, edit in arrays.items()]
    headers = {
        "shape beyond the file": "{'descr': '<f2', 'fortran_order': False, 'shape': (9999999, 1, 2, 8, 4, 4), }",
        "shape beyond 64 bits": f"{{'descr': '<f2', 'fortran_order': False, 'shape': ({2**62}, 8, 2, 8, 4, 4), }}",
        "a negative shape": "{'descr': '<f2', 'fortran_order': False, 'shape': (-1, 1, 2, 8, 4, 4), }",
        "a shape of texts": "{'descr': '<f2', 'fortran_order': False, 'shape': ('a',), }",
        "code for a header": f"__import__('os').system('touch {MARKER}')",
        "no such type": "{'descr': '<q9', 'fortran_order': False, 'shape': (3,), }",
        "a key less": "{'descr': '<f2', 'shape': (3,), }",
        "no table": "[1, 2]",
        "open brackets": "(" * 9000,
        "nothing": "",
    }
    for what, text in headers.items():
        headed = edited(lambda good, t=text: _npy(t) + good[128:])
        out.append(Attack(f"npy header: {what}", moments, headed, apart="open" in what))
    out.append(Attack("npy version 9", moments, edited(lambda good: good[:6] + b"\x09\x00" + good[8:])))
    out.append(Attack("npy header of 65535 bytes", moments, edited(lambda good: good[:8] + b"\xff\xff" + good[10:])))
    places = {"data_hash": "text", "rig": "any", "base_hash": "text", "train": "list", "val": "list", "seed": "any"}
    out += [*whole_file(index, text=True, few=True), *json_wholes(index), *json_values(index, places)]
    return out


def _npy(header: str) -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return npy.magic(1, 0) + struct.pack("<H", len(text)) + text


FORMATS = ("BMP", "GIF", "TIFF", "WEBP", "JPEG", "PPM", "ICO", "PCX", "SGI", "TGA", "JPEG2000", "PDF")


def picture_attacks() -> list[Attack]:
    """`cam_000.png`."""
    file = "cam_000.png"
    out = whole_file(file)
    for form in FORMATS:
        buffer = io.BytesIO()
        mode = "RGB" if form in ("JPEG", "PPM", "PCX", "PDF") else "RGBA"
        picture().convert(mode).save(buffer, form)
        content = buffer.getvalue()
        out.append(Attack(f"half of a {form}", file, fixed(content[: len(content) // 2])))

    def png(width: int, height: int, data: bytes | None = None, colour: int = 6, *extra: bytes) -> bytes:
        head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
        rows = zlib.compress(bytes(100) if data is None else data)
        return PNG[:8] + head + b"".join(extra) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")

    def as_png(image: Image.Image) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()

    text_bomb = png_chunk(b"zTXt", b"note\x00\x00" + zlib.compress(bytes(3_000_000)))
    profile_bomb = png_chunk(b"iCCP", b"note\x00\x00" + zlib.compress(bytes(3_000_000)))
    row = b"\x00" + bytes([9, 9, 9, 255] * PIXELS)
    solid = Image.new("RGB", (PIXELS, PIXELS), "grey")
    contents = {
        "60,000 pixels per side": png(60_000, 60_000), "12,000 pixels per side, no data": png(12_000, 12_000, b""),
        "2^31 pixels per side": png(2**31 - 1, 2**31 - 1), "0 pixels": png(0, 0), "few data": png(PIXELS, PIXELS),
        "a text that unpacks to 3 MB": png(PIXELS, PIXELS, row * PIXELS, 6, text_bomb),
        "no colour type 5": png(PIXELS, PIXELS, row * PIXELS, 5),
        "a palette that is missing": png(PIXELS, PIXELS, row * PIXELS, 3),
        "a filter that is none": png(PIXELS, PIXELS, b"\x09" + row[1:] * PIXELS),
        "not square": as_png(picture().crop((0, 0, PIXELS, 8))),
        "nothing but transparency": as_png(Image.new("RGBA", (PIXELS, PIXELS))),
        "white": as_png(Image.new("RGB", (PIXELS, PIXELS), "white")), "opaque and grey": as_png(solid),
        "vector graphics": b'<svg xmlns="http://www.w3.org/2000/svg" width="16" height="16"/>',
        "PostScript that runs": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n(code-ran) (w) file closefile\n",
        "two signatures": PNG[:8] + PNG,
    }  # fmt: skip
    out += [Attack(what, file, fixed(content), apart="per side" in what) for what, content in contents.items()]
    swaps = {
        "a checksum that does not fit": edited(lambda good: good[:30] + b"abc" + good[33:]),
        "no end chunk": edited(lambda good: good[:-12]),
        "no data chunk": edited(lambda good: good.replace(b"IDAT", b"abCd")),
        "a chunk of 2^31 bytes": edited(lambda good: good[:8] + b"\x7f\xff\xff\xff" + good[12:]),
        "a profile that unpacks to 3 MB": edited(lambda good: good[:33] + profile_bomb + good[33:]),
        "line ends of another system": edited(lambda good: good.replace(b"\r\n", b"\n")),
    }
    # Without its end chunk or with a strange profile all pixels are there.
    return out + [Attack(what, file, change) for what, change in swaps.items()]


def video_attacks(scratch: Path) -> list[Attack]:
    """`video.mp4`, both of whose frames are wanted.

    Args:
        scratch: folder for the same video in other containers.
    """
    file = "video.mp4"
    # A decoder mends what it can: zeros and flips in the pictures leave pictures.
    out = whole_file(file, zeros="never")
    for form, ending in (("matroska", "mkv"), ("avi", "avi"), ("mpegts", "ts")):
        path = scratch / f"video.{ending}"
        write_video(path, form)
        content = path.read_bytes()
        for percent in (30, 60, 95):
            out.append(Attack(f"{ending} cut at {percent} %", file, fixed(content[: len(content) * percent // 100])))
    sound = (
        b"RIFF" + struct.pack("<I", 36) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16) + b"data" + bytes(4)
    )
    out.append(Attack("sound", file, fixed(sound)))
    playlist = "#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
    out.append(Attack("a playlist of other files", file, fixed(playlist)))
    out.append(Attack("a list of files to join", file, fixed("ffconcat version 1.0\nfile '/etc/passwd'\n")))
    boxes = {"moov": b"free", "mdat": b"free", "stsz": b"abcd", "mp4v": b"abcd", "stco": b"abcd"}
    for box, name in boxes.items():
        out.append(Attack(f"box {box} renamed", file, edited(lambda good, b=box, n=name: good.replace(b.encode(), n, 1))))
    return out
