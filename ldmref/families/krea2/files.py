"""The files of Krea 2: diffusers' folders, and the makers' single files.

Single files hold the transformer alone. GGUF files have the same names, and so have ComfyUI's,
behind a prefix. Source: github.com/krea-ai/krea-2, mmdit.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ldmref.families.combined_files import UNUSED_OF_COMFYUI, list_comfyui_networks
from ldmref.families.krea2.config import Krea2Config, transformer_of
from ldmref.families.krea2.network import transformer_spec
from ldmref.families.krea2.presets import SCALE, STEPS, as_turbo, make_presets
from ldmref.families.krea2.text import LAYERS, as_text_encoder
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
from ldmref.io.diffusers.checks import require_plain
from ldmref.io.diffusers.declared import read_denoiser
from ldmref.io.key_table import KeyEntry
from ldmref.math.tokens import PATCH
from ldmref.models.config import Defaults, ModelConfig
from ldmref.models.params import Shape

# -- diffusers' folders ----------------------------------------------------------------------------

PIPELINES = ("Krea2Pipeline",)
PACKED = 4  # cells of a token, which diffusers counts as channels


def read_folder(folder: Path, index: Mapping[str, Any]) -> ModelConfig:
    """Read the configuration of a folder of diffusers, Raw's or Turbo's.

    Args:
        folder: The folder.
        index: The contents of its model_index.json.

    Raises:
        InputError: A file is missing.
        CorruptModelError: A configuration asks for something that is not supported.
    """
    require_plain(index, {"patch_size": (2,)}, "model_index.json")
    layers = tuple(index.get("text_encoder_select_layers") or LAYERS)
    scheduler = read_scheduler(folder, index)
    config = read_model(
        folder,
        convert_transformer_config,
        lambda text: replace(as_text_encoder(text), hidden_layers=layers),
        scheduler,
        Defaults(STEPS, SCALE),
    )
    return as_turbo(config) if index.get("is_distilled") else config


def convert_transformer_config(data: Mapping[str, Any]) -> Krea2Config:
    """Convert the configuration of a `Krea2Transformer2DModel`; see `read_denoiser`."""
    return read_denoiser(Krea2Config(), data, packed=PACKED)


# -- single files ----------------------------------------------------------------------------------

ENDS: MakersNames = {
    "img_in": "first",
    "time_embed.linear_1": "tmlp.0",
    "time_embed.linear_2": "tmlp.2",
    "time_mod_proj": "tproj.1",
    "text_fusion.projector": "txtfusion.projector",
    "txt_in.norm.weight": "txtmlp.0.scale",
    "txt_in.linear_1": "txtmlp.1",
    "txt_in.linear_2": "txtmlp.3",
    "final_layer.scale_shift_table": "last.modulation.lin",
    "final_layer.norm.weight": "last.norm.scale",
    "final_layer.linear": "last.linear",
}
BLOCK: MakersNames = {
    "scale_shift_table": MakersLayer("mod.lin", form="flat"),  # one row there
    "norm1.weight": "prenorm.scale",
    "norm2.weight": "postnorm.scale",
    "attn.to_q": "attn.wq",
    "attn.to_k": "attn.wk",
    "attn.to_v": "attn.wv",
    "attn.to_gate": "attn.gate",
    "attn.norm_q.weight": "attn.qknorm.qnorm.scale",
    "attn.norm_k.weight": "attn.qknorm.knorm.scale",
    "attn.to_out.0": "attn.wo",
    "ff.gate": "mlp.gate",
    "ff.up": "mlp.up",
    "ff.down": "mlp.down",
}
BLOCKS = {
    "transformer_blocks": ("blocks", BLOCK),
    "text_fusion.layerwise_blocks": ("txtfusion.layerwise_blocks", BLOCK),
    "text_fusion.refiner_blocks": ("txtfusion.refiner_blocks", BLOCK),
}


def original_table(config: ModelConfig, prefix: str = "") -> dict[str, KeyEntry]:
    """Return the tensor of the makers for each parameter of the transformer."""
    return list_entries(transformer_spec(transformer_of(config)), ENDS, BLOCKS, prefix)


@reads_sizes
def recognise(own: Mapping[str, Shape]) -> ModelConfig | None:
    """Return the configuration of a file of the makers; None if it is another file.

    A file of Turbo has the names and shapes of one of Raw, which is taken.
    """
    d, patch = own["first.weight"]
    (head,) = own["blocks.0.attn.qknorm.qnorm.scale"]
    (text,) = own["txtmlp.0.scale"]
    (text_head,) = own["txtfusion.refiner_blocks.0.attn.qknorm.qnorm.scale"]
    network = Krea2Config(
        in_channels=patch // PATCH**2,
        out_channels=own["last.linear.weight"][0] // PATCH**2,
        num_layers=count_blocks(own, "blocks"),
        attention_head_dim=head,
        num_attention_heads=d // head,
        num_key_value_heads=own["blocks.0.attn.wk.weight"][0] // head,
        intermediate_size=own["blocks.0.mlp.gate.weight"][0],
        timestep_embed_dim=own["tmlp.0.weight"][1],
        text_hidden_dim=text,
        num_text_layers=own["txtfusion.projector.weight"][-1],
        text_num_attention_heads=text // text_head,
        text_num_key_value_heads=own["txtfusion.refiner_blocks.0.attn.wk.weight"][0] // text_head,
        text_intermediate_size=own["txtfusion.refiner_blocks.0.mlp.gate.weight"][0],
        num_layerwise_text_blocks=count_blocks(own, "txtfusion.layerwise_blocks"),
        num_refiner_text_blocks=count_blocks(own, "txtfusion.refiner_blocks"),
    )
    presets = make_presets()
    return find_model(presets, network, head, replace(presets["krea-2"], name="krea2"))


ORIGINALS = list_files(
    "the transformer of Krea 2",
    recognise,
    original_table,
    UNUSED_OF_COMFYUI,
    others=partial(list_comfyui_networks, text="qwen3vl_4b"),
)
"""The files of Krea 2."""
