"""CompVis' names for the tensors of latent diffusion, as one bijective table per configuration.

A table is made by walking the configuration, not by rewriting strings, so every name of ours has
exactly one of theirs. A name of theirs may hold several of ours: OpenCLIP and the attention blocks
stack query, key and value in one matrix; then the table says which third.

Sources: CompVis/latent-diffusion and Stability-AI/generative-models (openaimodel.py, model.py),
lllyasviel/ControlNet (cldm/cldm.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType

from ldmref.io.compvis.key_entry import Entry, Shape, prefixed, spread
from ldmref.io.compvis.text_keys import clip_table, open_clip_table, text_table
from ldmref.models.autoencoder import autoencoder_spec
from ldmref.models.config import AutoencoderConfig, ModelConfig, UNetConfig
from ldmref.models.controlnet import HINT, ControlNetConfig, controlnet_spec
from ldmref.models.params import flatten
from ldmref.models.rescaler import rescaler_spec
from ldmref.models.unet import unet_spec


@lru_cache(
    maxsize=32
)  # every family's is asked for when a file is recognised, more than once a run
def compvis_table(config: ModelConfig) -> Mapping[str, Entry]:
    """Our name -> place in a CompVis single file, for every tensor of the model."""
    table = prefixed("unet.", "model.diffusion_model.", unet_table(config.unet))
    table |= prefixed("vae.", "first_stage_model.", autoencoder_table(config.vae))
    first, second = config.text_encoder, config.text_encoder_2
    if second is not None:
        table |= prefixed(
            "text_encoder.", "conditioner.embedders.0.transformer.", clip_table(first)
        )
        table |= prefixed(
            "text_encoder_2.", "conditioner.embedders.1.model.", open_clip_table(second)
        )
    elif first.model_type != "none":
        table |= prefixed("text_encoder.", "cond_stage_model.", text_table(first))
    if config.segmentation_classes:
        name = "cond_stage.channel_mapper.weight"
        shape = flatten(rescaler_spec(config))["channel_mapper.weight"]
        table[name] = Entry("cond_stage_model.channel_mapper.weight", shape)
    return MappingProxyType(table)


# -- U-Net ----------------------------------------------------------------------------------------

_RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
           "norm2": "out_layers.0", "conv2": "out_layers.3",
           "conv_shortcut": "skip_connection"}  # fmt: skip


def unet_table(config: UNetConfig) -> dict[str, Entry]:
    """The U-Net's tensors below `model.diffusion_model.`."""
    table = spread(_unet_blocks(config), flatten(unet_spec(config)))
    return _attention_blocks(config, table) if config.attention == "self" else table


_THIRDS = ("to_q", "to_k", "to_v")


def _attention_blocks(config: UNetConfig, table: dict[str, Entry]) -> dict[str, Entry]:
    """Attention blocks are 1-D convolutions, with query, key and value in one, head by head."""
    made = {}
    for name, entry in table.items():
        part, level, *_ = name.split(".")
        if ".attentions." in name and ".group_norm." not in name:
            i = {"down_blocks": int(level) if level.isdigit() else -1, "mid_block": -1}.get(part)
            heads = config.num_heads[len(config.num_heads) - 1 - int(level) if i is None else i]
            form = "conv1d" if len(entry.shape) == 2 else ""
            piece, leaf = entry.name.split(".")[-2:]
            start = entry.name.removesuffix(f"{piece}.{leaf}")
            if piece in _THIRDS:
                third = _THIRDS.index(piece)
                entry = Entry(f"{start}qkv.{leaf}", entry.shape, third, form, heads)
            else:
                entry = replace(entry, form=form)
        made[name] = entry
    return made


