"""Settings of an experiment: how views are told, sampled, trained and generated."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from mvfl.config.gslrm import GslrmFinetuning
from mvfl.config.strict import NO, Background, Fraction, PromptStyle, Solver, Strict, ViewConditioning, setting


class Augmentation(Strict):
    """Variants of each picture that are encoded once into the latent cache."""

    backgrounds: list[Background] = Field(["white", "black", "gray"], min_length=1, description="drawn per sample")
    tints: PositiveInt = Field(2, description="variants of brightness and contrast; the first is the picture as it is")
    tint_strength: Fraction = Field(0.1, description="brightness and contrast factors lie in 1 +- this")


class Training(Strict):
    """Multi-view diffusion training."""

    steps: PositiveInt = setting(20000, "nothing", description="optimiser steps of the whole run")
    batch_size: PositiveInt = Field(4, description="objects per forward pass")
    views_per_step: int | None = Field(None, ge=2, description="most views of an object in one pass; default: all it has")
    gradient_accumulation: PositiveInt = Field(
        4, description="forward passes per optimiser step, shared among the GPUs: a run is the same on 1, 2 or 4"
    )
    learning_rate: PositiveFloat = 5e-5
    warmup_steps: int = Field(0, ge=0, description="linear warm-up, then constant")
    weight_decay: float = Field(0.01, ge=0)
    gradient_clip: PositiveFloat = 1.0
    ema_decay: Fraction = Field(0.9999, description="upper limit; the actual value is min(this, (1+k)/(10+k))")
    snr_weighting: Literal["published", "v_prediction", "none"] = Field(
        "published", description="min(SNR,g)/SNR as released, min(SNR,g)/(SNR+1) as the paper says for v, or 1"
    )
    snr_gamma: PositiveFloat = 5.0
    condition_drop_rate: float = Field(0.05, ge=0, lt=1 / 3, description="r; labels dropped below 2r, latents in r..3r")
    mixed_precision: Annotated[Literal["no", "fp16", "bf16"], NO] = "bf16"
    gradient_checkpointing: bool = False
    compile: bool | Literal["auto"] = Field(
        "auto", description="torch.compile the UNet: a third faster after two minutes of compiling; auto: on CUDA"
    )
    deterministic: bool = Field(
        False, description="the same bits whatever interrupts the run, on one kind of card and number of GPUs; slower"
    )
    checkpoint_every: PositiveInt = setting(500, "nothing", description="steps between saved training states")
    keep_states: PositiveInt = setting(2, "nothing", description="training states kept besides the exported checkpoints")
    save_minutes: PositiveFloat = setting(
        2.0,
        "nothing",
        description="minutes after which the state is saved in any case; more where saving takes over a twentieth of them",
    )
    state_gigabytes: PositiveFloat | None = setting(
        None, "nothing", description="what the training states may take on disk; default: no limit"
    )
    validate_every: PositiveInt = setting(100, "nothing", description="steps between validation grids")
    validation_samples: PositiveInt = setting(2, "nothing", description="samples of a validation grid")
    validation_denoising_steps: PositiveInt = setting(8, "nothing")
    validation_guidance: float = setting(3.0, "nothing", ge=0)
    watch_steps: list[PositiveInt] = setting([200, 500, 1000], "nothing", description="steps at which collapse is looked for")
    watch_copy_score: Fraction = setting(0.3, "nothing", description="collapse: likeness to the input above this")
    watch_slot_accuracy: Fraction = setting(
        0.3, "nothing", description="collapse: share of views in their own slot at or below this; for six views, as the verdict's"
    )
    stop_on_collapse: bool = setting(False, "nothing", description="end the run when it collapses; otherwise warn")
    log_every: PositiveInt = setting(10, "nothing")
    seed: int = Field(42, ge=0)


class Sampling(Strict):
    """How views are sampled."""

    solver: Solver = Field("sde-dpm++", description="ddim as published takes 50 steps; the others need 6 (docs/performance.md)")
    steps: PositiveInt = Field(6, description="denoising steps")
    guidance: float = Field(3.0, ge=0, description="1 switches guidance off")
    eta: Fraction = Field(1.0, description="noise of ddim, 0 is deterministic; the others do not read it")
    seed: int = Field(4, ge=0)
    batch_size: PositiveInt = Field(4, description="objects sampled at once")
    compile: bool | Literal["auto"] = Field(
        "auto", description="compile the networks for synthetic views: a minute, then 1.5 times as fast; auto: on CUDA from 500 on"
    )


class CurriculumPhase(Strict):
    """An early part of the training with other prompts."""

    until_step: PositiveInt
    prompt_style: PromptStyle


class Synthetic(Strict):
    """Synthetic six views for GS-LRM."""

    train: PositiveInt = Field(
        1000, description="training samples to generate, spread evenly over the split; more help GS-LRM: docs/performance.md"
    )
    val: PositiveInt = Field(20, description="validation samples to generate, spread evenly over the split")
    test: int = Field(20, ge=0, description="samples of the test block to generate, where the data set has one")
    step: PositiveInt | None = Field(None, description="draw with the weights of this step; default: those that were judged")
    references: Literal["first", "in_turn", "all"] = Field(
        "first", description="input views: the first one of each sample; of sample i view i, and so on round; or all"
    )


class ViewChoice(Strict):
    """Which camera takes the input and how the slots are told theirs."""

    reference: Annotated[int, Field(ge=0)] | Literal["random"] = Field(
        "random", description="view index of the input picture, or random (the 6x augmentation)"
    )
    view_conditioning: ViewConditioning = "rays"


class ViewSampling(ViewChoice):
    """What the stage `evaluate` reads of an experiment."""

    sampling: Sampling = Sampling()


class Generation(ViewSampling):
    """What the stage `synthetic` reads of an experiment."""

    synthetic: Synthetic = Synthetic()


class TrainingRun(ViewChoice):
    """What the stage `train` reads of an experiment; a change anywhere else never retrains."""

    prompt_style: PromptStyle = "mouse_elevated"
    curriculum: list[CurriculumPhase] = Field([], description="earlier phases with other prompts")
    augmentation: Augmentation = Augmentation()
    training: Training = Training()
    wandb_run: str = setting(..., "nothing", description="name of the W&B run")

    @model_validator(mode="after")
    def _well_posed(self) -> TrainingRun:
        if self.reference == "random" and self.view_conditioning == "prompt":
            raise ValueError(
                "view_conditioning 'prompt' with reference 'random' is ill-posed: nothing tells the model which camera "
                "took the input (the recorded collapse). Use rays, relative_pose or relative_prompt, a fixed reference, or "
                "'absolute_prompt' to repeat the failure on purpose."
            )
        steps = [p.until_step for p in self.curriculum]
        if steps != sorted(set(steps)) or (steps and steps[-1] >= self.training.steps):
            raise ValueError("curriculum: until_step must rise and stay below training.steps.")
        return self

    def prompt_style_at(self, step: int) -> PromptStyle:
        """The prompt style used to train optimiser step `step` (the first step is 1)."""
        for phase in self.curriculum:
            if step <= phase.until_step:
                return phase.prompt_style
        return self.prompt_style


class Experiment(TrainingRun, Generation):
    """One named experiment: data, prompts, training, generation, GS-LRM."""

    description: str = ""
    base: str
    dataset: str = Field(description="data set that is judged, generated for and reconstructed")
    also_learn_from: list[str] = Field(
        [], description="further data sets for the trainings: other animals, recordings and rigs (for GS-LRM see gslrm.inputs)"
    )
    evaluation_step: PositiveInt | None = Field(None, description="default: evaluation.step")
    gslrm: GslrmFinetuning = GslrmFinetuning()

    @property
    def datasets(self) -> list[str]:
        """All data sets of the training, the judged one first."""
        return [self.dataset, *self.also_learn_from]

    @property
    def shown_to_gslrm(self) -> list[str]:
        """Data sets of GS-LRM's training: views are generated of the judged one only, the others are recorded."""
        return self.datasets if self.gslrm.inputs != "synthetic" else [self.dataset]
