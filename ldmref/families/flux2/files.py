"""The files of FLUX.2 klein: diffusers' folders, and the makers' single files.

Single files, such as flux-2-klein-4b.safetensors, hold the transformer. GGUF files have the same
names; ComfyUI puts `model.diffusion_model.` before them, and its checkpoints also hold the
autoencoder and the text encoder. Sources: black-forest-labs/flux2, src/flux2/model.py and
autoencoder.py; Comfy-Org/ComfyUI, comfy/supported_models.py, `Flux2`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.families.combined_files import UNUSED_OF_COMFYUI, list_comfyui_networks
from ldmref.families.flux.files import ATTENTION
from ldmref.families.flux2.config import Flux2Config, transformer_of
from ldmref.families.flux2.network import transformer_spec
from ldmref.families.flux2.presets import DEV, SCALES, STEPS, make_presets
from ldmref.families.flux2.text import as_text_encoder
from ldmref.families.qwen3.files import read_model, read_scheduler
from ldmref.families.transformer_files import (
    MakersLayer,
    MakersNames,
    count_blocks,
    find_model,
    list_entries,
    list_files,
    reads_sizes,
)
from ldmref.io.diffusers.declared import read_denoiser
from ldmref.io.key_table import KeyEntry
from ldmref.models.config import Defaults, ModelConfig
from ldmref.models.params import Shape

# -- diffusers' folders ----------------------------------------------------------------------------

PIPELINES = ("Flux2KleinPipeline", "Flux2KleinInpaintPipeline")


def read_folder(folder: Path, index: Mapping[str, Any]) -> ModelConfig:
    """Read the configuration of a folder of diffusers.

    Args:
        folder: The folder.
        index: The contents of its model_index.json.

    Raises:
        InputError: A file is missing.
        CorruptModelError: A configuration asks for something that is not supported.
    """
    scheduler = replace(read_scheduler(folder, index), shift_rule="empirical")
    distilled = index.get("is_distilled") is True
    defaults = Defaults(STEPS[distilled], SCALES[distilled])
    return read_model(folder, convert_transformer_config, as_text_encoder, scheduler, defaults)


def convert_transformer_config(data: Mapping[str, Any]) -> Flux2Config:
    """Convert the configuration of a `Flux2Transformer2DModel`; see `read_denoiser`."""
    return read_denoiser(DEV, data, {"patch_size": (1,)})


# -- single files ----------------------------------------------------------------------------------

TEXTS = {2560: "qwen3_4b", 4096: "qwen3_8b"}  # by the width
ENDS: MakersNames = {
    "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_guidance_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_guidance_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "double_stream_modulation_img.linear": "double_stream_modulation_img.lin",
    "double_stream_modulation_txt.linear": "double_stream_modulation_txt.lin",
    "single_stream_modulation.linear": "single_stream_modulation.lin",
    "context_embedder": "txt_in",
    "x_embedder": "img_in",
    # shift and scale there, in diffusers scale and shift
    "norm_out.linear": MakersLayer("final_layer.adaLN_modulation.1", form="swapped"),
    "proj_out": "final_layer.linear",
}
DOUBLE: MakersNames = ATTENTION | {  # of a block of two streams
    "ff.linear_in": "img_mlp.0",
    "ff.linear_out": "img_mlp.2",
    "ff_context.linear_in": "txt_mlp.0",
    "ff_context.linear_out": "txt_mlp.2",
}
SINGLE: MakersNames = {  # of a block of one stream
    "attn.to_qkv_mlp_proj": "linear1",
    "attn.to_out": "linear2",
    "attn.norm_q.weight": "norm.query_norm.scale",
    "attn.norm_k.weight": "norm.key_norm.scale",
}
BLOCKS = {
    "transformer_blocks": ("double_blocks", DOUBLE),
    "single_transformer_blocks": ("single_blocks", SINGLE),
}


def original_table(config: ModelConfig, prefix: str = "") -> dict[str, KeyEntry]:
    """Return the tensor of the original for each parameter of the transformer."""
    return list_entries(transformer_spec(transformer_of(config)), ENDS, BLOCKS, prefix)


def rename_norm(name: str) -> str:
    """Return the makers' name of a norm of queries or keys that ComfyUI has written."""
    if name.endswith(("query_norm.weight", "key_norm.weight")):
        return f"{name.removesuffix('weight')}scale"
    return name


def list_other_networks(config: ModelConfig) -> dict[str, dict[str, KeyEntry | np.ndarray]]:
    """Return the tables of autoencoder and text encoder in a checkpoint of ComfyUI."""
    return list_comfyui_networks(config, TEXTS.get(config.text_encoder.hidden_size, TEXTS[2560]))


@reads_sizes
def recognise(own: Mapping[str, Shape]) -> ModelConfig | None:
    """Return the configuration of a file of the original; None if it is another file.

    Several models have equal shapes: the distilled one is returned. [dev] has another text encoder
    and is not recognised.
    """
    d, z = own["img_in.weight"]
    (head,) = own["double_blocks.0.img_attn.norm.query_norm.scale"]
    modulated = own["single_stream_modulation.lin.weight"]
    if modulated != (3 * d, d) or "guidance_in.in_layer.weight" in own:
        return None
    network = Flux2Config(
        in_channels=z,
        out_channels=z,
        num_layers=count_blocks(own, "double_blocks"),
        num_single_layers=count_blocks(own, "single_blocks"),
        num_attention_heads=d // head,
        attention_head_dim=head,
        joint_attention_dim=own["txt_in.weight"][1],
        timestep_guidance_channels=own["time_in.in_layer.weight"][1],
        mlp_ratio=own["double_blocks.0.img_mlp.2.weight"][1] / d,
    )
    return find_model(make_presets(), network, head, nearest=None)


ORIGINALS = list_files(
    "the transformer of FLUX.2 klein",
    recognise,
    original_table,
    UNUSED_OF_COMFYUI,
    others=list_other_networks,
    rename=rename_norm,
)
"""The files of FLUX.2 klein."""
