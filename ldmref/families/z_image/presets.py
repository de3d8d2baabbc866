"""The published sizes of Z-Image, and one for tests."""

from __future__ import annotations

from dataclasses import replace

from ldmref.families.joint_transformers import AUTOENCODER, shrink_autoencoder
from ldmref.families.qwen3.presets import QWEN3_SIZES, shrink_qwen3
from ldmref.families.z_image.config import SEGMENT, ZImageConfig, transformer_of
from ldmref.families.z_image.files import SCALE, STEPS
from ldmref.families.z_image.text import as_text_encoder
from ldmref.models.config import Defaults, ModelConfig
from ldmref.samplers.config import SchedulerConfig

FLOW = SchedulerConfig(prediction_type="flow", sampler="euler", spacing="flow", final_sigma="zero")
TURBO = ModelConfig(
    name="z-image-turbo",
    denoiser=ZImageConfig(),
    vae=replace(AUTOENCODER, scaling_factor=0.3611, shift_factor=0.1159),  # Flux.1's
    text_encoder=as_text_encoder(QWEN3_SIZES["qwen3-4b"]),
    scheduler=replace(FLOW, shift=3.0),
    defaults=Defaults(8, 1.0, width=1024, height=1024),
)


def shrink(config: ModelConfig) -> ModelConfig:
    """Return a small version of a model, for golden cases."""
    small = replace(
        transformer_of(config),
        in_channels=4,
        out_channels=4,
        sample_size=8,
        dim=24,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        cap_feat_dim=20,
        axes_dims=(4, 4, 4),
    )
    vae = shrink_autoencoder(config.vae)
    text = shrink_qwen3(config.text_encoder, 2 * SEGMENT)
    defaults = replace(config.defaults, steps=4, width=16, height=16)
    return replace(config, denoiser=small, vae=vae, text_encoder=text, defaults=defaults)


def make_presets() -> dict[str, ModelConfig]:
    """Return the configurations by name."""
    base = replace(
        TURBO,
        name="z-image",
        scheduler=replace(FLOW, shift=6.0),
        defaults=Defaults(STEPS, SCALE, width=1024, height=1024),
    )
    tiny = replace(shrink(base), name="z-image-tiny")
    return {"z-image-tiny": tiny, TURBO.name: TURBO, base.name: base}
