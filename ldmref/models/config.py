"""Configurations: frozen dataclasses with the field names of diffusers and transformers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from ldmref.samplers.config import SchedulerConfig


@dataclass(frozen=True)
class UNetConfig:
    """The denoising U-Net; predicts eps, v or x0 of latents (n, z, h, w).

    `out_channels` is z, or 2 z where the variance is learned, too.
    """

    in_channels: int = 4
    out_channels: int = 4
    sample_size: int = 64  # latent height and width in training
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)  # per level
    layers_per_block: int = 2
    attention_levels: tuple[bool, ...] = (True, True, True, False)  # levels with attention
    attention: str = "cross"  # or "self": attention blocks without cross-attention
    num_heads: tuple[int, ...] = (8, 8, 8, 8)  # per level; the mid block uses the last
    transformer_layers_per_block: tuple[int, ...] = (1, 1, 1, 1)  # likewise
    cross_attention_dim: int = 768
    class_embed_type: str = ""  # "simple_projection": last token added to the time embedding
    addition_embed_type: str = ""  # "text_time": pooled text and image sizes added to it (SDXL)
    addition_time_embed_dim: int = 256  # width of the embedding of each of the six sizes
    projection_class_embeddings_input_dim: int = 2816  # pooled text and six sizes
    use_linear_projection: bool = False
    resnet_time_scale_shift: str = "default"  # "scale_shift": time scales and shifts norm2
    resnet_updown: bool = False  # resample with residual blocks instead of convolutions
    norm_num_groups: int = 32
    norm_eps: float = 1e-5


@dataclass(frozen=True)
class AutoencoderConfig:
    """The autoencoder between images (n, 3, H, W) and latents (n, latent_channels, h, w).

    KL (`codebook_size` 0), or VQ with `codebook_size` vectors. `latent_activation`: "sigmoid" for
    latents in (0, 1), as in sparse autoencoders.
    """

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    attention_levels: tuple[bool, ...] = ()  # levels with attention; (): mid block only
    mid_block_add_attention: bool = True
    codebook_size: int = 0
    latent_activation: str = ""
    norm_num_groups: int = 32
    norm_eps: float = 1e-6
    scaling_factor: float = 0.18215  # latents = scaling_factor * z

    @property
    def factor(self) -> int:
        """Downsampling factor, f = 2^(levels - 1) pixels per latent cell."""
        return 2 ** (len(self.block_out_channels) - 1)


@dataclass(frozen=True)
class TextConfig:
    """The text encoder: token ids (n, l) to hidden states (n, l, hidden_size).

    `model_type`: "clip", CLIP's text transformer; "ldmbert", the transformer encoder of the latent
    diffusion paper; "class", an embedding table with a row per class, the last of which is the null
    class; "none", an unconditional model.
    """

    model_type: str = "clip"
    vocab_size: int = 49408
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    head_dim: int = 0  # "ldmbert" only; 0: hidden_size / num_attention_heads
    max_position_embeddings: int = 77
    class_names: tuple[str, ...] = ()  # of "class": prompts that name a class, besides its number
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    projection_dim: int = 0  # width of the pooled output; 0: no pooled output
    eos_token_id: int = 49407  # token to pool; 2: the one with the largest id (old files)
    skipped_layers: int = 0  # final layers left out of the hidden states: 1 in SDXL
    final_norm: bool = True  # apply the final norm to the hidden states: not in SDXL


@dataclass(frozen=True)
class Defaults:
    """What `None` means in `ldmref.modes` for this model."""

    steps: int = 50
    cfg_scale: float = 7.5
    inpaint_cfg_scale: float = 0.0  # for inpainting; 0: `cfg_scale`
    width: int = 512
    height: int = 512
    one_size: bool = False  # few latent cells: far from width x height, pictures fall apart

    def is_near(self, width: int, height: int) -> bool:
        """Whether each side is within a factor of 2 of the trained one; 1.4 with `one_size`."""
        most = 1.4 if self.one_size else 2.0
        return all(1 / most <= r <= most for r in (width / self.width, height / self.height))


@dataclass(frozen=True)
class ModelConfig:
    """A latent diffusion model: three networks, their forward process and defaults."""

    name: str = "model"
    unet: UNetConfig = field(default_factory=UNetConfig)
    vae: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    text_encoder: TextConfig = field(default_factory=TextConfig)
    text_encoder_2: TextConfig | None = None  # SDXL's second, which also gives the pooled output
    concat: str = ""  # image concatenated to the noisy latents: see `image_channels`
    segmentation_classes: int = 0  # for concat "segmentation"
    zero_empty_negative: bool = False  # an empty negative prompt is embedded as zeros
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    defaults: Defaults = field(default_factory=Defaults)

    @property
    def size_multiple(self) -> int:
        """Width and height must be multiples of this, so that latents have an integral size.

        With `resnet_updown`, every level of the U-Net must also halve evenly.
        """
        levels = len(self.unet.block_out_channels) if self.unet.resnet_updown else 1
        return self.vae.factor * 2 ** (levels - 1)

    @property
    def text_encoders(self) -> tuple[TextConfig, ...]:
        """The text encoders: none, one, or two."""
        first, second = self.text_encoder, self.text_encoder_2
        if first.model_type == "none":
            return ()
        return (first,) if second is None else (first, second)

    @property
    def max_clip_skip(self) -> int:
        """The most `clip_skip` that leaves a layer in every text encoder."""
        texts = self.text_encoders or (self.text_encoder,)
        return min(text.num_hidden_layers - text.skipped_layers for text in texts) - 1

    @property
    def image_channels(self) -> int:
        """Input channels of the U-Net in addition to the noisy latents.

        `concat` "": none, or mask and masked latents (5) in inpainting models of Stable Diffusion;
        "masked_image": masked latents and mask, in latent diffusion's order; "low_resolution": an
        image of the latents' size; "segmentation": a class map, rescaled to the latents' size.
        """
        return self.unet.in_channels - self.vae.latent_channels

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary, the inverse of `validate.config_from_dict`."""
        values = dataclasses.asdict(self)
        return {key: value for key, value in values.items() if value is not None}
