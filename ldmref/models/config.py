"""Configurations: frozen dataclasses with the field names of diffusers and transformers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ldmref.errors import CorruptModelError, did_you_mean
from ldmref.models.validate import check_config
from ldmref.samplers.config import SchedulerConfig


@dataclass(frozen=True)
class UNetConfig:
    """The denoising U-Net, U-Net in `eps`, `v` or `x0` of latents (n, in_channels, h, w)."""

    in_channels: int = 4
    out_channels: int = 4
    sample_size: int = 64  # latent height and width at which the model was trained
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    attention_levels: tuple[bool, ...] = (True, True, True, False)  # attention per level
    attention: str = "cross"  # or "self": attention blocks that read nothing but the latents
    num_heads: tuple[int, ...] = (8, 8, 8, 8)  # heads per level (the middle takes the last)
    transformer_layers_per_block: tuple[int, ...] = (1, 1, 1, 1)  # likewise
    cross_attention_dim: int = 768
    class_embed_type: str = ""  # or "simple_projection": the last token joins the time embedding
    addition_embed_type: str = ""  # or "text_time": pooled text and picture sizes join it (SDXL)
    addition_time_embed_dim: int = 256  # width of each of the six sizes' embeddings
    projection_class_embeddings_input_dim: int = 2816  # pooled text and six sizes
    use_linear_projection: bool = False
    resnet_time_scale_shift: str = "default"  # or "scale_shift": the time scales and shifts norm2
    resnet_updown: bool = False  # residual blocks, not convolutions, halve and double the size
    norm_num_groups: int = 32
    norm_eps: float = 1e-5


@dataclass(frozen=True)
class AutoencoderConfig:
    """The autoencoder between pictures (n, 3, H, W) and latents (n, latent_channels, h, w).

    KL (`codebook_size` 0), or VQ with a codebook of that many vectors.
    """

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    attention_levels: tuple[bool, ...] = ()  # attention per level; (): in the middle only
    mid_block_add_attention: bool = True
    codebook_size: int = 0
    norm_num_groups: int = 32
    norm_eps: float = 1e-6
    scaling_factor: float = 0.18215  # latents = scaling_factor * z

    @property
    def factor(self) -> int:
        """Pixels per latent cell, f = 2^(levels - 1)."""
        return 2 ** (len(self.block_out_channels) - 1)


@dataclass(frozen=True)
class TextConfig:
    """What reads the prompt: token ids (n, l) to hidden states (n, l, hidden_size).

    `model_type`: "clip", CLIP's text transformer; "ldmbert", the transformer encoder that latent
    diffusion trained itself; "class", a table with a vector per class, of which the last means no
    class; "none", nothing: the model takes no prompt.
    """

    model_type: str = "clip"
    vocab_size: int = 49408
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    head_dim: int = 0  # of "ldmbert"; 0: hidden_size / num_attention_heads
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    projection_dim: int = 0  # width of the pooled output; 0 where there is none
    eos_token_id: int = 49407  # where the pooled output is taken; 2: at the largest id (old files)
    skipped_layers: int = 0  # last layers whose output is not used: 1 in SDXL
    final_norm: bool = True  # whether the hidden states go through the last norm: not in SDXL


@dataclass(frozen=True)
class Defaults:
    """What `None` means in `ldmref.modes` for this model."""

    steps: int = 50
    cfg_scale: float = 7.5
    inpaint_cfg_scale: float = 0.0  # of inpainting; 0: `cfg_scale`
    width: int = 512
    height: int = 512


@dataclass(frozen=True)
class ModelConfig:
    """A latent diffusion model: three networks, their forward process and defaults."""

    name: str = "model"
    unet: UNetConfig = field(default_factory=UNetConfig)
    vae: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    text_encoder: TextConfig = field(default_factory=TextConfig)
    text_encoder_2: TextConfig | None = None  # SDXL's second; its pooled output is used too
    concat: str = ""  # what is joined to the noisy latents: see `image_channels`
    segmentation_classes: int = 0  # classes of the map that is joined with concat "segmentation"
    zero_empty_negative: bool = False  # no negative prompt: zeros in place of the empty text
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    defaults: Defaults = field(default_factory=Defaults)

    @property
    def size_multiple(self) -> int:
        """Width and height must be multiples of this: whole latent cells.

        Where residual blocks halve the size, every level must halve evenly, too.
        """
        levels = len(self.unet.block_out_channels) if self.unet.resnet_updown else 1
        return self.vae.factor * 2 ** (levels - 1)

    @property
    def text_encoders(self) -> tuple[TextConfig, ...]:
        """No text encoder, one, or two."""
        first, second = self.text_encoder, self.text_encoder_2
        if first.model_type == "none":
            return ()
        return (first,) if second is None else (first, second)

    @property
    def image_channels(self) -> int:
        """Channels of U-Net input besides the noisy latents.

        With `concat` "": none, or in inpainting models of Stable Diffusion mask and masked latents
        (5). "masked_image": masked latents and mask, as latent diffusion has them;
        "low_resolution": a picture as large as the latents; "segmentation": a map of classes,
        brought to the latents' size.
        """
        return self.unet.in_channels - self.vae.latent_channels

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary that `from_dict` reads back."""
        facts = dataclasses.asdict(self)
        return {key: value for key, value in facts.items() if value is not None}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelConfig:
        """Read a configuration and check every field.

        Raises:
            CorruptModelError: an unknown field, or a value of the wrong type or range.
        """
        parts = {"unet": UNetConfig, "vae": AutoencoderConfig, "text_encoder": TextConfig,
                 "text_encoder_2": TextConfig, "scheduler": SchedulerConfig,
                 "defaults": Defaults}  # fmt: skip
        values = {
            key: _read(parts[key], value, key) if key in parts else value
            for key, value in data.items()
        }
        second = values.pop("text_encoder_2", None)
        config = dataclasses.replace(_read(cls, values, "model"), text_encoder_2=second)
        config.validate()
        return config

    def validate(self) -> None:
        """Check that the networks fit each other and that no number is absurd."""
        check_config(self)


EMPTY = {"trained_betas": float, "disable_corrector": int}  # elements of tuples that may be empty


def _read(cls: type, data: Any, where: str) -> Any:
    """`cls(**data)` with every field's type checked against its default's."""
    if not isinstance(data, Mapping):
        raise CorruptModelError(f"bad model configuration: {where} is no object", code="E-CONFIG")
    defaults, values = cls(), {}
    for key, value in data.items():
        if not hasattr(defaults, key) or key not in {f.name for f in dataclasses.fields(cls)}:
            known = [f.name for f in dataclasses.fields(cls)]
            raise CorruptModelError(
                f"bad model configuration: unknown field {where}.{key}",
                code="E-CONFIG",
                hint=did_you_mean(key, known),
            )
        want = getattr(defaults, key)
        if isinstance(want, tuple) and isinstance(value, list | tuple) and (value or not want):
            kind = type(want[0]) if want else EMPTY.get(key, bool)
            good = all(type(x) is kind for x in value)
            value = tuple(value)
        elif isinstance(want, float) and isinstance(value, int | float) and type(value) is not bool:
            good, value = True, float(value)
        else:
            good = type(value) is type(want)
        if not good:
            raise CorruptModelError(
                f"bad model configuration: {where}.{key} = {value!r}, wanted a value like {want!r}",
                code="E-CONFIG",
            )
        values[key] = value
    return cls(**values)
