"""Flux.1: a transformer whose first blocks have two streams, for text and image.

| file               | holds                                            |
|--------------------|--------------------------------------------------|
| `config.py`        | the configuration of the transformer             |
| `network.py`       | the transformer                                  |
| `controlnet.py`    | its ControlNets                                  |
| `control_files.py` | their single files                               |
| `text.py`          | how two text encoders condition it               |
| `files.py`         | diffusers' folders, and the makers' single files |
| `presets.py`       | the published sizes                              |

Black Forest Labs 2024, github.com/black-forest-labs/flux.
"""

from __future__ import annotations

from dataclasses import replace

from ldmref.families.flux.config import FluxConfig, broken_rules, transformer_of
from ldmref.families.flux.control_files import list_candidates
from ldmref.families.flux.controlnet import CONTROL
from ldmref.families.flux.files import ORIGINALS, PIPELINES, read_folder, with_control, xlabs_layers
from ldmref.families.flux.network import transformer, transformer_spec
from ldmref.families.flux.presets import make_presets
from ldmref.families.flux.text import T5_LENGTH, encode_prompts, with_text_length
from ldmref.families.joint_transformers import (
    GUIDANCE,
    LORA_TARGETS,
    count_two_stream_flops,
    describe_model,
    list_inputs,
)
from ldmref.models.config import ModelConfig
from ldmref.models.declared import DeclaredNetwork, TextAttention
from ldmref.models.family import (
    Family,
    GuidanceScale,
    LoraRules,
    TextPath,
    Work,
    guide_always,
)
from ldmref.models.steering import AttentionGuidance, Steerable

TEXT_ATTENTION = TextAttention((".attn",), ("text", "image"), (1,))  # T5 alone
STEERABLE = Steerable(
    attention=AttentionGuidance(
        ("attn",),
        blend=0.25,
        order=2,
        prompts={"norm1": ("emb",), "norm_out": ("x", "emb")},
        # in blocks of one stream, the image is modulated by both prompts
        repeated={
            "": ("control.single_blocks",),
            "time_text_embed": ("t",),
            "single_transformer_blocks.0": ("x",),
        },
    )
)
FLUX_LORA_TARGETS = LORA_TARGETS | {  # and of blocks that have one stream
    "feed_forward": (*LORA_TARGETS["feed_forward"], ".proj_mlp", ".proj_out"),
    "projections": ("x_embedder", "context_embedder"),
}
__all__ = ["FLUX", "FluxConfig"]


def describe_networks(config: ModelConfig) -> list[DeclaredNetwork]:
    """Return the networks of a model: text encoders, transformer and autoencoder."""
    network = transformer_of(config)
    inputs = list_inputs(network)
    if network.guidance_embeds:
        inputs = (*inputs, GUIDANCE)
    return describe_model(
        config, transformer, transformer_spec, inputs, TEXT_ATTENTION, steerable=STEERABLE
    )


def count_flops(config: ModelConfig, width: int, height: int) -> int:
    """Count the operations of one evaluation for one image of `width` x `height` pixels."""
    network = transformer_of(config)
    image, text = count_tokens(config, width, height)

    def is_once(name: str) -> bool:
        return "norm" in name or name.startswith("time_text_embed")

    return count_two_stream_flops(network, transformer_spec(network), image, text, is_once)


def count_activations(config: ModelConfig, width: int, height: int) -> int:
    """Count the numbers that a block of one stream holds at once.

    In units of the width: the stream and its norm, attention's output, the MLP before and after its
    nonlinearity, and the two of them joined.
    """
    image, text = count_tokens(config, width, height)
    return (image + text) * transformer_of(config).width * (2 + 1 + 4 + 4 + 5)


def count_tokens(config: ModelConfig, width: int, height: int) -> tuple[int, int]:
    """Return the number of patches of an image, and that of the tokens of its text."""
    return config.count_tokens(width, height), config.text_encoders[1].max_position_embeddings


FLUX = Family(
    "flux",
    FluxConfig,
    describe_networks,
    Work(count_flops, count_activations),
    "Flux.1: a transformer with streams for image and text, then one for both",
    broken_rules,
    text=TextPath(encode_prompts, with_length=with_text_length, longest=T5_LENGTH),
    control=replace(CONTROL, candidates=list_candidates),
    presets=make_presets(),
    files=ORIGINALS,
    folders=dict.fromkeys(PIPELINES, read_folder),
    guidance_scale=GuidanceScale(
        guide_always, reads=lambda config: transformer_of(config).guidance_embeds
    ),
    lora=LoraRules(FLUX_LORA_TARGETS, xlabs_layers, with_control),
)
"""The family of Flux.1."""
