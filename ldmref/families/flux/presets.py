"""The published sizes of Flux.1, and one for tests."""

from __future__ import annotations

from dataclasses import replace

from ldmref.families.flux.config import FluxConfig
from ldmref.families.flux.text import T5_LENGTH
from ldmref.families.joint_transformers import (
    AUTOENCODER,
    FLOW,
    T5_XXL,
    shrink_autoencoder,
    shrink_model,
    shrink_text,
)
from ldmref.models.config import Defaults, ModelConfig
from ldmref.models.presets import PRESETS

STEPS = {True: 28, False: 4}  # with guidance, [dev]; without, [schnell]
SCALES = {True: 3.5, False: 1.0}
FILL_STEPS, FILL_SCALE = 50, 30.0
CONTROL_STEPS, CONTROL_SCALE = 50, 10.0  # of [Depth]; the scale of [Canny] is 30

SCHNELL = ModelConfig(
    name="flux-schnell",
    denoiser=FluxConfig(),
    vae=replace(AUTOENCODER, scaling_factor=0.3611, shift_factor=0.1159),
    text_encoder=PRESETS["sd15"].text_encoder,
    text_encoder_2=replace(T5_XXL, max_position_embeddings=T5_LENGTH),
    scheduler=FLOW,
    defaults=Defaults(STEPS[False], SCALES[False], width=1024, height=1024),
)


def shrink(config: ModelConfig) -> ModelConfig:
    """Return a small version of a model, for golden cases."""
    masked = 8 + shrink_autoencoder(config.vae).factor ** 2
    sizes = {
        "in_channels": {"folded_mask": masked, "control": 8}.get(config.concat, 4),
        "out_channels": 4,
        "sample_size": 8,
        "num_layers": 2,
        "num_single_layers": 2,
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "joint_attention_dim": 20,
        "pooled_projection_dim": 16,
        "axes_dims_rope": (2, 4, 6),
    }
    return shrink_model(
        config,
        sizes,
        text_encoder=shrink_text(config.text_encoders[0], 16),
        text_encoder_2=shrink_text(config.text_encoders[1], 20),
    )


def make_presets() -> dict[str, ModelConfig]:
    """Return the configurations by name."""
    dev = replace(
        SCHNELL,
        name="flux-dev",
        denoiser=FluxConfig(guidance_embeds=True),
        scheduler=replace(FLOW, shift=3.0, dynamic_shift=True),
        defaults=Defaults(STEPS[True], SCALES[True], width=1024, height=1024),
    )
    fill = replace(
        dev,
        name="flux-fill-dev",
        denoiser=FluxConfig(in_channels=96, guidance_embeds=True),
        concat="folded_mask",
        defaults=replace(dev.defaults, steps=FILL_STEPS, cfg_scale=FILL_SCALE),
    )
    control = replace(
        dev,
        name="flux-control-dev",
        denoiser=FluxConfig(in_channels=32, guidance_embeds=True),
        concat="control",
        defaults=replace(dev.defaults, steps=CONTROL_STEPS, cfg_scale=CONTROL_SCALE),
    )
    tiny = replace(shrink(dev), name="flux-tiny")
    return {"flux-tiny": tiny} | {model.name: model for model in (dev, SCHNELL, fill, control)}
