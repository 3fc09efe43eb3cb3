"""Types of what stages read. Every key here is read by a stage; any other key is an error. The whole: `workflow.py`."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

Background = Literal["white", "black", "gray"]
PromptStyle = Literal["facelift", "mouse_elevated", "realistic", "hybrid", "simple"]
ViewConditioning = Literal["prompt", "relative_prompt", "relative_pose", "absolute_prompt"]
AttentionMode = Literal["sparse", "dense", "per_view"]
Coat = Literal["black", "agouti", "white", "brown", "grey"]
Pose = Literal["stand", "walk", "crouch", "turn", "sniff", "rear", "groom"]
Case = Literal["A", "B", "C", "D"]
Fraction = Annotated[float, Field(ge=0, le=1)]
# Names become parts of paths, commands and wildcards.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]


class Strict(BaseModel):
    """Immutable settings that refuse unknown keys and name the nearest valid one."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields:
                    near = difflib.get_close_matches(str(key), cls.model_fields, n=1, cutoff=0.5)
                    hint = f"did you mean '{near[0]}'?" if near else f"valid keys: {', '.join(cls.model_fields)}."
                    raise ValueError(f"unknown key '{key}'; {hint}")
        return data


# ------------------------------------------------------------------------------------------------ bases
class EmbeddedBase(Strict):
    """The small pretrained base that ships with mvfl."""

    kind: Literal["embedded"]


class ScratchBase(Strict):
    """The published folder layout with random weights and a briefly trained autoencoder (tests, other image sizes)."""

    kind: Literal["scratch"]
    image_size: PositiveInt = Field(64, description="image side in pixels")
    latent_channels: PositiveInt = Field(4, description="channels of the autoencoder's latents")
    autoencoder_channels: list[PositiveInt] = Field(
        [32, 64, 64], description="channels per autoencoder level; n levels shrink by 2^(n-1)"
    )
    unet_channels: list[PositiveInt] = Field([32, 64, 64], description="UNet channels per level")
    gslrm_width: PositiveInt = Field(64, description="GS-LRM transformer width")
    gslrm_layers: PositiveInt = Field(2, description="GS-LRM transformer layers")
    attention: AttentionMode = Field("dense", description="cross-view self-attention of the UNet")
    dataset: str = Field(description="data set whose training pictures the autoencoder is trained on")
    autoencoder_steps: PositiveInt = Field(50, description="training steps of the autoencoder")
    seed: int = 0


class LocalBase(Strict):
    """A pipeline folder on disk in the published layout."""

    kind: Literal["local"]
    path: Path = Field(description="the folder with unet/, vae/, image_encoder/ ...")
    gslrm: Path | None = Field(None, description="GS-LRM checkpoint (.pt or .safetensors); default: gslrm/ in `path`")


class HubBase(Strict):
    """A repository on the model hub, with a pinned revision."""

    kind: Literal["hub"]
    repo: str
    revision: str = Field(description="commit hash or tag")
    pipeline: str = Field("mvdiffusion/pipeckpts", description="folder of the pipeline inside the repository")
    gslrm: str | None = Field("gslrm/ckpt_0000000000021125.pt", description="GS-LRM checkpoint inside the repository")


Base = Annotated[EmbeddedBase | ScratchBase | LocalBase | HubBase, Field(discriminator="kind")]


# ------------------------------------------------------------------------------------------------- data
class RodentDataset(Strict):
    """Pictures of the embedded articulated rodent, rendered on the CPU."""

    kind: Literal["rodent"]
    rig: str = Field("ring60", description="built-in rig name or JSON file")
    image_size: PositiveInt = 128
    train: PositiveInt = Field(description="training samples")
    val: PositiveInt = Field(description="validation samples")
    extra_views: int = Field(0, ge=0, description="further cameras per sample, drawn at random, for held-out scores")
    seed: int = 0
    coats: list[Coat] = Field(["black", "agouti", "white", "brown", "grey"], min_length=1)
    poses: list[Pose] = Field(["stand", "walk", "crouch", "turn", "sniff", "rear", "groom"], min_length=1)
    fill: Fraction = Field(0.6, description="share of the frame that the animal without its tail spans")
    fur_layers: int = Field(0, ge=0, description="hair shells; 4 from 256 px on looks best")


