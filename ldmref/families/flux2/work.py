"""The work of one evaluation of FLUX.2's transformer."""

from __future__ import annotations

from ldmref.families.flux2.config import transformer_of
from ldmref.families.flux2.network import transformer_spec
from ldmref.families.joint_transformers import count_tokens, count_two_stream_flops
from ldmref.models.config import ModelConfig

ONCE = ("time_guidance_embed", "double_stream_modulation", "single_stream_modulation", "norm_out")


def count_flops(config: ModelConfig, width: int, height: int) -> int:
    """Count the operations of one evaluation for one image of `width` x `height` pixels."""
    network = transformer_of(config)
    image, text = count_tokens(config, width, height)

    def is_once(name: str) -> bool:
        return name.startswith(ONCE)

    return count_two_stream_flops(network, transformer_spec(network), image, text, is_once)


def count_activations(config: ModelConfig, width: int, height: int) -> int:
    """Count the numbers that a block of one stream holds at once.

    The stream and its norm, queries, keys, values and both halves of the MLP, attention's output,
    the gated MLP, and the two of them joined.
    """
    network = transformer_of(config)
    image, text = count_tokens(config, width, height)
    d, hidden = network.width, network.mlp_width
    return (image + text) * (2 * d + 3 * d + 2 * hidden + d + hidden + d + hidden)
