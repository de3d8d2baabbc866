"""The published sizes of Stable Diffusion 3 and 3.5, and one for tests."""

from __future__ import annotations

from dataclasses import replace

from ldmref.families.sd3.config import MMDiTConfig, transformer_of
from ldmref.families.sd3.text import T5_TOKENS
from ldmref.models.config import (
    TEXT_ENCODERS,
    AutoencoderConfig,
    Defaults,
    ModelConfig,
    TextConfig,
)
from ldmref.models.presets import PRESETS
from ldmref.samplers.config import SchedulerConfig

_SDXL = PRESETS["sdxl"]
T5_XXL = TextConfig(
    model_type="t5",
    vocab_size=32128,
    hidden_size=4096,
    intermediate_size=10240,
    num_hidden_layers=24,
    num_attention_heads=64,
    head_dim=64,
    max_position_embeddings=T5_TOKENS,
    hidden_act="gelu_new",
    layer_norm_eps=1e-6,
    eos_token_id=1,
)
MEDIUM = ModelConfig(
    name="sd3-medium",
    denoiser=MMDiTConfig(),
    vae=AutoencoderConfig(
        latent_channels=16,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ),
    text_encoder=replace(_SDXL.text_encoder, projection_dim=768),
    text_encoder_2=_SDXL.text_encoder_2,
    text_encoder_3=T5_XXL,
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
    vae = replace(
        config.vae,
        latent_channels=4,
        block_out_channels=(8, 12),
        layers_per_block=1,
        norm_num_groups=4,
    )
    return replace(
        config,
        denoiser=small,
        vae=vae,
        **{
            name: _shrink_text(text, width)
            for name, text, width in zip(
                TEXT_ENCODERS, config.text_encoders, (16, 8, 40), strict=False
            )
        },
        defaults=Defaults(4, 4.0, width=16, height=16),
    )


def _shrink_text(text: TextConfig, width: int) -> TextConfig:
    return replace(
        text,
        vocab_size=512,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        head_dim=8 if text.head_dim else 0,
        projection_dim=width if text.projection_dim else 0,
        eos_token_id=2,
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
