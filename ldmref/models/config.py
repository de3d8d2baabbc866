"""Configurations: frozen dataclasses with the field names of diffusers and transformers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ldmref.errors import CorruptModelError, UsageError, did_you_mean


@dataclass(frozen=True)
class UNetConfig:
    """The denoising U-Net, U-Net in `eps`, `v` or `x0` of latents (n, in_channels, h, w)."""

    in_channels: int = 4
    out_channels: int = 4
    sample_size: int = 64  # latent height and width at which the model was trained
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    attention_levels: tuple[bool, ...] = (True, True, True, False)  # cross-attention per level
    num_heads: tuple[int, ...] = (8, 8, 8, 8)  # heads per level (the middle takes the last)
    transformer_layers_per_block: int = 1
    cross_attention_dim: int = 768
    class_embed_type: str = ""  # or "simple_projection": the last token joins the time embedding
    use_linear_projection: bool = False
    norm_num_groups: int = 32
    norm_eps: float = 1e-5


@dataclass(frozen=True)
class AutoencoderConfig:
    """The KL autoencoder between pictures (n, 3, H, W) and latents (n, latent_channels, h, w)."""

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    norm_eps: float = 1e-6
    scaling_factor: float = 0.18215  # latents = scaling_factor * z

    @property
    def factor(self) -> int:
        """Pixels per latent cell, f = 2^(levels - 1)."""
        return 2 ** (len(self.block_out_channels) - 1)


@dataclass(frozen=True)
class TextConfig:
    """The text transformer (CLIP's): token ids (n, l) to hidden states (n, l, hidden_size)."""

    vocab_size: int = 49408
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5


@dataclass(frozen=True)
class SchedulerConfig:
    """The forward process on which the U-Net was trained, and the sampler's defaults."""

    num_train_timesteps: int = 1000
    beta_schedule: str = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    prediction_type: str = "eps"
    sampler: str = "ddim"
    spacing: str = "leading"
    final_sigma: str = "sigma_min"
    steps_offset: int = 1
    sigma_max: float = 1000.0  # samplers start no higher, however far the training table goes


@dataclass(frozen=True)
class Defaults:
    """What `None` means in `ldmref.modes` for this model."""

    steps: int = 50
    cfg_scale: float = 7.5
    width: int = 512
    height: int = 512


@dataclass(frozen=True)
class ModelConfig:
    """A latent diffusion model: three networks, their forward process and defaults."""

    name: str = "model"
    unet: UNetConfig = field(default_factory=UNetConfig)
    vae: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    text_encoder: TextConfig = field(default_factory=TextConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    defaults: Defaults = field(default_factory=Defaults)

    @property
    def size_multiple(self) -> int:
        """Width and height must be multiples of this, so that every level halves evenly."""
        return self.vae.factor * 2 ** (len(self.unet.block_out_channels) - 1)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary that `from_dict` reads back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelConfig:
        """Read a configuration and check every field.

        Raises:
            CorruptModelError: an unknown field, or a value of the wrong type or range.
        """
        parts = {"unet": UNetConfig, "vae": AutoencoderConfig, "text_encoder": TextConfig,
                 "scheduler": SchedulerConfig, "defaults": Defaults}  # fmt: skip
        values = {
            key: _read(parts[key], value, key) if key in parts else value
            for key, value in data.items()
        }
        config = _read(cls, values, "model")
        config.validate()
        return config

    def validate(self) -> None:
        """Check that the three networks fit each other and that no number is absurd."""
        u, v, t, s = self.unet, self.vae, self.text_encoder, self.scheduler
        levels = len(u.block_out_channels)
        widths = (*u.block_out_channels, *v.block_out_channels, t.hidden_size, t.intermediate_size)
        rules = {
            "every width must be from 1 to 65536": all(0 < w <= 65536 for w in widths),
            "unet.attention_levels needs an entry per level": len(u.attention_levels) == levels,
            "unet.num_heads needs an entry per level": len(u.num_heads) == levels,
            "unet.num_heads must divide the level's channels": all(
                h > 0 and c % h == 0
                for c, h in zip(u.block_out_channels, u.num_heads, strict=False)
            ),
            "norm_num_groups must divide every channel count": all(
                n > 0 and all(c % n == 0 for c in channels)
                for n, channels in (
                    (u.norm_num_groups, u.block_out_channels),
                    (v.norm_num_groups, v.block_out_channels),
                )
            ),
            "unet.out_channels must equal vae.latent_channels": u.out_channels == v.latent_channels,
            "unet.cross_attention_dim must equal text_encoder.hidden_size": u.cross_attention_dim
            == t.hidden_size,
            "text_encoder.num_attention_heads must divide hidden_size": t.num_attention_heads > 0
            and t.hidden_size % t.num_attention_heads == 0,
            "scheduler.num_train_timesteps must be from 2 to 100000": 2
            <= s.num_train_timesteps
            <= 100000,
            "scheduler betas must satisfy 0 < beta_start <= beta_end < 1": 0
            < s.beta_start
            <= s.beta_end
            < 1,
            "scheduler.sigma_max must be at least 1": s.sigma_max >= 1,
            "vae.scaling_factor must be positive": v.scaling_factor > 0,
        }
        for rule, holds in rules.items():
            if not holds:
                raise CorruptModelError(f"bad model configuration: {rule}", code="E-CONFIG")
        for name, value, known in (
            ("unet.class_embed_type", u.class_embed_type, ("", "simple_projection")),
            ("scheduler.prediction_type", s.prediction_type, ("eps", "v", "x0")),
            ("scheduler.beta_schedule", s.beta_schedule, ("linear", "scaled_linear", "cosine")),
            ("text_encoder.hidden_act", t.hidden_act, ("gelu", "quick_gelu")),
        ):
            if value not in known:
                raise CorruptModelError(
                    f"bad model configuration: {name} = {value!r}",
                    code="E-CONFIG",
                    hint=did_you_mean(str(value), known),
                )


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
        if isinstance(want, tuple) and isinstance(value, list | tuple) and value:
            good = all(type(x) is type(want[0]) for x in value)
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


_TINY = ModelConfig(
    name="tiny",
    unet=UNetConfig(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1,
        attention_levels=(True, False), num_heads=(2, 2), cross_attention_dim=32, norm_num_groups=8,
    ),
    vae=AutoencoderConfig(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
                          scaling_factor=1.0),
    text_encoder=TextConfig(
        vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=16,
    ),
    defaults=Defaults(steps=4, cfg_scale=2.0, width=16, height=16),
)  # fmt: skip

_EMOJI = ModelConfig(
    name="emoji",
    unet=UNetConfig(
        in_channels=16, out_channels=16, sample_size=8, block_out_channels=(128, 160),
        layers_per_block=1, attention_levels=(True, True), num_heads=(4, 5),
        cross_attention_dim=192, class_embed_type="simple_projection",
    ),
    vae=AutoencoderConfig(
        latent_channels=16, block_out_channels=(16, 32, 96, 96), layers_per_block=1,
        norm_num_groups=8, scaling_factor=1.0,
    ),
    text_encoder=TextConfig(
        vocab_size=3072, hidden_size=192, intermediate_size=768, num_hidden_layers=2,
        num_attention_heads=6, max_position_embeddings=16,
    ),
    scheduler=SchedulerConfig(
        beta_schedule="cosine", prediction_type="v", sampler="dpmpp_2m", spacing="trailing",
        final_sigma="zero", steps_offset=0, sigma_max=40.0,
    ),
    defaults=Defaults(steps=20, cfg_scale=2.5, width=64, height=64),
)  # fmt: skip

PRESETS: dict[str, ModelConfig] = {
    "tiny": _TINY,
    "emoji": _EMOJI,
    "sd15": ModelConfig(name="sd15"),
}


def preset(name: str) -> ModelConfig:
    """The configuration `tiny`, `emoji` or `sd15`."""
    if name not in PRESETS:
        raise UsageError(
            f"unknown preset {name!r}", code="E-PRESET", hint=did_you_mean(name, PRESETS)
        )
    return PRESETS[name]
