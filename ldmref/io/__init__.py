"""Files: checkpoints of every layout, adapters, and images with their parameters.

Public and stable are the names that this package exports; import them from here. Its modules are
internal and may change in any version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ldmref.support.lazy import export_lazily

if TYPE_CHECKING:
    from ldmref.io.adapters.autoencoder import read_vae as read_vae
    from ldmref.io.adapters.controlnet import open_controlnet as open_controlnet
    from ldmref.io.adapters.lora import apply_loras as apply_loras
    from ldmref.io.adapters.lora import with_loras as with_loras
    from ldmref.io.adapters.lora_file import read_loras as read_loras
    from ldmref.io.adapters.textual_inversion import read_embeddings as read_embeddings
    from ldmref.io.checkpoint import Checkpoint as Checkpoint
    from ldmref.io.checkpoint import open_checkpoint as open_checkpoint
    from ldmref.io.checkpoint import read_model_config as read_model_config
    from ldmref.io.compvis.keys import compvis_table as compvis_table
    from ldmref.io.compvis.whole_file import ema_table as ema_table
    from ldmref.io.images.metadata import read_parameters as read_parameters
    from ldmref.io.images.metadata import write_image as write_image
    from ldmref.io.images.pil import read_image as read_image
    from ldmref.io.images.pil import read_mask as read_mask
    from ldmref.io.images.pil import to_images as to_images
    from ldmref.io.locate import find_model as find_model
    from ldmref.io.native import save_folder as save_folder
    from ldmref.io.quantizing import QuantizationRule as QuantizationRule
    from ldmref.io.quantizing import quantize_model as quantize_model
    from ldmref.io.tensors.safetensors import TensorFile as TensorFile

__getattr__, __dir__, __all__ = export_lazily(__name__)