class FolderDataset(Strict):
    """Existing sample folders (`sample_*/images`, `opencv_cameras.json`)."""

    kind: Literal["folder"]
    path: Path
    rig: str = Field(description="built-in rig name or JSON file that the slots mean; each sample is checked against it")
    image_size: PositiveInt = 512
    val_fraction: float = Field(0.1, gt=0, lt=0.5, description="share of samples, one time block at the end")
    gap: int = Field(5, ge=0, description="samples dropped between the training and the validation block")
    rig_tolerance_deg: float = Field(2.0, gt=0, description="largest angle between a sample's cameras and the rig")
    extra_views: int = Field(0, ge=0, description="frames per sample after the rig's, for held-out scores")
    max_reprojection_px: PositiveFloat = Field(
        25.0, description="error of the masks' triangulated centre, in pixels of 512, median over samples"
    )
    min_silhouette_overlap: Fraction = Field(
        0.65, description="overlap of the masks with the body that all of them allow, median; from 128 px on"
    )
    max_clipped: Fraction = Field(0.1, description="share of pictures in which the animal may touch the border")


class MarkerlessDataset(Strict):
    """A recording: synchronised, undistorted videos of calibrated cameras, with a mask video for each."""

    kind: Literal["markerless"]
    calibration: Path = Field(description="JSON with R, T, K per camera; `mvfl calibration` writes it from a pickle")
    videos: str = Field(description="pattern of the videos, with {camera} for 0, 1 ...")
    masks: str = Field(description="pattern of the mask videos; the animal is brighter than 127")
    cameras: PositiveInt = Field(6, description="number of cameras")
    image_size: PositiveInt = 512
    first_frame: int = Field(0, ge=0)
    every: PositiveInt = Field(5, description="use every n-th frame")
    exclude: list[int] = Field([], description="frames to leave out, for example where the recording jumps")
    max_reprojection_px: PositiveFloat = Field(
        25.0, description="mean error of the masks' triangulated centre, in pixels of the prepared picture"
    )
    min_silhouette_overlap: Fraction = Field(
        0.65, description="overlap of the masks with the body that all of them allow; mixed-up cameras stay below"
    )
    max_dropped: Fraction = Field(0.2, description="share of frames that may be unfit before the recording is refused")
    val_fraction: float = Field(0.1, gt=0, lt=0.5, description="share of samples, one time block at the end")
    gap: int = Field(5, ge=0, description="samples dropped between the training and the validation block")

    @model_validator(mode="after")
    def _patterns_name_cameras(self) -> MarkerlessDataset:
        for key in ("videos", "masks"):
            if "{camera}" not in getattr(self, key):
                raise ValueError(f"{key} must hold {{camera}}, for example videos_undist/{{camera}}.mp4.")
        return self


Dataset = Annotated[RodentDataset | FolderDataset | MarkerlessDataset, Field(discriminator="kind")]


# ------------------------------------------------------------------------------------------- experiment
class Augmentation(Strict):
    """Variants of each picture that are encoded once into the latent cache."""

    backgrounds: list[Background] = Field(["white", "black", "gray"], min_length=1, description="drawn per sample")
    tints: PositiveInt = Field(2, description="variants of brightness and contrast; the first is the picture as it is")
    tint_strength: Fraction = Field(0.1, description="brightness and contrast factors lie in 1 +- this")


class Training(Strict):
    """Multi-view diffusion training."""

    # Settings that change neither the weights of a step nor what a training state means.
    harmless: ClassVar[frozenset[str]] = frozenset(
        {"steps", "checkpoint_every", "keep_states", "save_minutes", "state_gigabytes", "validate_every", "validation_samples",
         "validation_denoising_steps", "validation_guidance", "log_every", "watch_steps", "stop_on_collapse",
         "watch_copy_score", "watch_slot_accuracy"}
    )  # fmt: skip

    steps: PositiveInt = Field(20000, description="optimiser steps of the whole run")
    batch_size: PositiveInt = Field(4, description="objects per device and forward pass")
    gradient_accumulation: PositiveInt = Field(4, description="forward passes per optimiser step")
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
    mixed_precision: Literal["no", "fp16", "bf16"] = "bf16"
    gradient_checkpointing: bool = False
    compile: bool = Field(False, description="torch.compile the UNet")
    checkpoint_every: PositiveInt = Field(500, description="steps between saved training states")
    keep_states: PositiveInt = Field(2, description="training states kept besides the exported checkpoints")
    save_minutes: PositiveFloat = Field(
        2.0, description="minutes after which the state is saved in any case; more where saving takes over a twentieth of them"
    )
    state_gigabytes: PositiveFloat | None = Field(None, description="what the training states may take on disk; default: no limit")
    validate_every: PositiveInt = Field(100, description="steps between validation grids")
    validation_samples: PositiveInt = 2
    validation_denoising_steps: PositiveInt = 20
    validation_guidance: float = Field(3.0, ge=0)
    watch_steps: list[PositiveInt] = Field([200, 500, 1000], description="steps at which collapse is looked for")
    watch_copy_score: Fraction = Field(0.3, description="collapse: likeness to the input above this")
    watch_slot_accuracy: Fraction = Field(0.3, description="collapse: share of views in their own slot at or below this")
    stop_on_collapse: bool = Field(False, description="end the run when it collapses; otherwise warn")
    log_every: PositiveInt = 10
    seed: int = 42


