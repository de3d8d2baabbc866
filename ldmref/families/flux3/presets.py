"""The published sizes of FLUX.3 Image Klein, and one for tests."""

from __future__ import annotations

from dataclasses import replace

from ldmref.families.autoencoders.flux2 import Flux2AutoencoderConfig
from ldmref.families.flux3.config import WINDOW, Flux3Config
from ldmref.families.flux3.text import as_text_encoder
from ldmref.families.joint_transformers import FLOW, shrink_model
from ldmref.families.qwen3.presets import QWEN3_SIZES, shrink_qwen3
from ldmref.models.config import Defaults, ModelConfig

SIDE = 1024
SCHEDULER = replace(FLOW, shift=6.93)
DEFAULTS = {  # with a flow map, and without
    True: Defaults(16, 1.0, width=SIDE, height=SIDE),
    False: Defaults(50, 3.5, width=SIDE, height=SIDE),
}
KLEIN = ModelConfig(
    name="flux3-klein",
    denoiser=Flux3Config(flow_map=True),
    vae=Flux2AutoencoderConfig(),
    text_encoder=as_text_encoder(QWEN3_SIZES["qwen3-vl-4b"]),
    scheduler=SCHEDULER,
    defaults=DEFAULTS[True],
)


def shrink(config: ModelConfig) -> ModelConfig:
    """Return a small version of a model, for golden cases."""
    sizes = {
        "in_channels": 16,
        "out_channels": 16,
        "sample_size": 4,
        "num_layers": 1,
        "num_single_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 40,
        "axes_dims_rope": (4, 4, 4, 4),
    }
    text = replace(shrink_qwen3(config.text_encoder, 2 * WINDOW), hidden_layers=(1, 2))
    return shrink_model(config, sizes, text_encoder=text)


def make_presets() -> dict[str, ModelConfig]:
    """Return the configurations by name."""
    base = replace(KLEIN, name="flux3-klein-base", denoiser=Flux3Config(), defaults=DEFAULTS[False])
    tiny = replace(shrink(base), name="flux3-tiny")
    return {tiny.name: tiny, KLEIN.name: KLEIN, base.name: base}
