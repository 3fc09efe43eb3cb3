"""What all settings have in common: unknown keys are errors, numbers are finite, and each field says what it changes."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Background = Literal["white", "black", "gray"]
PromptStyle = Literal["facelift", "mouse_elevated", "realistic", "hybrid", "simple"]
ViewConditioning = Literal["prompt", "relative_prompt", "relative_pose", "rays", "absolute_prompt"]
Solver = Literal["ddim", "dpm++", "sde-dpm++", "unipc"]
AttentionMode = Literal["sparse", "dense", "per_view"]
Coat = Literal["black", "agouti", "white", "brown", "grey"]
Pose = Literal["stand", "walk", "crouch", "turn", "sniff", "rear", "groom"]
Case = Literal["A", "B", "C", "D"]
CASES: tuple[Case, ...] = ("A", "B", "C", "D")
Fraction = Annotated[float, Field(ge=0, le=1)]
NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"


def _said_plainly(name: object) -> object:
    if not isinstance(name, str):
        raise ValueError(f"YAML reads this name as {str(name).lower()}, which is no text; write it in quotes.")
    if not re.fullmatch(NAME, name):
        raise ValueError(f"'{name}' is no name: letters, digits, '.', '_' and '-' only, the first one no '.' or '-'.")
    return name


# Names become parts of paths, commands and wildcards: no "..", no option, nothing that a shell reads.
Name = Annotated[str, BeforeValidator(_said_plainly), Field(pattern=NAME, max_length=100)]
UserPath = Annotated[Path, AfterValidator(Path.expanduser)]  # ~ is the home folder
UserPattern = Annotated[str, AfterValidator(os.path.expanduser)]
NO = BeforeValidator(lambda word: "no" if word is False else word)  # YAML reads no as false


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for a word that is not known: the nearest one, or all of them."""
    names = list(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names)}."


def setting(default: Any, changes: Literal["weights", "length", "pictures", "nothing"], **constraints: Any) -> Any:
    """A field that does not change weights.

    Args:
        default: its value.
        changes: `length` = how long is trained, so that a longer run goes on from a shorter one's state; `pictures` = only
            what is rendered from finished weights; `nothing` = logging, intervals of saving, names, which never repeat work.
        constraints: as for pydantic's `Field`.
    """
    return Field(default, json_schema_extra={"changes": changes}, **constraints)


class Strict(BaseModel):
    """Immutable settings that refuse unknown keys and name the nearest valid one."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, dict) and cls.model_config.get("extra") != "allow":
            for key in data:
                if key not in cls.model_fields:
                    raise ValueError(f"unknown key '{key}'; {nearest(str(key), cls.model_fields).replace('known:', 'valid keys:')}")
        return data

    def decisive(self, weights_only: bool = False) -> dict[str, Any]:
        """The settings that change results, nested ones included, as JSON values.

        Args:
            weights_only: those alone that change the weights of a given step.
        """
        dumped = self.model_dump(mode="json")
        out: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            extra = field.json_schema_extra
            changes = extra.get("changes", "weights") if isinstance(extra, dict) else "weights"
            if changes == "nothing" or (weights_only and changes != "weights"):
                continue
            value = getattr(self, name)
            out[name] = value.decisive(weights_only) if isinstance(value, Strict) else dumped[name]
        return out


Kind = TypeVar("Kind", bound=Strict)


def part_of(settings: Strict, kind: type[Kind]) -> Kind:
    """The fields of `settings` that a stage's own type has, so that a change elsewhere never reruns the stage."""
    return kind(**{name: getattr(settings, name) for name in kind.model_fields})
