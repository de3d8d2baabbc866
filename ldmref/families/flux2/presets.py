"""The published sizes of FLUX.2, and one for tests.

[dev] reads the hidden states of Mistral Small 3.2, which ldmref does not have: only
its transformer is here.
"""

from __future__ import annotations

from dataclasses import replace

from ldmref.families.autoencoders.flux2 import Flux2AutoencoderConfig
from ldmref.families.flux2.config import Flux2Config
from ldmref.families.flux2.text import as_text_encoder
from ldmref.families.joint_transformers import FLOW, shrink_model
from ldmref.families.qwen3.presets import QWEN3_SIZES, shrink_qwen3
from ldmref.models.config import Defaults, ModelConfig

STEPS = {True: 4, False: 50}  # distilled, and not
SCALES = {True: 1.0, False: 4.0}
DEV = Flux2Config(  # also what diffusers' class has for fields that a file omits
    num_layers=8,
    num_single_layers=48,
    num_attention_heads=48,
    joint_attention_dim=15360,
    guidance_embeds=True,
)
KLEIN_9B = Flux2Config(
    num_layers=8, num_single_layers=24, num_attention_heads=32, joint_attention_dim=12288
)
SCHEDULER = replace(FLOW, shift=3.0, dynamic_shift=True, shift_rule="empirical")


def make_presets() -> dict[str, ModelConfig]:
    """Return the configurations by name.

    The distilled models and the others have the same shapes: a single file is taken for a distilled
    one.
    """
    found = {}
    sizes = {"4b": (Flux2Config(), "qwen3-4b"), "9b": (KLEIN_9B, "qwen3-8b")}
    for distilled, base in ((True, ""), (False, "base-")):
        for size, (transformer, text) in sizes.items():
            name = f"flux2-klein-{base}{size}"
            found[name] = ModelConfig(
                name=name,
                denoiser=transformer,
                vae=Flux2AutoencoderConfig(),
                text_encoder=as_text_encoder(QWEN3_SIZES[text]),
                scheduler=SCHEDULER,
                defaults=Defaults(STEPS[distilled], SCALES[distilled], width=1024, height=1024),
            )
    tiny = replace(shrink(found["flux2-klein-base-4b"]), name="flux2-tiny")
    return {tiny.name: tiny} | found


def shrink(config: ModelConfig) -> ModelConfig:
    """Return a small version of a model, for golden cases."""
    sizes = {
        "in_channels": 16,
        "out_channels": 16,
        "sample_size": 4,
        "num_layers": 2,
        "num_single_layers": 2,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "joint_attention_dim": 60,
        "timestep_guidance_channels": 32,
        "axes_dims_rope": (4, 4, 4, 4),
    }
    text = shrink_qwen3(config.text_encoder, 32, layers=4)
    return shrink_model(config, sizes, text_encoder=replace(text, hidden_layers=(1, 2, 3)))
