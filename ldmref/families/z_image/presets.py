"""The published sizes of Z-Image, and one for tests."""

from __future__ import annotations

from dataclasses import replace

from ldmref.families.joint_transformers import AUTOENCODER, FLOW, shrink_model
from ldmref.families.qwen3.presets import QWEN3_SIZES, shrink_qwen3
from ldmref.families.z_image.config import SEGMENT, ZImageConfig
from ldmref.families.z_image.text import as_text_encoder
from ldmref.models.config import Defaults, ModelConfig

STEPS, SCALE = 50, 6.0  # diffusers' defaults; 5 is its number for 6

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
    sizes = {
        "in_channels": 4, "out_channels": 4, "sample_size": 8, "dim": 24, "n_layers": 2,
        "n_refiner_layers": 1, "n_heads": 2, "cap_feat_dim": 20, "axes_dims": (4, 4, 4),
    }  # fmt: skip
    return shrink_model(config, sizes, text_encoder=shrink_qwen3(config.text_encoder, 2 * SEGMENT))


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
