"""Hostile configurations: the shipped one spoilt, overlays, and files that a configuration names."""

from __future__ import annotations

import json
from pathlib import Path

from hostile.damage import DEEP, Attack, Change, fixed, whole_file

OVERLAY = "hostile.yaml"


def _merges(levels: int) -> str:
    """Tables that merge the one before nine times: a few lines that a parser may swell to millions of entries."""
    lines = ["a0: &a0 {k: v}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, levels)]
    return "\n".join([*lines, f"defaults: *a{levels - 1}", ""])


def _laughs(levels: int, place: str) -> str:
    """Lists that name the one before nine times."""
    lines = ["a0: &a0 [x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "defaults:\n  bomb:\n" + "".join(f"    {line}\n" for line in lines) + place.format(f"*a{levels - 1}") + "\n"


OVERLAYS: dict[str, str | bytes] = {
    "a tab for indentation": "wandb:\n\tmode: disabled\n",
    "a key twice": "wandb: {mode: auto}\nwandb: {mode: disabled}\n",
    "a nested key twice": "defaults:\n  training:\n    steps: 1\n    steps: 2\n",
    "an open bracket": "defaults: {training: [1, 2\n",
    "an open quote": 'results: "abc\n',
    "two documents": "wandb: {mode: auto}\n---\nwandb: {mode: disabled}\n",
    "an alias of nothing": "defaults: *nowhere\n",
    "a table that holds itself": "experiments: &e {loop: *e}\n",
    "defaults that hold themselves": "defaults: &d {training: *d, gslrm: *d, x: *d}\n",
    "a list that holds itself": "defaults: {curriculum: &c [*c]}\n",
    "nine lists of nine": _laughs(9, "results: {}"),
    "nine lists of nine for cases": _laughs(9, "cases: {}"),
    "nine merges of nine": _merges(9),
    "nested brackets": "defaults: " + "[" * 5000,
    "nested lists": "defaults: " + "[" * 5000 + "]" * 5000 + "\n",
    "nested indentation": "".join(f"{' ' * i}a:\n" for i in range(1500)),
    "a tag that runs code": "results: !!python/object/apply:os.system ['touch code-ran']\n",
    "a tag of another program": "results: !secret abc\n",
    "binary data": "results: !!binary AAECAw==\n",
    "broken binary data": "results: !!binary '%%%'\n",
    "a date that is none": "experiment: 2026-13-45\n",
    "a date": "experiment: 2026-11-26\n",
    "a number of 5000 digits": f"evaluation: {{step: {'9' * 5000}}}\n",
    "a number tag on text": "evaluation: {step: !!int abc}\n",
    "a float tag on text": "evaluation: {step: !!float abc}\n",
    "a NUL byte": b"results: a\x00b\n",
    "a control character": b"results: a\x07b\n",
    "a NUL in quotes": 'results: "a\\0b"\n',
    "a lone surrogate": 'results: "\\ud800"\n',
    "a list as a key": "? [a, b]\n: c\n",
    "a table as a key": "{? {a: b} : c}\n",
    "a number as a key": "1: 2\n",
    "null as a key": "null: 2\n",
    "a key of 100 kB": f"{'k' * 100_000}: 1\n",
    "a value of 1 MB": f"results: {'v' * 1_000_000}\n",
    "an empty document": "---\n...\n",
    "a comment only": "# nothing\n",
    "a list": "- a\n- b\n",
    "a scalar": "42\n",
    "a directive of another version": "%YAML 9.9\n---\nwandb: {}\n",
    "names that climb": "experiments: {../../etc: {}}\n",
    "an experiment named by a number": "experiments: {1: {prompt_style: facelift}}\n",
    "a sexagesimal number": "evaluation: {step: 1:30}\n",
}
WRONG_TYPES = (
    "results: 5", "results: []", "experiment: [a]", "experiment: {}", "experiment: null", "bases: 5", "bases: {x: 5}",
    "bases: {x: {kind: nothing}}", "bases: {x: {kind: local}}", "bases: {x: {kind: [local]}}", "datasets: [1]",
    "datasets: {x: null}",
    "datasets: {x: {kind: rodent}}", "datasets: {x: {kind: {a: b}}}", "defaults: 5", "defaults: null", "defaults: [a]",
    "experiments: 5", "experiments: {a: 5}", "experiments: {a: [b]}", "experiments: {a: null}", "evaluation: null",
    "evaluation: {samples: many}", "evaluation: {thresholds: 5}", "cases: {B: 5}", "cases: {Z: curriculum}", "cases: []",
    "decisions: {nobody: A}", "decisions: {curriculum: Z}", "decisions: [A]", "wandb: []", "wandb: {mode: [auto]}",
    "defaults: {description: 5}", "defaults: {curriculum: {}}", "defaults: {curriculum: [5]}", "defaults: {reference: -1}",
    "defaults: {reference: 99}", "defaults: {reference: 1.5}", "defaults: {base: nowhere}", "defaults: {training: [1]}",
    "defaults: {training: {steps: yes}}", "defaults: {training: {steps: '0x10'}}", "defaults: {gslrm: {losses: [l2]}}",
    "defaults: {synthetic: null}", "defaults: {sampling: {steps: 1.5}}", "datasets: {rodent: {rig: 5}}",
    "datasets: {rodent: {rig: nowhere.json}}", "datasets: {markerless_mouse_1: {exclude: 5}}",
)  # fmt: skip
NUMBERS = (
    "defaults: {{training: {{learning_rate: {}}}}}", "defaults: {{training: {{steps: {}}}}}",
    "defaults: {{training: {{state_gigabytes: {}}}}}", "defaults: {{sampling: {{guidance: {}}}}}",
    "defaults: {{gslrm: {{losses: {{l2: {}}}}}}}", "defaults: {{gslrm: {{weight_decay: {}}}}}",
    "defaults: {{gslrm: {{learning_rate: {}}}}}", "defaults: {{augmentation: {{tint_strength: {}}}}}",
    "evaluation: {{thresholds: {{min_skill: {}}}}}", "evaluation: {{thresholds: {{min_iou: {}}}}}",
)  # fmt: skip
BOMBS = ("nine", "nested", "themselves", "itself")
# What a configuration names, and what stands in it: a rig file, and the two files of a local base that are looked into.
RIGS = {
    "is a list": "[]", "is no JSON": "{", "is null": "null", "has frames of text": '{"frames": ["x"]}',
    "has no numbers": json.dumps({"frames": [{k: "x" for k in ("w", "h", "fx", "fy", "cx", "cy", "w2c")}]}),
    "is not UTF-8": b"\xff\xfe\x00", "is nested deep": "[" * DEEP,
}  # fmt: skip
LOCAL_BASES = {"is no JSON": "{", "is a list": "[]", "has no size": "{}", "has a text for a size": '{"sample_size": "x"}'}


def config_attacks() -> list[Attack]:
    """The shipped configuration spoilt, and overlays on the good one."""
    file = "workflow_config.yaml"
    # A cut or a changed letter may leave YAML that is as valid as before, so nothing can be said to be lost.
    out = [*whole_file(file, text=True, lossy=False), *whole_file(OVERLAY, text=True, few=True, lossy=False)]
    for what, content in OVERLAYS.items():
        apart = any(word in what for word in BOMBS)
        out.append(Attack(f"overlay: {what}", OVERLAY, fixed(content), lossy=False, apart=apart))
    out += [Attack(f"overlay: {line}", OVERLAY, fixed(line + "\n"), lossy=False) for line in WRONG_TYPES]
    for line in NUMBERS:
        for number in (".nan", ".inf", "1.0e+400", "'1e5x'"):
            overlay = line.format(number)
            out.append(Attack(f"overlay: {overlay}", OVERLAY, fixed(overlay + "\n"), lossy=False))
    for what, content in RIGS.items():
        names, change = ("rig.json",), _with_rig(content)
        out.append(Attack(f"a rig file that {what}", OVERLAY, change, apart="deep" in what, names=names))
    for what, content in LOCAL_BASES.items():
        for part in ("unet", "vae"):
            change = _with_base(part, content)
            out.append(Attack(f"{part}/config.json of a base {what}", OVERLAY, change, names=("config.json", "bases.embedded")))
    return out


def _with_rig(content: str | bytes) -> Change:
    def change(path: Path, _good: bytes) -> None:
        rig = path.with_name("rig.json")
        rig.write_bytes(content.encode() if isinstance(content, str) else content)
        used = "experiments: {mouse_6x_aug: {dataset: rodent}}"
        path.write_text(f"datasets: {{rodent: {{rig: {rig}}}}}\n{used}\n")

    return change


def _with_base(part: str, content: str) -> Change:
    def change(path: Path, _good: bytes) -> None:
        for name in ("unet", "vae"):
            (path.parent / name).mkdir()
            good = '{"sample_size": 8, "block_out_channels": [32, 32]}'
            (path.parent / name / "config.json").write_text(content if name == part else good)
        experiments = "experiments: {mouse_6x_aug: {base: embedded}}"
        path.write_text(f"bases: {{embedded: {{kind: local, path: {path.parent}}}}}\n{experiments}\n")

    return change
