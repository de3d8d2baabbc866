"""The published models of Qwen-Image 2.1, and one for tests."""

from __future__ import annotations

from dataclasses import replace

from ldmref.families.autoencoders.qwen_image_21_config import QwenImage21AutoencoderConfig
from ldmref.families.joint_transformers import FLOW, shrink_model
from ldmref.families.qwen3.presets import QWEN3_SIZES, shrink_qwen3
from ldmref.families.qwen_image_21.config import QwenImage21Config
from ldmref.families.qwen_image_21.text import as_text_encoder
from ldmref.models.config import Defaults, ModelConfig

BASE_STEPS = 40
# Qwen/Qwen-Image-2.1-Turbo, model_index.json
TURBO_TIMES = (1.0, 0.978453, 0.95418, 0.926626, 0.89508, 0.845148, 0.704534, 0.414568)
BASE = ModelConfig(
    name="qwen-image-2.1",
    denoiser=QwenImage21Config(),
    vae=QwenImage21AutoencoderConfig(),
    text_encoder=as_text_encoder(QWEN3_SIZES["qwen3-vl-8b"]),
    scheduler=replace(
        FLOW,
        dynamic_shift=True,
        base_shift=0.5,
        max_shift=0.9,
        base_image_seq_len=256,
        max_image_seq_len=8192,
        shift_terminal=0.02,
    ),
    defaults=Defaults(BASE_STEPS, 1.0, width=1024, height=1024),  # made to run without guidance
)
TURBO = replace(
    BASE,
    name="qwen-image-2.1-turbo",
    scheduler=replace(FLOW, flow_times=TURBO_TIMES),
    defaults=replace(BASE.defaults, steps=len(TURBO_TIMES)),
)


def shrink(config: ModelConfig) -> ModelConfig:
    """Return a small version of a model, for golden cases."""
    sizes = {
        "in_channels": 4,
        "out_channels": 4,
        "sample_size": 8,
        "num_layers": 2,
        "attention_head_dim": 12,
        "num_attention_heads": 2,
        "context_in_dim": 20,
        "axes_dims_rope": (4, 4, 4),
    }
    text = shrink_qwen3(config.text_encoder, 160)  # the small vocabulary makes the template long
    return shrink_model(config, sizes, text_encoder=text)


def make_presets() -> dict[str, ModelConfig]:
    """Return the configurations by name."""
    tiny = replace(shrink(BASE), name="qwen-image-2.1-tiny")
    return {tiny.name: tiny, BASE.name: BASE, TURBO.name: TURBO}
