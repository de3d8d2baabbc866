"""The published sizes of Stable Diffusion 3 and 3.5, and one for tests."""

from __future__ import annotations

from dataclasses import replace

from ldmref.families.joint_transformers import (
    AUTOENCODER,
    T5_XXL,
    shrink_autoencoder,
    shrink_text,
)
from ldmref.families.sd3.config import MMDiTConfig, transformer_of
from ldmref.families.sd3.text import T5_TOKENS
from ldmref.models.config import TEXT_ENCODERS, Defaults, ModelConfig
from ldmref.models.presets import PRESETS
from ldmref.samplers.config import SchedulerConfig

_SDXL = PRESETS["sdxl"]
MEDIUM = ModelConfig(
    name="sd3-medium",
    denoiser=MMDiTConfig(),
    vae=replace(AUTOENCODER, scaling_factor=1.5305, shift_factor=0.0609),
    text_encoder=replace(_SDXL.text_encoder, projection_dim=768),
    text_encoder_2=_SDXL.text_encoder_2,
    text_encoder_3=replace(T5_XXL, max_position_embeddings=T5_TOKENS),
    scheduler=SchedulerConfig(
        prediction_type="flow",
        sampler="euler",
        spacing="flow_table",
        final_sigma="zero",
        shift=3.0,
    ),
    defaults=Defaults(28, 7.0, width=1024, height=1024),
)


def shrink(config: ModelConfig) -> ModelConfig:
    """Return a small version of a model, for golden cases."""
    transformer = transformer_of(config)
    layers = 3 if transformer.dual_attention_layers else 2
    small = replace(
        transformer,
        in_channels=4,
        out_channels=4,
        sample_size=8,
        num_layers=layers,
        num_attention_heads=2,
        attention_head_dim=8,
        joint_attention_dim=40,
        pooled_projection_dim=24,
        pos_embed_max_size=10,
        dual_attention_layers=(0,) if transformer.dual_attention_layers else (),
    )
    return replace(
        config,
        denoiser=small,
        vae=shrink_autoencoder(config.vae),
        **{
            name: shrink_text(text, width)
            for name, text, width in zip(
                TEXT_ENCODERS, config.text_encoders, (16, 8, 40), strict=False
            )
        },
        defaults=Defaults(4, 4.0, width=16, height=16),
    )


def make_presets() -> dict[str, ModelConfig]:
    """Return the configurations by name."""
    medium = transformer_of(MEDIUM)
    normalized = replace(medium, qk_norm="rms_norm")
    dual = tuple(range(13))
    networks = {
        "sd3-medium": medium,
        "sd35-medium": replace(normalized, pos_embed_max_size=384, dual_attention_layers=dual),
        "sd35-large": replace(normalized, num_layers=38, num_attention_heads=38),
    }
    models = {name: replace(MEDIUM, name=name, denoiser=net) for name, net in networks.items()}
    return {"sd3-tiny": replace(shrink(models["sd35-medium"]), name="sd3-tiny")} | models
