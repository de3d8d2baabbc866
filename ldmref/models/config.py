"""Configurations: frozen dataclasses with the field names of diffusers and transformers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from ldmref.declare import Length, Range
from ldmref.samplers.config import SchedulerConfig

TEXT_ENCODERS = ("text_encoder", "text_encoder_2")  # fields of `ModelConfig`, and networks
LEVELS = Length(1, 10)  # a network has from 1 to 10
Width = Annotated[int, Range(1, 65536)]
WidthOrZero = Annotated[int, Range(0, 65536)]
Widths = Annotated[tuple[int, ...], Range(1, 65536), LEVELS]
Flags = Annotated[tuple[bool, ...], LEVELS]
Layers = Annotated[int, Range(1, 16)]
LayersPerLevel = Annotated[tuple[int, ...], Range(1, 16), LEVELS]
Depths = Annotated[tuple[int, ...], Range(1, 100), LEVELS]
Eps = Annotated[float, Range(0, 1)]


@dataclass(frozen=True)
class UNetConfig:
    """The denoising U-Net, which predicts eps, v or x0 of latents (n, z, h, w).

    `out_channels` is z, or 2 z if the variance is also learned.
    """

    in_channels: Width = 4
    out_channels: Width = 4
    # latent height and width in training
    sample_size: Width = 64
    # per level
    block_out_channels: Widths = (320, 640, 1280, 1280)
    layers_per_block: Layers = 2
    # per level, whether it has attention
    attention_levels: Flags = (True, True, True, False)
    # "self": attention blocks without cross-attention
    attention: Literal["cross", "self"] = "cross"
    # per level; the mid block uses the last
    num_heads: Widths = (8, 8, 8, 8)
    # per level; the mid block uses the last
    transformer_layers_per_block: Depths = (1, 1, 1, 1)
    cross_attention_dim: WidthOrZero = 768
    # "simple_projection": the last token is added to the time embedding
    class_embed_type: Literal["", "simple_projection"] = ""
    # "text_time": pooled text and image sizes are added to the time embedding (SDXL)
    addition_embed_type: Literal["", "text_time"] = ""
    # width of the embedding of each of the six sizes
    addition_time_embed_dim: Width = 256
    # pooled text and six sizes
    projection_class_embeddings_input_dim: Annotated[int, Range(1, 1048576)] = 2816
    use_linear_projection: bool = False
    # "scale_shift": the time embedding scales and shifts norm2
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    # resample with residual blocks instead of convolutions
    resnet_updown: bool = False
    norm_num_groups: Width = 32
    norm_eps: Eps = 1e-5


@dataclass(frozen=True)
class AutoencoderConfig:
    """The autoencoder between images (n, 3, H, W) and latents (n, latent_channels, h, w).

    KL (`codebook_size` 0), or VQ with `codebook_size` vectors. `latent_activation`: "sigmoid" for
    latents in (0, 1), as in sparse autoencoders.
    """

    in_channels: Width = 3
    out_channels: Width = 3
    latent_channels: Width = 4
    block_out_channels: Widths = (128, 256, 512, 512)
    layers_per_block: Layers = 2
    # per level, whether it has attention; (): the mid block only
    attention_levels: Annotated[tuple[bool, ...], Length(0, 10)] = ()
    mid_block_add_attention: bool = True
    codebook_size: Annotated[int, Range(0, 10_000_000)] = 0
    latent_activation: Literal["", "sigmoid"] = ""
    norm_num_groups: Width = 32
    norm_eps: Eps = 1e-6
    # latents = scaling_factor * z
    scaling_factor: Annotated[float, Range(1e-9, 1e9)] = 0.18215
    # linear preview of latents, for red, green and blue in [0, 1]: a weight per channel, and a bias
    preview: Annotated[tuple[float, ...], Length(0, 100_000), Range(-1e9, 1e9)] = ()

    @property
    def factor(self) -> int:
        """Downsampling factor, f = 2^(levels - 1) pixels per latent cell."""
        return 2 ** (len(self.block_out_channels) - 1)


@dataclass(frozen=True)
class TextConfig:
    """The text encoder: token ids (n, l) to hidden states (n, l, hidden_size).

    Possible values of `model_type`:

    - "clip": CLIP's text transformer.
    - "ldmbert": the transformer encoder of the latent diffusion paper.
    - "class": an embedding table with a row per class; the last row is the null class.
    - "none": an unconditional model.
    """

    model_type: Literal["clip", "ldmbert", "class", "none"] = "clip"
    vocab_size: Annotated[int, Range(1, 10_000_000)] = 49408
    hidden_size: Width = 768
    intermediate_size: Width = 3072
    num_hidden_layers: Annotated[int, Range(1, 256)] = 12
    num_attention_heads: Width = 12
    # for "ldmbert"; 0: hidden_size / num_attention_heads
    head_dim: WidthOrZero = 0
    max_position_embeddings: Width = 77
    # for "class": the prompts that name the classes; their numbers also work
    class_names: tuple[str, ...] = ()
    hidden_act: Literal["gelu", "quick_gelu"] = "quick_gelu"
    layer_norm_eps: Eps = 1e-5
    # width of the pooled output; 0: no pooled output
    projection_dim: WidthOrZero = 0
    # the token to pool; 2: the token with the largest id (old files)
    eos_token_id: Annotated[int, Range(0, 10_000_000)] = 49407
    # final layers left out of the hidden states: 1 in SDXL
    skipped_layers: Annotated[int, Range(0, 255)] = 0
    # apply the final norm to the hidden states: not in SDXL
    final_norm: bool = True


@dataclass(frozen=True)
class Defaults:
    """The values that None stands for in `ldmref.modes`."""

    steps: Annotated[int, Range(1, 100_000)] = 50
    cfg_scale: Annotated[float, Range(-1e6, 1e6)] = 7.5
    # for inpainting; 0: `cfg_scale`
    inpaint_cfg_scale: Annotated[float, Range(-1e6, 1e6)] = 0.0
    width: Width = 512
    height: Width = 512
    # images of other sizes are incoherent, because the model has few latent cells
    one_size: bool = False

    def is_near(self, width: int, height: int) -> bool:
        """Return whether each side is within a factor of 2 of training; 1.4 with `one_size`."""
        most = 1.4 if self.one_size else 2.0
        return all(1 / most <= r <= most for r in (width / self.width, height / self.height))


@dataclass(frozen=True)
class ModelConfig:
    """A latent diffusion model: three networks, their forward process and defaults."""

    name: str = "model"
    unet: UNetConfig = field(default_factory=UNetConfig)
    vae: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    text_encoder: TextConfig = field(default_factory=TextConfig)
    # SDXL's second text encoder, which also computes the pooled output
    text_encoder_2: TextConfig | None = None
    # the image concatenated to the noisy latents: see `image_channels`
    concat: Literal["", "masked_image", "low_resolution", "segmentation"] = ""
    # for concat "segmentation"
    segmentation_classes: WidthOrZero = 0
    # embed an empty negative prompt as zeros
    zero_empty_negative: bool = False
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    defaults: Defaults = field(default_factory=Defaults)

    @property
    def size_multiple(self) -> int:
        """The number that width and height must be multiples of, so latents have an integral size.

        With `resnet_updown`, every level of the U-Net must also halve evenly.
        """
        levels = len(self.unet.block_out_channels) if self.unet.resnet_updown else 1
        return self.vae.factor * 2 ** (levels - 1)

    @property
    def text_encoders(self) -> tuple[TextConfig, ...]:
        """The text encoders: none, one, or two."""
        first = self.text_encoder
        second = self.text_encoder_2
        if first.model_type == "none":
            return ()
        return (first,) if second is None else (first, second)

    @property
    def max_clip_skip(self) -> int:
        """The largest `clip_skip` that leaves a layer in every text encoder."""
        texts = self.text_encoders or (self.text_encoder,)
        return min(text.num_hidden_layers - text.skipped_layers for text in texts) - 1

    @property
    def image_channels(self) -> int:
        """Input channels of the U-Net in addition to the noisy latents.

        They depend on `concat`:

        - "": none, or mask and masked latents (5) in inpainting models of Stable Diffusion.
        - "masked_image": masked latents and mask, in latent diffusion's order.
        - "low_resolution": an image of the latents' size.
        - "segmentation": a class map, rescaled to the latents' size.
        """
        return self.unet.in_channels - self.vae.latent_channels

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dictionary, which `config_from_dict` reads."""
        values = dataclasses.asdict(self)
        return {key: value for key, value in values.items() if value is not None}
