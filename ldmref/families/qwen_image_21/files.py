"""The files of Qwen-Image 2.1: folders of diffusers, and single files with its names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ldmref.families.combined_files import UNUSED_OF_COMFYUI, list_comfyui_networks
from ldmref.families.qwen3.files import read_model, read_scheduler
from ldmref.families.qwen_image_21.config import QwenImage21Config, transformer_of
from ldmref.families.qwen_image_21.network import transformer_spec
from ldmref.families.qwen_image_21.presets import BASE, BASE_STEPS, make_presets
from ldmref.families.qwen_image_21.text import as_text_encoder
from ldmref.families.transformer_files import (
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

PIPELINE = "QwenImage21Pipeline"
PLAIN: dict[str, tuple[Any, ...]] = {"patch_size": (1,), "causal_condition": (True,)}


def read_folder(folder: Path, index: Mapping[str, Any]) -> ModelConfig:
    """Read the configuration of a folder of diffusers.

    Args:
        folder: The folder.
        index: The contents of its model_index.json. Flow times in it, as Turbo has them, are used
            as they are, whatever the scheduler's configuration says.

    Raises:
        InputError: A file is missing.
        CorruptModelError: A configuration asks for something that is not supported.
    """
    listed = tuple(index.get("sample_sigmas") or ())
    scheduler = replace(read_scheduler(folder, index), flow_times=listed)
    defaults = Defaults(len(listed) or BASE_STEPS, 1.0)
    return read_model(folder, convert_transformer_config, as_text_encoder, scheduler, defaults)


def convert_transformer_config(data: Mapping[str, Any]) -> QwenImage21Config:
    """Convert the configuration of a `QwenImage21Transformer2DModel`; see `read_denoiser`."""
    return read_denoiser(QwenImage21Config(), data, PLAIN)


def list_tensors(config: ModelConfig, prefix: str = "") -> dict[str, KeyEntry]:
    """Return the tensor of a single file for each parameter of the transformer."""
    return list_entries(transformer_spec(transformer_of(config)), {}, {}, prefix)


@reads_sizes
def recognise(own: Mapping[str, Shape]) -> ModelConfig | None:
    """Return the configuration of a single file; None if it is another file."""
    d, channels = own["img_in.weight"]
    (head,) = own["transformer_blocks.0.attn.norm_q.weight"]
    (text,) = own["txt_in.text_norm.weight"]
    network = QwenImage21Config(
        in_channels=channels,
        out_channels=own["proj_out.weight"][0],
        num_layers=count_blocks(own, "transformer_blocks"),
        attention_head_dim=head,
        num_attention_heads=max(d // head, 1),
        context_in_dim=text,
        mlp_ratio=max(own["transformer_blocks.0.img_mlp.gate_layer.weight"][0] // d, 1),
    )
    models = {BASE.name: BASE} | make_presets()
    return find_model(models, network, head, replace(BASE, name="qwen-image"))


SINGLE_FILES = list_files(
    "the transformer of Qwen-Image 2.1",
    recognise,
    list_tensors,
    UNUSED_OF_COMFYUI,
    others=partial(list_comfyui_networks, text="qwen3vl_8b"),
)
"""The files of Qwen-Image 2.1."""
