"""Write an autoencoder as a folder of diffusers: `config.json` and its weights in float32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.io.atomic import atomic_folder
from ldmref.io.tensors.writer import source, write_to
from ldmref.models.autoencoder import describe_kl_or_vq
from ldmref.models.config import AutoencoderConfig
from ldmref.models.params import Params, flatten


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
    made = describe_kl_or_vq(config)
    return {"_class_name": made.path.partition(":")[2], **made.settings}
