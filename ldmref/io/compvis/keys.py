"""CompVis' names for the tensors of latent diffusion, as one bijective table per configuration.

Query, key and value share a stored tensor in OpenCLIP and in attention blocks; every other tensor
has its own name.

Sources: CompVis/latent-diffusion and Stability-AI/generative-models (openaimodel.py, model.py),
lllyasviel/ControlNet (cldm/cldm.py), huggingface/transformers (CLIPTextModel),
mlfoundations/open_clip (transformer.py), CompVis/latent-diffusion (ldm/modules/x_transformer.py,
ldm/modules/encoders/modules.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType

from ldmref.io.key_table import KeyEntry, add_prefixes, key_table, with_attention_form
from ldmref.models.autoencoder import autoencoder_spec
from ldmref.models.autoencoder_config import AutoencoderConfig, BaseAutoencoderConfig
from ldmref.models.autoencoder_kind import autoencoder_of
from ldmref.models.clip import is_openclip
from ldmref.models.config import ModelConfig, TextConfig
from ldmref.models.controlnet import HINT, ControlNetConfig, controlnet_spec
from ldmref.models.denoiser_config import UNetConfig
from ldmref.models.params import flatten
from ldmref.models.rescaler import rescaler_spec
from ldmref.models.text import text_spec
from ldmref.models.unet import unet_spec

UNET_PREFIX = "model.diffusion_model."
# Modules and tensors within a block, where the names differ: ours -> theirs.
UNET_MODULES = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
    "linear_1": "0",
    "linear_2": "2",
}
SELF_ATTENTION_MODULES = {
    "group_norm": "norm",
    "to_q": "qkv",
    "to_k": "qkv",
    "to_v": "qkv",
    "to_out.0": "proj_out",
}
AUTOENCODER_MODULES = {
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
LDMBERT_MODULES = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
OPEN_CLIP_MODULES = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
    "self_attn.q_proj.weight": "attn.in_proj_weight",
    "self_attn.q_proj.bias": "attn.in_proj_bias",
    "self_attn.k_proj.weight": "attn.in_proj_weight",
    "self_attn.k_proj.bias": "attn.in_proj_bias",
    "self_attn.v_proj.weight": "attn.in_proj_weight",
    "self_attn.v_proj.bias": "attn.in_proj_bias",
    "position_embedding.weight": "positional_embedding",
}
THIRDS = {"to_q": 0, "to_k": 1, "to_v": 2, "q_proj": 0, "k_proj": 1, "v_proj": 2}


@lru_cache(maxsize=32)  # identifying a file asks for the table of every family
def compvis_table(config: ModelConfig) -> Mapping[str, KeyEntry]:
    """Return the key table of a single file, for every tensor of the model.

    Args:
        config: The configuration of the model.

    Returns:
        For each tensor by our name, its name and place in the file.

    >>> from ldmref.io import compvis_table
    >>> from ldmref.models import preset
    >>> compvis_table(preset("sd15"))["unet.conv_in.weight"].name
    'model.diffusion_model.input_blocks.0.0.weight'
    """
    table = add_prefixes("unet.", UNET_PREFIX, unet_table(config.unet))
    table |= add_prefixes("vae.", "first_stage_model.", autoencoder_table(config.kl_or_vq))
    first = config.text_encoder
    second = config.text_encoder_2
    if second is not None:
        embedders = "conditioner.embedders."
        table |= add_prefixes("text_encoder.", embedders + "0.transformer.", clip_table(first))
        table |= add_prefixes("text_encoder_2.", embedders + "1.model.", open_clip_table(second))
    elif config.text_encoders:
        table |= add_prefixes("text_encoder.", "cond_stage_model.", text_table(first))
    if config.segmentation_classes:
        rescaler = key_table(flatten(rescaler_spec(config)), {"": ""})
        table |= add_prefixes("cond_stage.", "cond_stage_model.", rescaler)
    return MappingProxyType(table)


def unet_table(config: UNetConfig) -> dict[str, KeyEntry]:
    """Return the table of the tensors below `model.diffusion_model.`"""
    shapes = flatten(unet_spec(config))
    blocks = _unet_blocks(config)
    if config.attention == "cross":
        return key_table(shapes, blocks, UNET_MODULES)
    # self-attention is 1-D convolutions, with query, key and value stacked head by head
    table = key_table(shapes, blocks, UNET_MODULES | SELF_ATTENTION_MODULES)
    heads = {"mid_block": config.num_heads[-1]}
    for level, count in enumerate(config.num_heads):
        heads[f"down_blocks.{level}"] = count
        heads[f"up_blocks.{len(config.num_heads) - 1 - level}"] = count
    for name, entry in table.items():
        block, attention, path = name.partition(".attentions.")
        third = THIRDS.get(path.split(".")[-2]) if attention else None
        if third is not None:
            table[name] = replace(entry, third=third, heads=heads[block])
    return with_attention_form(table, "conv1d")


def _unet_blocks(config: UNetConfig) -> dict[str, str]:
    levels = len(config.block_out_channels)
    layers = config.layers_per_block
    blocks = {
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "time_embedding": "time_embed",
        "add_embedding": "label_emb.0",
        "step_embedding": "step_embed",  # of a flow map: CompVis has none
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }
    for level in range(levels):
        down = f"down_blocks.{level}"
        up = f"up_blocks.{level}"
        first = level * (layers + 1)
        for j in range(layers):
            blocks[f"{down}.resnets.{j}"] = f"input_blocks.{first + 1 + j}.0"
            blocks[f"{down}.attentions.{j}"] = f"input_blocks.{first + 1 + j}.1"
        blocks[f"{down}.downsamplers.0"] = f"input_blocks.{first + 1 + layers}.0"
        blocks[f"{down}.downsamplers.0.conv"] = f"input_blocks.{first + 1 + layers}.0.op"
        for j in range(layers + 1):
            blocks[f"{up}.resnets.{j}"] = f"output_blocks.{first + j}.0"
            blocks[f"{up}.attentions.{j}"] = f"output_blocks.{first + j}.1"
        index = 2 if config.attention_levels[levels - 1 - level] else 1
        blocks[f"{up}.upsamplers.0"] = f"output_blocks.{first + layers}.{index}"
    return blocks


def controlnet_table(config: ControlNetConfig) -> dict[str, KeyEntry]:
    """Return the table of the tensors below `control_model.`"""
    blocks = _unet_blocks(config.unet)
    unet = config.unet
    convolutions = 2 * len(config.conditioning_embedding_out_channels) - 2
    hint = ["conv_in", *(f"blocks.{i}" for i in range(convolutions)), "conv_out"]
    blocks |= {f"{HINT}.{name}": f"input_hint_block.{2 * i}" for i, name in enumerate(hint)}
    skips = len(unet.block_out_channels) * (unet.layers_per_block + 1)
    blocks |= {f"controlnet_down_blocks.{i}": f"zero_convs.{i}.0" for i in range(skips)}
    blocks["controlnet_mid_block"] = "middle_block_out.0"
    return key_table(flatten(controlnet_spec(config)), blocks, UNET_MODULES)


def autoencoder_table(config: AutoencoderConfig) -> dict[str, KeyEntry]:
    """Return the table of the tensors below `first_stage_model.`

    Attention is stored as 1 x 1 convolutions.
    """
    levels = len(config.block_out_channels)
    layers = config.layers_per_block
    unchanged = ("encoder", "decoder", "quantize", "quant_conv", "post_quant_conv")
    blocks = dict(zip(unchanged, unchanged, strict=True))
    for half in ("encoder", "decoder"):
        blocks |= {f"{half}.mid_block.resnets.{j}": f"{half}.mid.block_{j + 1}" for j in range(2)}
        blocks[f"{half}.mid_block.attentions.0"] = f"{half}.mid.attn_1"
    for level in range(levels):
        down = f"encoder.down_blocks.{level}"
        up = f"decoder.up_blocks.{level}"
        theirs = {down: f"encoder.down.{level}", up: f"decoder.up.{levels - 1 - level}"}
        for ours, count in ((down, layers), (up, layers + 1)):
            blocks |= {f"{ours}.resnets.{j}": f"{theirs[ours]}.block.{j}" for j in range(count)}
            blocks |= {f"{ours}.attentions.{j}": f"{theirs[ours]}.attn.{j}" for j in range(count)}
        blocks[f"{down}.downsamplers.0"] = f"{theirs[down]}.downsample"
        blocks[f"{up}.upsamplers.0"] = f"{theirs[up]}.upsample"
    table = key_table(flatten(autoencoder_spec(config)), blocks, AUTOENCODER_MODULES)
    return with_attention_form(table, "conv")


# -- text encoders --------------------------------------------------------------------------------


def original_autoencoder_table(config: BaseAutoencoderConfig) -> Mapping[str, KeyEntry]:
    """Return the names of CompVis or of the makers for any autoencoder; {} if it has none."""
    if type(config) is AutoencoderConfig:
        return autoencoder_table(config)
    makers = autoencoder_of(config).makers
    return {} if makers is None else makers(config)


def text_table(config: TextConfig) -> dict[str, KeyEntry]:
    """Return the table of the tensors below `cond_stage_model.`"""
    if config.model_type == "class":
        return key_table(flatten(text_spec(config)), {"": ""})
    if config.model_type == "ldmbert":
        return add_prefixes("", "transformer.", ldmbert_table(config))
    if is_openclip(config):
        return add_prefixes("", "model.", open_clip_table(config))
    return add_prefixes("", "transformer.", clip_table(config))


def ldmbert_table(config: TextConfig) -> dict[str, KeyEntry]:
    """Return the table of x-transformers' encoder.

    It counts attention and feed-forward as two layers.
    """
    blocks = {
        "model.embed_tokens": "token_emb",
        "model.embed_positions": "pos_emb.emb",
        "model.layer_norm": "norm",
    }
    for i in range(config.num_hidden_layers):
        ours = f"model.layers.{i}"
        attention = f"attn_layers.layers.{2 * i}"
        feed_forward = f"attn_layers.layers.{2 * i + 1}"
        blocks |= {
            f"{ours}.self_attn_layer_norm": f"{attention}.0",
            f"{ours}.self_attn": f"{attention}.1",
            f"{ours}.final_layer_norm": f"{feed_forward}.0",
            f"{ours}.fc1": f"{feed_forward}.1.net.0.0",
            f"{ours}.fc2": f"{feed_forward}.1.net.2",
        }
    return key_table(flatten(text_spec(config)), blocks, LDMBERT_MODULES)


def clip_table(config: TextConfig) -> dict[str, KeyEntry]:
    """Return the table of CLIP under the names of transformers, which are ours."""
    return key_table(flatten(text_spec(config)), {"": ""})


def open_clip_table(config: TextConfig) -> dict[str, KeyEntry]:
    """Return the table of OpenCLIP's text tower.

    Query, key and value are stacked, and the projection is transposed.
    """
    blocks = {
        "text_model.embeddings": "",
        "text_model.final_layer_norm": "ln_final",
        "text_projection.weight": "text_projection",
    }
    for i in range(config.num_hidden_layers):
        blocks[f"text_model.encoder.layers.{i}"] = f"transformer.resblocks.{i}"
    table = key_table(flatten(text_spec(config)), blocks, OPEN_CLIP_MODULES)
    for name, entry in table.items():
        third = THIRDS.get(name.split(".")[-2])
        form = "transposed" if name == "text_projection.weight" else ""
        table[name] = replace(entry, third=third, form=form)
    return table
