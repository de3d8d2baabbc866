"""Write an autoencoder as a folder of diffusers: `config.json` and its weights in float32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.io.atomic import atomic_folder
from ldmref.io.tensors.writer import source, write_to
from ldmref.models.config import AutoencoderConfig
from ldmref.models.params import Params, flatten

SIGMOID = "SigmoidAutoencoder"  # latents in (0, 1), for which diffusers has no class
KL_ONLY = ("shift_factor", "use_quant_conv", "use_post_quant_conv")
SHARED = (
    "in_channels", "out_channels", "latent_channels", "block_out_channels", "layers_per_block",
    "norm_num_groups", "mid_block_add_attention", "scaling_factor",
)  # fmt: skip


def save_autoencoder(folder: Path, config: AutoencoderConfig, params: Params) -> None:
    """Write the folder that `read_vae` and diffusers read; it appears complete or not at all.

    Raises:
        OutputError: It cannot be written.
    """
    tensors = {k: source(np.asarray(v, np.float32, order="C")) for k, v in flatten(params).items()}
    with atomic_folder(folder) as temporary:
        with open(temporary / "diffusion_pytorch_model.safetensors", "wb") as file:
            write_to(file, tensors)
        text = json.dumps(to_diffusers_config(config), indent=2) + "\n"
        (temporary / "config.json").write_text(text, "utf-8")


def to_diffusers_config(config: AutoencoderConfig) -> dict[str, Any]:
    """Return diffusers' configuration, the inverse of `convert_autoencoder_config`."""
    levels = len(config.block_out_channels)
    attention = config.attention_levels or (False,) * levels

    def blocks(kind: str) -> list[str]:
        return [f"{'Attn' * attends}{kind}Block2D" for attends in attention]

    fields = {name: getattr(config, name) for name in SHARED}
    fields |= {
        "down_block_types": blocks("DownEncoder"),
        "up_block_types": blocks("UpDecoder")[::-1],
    }
    if config.codebook_size:
        sizes = {"num_vq_embeddings": config.codebook_size, "vq_embed_dim": config.latent_channels}
        return {"_class_name": "VQModel"} | fields | sizes
    fields |= {name: getattr(config, name) for name in KL_ONLY}
    return {"_class_name": SIGMOID if config.latent_activation else "AutoencoderKL"} | fields
