"""Files: checkpoints of every layout, adapters, and images with their parameters.

Public and stable are the names that this package exports; import them from here. Its modules are
internal and may change in any version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ldmref.lazy import export_lazily

if TYPE_CHECKING:
    from ldmref.io.adapters.autoencoder import read_vae
    from ldmref.io.adapters.controlnet import open_controlnet
    from ldmref.io.adapters.lora import apply_loras, read_loras
    from ldmref.io.adapters.textual_inversion import read_embeddings
    from ldmref.io.checkpoint import Checkpoint, open_checkpoint
    from ldmref.io.compvis.ema import ema_table
    from ldmref.io.compvis.keys import compvis_table
    from ldmref.io.images.metadata import read_parameters, write_image
    from ldmref.io.images.pil import read_image, read_mask
    from ldmref.io.locate import find_model, read_model_config
    from ldmref.io.native import save_folder
    from ldmref.io.tensors.safetensors import TensorFile

__all__ = [
    "Checkpoint",
    "TensorFile",
    "apply_loras",
    "compvis_table",
    "ema_table",
    "find_model",
    "open_checkpoint",
    "open_controlnet",
    "read_embeddings",
    "read_image",
    "read_loras",
    "read_mask",
    "read_model_config",
    "read_parameters",
    "read_vae",
    "save_folder",
    "write_image",
]

__getattr__, __dir__ = export_lazily(
    __name__,
    {
        "Checkpoint": "checkpoint",
        "TensorFile": "tensors.safetensors",
        "apply_loras": "adapters.lora",
        "compvis_table": "compvis.keys",
        "ema_table": "compvis.ema",
        "find_model": "locate",
        "open_checkpoint": "checkpoint",
        "open_controlnet": "adapters.controlnet",
        "read_embeddings": "adapters.textual_inversion",
        "read_image": "images.pil",
        "read_loras": "adapters.lora",
        "read_mask": "images.pil",
        "read_model_config": "locate",
        "read_parameters": "images.metadata",
        "read_vae": "adapters.autoencoder",
        "save_folder": "native",
        "write_image": "images.metadata",
    },
)
