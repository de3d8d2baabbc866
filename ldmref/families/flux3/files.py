"""The files of FLUX.3: folders of diffusers' modular pipelines, and the makers' single files.

Single files, such as model.safetensors, hold the transformer alone: the autoencoder is another
file, ae.safetensors. A file of the distilled model has `ref_time_in`. Sources:
huggingface/diffusers 0.42.1, loaders/single_file_utils.py
(`convert_flux3_transformer_checkpoint_to_diffusers`); flux3-mlx 0.1.0, dit.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ldmref.families.combined_files import UNUSED_OF_COMFYUI, list_comfyui_networks
from ldmref.families.flux3.config import Flux3Config, transformer_of
from ldmref.families.flux3.network import IMAGE, REFERENCES, TEXT, transformer_spec
from ldmref.families.flux3.presets import DEFAULTS, SCHEDULER, make_presets
from ldmref.families.flux3.text import as_text_encoder
from ldmref.families.qwen3.files import read_model
from ldmref.families.transformer_files import (
    MakersLayer,
    MakersNames,
    count_blocks,
    find_model,
    list_entries,
    list_files,
    reads_sizes,
)
from ldmref.io.diffusers.checks import read_json
from ldmref.io.diffusers.declared import read_denoiser
from ldmref.io.key_table import KeyEntry
from ldmref.models.config import ModelConfig
from ldmref.models.params import Shape

# -- diffusers' folders ----------------------------------------------------------------------------

PIPELINES = ("Flux3ModularPipeline", "Flux3DistilledModularPipeline")


def read_folder(folder: Path, index: Mapping[str, Any]) -> ModelConfig:
    """Read the configuration of a folder of diffusers.

    Diffusers' program, not its files, says the noise levels and which layers of the text encoder
    are read; a smaller text encoder says its own, as `text_encoder_out_layers`.

    Args:
        folder: The folder.
        index: The contents of its modular_model_index.json.

    Raises:
        InputError: A file is missing.
        CorruptModelError: A configuration asks for something that is not supported.
    """
    data = read_json(folder / "transformer" / "config.json")
    defaults = DEFAULTS[bool(data.get("flow_map"))]
    return read_model(folder, convert_transformer_config, as_text_encoder, SCHEDULER, defaults)


def convert_transformer_config(data: Mapping[str, Any]) -> Flux3Config:
    """Convert the configuration of a `Flux3Transformer2DModel`; see `read_denoiser`."""
    omitted = Flux3Config()
    channels = data.get("in_channels", omitted.in_channels)
    return read_denoiser(omitted, data, {"eps": (1e-6,), "cond_in_channels": (channels,)})


# -- single files ----------------------------------------------------------------------------------

HEADS = r"(.*\.)?repa_projectors\..*"  # of the training alone
MODULATIONS = tuple(
    f"{blocks}_stream_modulations.{mode}"
    for blocks in ("early", "single")
    for mode in (IMAGE, REFERENCES, TEXT)
)
ENDS: MakersNames = {f"{name}.linear": f"{name}.lin" for name in MODULATIONS} | {
    "timestep_embedder.linear_1": "time_in.in_layer",
    "timestep_embedder.linear_2": "time_in.out_layer",
    "target_timestep_embedder.linear_1": "ref_time_in.in_layer",
    "target_timestep_embedder.linear_2": "ref_time_in.out_layer",
    "x_embedders": "emb_in",
    "context_embedder": "txt_in",
    # shift and scale there, in diffusers scale and shift
    "norm_out.linear": MakersLayer("final_layer.image.adaLN_modulation.1", form="swapped"),
    "proj_out": "final_layer.image.linear",
}
BLOCK: MakersNames = {
    "attn.to_q": "q_proj",
    "attn.to_k": "k_proj",
    "attn.to_v": "v_proj",
    "attn.to_out.0": "attn_out",
    "attn.norm_q.weight": "norm.query_norm.scale",
    "attn.norm_k.weight": "norm.key_norm.scale",
    "ff.linear_in": "mlp_in",
    "ff.linear_out": "mlp_out",
}
BLOCKS = {
    f"mode_blocks.{IMAGE}": (f"content_mode_blocks.{IMAGE}", BLOCK),
    f"mode_blocks.{REFERENCES}": (f"content_mode_blocks.{REFERENCES}", BLOCK),
    "txt_mode_blocks": ("txt_mode_blocks", BLOCK),
    "single_transformer_blocks": ("single_blocks", BLOCK),
}


def original_table(config: ModelConfig, prefix: str = "") -> dict[str, KeyEntry]:
    """Return the tensor of the original for each parameter of the transformer."""
    return list_entries(transformer_spec(transformer_of(config)), ENDS, BLOCKS, prefix)


@reads_sizes
def recognise(own: Mapping[str, Shape]) -> ModelConfig | None:
    """Return the configuration of a file of the original; None if it is another file."""
    d, channels = own["emb_in.image.weight"]
    (head,) = own["single_blocks.0.norm.query_norm.scale"]
    network = Flux3Config(
        in_channels=channels,
        out_channels=channels,
        num_layers=count_blocks(own, "txt_mode_blocks"),
        num_single_layers=count_blocks(own, "single_blocks"),
        num_attention_heads=max(d // head, 1),
        attention_head_dim=head,
        joint_attention_dim=own["txt_in.weight"][1],
        timestep_channels=own["time_in.in_layer.weight"][1],
        mlp_ratio=own["single_blocks.0.mlp_out.weight"][1] / d,
        flow_map="ref_time_in.in_layer.weight" in own,
    )
    presets = make_presets()
    nearest = presets["flux3-klein" if network.flow_map else "flux3-klein-base"]
    return find_model(presets, network, head, replace(nearest, name="flux3"))


ORIGINALS = list_files(
    "the transformer of FLUX.3",
    recognise,
    original_table,
    rf"{HEADS}|{UNUSED_OF_COMFYUI}",
    others=partial(list_comfyui_networks, text="qwen3vl_4b"),
)
"""The files of FLUX.3."""
