"""GS-LRM: posed pictures -> transformer -> one 3D Gaussian per pixel. Names and mathematics of the published model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import torch
from einops import rearrange
from einops.layers.torch import Rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mvfl.gslrm.gaussians import Gaussians, split_channels
from mvfl.runtime.attention import attend


@dataclass(frozen=True)
class GslrmConfig:
    """Architecture.

    Attributes:
        image_size, patch_size: pixels.
        width, head_width, layers: of the transformer.
        free_gaussians: Gaussians that belong to no pixel.
        sh_degree: degree of the spherical harmonics.
        plucker: `custom` = rgb, direction, nearest point (published); `augmented` = rgb, moment, direction, nearest
            point.
        reference_marker: adds an embedding that tells view 0 from the others (published: false).
        clip_xyz: clamp pixel Gaussians to [-1, 1].
        fit_steps: steps in which Gaussians are fitted to the inputs, wherever the network is used and not trained.
    """

    image_size: int = 512
    patch_size: int = 8
    width: int = 1024
    head_width: int = 64
    layers: int = 24
    free_gaussians: int = 2
    sh_degree: int = 0
    plucker: Literal["custom", "augmented"] = "custom"
    reference_marker: bool = False
    clip_xyz: bool = False
    fit_steps: int = 0

    @property
    def in_channels(self) -> int:
        """Channels per input pixel."""
        return 12 if self.plucker == "augmented" else 9

    @property
    def gaussian_channels(self) -> int:
        """Raw channels per Gaussian: xyz 3, SH, scale 3, rotation 4, opacity 1."""
        return 11 + 3 * (self.sh_degree + 1) ** 2

    def to_json(self) -> dict[str, Any]:
        """Constructor values."""
        return asdict(self)


class Rays(NamedTuple):
    """Rays through pixel centres, world units."""

    origins: Float[Tensor, "*batch 3"]
    directions: Float[Tensor, "*batch 3 height width"]


def pixel_rays(c2w: Float[Tensor, "*batch 4 4"], intrinsics: Float[Tensor, "*batch 4"], height: int, width: int) -> Rays:
    """Unit rays of OpenCV cameras: ((x + 0.5 - cx)/fx, (y + 0.5 - cy)/fy, 1), normalised, rotated, normalised.

    In float32 also under autocast: bf16 directions are off by up to 0.004, a pixel at 512 px, and shift every Gaussian.

    Args:
        c2w: camera-to-world.
        intrinsics: fx, fy, cx, cy in pixels.
        height, width: image size in pixels.
    """
    fx, fy, cx, cy = (v[..., None, None] for v in intrinsics.unbind(-1))
    y, x = torch.meshgrid(
        torch.arange(height, device=c2w.device) + 0.5, torch.arange(width, device=c2w.device) + 0.5, indexing="ij"
    )
    camera = torch.stack([(x - cx) / fx, (y - cy) / fy, torch.ones_like((x - cx) / fx)], dim=-3)
    camera = nn.functional.normalize(camera, dim=-3)
    with torch.autocast(c2w.device.type, enabled=False):
        world = torch.einsum("...ij,...jhw->...ihw", c2w[..., :3, :3], camera)
    return Rays(c2w[..., :3, 3], nn.functional.normalize(world, dim=-3))


class _Attention(nn.Module):
    def __init__(self, width: int, head_width: int) -> None:
        super().__init__()
        self.head_width = head_width
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.fc = nn.Linear(width, width, bias=False)

    def forward(self, x: Float[Tensor, "b s d"]) -> Float[Tensor, "b s d"]:
        q, k, v = rearrange(self.to_qkv(x), "b s (three h d) -> three b h s d", three=3, d=self.head_width)
        return self.fc(rearrange(attend(q, k, v), "b h s d -> b s (h d)"))


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width, bias=False), nn.GELU(), nn.Linear(4 * width, width, bias=False))

    def forward(self, x: Float[Tensor, "b s d"]) -> Float[Tensor, "b s d"]:
        return self.mlp(x)


class _Block(nn.Module):
    def __init__(self, width: int, head_width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, bias=False)
        self.attn = _Attention(width, head_width)
        self.norm2 = nn.LayerNorm(width, bias=False)
        self.mlp = _Mlp(width)

    def forward(self, x: Float[Tensor, "b s d"]) -> Float[Tensor, "b s d"]:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _Upsampler(nn.Module):
    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.layernorm = nn.LayerNorm(width, bias=False)
        self.linear = nn.Linear(width, channels, bias=False)

    def forward(self, x: Float[Tensor, "b g d"]) -> Float[Tensor, "b g c"]:
        return self.linear(self.layernorm(x))


class GslrmOutput(NamedTuple):
    """Gaussians per object and the pixel-aligned centres.

    Attributes:
        gaussians: one entry per object; free Gaussians first, then (view, patch row, patch column, row, column).
        pixel_xyz: centres as images [batch, view, 3, height, width].
    """

    gaussians: list[Gaussians]
    pixel_xyz: Float[Tensor, "b v 3 height width"]


class Gslrm(nn.Module):
    """The reconstruction network."""

    def __init__(self, config: GslrmConfig) -> None:
        super().__init__()
        self.config = config
        c, p = config, config.patch_size
        if c.width % c.head_width:
            raise ValueError(f"GS-LRM width {c.width} is not a multiple of the head width {c.head_width}.")
        self.gradient_checkpointing = False
        self.gaussian_position_embeddings = nn.Parameter(torch.empty(c.free_gaussians, c.width))
        if c.reference_marker:
            self.view_type_embeddings = nn.Parameter(torch.empty(2, c.width))
        self.patch_embedder = nn.Sequential(
            Rearrange("n c (h ph) (w pw) -> n (h w) (ph pw c)", ph=p, pw=p), nn.Linear(c.in_channels * p * p, c.width, bias=False)
        )
        self.input_layer_norm = nn.LayerNorm(c.width, bias=False)
        self.transformer_layers = nn.ModuleList(_Block(c.width, c.head_width) for _ in range(c.layers))
        self.gaussian_upsampler = _Upsampler(c.width, c.gaussian_channels)
        self.pixel_gaussian_decoder = nn.Sequential(
            nn.LayerNorm(c.width, bias=False), nn.Linear(c.width, p * p * c.gaussian_channels, bias=False)
        )
        self.apply(self._init)
        nn.init.trunc_normal_(self.gaussian_position_embeddings, std=0.02)
        if c.reference_marker:
            nn.init.trunc_normal_(self.view_type_embeddings, std=0.02)

    @staticmethod
    def _init(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)

    def input_channels(self, images: Float[Tensor, "b v 3 height width"], rays: Rays) -> Float[Tensor, "b v channel height width"]:
        """Channels per pixel: 2 rgb - 1 with the ray's direction and its nearest point to the world origin."""
        origins = rays.origins[..., None, None].expand_as(rays.directions)
        near = origins - (origins * rays.directions).sum(-3, keepdim=True) * rays.directions
        rgb = 2 * images - 1
        if self.config.plucker == "custom":
            return torch.cat([rgb, rays.directions, near], dim=2)
        return torch.cat([rgb, torch.linalg.cross(origins, rays.directions, dim=-3), rays.directions, near], dim=2)

    def decode_raw(
        self, images: Float[Tensor, "b v 3 height width"], rays: Rays
    ) -> tuple[Float[Tensor, "b g c"], Float[Tensor, "b n c"]]:
        """Raw channels of the free and of the pixel Gaussians, the latter as (view, patch row, patch column, row, column)."""
        posed = self.input_channels(images, rays)
        batch, views = posed.shape[:2]
        tokens = self.patch_embedder(posed.flatten(0, 1))
        tokens = rearrange(tokens, "(b v) t d -> b v t d", b=batch)
        if self.config.reference_marker:
            kind = torch.tensor([0] + [1] * (views - 1), device=tokens.device)
            tokens = tokens + self.view_type_embeddings[kind][None, :, None]
        free = self.gaussian_position_embeddings.expand(batch, -1, -1).to(tokens.dtype)
        x = self.input_layer_norm(torch.cat([free, tokens.flatten(1, 2)], dim=1))
        for layer in self.transformer_layers:
            save_memory = self.gradient_checkpointing and self.training
            x = checkpoint(layer, x, use_reentrant=False) if save_memory else layer(x)
        g = self.config.free_gaussians
        pixel = self.pixel_gaussian_decoder(x[:, g:])
        return self.gaussian_upsampler(x[:, :g]), rearrange(pixel, "b t (q c) -> b (t q) c", c=self.config.gaussian_channels)

    def depths(self, raw: Float[Tensor, "b v 3 height width"], rays: Rays) -> Float[Tensor, "b v 1 height width"]:
        """Distance along the ray, from the mean m of the three raw xyz channels.

        1.8 (2 sigmoid(m) - 1) - o.d, that is +-1.8 about the point nearest to the origin.
        """
        fraction = torch.sigmoid(raw.mean(-3, keepdim=True))
        return 1.8 * (2 * fraction - 1) - (rays.origins[..., None, None] * rays.directions).sum(-3, keepdim=True)

    def forward(
        self, images: Float[Tensor, "b v 3 height width"], c2w: Float[Tensor, "b v 4 4"], intrinsics: Float[Tensor, "b v 4"]
    ) -> GslrmOutput:
        """Reconstruct a batch of objects.

        Args:
            images: input views, RGB in 0..1.
            c2w: camera-to-world, OpenCV axes, Z-up world, object within about +-1 of the origin.
            intrinsics: fx, fy, cx, cy in pixels of these images.
        """
        height, width = images.shape[-2:]
        p = self.config.patch_size
        rays = pixel_rays(c2w, intrinsics, height, width)
        # Under autocast the decoders answer in half precision; what follows decides where Gaussians lie.
        raw_free, raw_pixel = (raw.float() for raw in self.decode_raw(images, rays))
        to_image = dict(v=images.shape[1], h=height // p, w=width // p, ph=p, pw=p)
        as_image = lambda t: rearrange(t, "b (v h w ph pw) c -> b v c (h ph) (w pw)", **to_image)  # noqa: E731
        as_list = lambda t: rearrange(t, "b v c (h ph) (w pw) -> b (v h w ph pw) c", ph=p, pw=p)  # noqa: E731
        depth = self.depths(as_image(raw_pixel[..., :3]), rays)
        pixel_xyz = rays.origins[..., None, None] + depth * rays.directions
        if self.config.clip_xyz:
            pixel_xyz = pixel_xyz.clamp(-1, 1)
        raw = torch.cat([raw_free, raw_pixel], dim=1)
        xyz_raw, sh, log_scales, rotations, logits = split_channels(raw, self.config.sh_degree)
        xyz = torch.cat([xyz_raw[:, : self.config.free_gaussians], as_list(pixel_xyz)], dim=1)
        # unbind: the gradients of indexing one object at a time would each fill the whole batch.
        by_object = (t.unbind() for t in (xyz, sh, log_scales, rotations, logits))
        return GslrmOutput([Gaussians(*fields) for fields in zip(*by_object, strict=True)], pixel_xyz)


def freeze(model: Gslrm, transformer_until: int, patch_embedder: bool, positional_embeddings: bool) -> float:
    """Stop training of parts of the network.

    Args:
        model: changed in place.
        transformer_until: freeze the first N layers.
        patch_embedder: freeze the patch embedder and the input layer norm.
        positional_embeddings: freeze the free Gaussians' embeddings.

    Returns:
        Share of the parameters that stays trainable.
    """
    if transformer_until > len(model.transformer_layers):
        raise ValueError(f"freeze.transformer_until = {transformer_until}, but GS-LRM has {len(model.transformer_layers)} layers.")
    frozen: list[nn.Parameter] = []
    for layer in model.transformer_layers[:transformer_until]:
        frozen += layer.parameters()
    if patch_embedder:
        frozen += [*model.patch_embedder.parameters(), *model.input_layer_norm.parameters()]
    if positional_embeddings:
        frozen.append(model.gaussian_position_embeddings)
    for parameter in frozen:
        parameter.requires_grad_(False)
    total = sum(p.numel() for p in model.parameters())
    return sum(p.numel() for p in model.parameters() if p.requires_grad) / total