class Sampling(Strict):
    """How six views are drawn."""

    steps: PositiveInt = Field(50, description="denoising steps")
    guidance: float = Field(3.0, ge=0, description="1 switches guidance off")
    eta: Fraction = Field(1.0, description="0 is deterministic DDIM")
    seed: int = 4
    batch_size: PositiveInt = Field(4, description="objects drawn at once")


class CurriculumPhase(Strict):
    """An early part of the training with other prompts."""

    until_step: PositiveInt
    prompt_style: PromptStyle


class Synthetic(Strict):
    """Synthetic six views for GS-LRM."""

    train: PositiveInt = Field(300, description="training samples to draw, spread evenly over the split")
    val: PositiveInt = Field(20, description="validation samples to draw, spread evenly over the split")
    references: Literal["first", "all"] = Field("first", description="reference views per sample")


class FreezeLayers(Strict):
    """Which parts of GS-LRM keep their weights."""

    transformer_until: int = Field(0, ge=0, description="freeze the first N transformer layers")
    patch_embedder: bool = Field(False, description="freeze the patch embedder and the input norm")
    positional_embeddings: bool = Field(False, description="freeze the free Gaussians' embeddings")


class GslrmLosses(Strict):
    """Weights of the loss terms."""

    l2: float = Field(1.0, ge=0)
    masked_l2: float = Field(0.0, ge=0, description="squared error inside the mask only; add `alpha`, or floaters are free")
    ssim: float = Field(0.0, ge=0)
    perceptual: float = Field(0.0, ge=0, description="needs `vgg_path`")
    pixelalign: float = Field(0.0, ge=0)
    pointsdist: float = Field(0.0, ge=0)
    alpha: float = Field(0.0, ge=0, description="mean |rendered opacity - mask|; removes floaters")
    vgg_path: Path | None = Field(None, description="VGG-19 weights (.safetensors) for the perceptual term")

    @model_validator(mode="after")
    def _perceptual_needs_weights(self) -> GslrmLosses:
        if self.perceptual > 0 and self.vgg_path is None:
            raise ValueError("perceptual > 0 needs vgg_path: the VGG-19 weights are not shipped.")
        return self


class GslrmFinetuning(Strict):
    """GS-LRM fine-tuning on synthetic views."""

    harmless: ClassVar[frozenset[str]] = frozenset({"log_every", "checkpoint_every", "save_minutes", "cache_gigabytes"})

    steps: PositiveInt = 10000
    batch_size: PositiveInt = Field(2, description="objects per step")
    input_views: PositiveInt = Field(6, description="views the network sees")
    view_choice: Literal["first", "overlap", "any"] = Field(
        "first", description="inputs are the first views; or drawn per step as published, with overlapping targets or any"
    )
    target_views: PositiveInt | None = Field(None, description="supervised views per object and step; default all")
    compositing: Literal["float", "8bit"] = Field("float", description="8bit pastes over white as the published loader does")
    real_targets: bool = Field(
        True, description="supervise with the recorded pictures of the same cameras; false: with the generated ones"
    )
    learning_rate: PositiveFloat = 2e-5
    warmup_steps: int = Field(500, ge=0)
    weight_decay: float = Field(0.05, ge=0)
    gradient_clip: PositiveFloat = 1.0
    allowed_gradnorm_factor: PositiveFloat = Field(20.0, description="skip the update above clip x this")
    losses: GslrmLosses = GslrmLosses()
    l2_warmup_steps: int = Field(0, ge=0, description="first steps without the perceptual term")
    pointsdist_warmup_steps: int = Field(
        0,
        ge=0,
        description="first steps with pointsdist at 0.1, no l2 or perceptual term, no clipping",
    )
    freeze: FreezeLayers = FreezeLayers()
    clip_xyz: bool = Field(False, description="clamp pixel Gaussians to [-1, 1]")
    renderer: Literal["auto", "gsplat", "torch"] = Field("auto", description="auto: gsplat on CUDA, torch on CPU")
    mixed_precision: Literal["no", "bf16"] = "bf16"
    compile: bool = Field(False, description="torch.compile the transformer")
    gradient_checkpointing: bool = Field(False, description="compute layers again going back: less memory, a third more time")
    log_every: PositiveInt = 10
    checkpoint_every: PositiveInt = 500
    save_minutes: PositiveFloat = 2.0
    turntable_views: PositiveInt = 12
    cache_gigabytes: PositiveFloat = Field(1.0, description="memory for decoded pictures")
    seed: int = 0


