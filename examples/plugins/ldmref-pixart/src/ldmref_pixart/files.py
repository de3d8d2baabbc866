"""The files of PixArt-sigma, the published size, and a small one for golden cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ldmref.families import (
    AutoencoderConfig,
    Defaults,
    ModelConfig,
    SchedulerConfig,
    TextConfig,
    convert_autoencoder_config,
    convert_scheduler_config,
    convert_t5_config,
    get_class,
    read_denoiser,
    read_json,
)
from ldmref_pixart.config import PixArtConfig, transformer_of

PLAIN: dict[str, tuple[Any, ...]] = {
    "activation_fn": ("gelu-approximate",),
    "attention_bias": (True,),
    "norm_type": ("ada_norm_single",),
    "norm_elementwise_affine": (False,),
    "norm_eps": (1e-6,),
    "use_additional_conditions": (False,),
}
LENGTH = 300  # tokens of a caption in diffusers' pipeline
STEPS, SCALE = 20, 4.5


def read_folder(folder: Path, index: Mapping[str, Any]) -> ModelConfig:
    """Read the configuration of a folder of diffusers' `PixArtSigmaPipeline`.

    Raises:
        InputError: A file is missing.
        CorruptModelError: A configuration asks for something that is not supported.
    """
    data = read_json(folder / "transformer" / "config.json")
    scale = data.get("interpolation_scale") or max(data["sample_size"] // 64, 1)
    network = read_denoiser(PixArtConfig(), {**data, "interpolation_scale": scale}, PLAIN)
    vae = convert_autoencoder_config(read_json(folder / "vae" / "config.json"))
    scheduler = convert_scheduler_config(
        read_json(folder / "scheduler" / "scheduler_config.json"),
        get_class(index, "scheduler"),
    )
    if network.out_channels == 2 * network.in_channels:
        scheduler = replace(scheduler, variance_type="learned_range")
    t5 = read_json(folder / "text_encoder" / "config.json")
    text = replace(convert_t5_config(t5, LENGTH), use_attention_mask=True)
    side = network.sample_size * vae.factor
    return ModelConfig(
        "pixart",
        network,
        vae,
        text,
        scheduler=scheduler,
        defaults=Defaults(STEPS, SCALE, width=side, height=side),
    )


def make_presets() -> dict[str, ModelConfig]:
    """Return the published size, and one for tests."""
    text = TextConfig(
        model_type="t5",
        vocab_size=32128,
        hidden_size=4096,
        intermediate_size=10240,
        num_hidden_layers=24,
        num_attention_heads=64,
        head_dim=64,
        hidden_act="gelu_new",
        layer_norm_eps=1e-6,
        eos_token_id=1,
        use_attention_mask=True,
        max_position_embeddings=LENGTH,
    )
    scheduler = SchedulerConfig(
        beta_schedule="linear",
        beta_start=0.0001,
        beta_end=0.02,
        sampler="dpmpp_2m",
        variance_type="learned_range",
    )
    vae = AutoencoderConfig(scaling_factor=0.13025)
    model = ModelConfig(
        "pixart-sigma",
        PixArtConfig(),
        vae,
        text,
        scheduler=scheduler,
        defaults=Defaults(STEPS, SCALE, width=1024, height=1024),
    )
    return {
        "pixart-tiny": replace(shrink(model), name="pixart-tiny"),
        "pixart-sigma": model,
    }


def shrink(config: ModelConfig) -> ModelConfig:
    """Return a small version of a model, for golden cases."""
    network = replace(
        transformer_of(config),
        sample_size=8,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=8,
        caption_channels=20,
    )
    text = replace(
        config.text_encoder,
        vocab_size=512,
        hidden_size=20,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=2,
        head_dim=8,
        max_position_embeddings=16,
    )
    vae = replace(config.vae, block_out_channels=(8, 12), layers_per_block=1, norm_num_groups=4)
    return replace(
        config,
        denoiser=network,
        vae=vae,
        text_encoder=text,
        defaults=Defaults(4, 4.5, width=16, height=16),
    )
