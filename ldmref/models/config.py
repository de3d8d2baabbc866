"""Configurations: frozen dataclasses with the field names of diffusers and transformers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from ldmref.declare import Range
from ldmref.errors import UsageError
from ldmref.models.autoencoder_config import AutoencoderConfig, BaseAutoencoderConfig
from ldmref.models.autoencoder_kind import autoencoder_of
from ldmref.models.denoiser_config import DenoiserConfig, UNetConfig, Width, WidthOrZero
from ldmref.models.text_config import TextConfig
from ldmref.models.text_kind import kind_of
from ldmref.samplers.config import SchedulerConfig

DenoiserKind = TypeVar("DenoiserKind", bound=DenoiserConfig)
TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")  # fields of `ModelConfig`
TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")  # of the text encoders


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
        vae: The autoencoder; its class belongs to its kind.
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
    vae: BaseAutoencoderConfig = field(default_factory=AutoencoderConfig)
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
    def kl_or_vq(self) -> AutoencoderConfig:
        """The autoencoder of a model that has one of the kinds KL and VQ.

        Raises:
            UsageError: It has another kind.
        """
        if type(self.vae) is not AutoencoderConfig:
            raise UsageError(
                f"{self.name!r} has a {autoencoder_of(self.vae).title}, which is neither KL nor VQ",
                code="E-AUTOENCODER",
                hint="choose a model with one of these; single files of CompVis hold no other",
            )
        return self.vae

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
        side = self.vae.factor * self.denoiser.token_side
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

        The denoiser's part has the name of the network. `family` and `vae.kind` are there for what
        is not latent diffusion's.
        """
        values = dataclasses.asdict(self)
        network = self.denoiser.network
        family = self.denoiser.family
        found = {network if key == "denoiser" else key: value for key, value in values.items()}
        if family != UNetConfig.family:
            found["family"] = family
        if type(self.vae) is not AutoencoderConfig:
            found["vae"] = {"kind": self.vae.kind, **found["vae"]}
        return {key: value for key, value in found.items() if value is not None}


def denoiser_of(kind: type[DenoiserKind], config: ModelConfig) -> DenoiserKind:
    """Return the configuration of a model's denoiser, which is of a class.

    Args:
        kind: The class, that of the model's family.
        config: The configuration of the model.

    >>> denoiser_of(UNetConfig, ModelConfig()).network
    'unet'
    """
    assert isinstance(config.denoiser, kind)
    return config.denoiser