def _unet_blocks(config: UNetConfig) -> Iterator[tuple[str, str]]:
    def resnet(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
        yield from ((f"{ours}.{a}", f"{theirs}.{b}") for a, b in _RESNET.items())

    def attention(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
        yield ours, theirs
        if config.attention == "self":
            yield f"{ours}.group_norm", f"{theirs}.norm"
            yield f"{ours}.to_out.0", f"{theirs}.proj_out"

    def resample(ours: str, theirs: str, conv: str) -> Iterator[tuple[str, str]]:
        if config.resnet_updown:
            yield from resnet(ours, theirs)
        else:
            yield f"{ours}.conv", f"{theirs}.{conv}"

    levels, layers = len(config.block_out_channels), config.layers_per_block
    yield "conv_in", "input_blocks.0.0"
    for ours, theirs in (("time_embedding", "time_embed"), ("add_embedding", "label_emb.0")):
        yield f"{ours}.linear_1", f"{theirs}.0"
        yield f"{ours}.linear_2", f"{theirs}.2"
    i = 1
    for level in range(levels):
        for j in range(layers):
            yield from resnet(f"down_blocks.{level}.resnets.{j}", f"input_blocks.{i}.0")
            yield from attention(f"down_blocks.{level}.attentions.{j}", f"input_blocks.{i}.1")
            i += 1
        if level < levels - 1:
            yield from resample(f"down_blocks.{level}.downsamplers.0", f"input_blocks.{i}.0", "op")
            i += 1
    yield from resnet("mid_block.resnets.0", "middle_block.0")
    yield from attention("mid_block.attentions.0", "middle_block.1")
    yield from resnet("mid_block.resnets.1", "middle_block.2")
    i = 0
    for block in range(levels):
        for j in range(layers + 1):
            yield from resnet(f"up_blocks.{block}.resnets.{j}", f"output_blocks.{i}.0")
            yield from attention(f"up_blocks.{block}.attentions.{j}", f"output_blocks.{i}.1")
            i += 1
        place = 2 if config.attention_levels[levels - 1 - block] else 1
        up = f"output_blocks.{i - 1}.{place}"
        yield from resample(f"up_blocks.{block}.upsamplers.0", up, "conv")
    yield "conv_norm_out", "out.0"
    yield "conv_out", "out.2"


def controlnet_table(config: ControlNetConfig) -> dict[str, Entry]:
    """A ControlNet's tensors below `control_model.`."""
    shapes = flatten(controlnet_spec(config))
    return spread(_controlnet_blocks(config, shapes), shapes)


def _controlnet_blocks(
    config: ControlNetConfig, shapes: dict[str, Shape]
) -> Iterator[tuple[str, str]]:
    yield from _unet_blocks(config.unet)
    layers = 2 * len(config.conditioning_embedding_out_channels) - 2
    yield f"{HINT}.conv_in", "input_hint_block.0"
    for i in range(layers):
        yield f"{HINT}.blocks.{i}", f"input_hint_block.{2 * (i + 1)}"
    yield f"{HINT}.conv_out", f"input_hint_block.{2 * (layers + 1)}"
    for i in range(sum(name.startswith("controlnet_down_blocks.") for name in shapes) // 2):
        yield f"controlnet_down_blocks.{i}", f"zero_convs.{i}.0"
    yield "controlnet_mid_block", "middle_block_out.0"


# -- autoencoder ----------------------------------------------------------------------------------


def autoencoder_table(config: AutoencoderConfig) -> dict[str, Entry]:
    """The autoencoder's tensors below `first_stage_model.`; its attention is 1 x 1 convolutions."""
    shapes = flatten(autoencoder_spec(config))
    table = spread(_autoencoder_blocks(config), shapes)
    return {
        name: Entry(e.name, e.shape, form="conv")
        if ".attentions." in name and len(e.shape) == 2
        else e
        for name, e in table.items()
    }


def _autoencoder_blocks(config: AutoencoderConfig) -> Iterator[tuple[str, str]]:
    levels, layers = len(config.block_out_channels), config.layers_per_block

    def resnet(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
        yield ours, theirs
        yield f"{ours}.conv_shortcut", f"{theirs}.nin_shortcut"

    def attention(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
        for a, b in (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"),
                     ("to_out.0", "proj_out")):  # fmt: skip
            yield f"{ours}.{a}", f"{theirs}.{b}"

    for half in ("encoder", "decoder"):
        yield f"{half}.conv_in", f"{half}.conv_in"
        yield f"{half}.conv_norm_out", f"{half}.norm_out"
        yield f"{half}.conv_out", f"{half}.conv_out"
        for j in range(2):
            yield from resnet(f"{half}.mid_block.resnets.{j}", f"{half}.mid.block_{j + 1}")
        yield from attention(f"{half}.mid_block.attentions.0", f"{half}.mid.attn_1")
    for level in range(levels):
        block = f"encoder.down_blocks.{level}"
        for j in range(layers):
            yield from resnet(f"{block}.resnets.{j}", f"encoder.down.{level}.block.{j}")
            yield from attention(f"{block}.attentions.{j}", f"encoder.down.{level}.attn.{j}")
        yield f"{block}.downsamplers.0.conv", f"encoder.down.{level}.downsample.conv"
        block, theirs = f"decoder.up_blocks.{level}", f"decoder.up.{levels - 1 - level}"
        for j in range(layers + 1):
            yield from resnet(f"{block}.resnets.{j}", f"{theirs}.block.{j}")
            yield from attention(f"{block}.attentions.{j}", f"{theirs}.attn.{j}")
        yield f"{block}.upsamplers.0.conv", f"{theirs}.upsample.conv"
    yield "quantize", "quantize"
    yield "quant_conv", "quant_conv"
    yield "post_quant_conv", "post_quant_conv"
