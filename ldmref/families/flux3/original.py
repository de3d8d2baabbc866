"""The makers' single files: the names of the transformer, such as model.safetensors.

They hold nothing else: the autoencoder is another file, ae.safetensors. A file of the
distilled model has `ref_time_in`. Sources: huggingface/diffusers 0.42.1, loaders/
single_file_utils.py (`convert_flux3_transformer_checkpoint_to_diffusers`); flux3-mlx 0.1.0, dit.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ldmref.families.flux3.config import Flux3Config, transformer_of
from ldmref.families.flux3.network import transformer_spec
from ldmref.families.flux3.presets import make_presets
from ldmref.families.transformer_files import (
    count_blocks,
    find_known,
    list_files,
    remove_prefix,
)
from ldmref.io.key_table import KeyEntry
from ldmref.models.config import ModelConfig
from ldmref.models.params import Shape, flatten

HEADS = r"(.*\.)?repa_projectors\..*"  # of the training alone
STARTS = {
    "timestep_embedder.linear_1": "time_in.in_layer",
    "timestep_embedder.linear_2": "time_in.out_layer",
    "target_timestep_embedder.linear_1": "ref_time_in.in_layer",
    "target_timestep_embedder.linear_2": "ref_time_in.out_layer",
    "x_embedders": "emb_in",
    "context_embedder": "txt_in",
    "mode_blocks": "content_mode_blocks",
    "single_transformer_blocks": "single_blocks",
    "norm_out.linear": "final_layer.image.adaLN_modulation.1",
    "proj_out": "final_layer.image.linear",
}
BLOCK = {  # the parameter of a block -> its name there
    "attn.to_q.weight": "q_proj.weight",
    "attn.to_k.weight": "k_proj.weight",
    "attn.to_v.weight": "v_proj.weight",
    "attn.to_out.0.weight": "attn_out.weight",
    "attn.norm_q.weight": "norm.query_norm.scale",
    "attn.norm_k.weight": "norm.key_norm.scale",
    "ff.linear_in.weight": "mlp_in.weight",
    "ff.linear_out.weight": "mlp_out.weight",
}


def original_table(config: ModelConfig, prefix: str = "") -> dict[str, KeyEntry]:
    """Return the tensor of the original for each parameter of the transformer.

    The last layer computes shift and scale there, in diffusers scale and shift.
    """
    shapes = flatten(transformer_spec(transformer_of(config)))
    return {name: find_entry(name, shape, prefix) for name, shape in shapes.items()}


def find_entry(name: str, shape: Shape, prefix: str) -> KeyEntry:
    """Return the tensor of the original for a parameter."""
    form = "swapped" if name.startswith("norm_out.") else ""
    stored = name
    for start, theirs in STARTS.items():
        if name.startswith(f"{start}."):
            stored = theirs + name.removeprefix(start)
    if "modulations." in stored:
        stored = stored.replace(".linear.", ".lin.")
    for end, theirs in BLOCK.items():
        if "blocks." in stored and stored.endswith(f".{end}"):
            stored = stored.removesuffix(end) + theirs
    return KeyEntry(prefix + stored, shape, form=form)


def recognise(shapes: Mapping[str, Shape], prefix: str = "") -> ModelConfig | None:
    """Return the configuration of a file of the original; None if it is another file."""
    own = remove_prefix(shapes, prefix)
    try:
        d, channels = own["emb_in.image.weight"]
        joint = own["txt_in.weight"][1]
        waves = own["time_in.in_layer.weight"][1]
        (head,) = own["single_blocks.0.norm.query_norm.scale"]
        hidden = own["single_blocks.0.mlp_out.weight"][1]
    except (KeyError, ValueError, IndexError):
        return None
    network = Flux3Config(
        in_channels=channels,
        out_channels=channels,
        num_layers=count_blocks(own, "txt_mode_blocks"),
        num_single_layers=count_blocks(own, "single_blocks"),
        num_attention_heads=max(d // max(head, 1), 1),
        attention_head_dim=head,
        joint_attention_dim=joint,
        timestep_channels=waves,
        mlp_ratio=hidden / d,
        flow_map="ref_time_in.in_layer.weight" in own,
    )
    return find_model(network)


def find_model(network: Flux3Config) -> ModelConfig | None:
    """Return the model of a transformer; None if its positions are not known."""
    presets = make_presets()
    known = find_known(presets.values(), network)
    if known is not None or sum(network.axes_dims_rope) != network.attention_head_dim:
        return known
    nearest = presets["flux3-klein" if network.flow_map else "flux3-klein-base"]
    return replace(nearest, name="flux3", denoiser=network)


ORIGINALS = list_files("the transformer of FLUX.3", recognise, original_table, HEADS)
"""The files of FLUX.3."""
