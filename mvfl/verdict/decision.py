"""The A-D decision: measurements in, case and reasons out. A pure function."""

from __future__ import annotations

from mvfl.config.evaluation import Thresholds, above_chance
from mvfl.config.strict import Case
from mvfl.records.decision import Crossed, Decision
from mvfl.records.scores import Measurements

MEANING: dict[Case, str] = {
    "A": "converged: generate synthetic views and fine-tune GS-LRM",
    "B": "slow: the shape appears but the views are not good enough yet; train with facelift prompts",
    "C": "failed: the views are wrong or repeat the input; train with realistic prompts",
    "D": "partial: some slots are good, others are not; train with a curriculum",
}


LOSS_SENTENCES = {
    "falling": "The loss still falls.",
    "plateau": "The loss has levelled off.",
    "rising": "The loss rises.",
    "oscillating": "The loss jumps to and fro; a lower learning rate may help.",
    "broken": "The loss is not a number.",
    "unknown": "How the loss went is not known: fewer than five steps of it are logged.",
}


def crossed_thresholds(m: Measurements, t: Thresholds) -> list[Crossed]:
    """All limits that a measurement violates, for the run as a whole and per slot."""
    out = []
    wrong = above_chance(t.failed_slot_accuracy, m.views)
    for name, value, limit in (("failed_slot_accuracy", m.slot_accuracy, wrong), ("failed_skill", m.skill, t.failed_skill)):
        if value <= limit:
            out.append(Crossed(threshold=name, limit=limit, value=value))
    if m.copy_score > t.max_copy_score:
        out.append(Crossed(threshold="max_copy_score", limit=t.max_copy_score, value=m.copy_score))
    if m.consistency < t.min_consistency:
        out.append(Crossed(threshold="min_consistency", limit=t.min_consistency, value=m.consistency))
    for slot, s in m.slots.items():
        for name, key in (("min_slot_accuracy", "slot_accuracy"), ("min_iou", "iou"), ("min_skill", "skill")):
            if s[key] < getattr(t, name):
                out.append(Crossed(threshold=name, limit=getattr(t, name), value=s[key], slot=slot))
    return out


def _score(value: float, steps: tuple[float, float, float, float]) -> int:
    return 1 + sum(value >= s for s in steps)


def decide(m: Measurements, t: Thresholds) -> Decision:
    """Choose the case.

    C when hardly any slot passes and the views stand in the wrong slots, repeat the input or are worse than pictures that
    need no model; A when every slot passes and the views fit one body; D when some slots pass; B otherwise.
    """
    good = [
        name
        for name, s in m.slots.items()
        if s["slot_accuracy"] >= t.min_slot_accuracy and s["iou"] >= t.min_iou and s["skill"] >= t.min_skill
    ]
    share = len(good) / max(1, len(m.slots))
    failures = _failures(m, t)
    case: Case
    if m.loss_state == "broken" or (failures and share < t.partial_good_slots):
        case, reasons = "C", failures
    elif share >= t.min_good_slots and m.consistency >= t.min_consistency:
        case = "A"
        reasons = [
            f"All {len(good)} generated views are good: {m.slot_accuracy:.0%} show the right direction, silhouettes overlap "
            f"the recorded ones by {m.iou:.0%} on average, and they are {m.skill:.0%} of the way from the best trivial picture "
            f"to a perfect one. {_as_one_body(m.consistency)}"
        ]
    elif t.partial_good_slots <= share < t.min_good_slots:
        case = "D"
        reasons = _partial(m, good)
    else:
        case = "B"
        reasons = [
            f"The views show the right directions ({m.slot_accuracy:.0%}) but are not good enough yet: overlap {m.iou:.0%} "
            f"(needed {t.min_iou:.0%}), skill {m.skill:.2f} (needed {t.min_skill:.2f}), consistency as one body "
            f"{m.consistency:.0%} (needed {t.min_consistency:.0%})."
        ]
    reasons.append(LOSS_SENTENCES[m.loss_state])
    return Decision(
        case=case,
        meaning=MEANING[case],
        reasons=reasons,
        good_slots=good,
        view_consistency=_score(m.consistency, (0.5, 0.65, 0.8, 0.9)),
        gt_similarity=_score(m.iou, (0.4, 0.55, 0.65, 0.8)),
        thresholds=t.model_dump(),
        crossed=crossed_thresholds(m, t),
    )


def _as_one_body(consistency: float) -> str:
    """How well the views fit one body, in words."""
    if consistency >= 0.98:
        return "They fit one body as well as the recorded views do."
    how = "nearly as well as" if consistency >= 0.9 else "less well than"
    return f"They fit one body {how} the recorded views do ({consistency:.0%})."


def _failures(m: Measurements, t: Thresholds) -> list[str]:
    """Sentences for what alone makes a run a failed one."""
    failures: list[str] = []
    if m.loss_state == "broken":
        failures.append("The training loss became NaN.")
    if m.slot_accuracy <= (limit := above_chance(t.failed_slot_accuracy, m.views)):
        failures.append(
            f"Only {m.slot_accuracy:.0%} of the views show the direction of their slot (chance {1 / m.views:.0%}, limit "
            f"{limit:.0%})."
        )
    if m.copy_score > t.max_copy_score:
        failures.append(
            f"The views resemble the input more than the real views do (copy score {m.copy_score:.2f}, limit "
            f"{t.max_copy_score:.2f})."
        )
    if m.skill <= t.failed_skill:
        failures.append(f"The views are worse than trivial pictures (skill {m.skill:.2f}, limit {t.failed_skill:.2f}).")
    return failures


def _partial(m: Measurements, good: list[str]) -> list[str]:
    """Sentences for a run in which some slots pass."""
    bad = [name for name in m.slots if name not in good]
    reasons = [f"Good: slots {', '.join(good)}. Not good enough: slots {', '.join(bad)}."]
    reasons += [
        f"Slot {name}: direction right in {m.slots[name]['slot_accuracy']:.0%}, overlap {m.slots[name]['iou']:.0%}, skill "
        f"{m.slots[name]['skill']:.2f}."
        for name in bad
    ]
    return reasons
