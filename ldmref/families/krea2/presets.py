"""The published sizes of Krea 2, and one for tests."""

from __future__ import annotations

from dataclasses import replace

from ldmref.families.autoencoders.qwen_image import QwenAutoencoderConfig
from ldmref.families.joint_transformers import FLOW, shrink_model
from ldmref.families.krea2.config import Krea2Config
from ldmref.families.krea2.text import as_text_encoder
from ldmref.families.qwen3.presets import QWEN3_SIZES, shrink_qwen3
from ldmref.models.config import Defaults, ModelConfig

STEPS, SCALE = 28, 5.5  # the makers' defaults for Raw; 4.5 is their number for 5.5
TURBO_STEPS = 8
TURBO_MU = 1.15  # at every size
RAW = ModelConfig(
    name="krea-2",
    denoiser=Krea2Config(),
    vae=QwenAutoencoderConfig(),
    text_encoder=as_text_encoder(QWEN3_SIZES["qwen3-vl-4b"]),
    scheduler=replace(FLOW, dynamic_shift=True, max_image_seq_len=6400),
    defaults=Defaults(STEPS, SCALE, width=1024, height=1024),
)


def as_turbo(config: ModelConfig) -> ModelConfig:
    """Return the configuration of a distilled model: few steps, no guidance, a constant shift."""
    scheduler = replace(config.scheduler, shift_rule="constant", max_shift=TURBO_MU)
    defaults = replace(config.defaults, steps=TURBO_STEPS, cfg_scale=1.0)
    return replace(config, scheduler=scheduler, defaults=defaults)


def shrink(config: ModelConfig) -> ModelConfig:
    """Return a small version of a model, for golden cases."""
    sizes = {
        "in_channels": 4, "out_channels": 4, "sample_size": 8, "num_layers": 2,
        "attention_head_dim": 12, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 64, "timestep_embed_dim": 16, "text_hidden_dim": 20,
        "num_text_layers": 3, "text_num_attention_heads": 2, "text_num_key_value_heads": 2,
        "text_intermediate_size": 32, "num_layerwise_text_blocks": 1,
        "num_refiner_text_blocks": 1, "axes_dims_rope": (4, 4, 4),
    }  # fmt: skip
    # 256 letters of a small vocabulary; the last layer is not read, as in the published model
    text = shrink_qwen3(config.text_encoder, 256, layers=5)
    return shrink_model(config, sizes, text_encoder=replace(text, hidden_layers=(1, 2, 4)))


def make_presets() -> dict[str, ModelConfig]:
    """Return the configurations by name."""
    turbo = replace(as_turbo(RAW), name="krea-2-turbo")
    tiny = replace(shrink(RAW), name="krea-2-tiny")
    return {"krea-2-tiny": tiny, RAW.name: RAW, turbo.name: turbo}
