"""Hostile lines in files of JSON lines, and the table that is made of many of them."""

from __future__ import annotations

from dataclasses import replace

from hostile.damage import DEEP, Attack, Change, byte_order_mark, edited, fixed, whole_file
from hostile.good_files import EXPERIMENTS, STEPS

ODD_LINES: dict[str, str | bytes] = {
    "half a row": '{"step": 9, "ti', "nothing": "", "a list": "[1, 2, 3]", "a text": '"text"', "a number": "42", "null": "null",
    "true": "true", "NaN": "NaN", "an empty table": "{}", "two rows on a line": '{"step": 98} {"step": 99}',
    "an open quote": '{"step": "', "not UTF-8": b"\xff\xfe\x80", "NUL bytes": bytes(50), "UTF-16": '{"step": 9}'.encode("utf-16"),
    "1 MB of text": '"' + "x" * 1_000_000 + '"', "lists nested deep": "[" * DEEP, "tables nested deep": '{"a":' * DEEP,
    "5000 digits": '{"step": ' + "9" * 5000 + "}", "a line separator": '{"step": 99, "a": "\u2028"}',
    "a lone surrogate": '{"step": 99, "\\ud800": 1}', "a carriage return": b'{"step": 99}\r{"step": \r',
    "binary": bytes(range(128, 256)),
}  # fmt: skip
ODD_VALUES = ("null", '"x"', "[1]", "NaN", "1e400", "9" * 400, '{"a": 1}', "Infinity", "-1", "true", '""')
INSIDE = ("half a row", "a list", "null", "an empty table", "not UTF-8", "NUL bytes", "lists nested deep", "5000 digits")
LOG_ROW = {"step": "99", "time": "1099.0", "train/loss": "0.5", "train/objects_per_second": "8.0"}
ATTEMPT_ROW = {
    "event": '"begun"', "time": "1100.0", "step": "20", "host": '"node1"', "pid": "1", "slurm_job": "null", "until": "100",
}  # fmt: skip


def _odd_rows(row: dict[str, str], keys: tuple[str, ...], few: bool) -> dict[str, str | bytes]:
    """Rows that are JSON, with one entry left out or replaced."""
    out: dict[str, str | bytes] = {}
    for key in keys:
        for value in (None, *(ODD_VALUES[:6] if few else ODD_VALUES)):
            changed = {k: v for k, v in {**row, key: value}.items() if v is not None}
            what = f"{key} {'left out' if value is None else value[:10]}"
            out[what] = "{" + ", ".join(f'"{k}": {v}' for k, v in changed.items()) + "}"
    return out


def _with_line(line: str | bytes, at: int | None) -> Change:
    """The good lines and an odd one, after `at` lines or at the end."""

    def change(good: bytes) -> bytes:
        lines = good.splitlines()
        lines.insert(len(lines) if at is None else at, line.encode() if isinstance(line, str) else line)
        return b"\n".join(lines) + b"\n"

    return edited(change)


def line_attacks(file: str, row: dict[str, str], keys: tuple[str, ...], few: bool = False) -> list[Attack]:
    """Odd lines in a file of rows: the reader has to skip them, and to return every row that is whole."""
    rights = {"lossy": False, "may_refuse": False}
    inside = {what: ODD_LINES[what] for what in INSIDE}
    last = {**(inside if few else ODD_LINES), **_odd_rows(row, keys, few)}
    out = []
    for where, at, lines in (("last", None, last), ("second", 1, {} if few else inside)):
        for what, line in lines.items():
            out.append(Attack(f"{where} line: {what}", file, _with_line(line, at), apart="deep" in what, **rights))
    # Of a file that is damaged as a whole, nothing may be wanted any more; of one that lacks a part, the rest is.
    foreign = ("place", "nowhere", "itself", "missing", "UTF-16", "random", "all zeros")
    for a in whole_file(file, text=True, few=few, lossy=False):
        refusable = not few and any(word in a.what for word in foreign)
        out.append(replace(a, may_refuse=refusable))
    return [*out, byte_order_mark(file, may_refuse=False)]


def log_attacks() -> list[Attack]:
    """`log.jsonl`."""
    assert int(LOG_ROW["step"]) > STEPS  # an odd row must not look like a later one of the same step
    return line_attacks("log.jsonl", LOG_ROW, ("step", "time", "train/loss"))


def attempts_attacks() -> list[Attack]:
    """`attempts.jsonl`."""
    return line_attacks("attempts.jsonl", ATTEMPT_ROW, ("event", "step", "until"))


LOCKS = (
    "[]", "null", "42", "{}", '{"host": null, "pid": null}', '{"host": [1], "pid": "x"}', '{"host": "node1"}', '{"pid": 1}',
    "[" * DEEP, '{"host": "HERE", "pid": 1e400}', '{"host": "HERE", "pid": -1}', '{"host": "HERE", "pid": 99999999999999999999}',
    b"\xff\xfe",
)  # fmt: skip


def status_attacks(host: str) -> list[Attack]:
    """One experiment of three is spoilt: the others' lines in the table must stay as they are.

    Args:
        host: of this machine, for locks whose holder can be looked for.
    """
    stage = f"state/{EXPERIMENTS[1]}/mvdiffusion"
    keys = ("step", "time", "train/loss", "train/objects_per_second")
    out = line_attacks(f"{stage}/log.jsonl", LOG_ROW, keys, few=True)
    out += line_attacks(f"{stage}/attempts.jsonl", ATTEMPT_ROW, ("event", "until"), few=True)
    rights = {"lossy": False, "may_refuse": False}
    for content in LOCKS:
        text = content.replace("HERE", host) if isinstance(content, str) else content
        out.append(Attack(f"a lock: {content[:40]!r}", f"{stage}/lock", fixed(text), apart=len(content) > 1000, **rights))
    for name in ("step-abc.pt", "step-.pt", "step-9-9.pt"):
        out.append(Attack(f"a state named {name}", f"{stage}/states/{name}", fixed(b"x"), **rights))
    return [*out, Attack("a file for a stage", f"state/{EXPERIMENTS[1]}/gslrm", fixed(b"x"), **rights)]
