"""Assemble a small base from random weights in the published folder layout; its autoencoder is trained elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from mvfl.config.bases import ScratchBase
from mvfl.mvdiffusion.pipeline import MultiViewPipeline
from mvfl.mvdiffusion.unet import build_unet, with_view_conditioning

TOKENS = 77
# Common letter pairs of the prompts; a small byte-pair vocabulary needs no training.
MERGES = ["t o", "to p</w>", "f r", "o n", "on t", "fr ont", "r i", "g h", "ri gh", "righ t</w>", "l e", "f t</w>",
          "b a", "c k</w>", "v i", "e w", "m o", "u s", "mo us", "i n", "in g</w>", "i m", "a g", "a n"]  # fmt: skip


def build_autoencoder(a: ScratchBase) -> AutoencoderKL:
    """A convolutional `AutoencoderKL` without mid-block attention, one layer per block."""
    levels = len(a.autoencoder_channels)
    return AutoencoderKL(
        block_out_channels=list(a.autoencoder_channels),
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        layers_per_block=1,
        latent_channels=a.latent_channels,
        sample_size=a.image_size,
        norm_num_groups=16,
        mid_block_add_attention=False,
    )


def build_small_unet(a: ScratchBase, views: int) -> UNet2DConditionModel:
    """A UNet of the published structure at small widths."""
    levels = len(a.unet_channels)
    factor = 2 ** (len(a.autoencoder_channels) - 1)
    unet = build_unet(
        {
            "sample_size": a.image_size // factor,
            "in_channels": 2 * a.latent_channels,
            "out_channels": a.latent_channels,
            "down_block_types": ["CrossAttnDownBlock2D"] * (levels - 1) + ["DownBlock2D"],
            "mid_block_type": "UNetMidBlock2DCrossAttn",
            "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * (levels - 1),
            "block_out_channels": list(a.unet_channels),
            "layers_per_block": a.unet_layers,
            "attention_head_dim": [max(1, c // 32) for c in a.unet_channels],
            "norm_num_groups": 16,
            "cross_attention_dim": a.embedding_width,
            "use_linear_projection": True,
            "class_embed_type": "projection",
            "projection_class_embeddings_input_dim": 2 * a.embedding_width,
            "num_views": views,
            "multiview_attention": a.attention != "per_view",
            "sparse_mv_attention": a.attention == "sparse",
        }
    )
    return with_view_conditioning(unet, a.view_conditioning)


def _build_tokenizer(folder: Path) -> CLIPTokenizer:
    """A byte-level CLIP tokenizer with a tiny merge table."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    symbols = list(bytes_to_unicode().values())
    words = [*symbols, *(s + "</w>" for s in symbols), *("".join(m.split()) for m in MERGES)]
    words = [*dict.fromkeys(words), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=TOKENS)


def build_base(a: ScratchBase, views: int, vae: AutoencoderKL, folder: Path) -> MultiViewPipeline:
    """Write a pipeline with random towers and UNet beside a given autoencoder.

    Args:
        a: sizes, and the seed of all random weights.
        views: per object.
        vae: autoencoder, trained or not; its `scaling_factor` must be set.
        folder: must not exist.
    """
    torch.manual_seed(a.seed)
    e = a.embedding_width
    vision = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=e, intermediate_size=2 * e, projection_dim=e, num_hidden_layers=2,
            num_attention_heads=e // 32, image_size=64, patch_size=16,
        )
    )  # fmt: skip
    tokenizer = _build_tokenizer(folder / "tokenizer")
    start, end = tokenizer.convert_tokens_to_ids(["<|startoftext|>", "<|endoftext|>"])
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=e, intermediate_size=2 * e, projection_dim=e, num_hidden_layers=2,
            num_attention_heads=e // 32, max_position_embeddings=TOKENS, bos_token_id=start, eos_token_id=end,
            pad_token_id=end,
        )
    )  # fmt: skip
    # Random towers start with tiny embeddings that all look alike: spread them so that words differ.
    with torch.no_grad():
        for name, parameter in text.named_parameters():
            if "token_embedding" in name or "position_embedding" in name:
                parameter.normal_(std=1.0 if "token" in name else 0.3)
    pipeline = MultiViewPipeline(
        unet=build_small_unet(a, views),
        vae=vae,
        image_encoder=vision,
        feature_extractor=CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}),
        image_normalizer=StableUnCLIPImageNormalizer(embedding_dim=e),
        image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        scheduler=DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
            steps_offset=1, clip_sample=False, set_alpha_to_one=False,
        ),
        text_encoder=text,
        tokenizer=tokenizer,
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    return pipeline
