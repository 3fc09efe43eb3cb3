"""Rules that hold between settings, stated once: asked when a configuration is read, and again by a stage of its real data."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator

from mvfl.config.bases import Base, HubBase, LocalBase
from mvfl.config.experiment import Experiment, ViewChoice
from mvfl.config.gslrm import GslrmFinetuning, GslrmLosses
from mvfl.runtime.files import InputError


def refuse(faults: Iterable[str]) -> None:
    """Raise the first fault, if there is one.

    Raises:
        InputError: with the fault's sentence.
    """
    for fault in faults:
        raise InputError(fault)


def view_faults(choice: ViewChoice, data: str, views: int | None, uniform_ring: bool) -> Iterator[str]:
    """Why a way of telling views does not fit a data set.

    Args:
        choice: reference and view conditioning.
        data: name of the data set.
        views: cameras that a model samples; None where they are not known yet.
        uniform_ring: whether turning the rig by one place maps it onto itself.
    """
    if views is not None and choice.reference != "random" and choice.reference >= views:
        yield f"reference {choice.reference} does not exist: {data} has views 0 to {views - 1}."
    if choice.view_conditioning == "relative_prompt" and not uniform_ring:
        yield (
            f"view_conditioning relative_prompt needs a uniform ring, and {data} has none: the prompt words would mean other "
            "directions for every reference. Use rays or relative_pose."
        )


def gslrm_faults(settings: GslrmFinetuning, data: str, views: int | None) -> Iterator[str]:
    """Why GS-LRM cannot be fine-tuned on a data set in this way.

    Args:
        settings: of the fine-tuning.
        data: name of the data set.
        views: cameras of the rig; None where they are not known yet.
    """
    if views is not None and settings.input_views is not None and settings.input_views > views:
        yield f"gslrm.input_views is {settings.input_views}, but {data} has {views} views; lower it."
    if views == 2 and settings.input_views == 1 and settings.generated:
        yield f"gslrm.input_views 1 leaves no camera of {data} to judge models of its second view by; leave input_views out."
    if settings.lora and importlib.util.find_spec("peft") is None:
        yield 'gslrm.lora needs the package peft: pip install "mvfl[lora]".'
    if settings.view_choice != "first" and settings.generated and settings.real_targets:
        yield (
            f"gslrm.view_choice '{settings.view_choice}' draws inputs and targets from the same sample, and real_targets are of "
            "another one than the generated inputs: use 'first', or real_targets: false."
        )
    if settings.view_choice != "first" and settings.input_views is None:
        yield f"gslrm.view_choice '{settings.view_choice}' draws some of the views as inputs: say how many, gslrm.input_views."
    few = settings.input_views or 0
    if settings.view_choice != "first" and settings.target_views is not None and settings.target_views <= few:
        yield (
            f"gslrm.target_views {settings.target_views} counts the {few} inputs that view_choice '{settings.view_choice}' draws, "
            "too: it must be larger than input_views."
        )


def perceptual_faults(losses: GslrmLosses, base: Base) -> Iterator[str]:
    """Why the perceptual loss cannot be computed; said before hours of training, where it can be known so early.

    Args:
        losses: of the fine-tuning.
        base: that it starts from; a published one may carry VGG-19 in its own checkpoint, a small one never does.
    """
    if losses.perceptual == 0:
        return
    if losses.vgg_path is not None and not losses.vgg_path.is_file():
        yield f"gslrm.losses.vgg_path {losses.vgg_path} does not exist."
    if losses.vgg_path is None and not isinstance(base, HubBase | LocalBase):
        yield "gslrm.losses.perceptual needs vgg_path: a base of this kind carries no VGG-19 weights."


def generation_faults(experiment: Experiment) -> Iterator[str]:
    """Why the asked synthetic views cannot be sampled."""
    if experiment.reference != "random" and (asked := experiment.synthetic.references) != "first":
        yield f"synthetic.references '{asked}' needs reference 'random': the model would be asked for inputs it never saw."
