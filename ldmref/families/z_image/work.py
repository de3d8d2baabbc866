"""The work of one evaluation of Z-Image's transformer."""

from __future__ import annotations

from ldmref.families.joint_transformers import FREQUENCIES
from ldmref.families.z_image.config import SEGMENT, transformer_of
from ldmref.families.z_image.network import TIME_WIDTH
from ldmref.models.config import ModelConfig
from ldmref.models.transformer_layers import PATCH


def count_tokens(config: ModelConfig, width: int, height: int) -> tuple[int, int]:
    """Return the numbers of tokens of image and caption, in whole segments."""
    caption = config.text_encoder.max_position_embeddings
    image = config.count_tokens(width, height)
    return -(-image // SEGMENT) * SEGMENT, -(-caption // SEGMENT) * SEGMENT


def count_flops(config: ModelConfig, width: int, height: int) -> int:
    """Count the operations of one evaluation for one image of `width` x `height` pixels."""
    network = transformer_of(config)
    d = network.dim
    image, caption = count_tokens(config, width, height)

    def block(tokens: int, modulated: bool) -> int:
        products = 2 * tokens * (4 * d * d + 3 * d * network.hidden_dim)
        modulation = 2 * network.time_dim * 4 * d if modulated else 0
        return products + 4 * tokens * tokens * d + modulation

    refiners = network.n_refiner_layers * (block(image, True) + block(caption, False))
    both = image + caption
    patch = PATCH**2 * network.in_channels
    time = 2 * (FREQUENCIES * TIME_WIDTH + TIME_WIDTH * network.time_dim)
    ends = 2 * patch * d * (image + both) + 2 * network.cap_feat_dim * d * caption
    final = 2 * network.time_dim * d
    return refiners + network.n_layers * block(both, True) + time + ends + final


def count_activations(config: ModelConfig, width: int, height: int) -> int:
    """Count the numbers that a block holds at once: tokens, their norm, and three of the MLP."""
    network = transformer_of(config)
    image, caption = count_tokens(config, width, height)
    return (image + caption) * (2 * network.dim + 3 * network.hidden_dim)
