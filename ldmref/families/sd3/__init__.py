"""Stable Diffusion 3 and 3.5: flow matching with a transformer of image and text.

| file               | holds                                            |
|--------------------|--------------------------------------------------|
| `config.py`        | the configuration of the transformer             |
| `network.py`       | the transformer                                  |
| `controlnet.py`    | its ControlNets                                  |
| `control_files.py` | their single files                               |
| `text.py`          | how three text encoders condition it             |
| `files.py`         | diffusers' folders, and the makers' single files |
| `presets.py`       | the published sizes                              |

Esser et al. 2024, arXiv:2403.03206.
"""

from __future__ import annotations

from dataclasses import replace

from ldmref.families.joint_transformers import (
    LORA_TARGETS,
    describe_model,
    list_inputs,
)
from ldmref.families.sd3.config import MMDiTConfig, broken_rules, transformer_of
from ldmref.families.sd3.control_files import list_candidates
from ldmref.families.sd3.controlnet import CONTROL
from ldmref.families.sd3.files import ORIGINALS, PIPELINES, read_folder
from ldmref.families.sd3.network import transformer, transformer_spec
from ldmref.families.sd3.presets import make_presets
from ldmref.families.sd3.text import (
    MOST_T5_TOKENS,
    condition_on_text,
    encode_prompts,
    with_text_length,
)
from ldmref.models.config import ModelConfig
from ldmref.models.declared import DeclaredNetwork, TextAttention
from ldmref.models.family import (
    Family,
    LoraRules,
    TextPath,
    Work,
)
from ldmref.models.flops import count_products
from ldmref.models.steering import AttentionGuidance, Steerable

STEERABLE = Steerable(
    "transformer_blocks",
    kept=("context", "x"),
    attention=AttentionGuidance(
        ("attn",),
        blend=0.125,
        prompts={"norm1": ("emb",), "norm_out": ("emb",)},
        repeated={"time_text_embed": ("t",)},
    ),
)

__all__ = ["SD3", "MMDiTConfig"]


def describe_networks(config: ModelConfig) -> list[DeclaredNetwork]:
    """Return the networks of a model: text encoders, transformer and autoencoder."""
    network = transformer_of(config)
    tokens = ("image", "text")
    attention = TextAttention((".attn",), tokens, (0, 2))  # CLIP's, side by side, and T5's
    if config.text_encoder_3 is None:
        attention = TextAttention((".attn",), tokens, padding=network.empty_tokens)
    inputs = list_inputs(network)
    return describe_model(
        config, transformer, transformer_spec, inputs, attention, steerable=STEERABLE
    )


def count_flops(config: ModelConfig, width: int, height: int) -> int:
    """Count the operations of one evaluation for one image of `width` x `height` pixels."""
    network = transformer_of(config)
    image, text = count_tokens(config, width, height)
    total = 4 * network.num_layers * (image + text) ** 2 * network.width
    total += 4 * len(network.dual_attention_layers) * image**2 * network.width

    def count_rows(name: str) -> int:
        if name == "pos_embed.pos_embed":  # added, not multiplied
            return 0
        if ".add_" in name or "to_add_out" in name or "ff_context" in name:
            return text
        if name.startswith("context_embedder"):
            return text
        return 1 if "norm" in name or name.startswith("time_text_embed") else image

    return total + count_products(transformer_spec(network), count_rows)


def count_activations(config: ModelConfig, width: int, height: int) -> int:
    """Count the numbers that a block holds at once: both streams, and the wide layer twice."""
    image, text = count_tokens(config, width, height)
    return (image + text) * transformer_of(config).width * 10


def count_tokens(config: ModelConfig, width: int, height: int) -> tuple[int, int]:
    """Return the number of patches of an image, and that of the tokens of its text."""
    t5 = config.text_encoder_3
    more = transformer_of(config).empty_tokens if t5 is None else t5.max_position_embeddings
    text = config.text_encoders[0].max_position_embeddings + more
    return config.count_tokens(width, height), text


SD3 = Family(
    "sd3",
    MMDiTConfig,
    describe_networks,
    Work(count_flops, count_activations),
    "Stable Diffusion 3 and 3.5: a transformer of image and text",
    broken_rules,
    text=TextPath(
        encode_prompts,
        condition_on_text,
        ("text_encoder_3",),
        with_text_length,
        longest=MOST_T5_TOKENS,
    ),
    control=replace(CONTROL, candidates=list_candidates),
    presets=make_presets(),
    files=ORIGINALS,
    folders=dict.fromkeys(PIPELINES, read_folder),
    lora=LoraRules(LORA_TARGETS | {"projections": ("pos_embed.proj", "context_embedder")}),
)
"""The family of Stable Diffusion 3."""
