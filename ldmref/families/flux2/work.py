"""The work of one evaluation of FLUX.2's transformer."""

from __future__ import annotations

import math

from ldmref.families.flux2.config import transformer_of
from ldmref.families.flux2.network import transformer_spec
from ldmref.models.config import ModelConfig
from ldmref.models.params import flatten

ONCE = ("time_guidance_embed", "double_stream_modulation", "single_stream_modulation", "norm_out")


def count_tokens(config: ModelConfig, width: int, height: int) -> tuple[int, int]:
    """Return the number of cells of an image, and that of the tokens of its text."""
    return config.count_tokens(width, height), config.text_encoder.max_position_embeddings


def count_flops(config: ModelConfig, width: int, height: int) -> int:
    """Count the operations of one evaluation for one image of `width` x `height` pixels."""
    network = transformer_of(config)
    image, text = count_tokens(config, width, height)
    blocks = network.num_layers + network.num_single_layers
    total = 4 * blocks * (image + text) ** 2 * network.width
    for name, shape in flatten(transformer_spec(network)).items():
        if len(shape) < 2:
            continue
        rows = image
        if name.startswith(ONCE):
            rows = 1
        elif name.startswith("single_transformer_blocks"):
            rows = image + text
        elif name.startswith("context_embedder") or "add_" in name or "ff_context" in name:
            rows = text
        total += 2 * math.prod(shape) * rows
    return total


def count_activations(config: ModelConfig, width: int, height: int) -> int:
    """Count the numbers that a block of one stream holds at once.

    The stream and its norm, queries, keys, values and both halves of the MLP, attention's output,
    the gated MLP, and the two of them joined.
    """
    network = transformer_of(config)
    image, text = count_tokens(config, width, height)
    d, hidden = network.width, network.mlp_width
    return (image + text) * (2 * d + 3 * d + 2 * hidden + d + hidden + d + hidden)
