"""Configurations of tiny networks: the presets with fewer channels, layers and words."""

from __future__ import annotations

from dataclasses import replace

from ldmref.cases.golden_families import golden_models_of
from ldmref.errors import UsageError
from ldmref.models.autoencoder_config import AutoencoderConfig, BaseAutoencoderConfig
from ldmref.models.autoencoder_kind import autoencoder_of
from ldmref.models.config import TEXT_ENCODERS, ModelConfig, TextConfig
from ldmref.models.denoiser_config import UNetConfig
from ldmref.models.family import family_of

WIDTHS = (8, 12, 12)  # channels per level
HIDDEN = 16  # width of a text encoder
WORDS = 40  # of a vocabulary
SIZE = 8  # latent height and width


def shrink(config: ModelConfig) -> ModelConfig:
    """Return a tiny model of the same family.

    Raises:
        UsageError: Its family does not say how.
    """
    own = golden_models_of(family_of(config)).shrink
    if own is not None:
        return own(config)
    encoders = [shrink_text(encoder) for encoder in config.text_encoders]
    width = sum(encoder.hidden_size for encoder in encoders)
    pooled = encoders[-1].projection_dim if encoders else 0
    segmentation = {"segmentation_classes": 5} if config.segmentation_classes else {}
    return replace(
        config,
        denoiser=shrink_unet(config.unet, width, pooled, _shrink_image_channels(config)),
        vae=shrink_autoencoder(config.vae),
        **dict(zip(TEXT_ENCODERS, encoders, strict=False)),
        **segmentation,
    )


def _shrink_image_channels(config: ModelConfig) -> int:
    """Return the channels of the tiny model's input image, of which those of latents are 4."""
    if config.concat == "low_resolution":
        return config.image_channels  # of an image in pixels
    whole, rest = divmod(config.image_channels, config.vae.latent_channels)
    return 4 * whole + rest


def shrink_unet(
    u: UNetConfig, context: int, pooled: int = 0, image_channels: int = 0
) -> UNetConfig:
    """Return the last levels of a U-Net, with one layer each and `WIDTHS` channels."""
    k = min(len(u.block_out_channels), len(WIDTHS))
    return replace(
        u,
        in_channels=4 + image_channels,
        out_channels=4,
        sample_size=SIZE,
        block_out_channels=WIDTHS[:k],
        layers_per_block=1,
        attention_levels=u.attention_levels[-k:],
        num_heads=tuple(1 if heads == 1 else 2 for heads in u.num_heads[-k:]),
        transformer_layers_per_block=tuple(min(d, 2) for d in u.transformer_layers_per_block[:k]),
        cross_attention_dim=context if u.cross_attention_dim else 0,
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + pooled,
        norm_num_groups=4,
    )


def shrink_autoencoder(v: BaseAutoencoderConfig) -> BaseAutoencoderConfig:
    """Return an autoencoder with two levels, three if one of the later ones has attention.

    Raises:
        UsageError: Its kind is of another package and does not say how.
    """
    if type(v) is not AutoencoderConfig:
        kind = autoencoder_of(v)
        if kind.shrink is None:
            message = f"a {kind.title} has no tiny version"
            raise UsageError(message, code="E-AUTOENCODER", hint="its kind must declare `shrink`")
        return kind.shrink(v)
    k = min(len(v.block_out_channels), 3 if any(v.attention_levels) else 2)
    return replace(
        v,
        latent_channels=4,
        block_out_channels=WIDTHS[:k],
        layers_per_block=1,
        attention_levels=v.attention_levels[-k:],
        codebook_size=32 if v.codebook_size else 0,
        norm_num_groups=4,
        scaling_factor=1.0,
        preview=(),
    )


def shrink_text(t: TextConfig) -> TextConfig:
    """Return a text encoder with at most two layers and `WORDS` words."""
    return replace(
        t,
        vocab_size=WORDS,
        hidden_size=HIDDEN,
        intermediate_size=4 * HIDDEN,
        num_hidden_layers=min(t.num_hidden_layers, 2 + t.skipped_layers),
        num_attention_heads=min(t.num_attention_heads, 2),
        head_dim=12 if t.head_dim else 0,
        max_position_embeddings=min(t.max_position_embeddings, 16),
        projection_dim=8 if t.projection_dim else 0,
        eos_token_id=min(t.eos_token_id, WORDS - 1),
        class_names=(),
    )
