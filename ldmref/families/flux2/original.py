"""The makers' single files, such as flux-2-klein-4b.safetensors: the names of the transformer.

GGUF files have the same names; ComfyUI puts `model.diffusion_model.` before them, and its
checkpoints also hold the autoencoder and the text encoder. Sources: black-forest-labs/flux2,
src/flux2/model.py and autoencoder.py; Comfy-Org/ComfyUI, comfy/supported_models.py, `Flux2`.
"""

from __future__ import annotations

from collections.abc import Mapping

from ldmref.families.flux.original import THIRDS
from ldmref.families.flux2.autoencoder import Flux2AutoencoderConfig, original_autoencoder_table
from ldmref.families.flux2.config import Flux2Config, transformer_of
from ldmref.families.flux2.network import transformer_spec
from ldmref.families.flux2.presets import make_presets
from ldmref.families.qwen3.encoder import Qwen3Config, qwen3_spec
from ldmref.families.transformer_files import (
    count_blocks,
    find_known,
    list_files,
    remove_prefix,
)
from ldmref.io.key_table import KeyEntry, add_prefixes, key_table
from ldmref.models.config import ModelConfig
from ldmref.models.params import Shape, flatten

TEXTS = {2560: "text_encoders.qwen3_4b.", 4096: "text_encoders.qwen3_8b."}  # by the width
UNUSED = (
    r"text_encoders\.\w+\.(logit_scale|transformer\.lm_head\.weight)|vae\.bn\.num_batches_tracked"
)
ENDS = {
    "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_guidance_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_guidance_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "double_stream_modulation_img.linear": "double_stream_modulation_img.lin",
    "double_stream_modulation_txt.linear": "double_stream_modulation_txt.lin",
    "single_stream_modulation.linear": "single_stream_modulation.lin",
    "context_embedder": "txt_in",
    "x_embedder": "img_in",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
DOUBLE = {  # the layer of a block of two streams -> its layer there
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
    "ff.linear_in": "img_mlp.0",
    "ff.linear_out": "img_mlp.2",
    "ff_context.linear_in": "txt_mlp.0",
    "ff_context.linear_out": "txt_mlp.2",
}
SINGLE = {  # of a block of one stream
    "attn.to_qkv_mlp_proj": "linear1",
    "attn.to_out": "linear2",
    "attn.norm_q": "norm.query_norm",
    "attn.norm_k": "norm.key_norm",
}


def original_table(config: ModelConfig, prefix: str = "") -> dict[str, KeyEntry]:
    """Return the tensor of the original for each parameter of the transformer.

    The last layer computes shift and scale there, in diffusers scale and shift.
    """
    shapes = flatten(transformer_spec(transformer_of(config)))
    return {name: find_entry(name, shape, prefix) for name, shape in shapes.items()}


def find_entry(name: str, shape: Shape, prefix: str) -> KeyEntry:
    """Return the tensor of the original for a parameter of a transformer."""
    layer = name.removesuffix(".weight")
    if layer in ENDS:
        form = "swapped" if layer == "norm_out.linear" else ""
        return KeyEntry(f"{prefix}{ENDS[layer]}.weight", shape, form=form)
    blocks, number, layer = layer.split(".", 2)
    leaf = "scale" if ".norm_" in layer else "weight"
    if blocks == "single_transformer_blocks":
        return KeyEntry(f"{prefix}single_blocks.{number}.{SINGLE[layer]}.{leaf}", shape)
    stored, third = THIRDS[layer] if layer in THIRDS else (DOUBLE[layer], None)
    return KeyEntry(f"{prefix}double_blocks.{number}.{stored}.{leaf}", shape, third)


def rename_norm(name: str) -> str:
    """Return the makers' name of a norm of queries or keys that ComfyUI has written."""
    if name.endswith(("query_norm.weight", "key_norm.weight")):
        return f"{name.removesuffix('weight')}scale"
    return name


def list_other_networks(config: ModelConfig) -> dict[str, dict[str, KeyEntry]]:
    """Return the tables of autoencoder and text encoder in a checkpoint of ComfyUI."""
    text = config.text_encoder
    prefix = TEXTS.get(text.hidden_size, TEXTS[2560])
    assert isinstance(text, Qwen3Config)
    words = key_table(flatten(qwen3_spec(text)), {"": "model"})
    assert isinstance(config.vae, Flux2AutoencoderConfig)
    return {
        "vae": add_prefixes("", "vae.", original_autoencoder_table(config.vae)),
        "text_encoder": add_prefixes("", f"{prefix}transformer.", words),
    }


def recognise(shapes: Mapping[str, Shape], prefix: str = "") -> ModelConfig | None:
    """Return the configuration of a file of the original; None if it is another file.

    Several models have equal shapes: the distilled one is returned. [dev] has another text encoder
    and is not recognised.
    """
    own = remove_prefix(shapes, prefix)
    try:
        d, z = own["img_in.weight"]
        joint = own["txt_in.weight"][1]
        waves = own["time_in.in_layer.weight"][1]
        hidden = own["double_blocks.0.img_mlp.2.weight"][1]
        (head,) = own["double_blocks.0.img_attn.norm.query_norm.scale"]
        modulated = own["single_stream_modulation.lin.weight"]
    except (KeyError, ValueError, IndexError):
        return None
    if modulated != (3 * d, d) or "guidance_in.in_layer.weight" in own or not d or not head:
        return None
    network = Flux2Config(
        in_channels=z,
        out_channels=z,
        num_layers=count_blocks(own, "double_blocks"),
        num_single_layers=count_blocks(own, "single_blocks"),
        num_attention_heads=max(d // head, 1),
        attention_head_dim=head,
        joint_attention_dim=joint,
        timestep_guidance_channels=waves,
        mlp_ratio=hidden / d,
    )
    return find_known(make_presets().values(), network)


ORIGINALS = list_files(
    "the transformer of FLUX.2 klein",
    recognise,
    original_table,
    UNUSED,
    others=list_other_networks,
    rename=rename_norm,
)
"""The files of FLUX.2 klein."""
