"""Settings of GS-LRM's fine-tuning."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from mvfl.config.strict import NO, Strict, UserPath, setting


class FreezeLayers(Strict):
    """Which parts of GS-LRM keep their weights."""

    transformer_until: int = Field(0, ge=0, description="freeze the first N transformer layers")
    patch_embedder: bool = Field(False, description="freeze the patch embedder and the input norm")
    positional_embeddings: bool = Field(False, description="freeze the free Gaussians' embeddings")


class Lora(Strict):
    """Low-rank adapters of the transformer's linear layers, trained in place of their weights."""

    rank: PositiveInt = 16
    scale: PositiveFloat = Field(2.0, description="of what the adapters add: alpha over rank")


class GslrmLosses(Strict):
    """Weights of the loss terms."""

    l2: float = Field(1.0, ge=0)
    masked_l2: float = Field(0.0, ge=0, description="squared error inside the mask only; add `alpha`, or floaters are free")
    ssim: float = Field(0.0, ge=0)
    perceptual: float = Field(0.0, ge=0, description="features of VGG-19")
    pixelalign: float = Field(0.0, ge=0)
    pointsdist: float = Field(0.0, ge=0)
    alpha: float = Field(0.0, ge=0, description="mean |rendered opacity - mask|; removes floaters")
    vgg_path: UserPath | None = Field(
        None, description="VGG-19 of the perceptual term, alone or in a checkpoint; default: the base's checkpoint"
    )


class GslrmFinetuning(Strict):
    """GS-LRM fine-tuning."""

    steps: PositiveInt = setting(10000, "length")
    cycle_steps: PositiveInt | None = setting(
        None,
        "length",
        description="steps over which the learning rate falls to zero, then it begins again; default: steps. To train on after "
        "10000 steps: steps 20000, cycle_steps 10000",
    )
    batch_size: PositiveInt = Field(
        2, description="objects per step, over all GPUs; masked_l2 weighs the objects of each GPU by themselves"
    )
    inputs: Literal["synthetic", "real", "mixed"] = Field(
        "synthetic",
        description="what the network sees: generated views; the recorded ones (then nothing is generated); or both, judged on "
        "generated ones. With recorded ones it also learns from the data sets of also_learn_from",
    )
    input_views: PositiveInt | None = Field(None, description="views the network sees; default: all of the rig")
    view_choice: Literal["first", "overlap", "any"] = Field(
        "first", description="inputs are the first views; or drawn per step as published, with overlapping targets or any"
    )
    target_views: PositiveInt | None = Field(
        None, description="supervised views per object and step, with view_choice the drawn inputs among them; default all"
    )
    compositing: Literal["float", "8bit"] = Field("float", description="8bit pastes over white as the published loader does")
    real_targets: bool = Field(
        True, description="supervise with the recorded pictures of the same cameras; false: with the generated ones"
    )
    learning_rate: PositiveFloat = Field(1e-4, description="measured on a real recording: docs/performance.md")
    warmup_steps: int = Field(500, ge=0)
    weight_decay: float = Field(0.05, ge=0)
    gradient_clip: PositiveFloat = 1.0
    allowed_gradnorm_factor: PositiveFloat = Field(20.0, description="skip the update above clip x this")
    losses: GslrmLosses = GslrmLosses()
    l2_warmup_steps: int = Field(0, ge=0, description="first steps without the perceptual term")
    pointsdist_warmup_steps: int = Field(
        0, ge=0, description="first steps with pointsdist at 0.1, no l2 or perceptual term, no clipping"
    )
    freeze: FreezeLayers = FreezeLayers()
    lora: Lora | None = Field(None, description="train adapters of the transformer (extra `lora`); default: its weights")
    clip_xyz: bool = Field(False, description="clamp pixel Gaussians to [-1, 1]")
    renderer: Literal["auto", "gsplat", "torch"] = Field("auto", description="auto: gsplat on CUDA, torch on CPU")
    mixed_precision: Annotated[Literal["no", "bf16"], NO] = "bf16"
    compile: bool = Field(False, description="torch.compile the transformer")
    gradient_checkpointing: bool = Field(False, description="compute layers again going back: less memory, a third more time")
    validate_every: PositiveInt = Field(500, description="steps between looks at unseen cameras of validation samples")
    validation_samples: PositiveInt = Field(4, description="samples of a look")
    weights: Literal["best", "last"] = Field("best", description="weights that are used: of the best look, or of the last step")
    patience: PositiveInt | None = Field(None, description="looks in a row without a better one after which the training ends")
    log_every: PositiveInt = setting(10, "nothing")
    checkpoint_every: PositiveInt = setting(500, "nothing", description="steps between saved training states")
    save_minutes: PositiveFloat = setting(2.0, "nothing", description="minutes after which the state is saved in any case")
    fit_steps: int = setting(
        0, "pictures", ge=0, description="steps that fit finished Gaussians to the pictures they are made of; 60 for recorded views"
    )
    turntable_views: PositiveInt = setting(12, "pictures", description="pictures of the turntable")
    cache_gigabytes: PositiveFloat = setting(1.0, "nothing", description="memory for decoded pictures")
    seed: int = Field(0, ge=0)

    @property
    def generated(self) -> bool:
        """Whether generated views are needed."""
        return self.inputs != "real"

    @property
    def cycle(self) -> int:
        """Steps of one fall of the learning rate; with `warmup_steps` it decides the weights of every step."""
        return self.cycle_steps or self.steps
