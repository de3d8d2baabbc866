"""Configurations: frozen dataclasses with the field names of diffusers and transformers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from ldmref.declare import Length, Range
from ldmref.errors import UsageError
from ldmref.models.denoiser_config import (
    DenoiserConfig,
    Eps,
    Layers,
    UNetConfig,
    Width,
    WidthOrZero,
    Widths,
)
from ldmref.models.text_config import TextConfig
from ldmref.models.text_kind import kind_of
from ldmref.samplers.config import SchedulerConfig

TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")  # fields of `ModelConfig`
TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")  # of the text encoders


@dataclass(frozen=True)
class AutoencoderConfig:
    """The autoencoder between images (n, 3, H, W) and latents (n, latent_channels, h, w).

    Args:
        in_channels: Number of channels of the images that are encoded.
        out_channels: Number of channels of the decoded images.
        latent_channels: Number of channels z of the latents.
        block_out_channels: Width of each level; between two levels, height and width are halved.
        layers_per_block: Number of residual blocks per level; the decoder has one more.
        attention_levels: Whether each level has attention; () for the mid block only.
        mid_block_add_attention: Whether the mid block has attention.
        codebook_size: Number of vectors of a VQ autoencoder; 0 for a KL autoencoder.
        latent_activation: `sigmoid` for latents in (0, 1), as in sparse autoencoders, or "".
        norm_num_groups: Number of groups of every GroupNorm; it divides every width.
        norm_eps: Number added to the variance in GroupNorm, in [0, 1].
        scaling_factor: Factor of the latents that the denoiser sees: latents = scaling_factor *
            (z - shift_factor).
        shift_factor: What is subtracted from z before the scaling.
        use_quant_conv: Whether a 1 x 1 convolution follows the encoder.
        use_post_quant_conv: Whether a 1 x 1 convolution precedes the decoder.
        preview: Linear map from latents to red, green and blue in [0, 1]: for each colour a weight
            per channel and a bias, 3 (z + 1) numbers; () for none.

    >>> from ldmref.models import AutoencoderConfig
    >>> AutoencoderConfig().factor  # pixels per latent cell
    8
    """

    in_channels: Width = 3
    out_channels: Width = 3
    latent_channels: Width = 4
    block_out_channels: Widths = (128, 256, 512, 512)
    layers_per_block: Layers = 2
    attention_levels: Annotated[tuple[bool, ...], Length(0, 10)] = ()
    mid_block_add_attention: bool = True
    codebook_size: Annotated[int, Range(0, 10_000_000)] = 0
    latent_activation: Literal["", "sigmoid"] = ""
    norm_num_groups: Width = 32
    norm_eps: Eps = 1e-6
    scaling_factor: Annotated[float, Range(1e-9, 1e9)] = 0.18215
    shift_factor: Annotated[float, Range(-1e9, 1e9)] = 0.0
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    preview: Annotated[tuple[float, ...], Length(0, 100_000), Range(-1e9, 1e9)] = ()

    @property
    def factor(self) -> int:
        """Downsampling factor, f = 2^(levels - 1) pixels per latent cell."""
        return 2 ** (len(self.block_out_channels) - 1)


@dataclass(frozen=True)
class Defaults:
    """The values that None stands for in `ldmref.modes`.

    Args:
        steps: Number of sampler steps.
        cfg_scale: Guidance scale.
        inpaint_cfg_scale: Guidance scale of inpainting; 0: `cfg_scale`.
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        one_size: Whether images of other sizes are incoherent because the model has few latent
            cells.

    >>> from ldmref.models import Defaults
    >>> Defaults(width=512, height=512).is_near(768, 512)
    True
    """

    steps: Annotated[int, Range(1, 100_000)] = 50
    cfg_scale: Annotated[float, Range(-1e6, 1e6)] = 7.5
    inpaint_cfg_scale: Annotated[float, Range(-1e6, 1e6)] = 0.0
    width: Width = 512
    height: Width = 512
    one_size: bool = False

    def is_near(self, width: int, height: int) -> bool:
        """Return whether `width` and `height` are near those of training.

        Each is within a factor of 2, or 1.4 with `one_size`.
        """
        most = 1.4 if self.one_size else 2.0
        return all(1 / most <= r <= most for r in (width / self.width, height / self.height))


@dataclass(frozen=True)
class ModelConfig:
    """A latent diffusion model: its networks, their forward process and defaults.

    Args:
        name: Name of the model, which images record.
        denoiser: The denoising network; its class belongs to the family of the model.
        vae: The autoencoder.
        text_encoder: The text encoder, or that of classes.
        text_encoder_2: SDXL's second text encoder, which also computes the pooled output. None: the
            model has one.
        text_encoder_3: The third text encoder. None: the model has at most two.
        concat: The image that is joined to the noisy latents: see `image_channels`.
        segmentation_classes: Number of classes, for `concat` "segmentation".
        zero_empty_negative: Whether an empty negative prompt is embedded as zeros.
        scheduler: The forward process of the training, and the sampler's defaults.
        defaults: The values that None stands for in `ldmref.modes`.

    >>> from ldmref.models import preset
    >>> config = preset("sd15")
    >>> config.size_multiple, config.max_clip_skip, config.image_channels
    (8, 11, 0)
    """

    name: str = "model"
    denoiser: DenoiserConfig = field(default_factory=UNetConfig)
    vae: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    text_encoder: TextConfig = field(default_factory=TextConfig)
    text_encoder_2: TextConfig | None = None
    text_encoder_3: TextConfig | None = None
    concat: Literal[
        "", "masked_image", "folded_mask", "control", "low_resolution", "segmentation"
    ] = ""
    segmentation_classes: WidthOrZero = 0
    zero_empty_negative: bool = False
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    defaults: Defaults = field(default_factory=Defaults)

    @property
    def unet(self) -> UNetConfig:
        """The denoising network of a model that has a U-Net.

        Raises:
            UsageError: The denoising network is another one.
        """
        if not isinstance(self.denoiser, UNetConfig):
            raise UsageError(
                f"{self.name!r} has no U-Net, its network is a {self.denoiser.network}",
                code="E-FAMILY",
                hint="choose a model with a U-Net, such as Stable Diffusion 1.5 or SDXL",
            )
        return self.denoiser

    @property
    def size_multiple(self) -> int:
        """The number that width and height must be multiples of, so latents have an integral size.

        The latents' sides are also multiples of the denoiser's `side_multiple`.
        """
        return self.vae.factor * self.denoiser.side_multiple

    @property
    def max_side(self) -> int | None:
        """The largest width and height of an image in pixels; None: any."""
        most = self.denoiser.max_side
        return None if most is None else self.vae.factor * most

    def count_tokens(self, width: int, height: int) -> int:
        """Return the number of image tokens of a denoiser that reads patches of the latents.

        Args:
            width, height: Size of the image in pixels.
        """
        side = self.vae.factor * self.denoiser.side_multiple
        return (width // side) * (height // side)

    @property
    def text_encoders(self) -> tuple[TextConfig, ...]:
        """The text encoders: none, or up to three."""
        if kind_of(self.text_encoder).reads == "nothing":
            return ()
        every = (self.text_encoder, self.text_encoder_2, self.text_encoder_3)
        return tuple(text for text in every if text is not None)

    @property
    def max_clip_skip(self) -> int:
        """The largest `clip_skip` that leaves a layer in every text encoder."""
        texts = self.text_encoders or (self.text_encoder,)
        return min(text.num_hidden_layers - text.skipped_layers for text in texts) - 1

    @property
    def image_channels(self) -> int:
        """Input channels of the denoiser in addition to the noisy latents.

        They depend on `concat`:

        - "": none, or mask and masked latents (5) in inpainting models of Stable Diffusion.
        - "masked_image": masked latents and mask, in latent diffusion's order.
        - "folded_mask": masked latents, and a channel of the mask for each pixel of a cell.
        - "control": latents of a control image.
        - "low_resolution": an image of the latents' size.
        - "segmentation": a class map, rescaled to the latents' size.
        """
        return self.denoiser.in_channels - self.vae.latent_channels

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dictionary, which `config_from_dict` reads.

        The denoiser's part has the name of the network. `family` is there for families that are not
        built in.
        """
        values = dataclasses.asdict(self)
        network = self.denoiser.network
        family = self.denoiser.family
        found = {network if key == "denoiser" else key: value for key, value in values.items()}
        if family != UNetConfig.family:
            found["family"] = family
        return {key: value for key, value in found.items() if value is not None}
