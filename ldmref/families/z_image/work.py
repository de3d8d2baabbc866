"""The work of one evaluation of Z-Image's transformer."""

from __future__ import annotations

from ldmref.families import joint_transformers
from ldmref.families.z_image.config import SEGMENT, transformer_of
from ldmref.families.z_image.network import transformer_spec
from ldmref.models.config import ModelConfig
from ldmref.models.flops import count_products, find_rows


def count_tokens(config: ModelConfig, width: int, height: int) -> tuple[int, int]:
    """Return the numbers of tokens of image and caption, in whole segments."""
    image, caption = joint_transformers.count_tokens(config, width, height)
    return -(-image // SEGMENT) * SEGMENT, -(-caption // SEGMENT) * SEGMENT


def count_flops(config: ModelConfig, width: int, height: int) -> int:
    """Count the operations of one evaluation for one image of `width` x `height` pixels."""
    network = transformer_of(config)
    image, caption = count_tokens(config, width, height)
    both = image + caption
    pairs = network.n_refiner_layers * (image**2 + caption**2) + network.n_layers * both**2
    rows = {
        "all_x_embedder": image,
        "all_final_layer": both,
        "noise_refiner": image,
        "context_refiner": caption,
        "t_embedder": 1,
        "cap_embedder": caption,
        "layers": both,
    }
    count_rows = find_rows(rows, {"adaLN_modulation": 1, "pad_token": 0})
    return 4 * network.dim * pairs + count_products(transformer_spec(network), count_rows)


def count_activations(config: ModelConfig, width: int, height: int) -> int:
    """Count the numbers that a block holds at once: tokens, their norm, and three of the MLP."""
    network = transformer_of(config)
    image, caption = count_tokens(config, width, height)
    return (image + caption) * (2 * network.dim + 3 * network.hidden_dim)