class ViewChoice(Strict):
    """Which camera takes the input and how the slots are told theirs."""

    reference: Annotated[int, Field(ge=0)] | Literal["random"] = Field(
        "random", description="view index of the input picture, or random (the 6x augmentation)"
    )
    view_conditioning: ViewConditioning = "relative_pose"


class Drawing(ViewChoice):
    """What the stage `evaluate` reads of an experiment."""

    sampling: Sampling = Sampling()


class Generation(Drawing):
    """What the stage `synthetic` reads of an experiment."""

    synthetic: Synthetic = Synthetic()


class TrainingRun(ViewChoice):
    """What the stage `train` reads of an experiment; a change anywhere else never retrains."""

    harmless: ClassVar[frozenset[str]] = frozenset({"wandb_run"})

    prompt_style: PromptStyle = "mouse_elevated"
    curriculum: list[CurriculumPhase] = Field([], description="earlier phases with other prompts")
    augmentation: Augmentation = Augmentation()
    training: Training = Training()
    wandb_run: str = Field(description="name of the W&B run")

    @model_validator(mode="after")
    def _well_posed(self) -> Self:
        if self.reference == "random" and self.view_conditioning == "prompt":
            raise ValueError(
                "view_conditioning 'prompt' with reference 'random' is ill-posed: nothing tells the model which camera "
                "took the input (the recorded collapse). Use relative_pose or relative_prompt, a fixed reference, or "
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
    dataset: str
    evaluation_step: PositiveInt | None = Field(None, description="default: evaluation.step")
    gslrm: GslrmFinetuning = GslrmFinetuning()


# ------------------------------------------------------------------------------------------- evaluation
class Thresholds(Strict):
    """Limits of the A-D decision, compared with means over samples and reference views.

    Fitted on labelled prediction sets by `mvfl benchmark decision`; see docs/decisions.md.
    """

    min_slot_accuracy: Fraction = Field(0.7, description="share of predictions nearest to their own slot's picture")
    failed_slot_accuracy: Fraction = Field(0.3, description="at or below: the views are in the wrong places (C)")
    max_copy_score: Fraction = Field(0.3, description="above: the slots repeat the input (C)")
    min_skill: float = Field(0.1, description="(metric - best baseline) / (perfect - best baseline), mean of metrics")
    failed_skill: float = Field(-0.5, description="at or below: worse than trivial pictures (C)")
    min_iou: Fraction = Field(0.65, description="foreground overlap with the recorded views")
    min_consistency: Fraction = Field(0.7, description="silhouettes as one body, relative to the recorded views")
    partial_good_slots: Fraction = Field(0.3, description="share of good slots from which on a run is partial (D), not C")
    min_good_slots: Fraction = Field(0.99, description="share of slots that must pass for A")


class LpipsFiles(Strict):
    """Files for LPIPS; they are not shipped."""

    backbone: Path = Field(description="torchvision's VGG-16 weights (.pth or .safetensors)")
    heads: Path = Field(description="LPIPS' linear layers for VGG (vgg.pth of the lpips package)")


class Evaluation(Strict):
    """The verdict."""

    step: PositiveInt = Field(2000, description="optimiser step at which the checkpoint is judged")
    samples: PositiveInt = Field(20, description="validation samples, each with every reference view")
    references: Literal["first", "all"] = "all"
    thresholds: Thresholds = Thresholds()
    lpips: LpipsFiles | None = Field(None, description="adds LPIPS to metrics.json; decides nothing")
    seed: int = 7


class Wandb(Strict):
    """Weights & Biases."""

    project: str = "mouse_facelift"
    entity: str | None = None
    mode: Literal["auto", "online", "offline", "disabled"] = Field("auto", description="auto: online with a key")
