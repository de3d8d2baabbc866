"""Z-Image: a transformer of one stream for image and caption, after Qwen3.

| file           | holds                                                                   |
|----------------|-------------------------------------------------------------------------|
| `config.py`    | the configuration, and what must fit together                           |
| `network.py`   | the transformer: refiners, one stream, learned padding tokens           |
| `text.py`      | the hidden states that are read                                         |
| `files.py`     | diffusers' folders, and single files of the makers and of ComfyUI       |
| `presets.py`   | the published sizes                                                     |

The network computes the makers' function: its time is 0 for noise and 1 for the image, and it
predicts x0 - eps. The declaration turns both around: samplers, guidance and traces see
ldmref's t and eps - x0. diffusers' guidance scale g is 1 + g here. Captions of different lengths in
one batch give each image as its caption alone does.

Z-Image Team 2025, arXiv:2511.22699.
"""

from __future__ import annotations

from ldmref.backends.base import Backend
from ldmref.families import joint_transformers
from ldmref.families.joint_transformers import (
    MASK,
    TIME,
    as_floating,
    describe_model,
    latents_input,
    text_input,
)
from ldmref.families.qwen3.prompts import CHAT, read_chat
from ldmref.families.z_image.config import SEGMENT, ZImageConfig, broken_rules, transformer_of
from ldmref.families.z_image.files import PIPELINES, SINGLE_FILES, read_folder
from ldmref.families.z_image.network import transformer, transformer_spec
from ldmref.families.z_image.presets import make_presets
from ldmref.math.arrays import Array
from ldmref.models.conditioning import get_hidden_states
from ldmref.models.config import ModelConfig
from ldmref.models.declared import DeclaredNetwork, TextAttention
from ldmref.models.family import (
    Family,
    GuidanceScale,
    LoraRules,
    Work,
    guide_by_difference,
)
from ldmref.models.flops import count_products, find_rows
from ldmref.models.params import Params

STEPS = 1000.0  # training timesteps of the noise, over the makers' time of the image
TEXT_ATTENTION = TextAttention(
    (".attention",), ("image", "text"), begin="layers.", multiple=SEGMENT
)
LORA_TARGETS = {
    "attention": (".to_q", ".to_k", ".to_v", ".to_out.0"),
    "feed_forward": (".w1", ".w2", ".w3"),
    "projections": ("all_x_embedder.2-1", "cap_embedder.1"),
}


def predict_velocity(
    ops: Backend,
    p: Params,
    config: ZImageConfig,
    x: Array,
    t: Array,
    context: Array,
    mask: Array | None = None,
) -> Array:
    """Predict the velocity eps - x0 of latents x_t = (1 - t) x0 + t eps.

    The makers' time runs from noise to image, and so does the velocity that they predict.

    Args:
        ops: The backend.
        p: The parameters of `transformer_spec`.
        config: The configuration.
        x: Noisy latents, (n, z, h, w).
        t: The times, multiplied by 1000, (n,).
        context: Hidden states of the captions, (n, l, cap_feat_dim), which may be cached.
        mask: 1 for tokens of a caption and 0 for padding, (n, l). None: all are tokens.

    Returns:
        (n, z, h, w).
    """
    xp = ops.xp
    states = get_hidden_states(context)
    if mask is None:
        mask = xp.ones_like(states[:, :, 0])
    t = (STEPS - as_floating(ops, t)) / STEPS
    return -transformer(ops, p, config, x, t, states, mask)


def describe_networks(config: ModelConfig) -> list[DeclaredNetwork]:
    """Return the networks of a model: text encoder, transformer and autoencoder."""
    denoiser = transformer_of(config)
    latents = latents_input(denoiser.in_channels)
    inputs = (latents, TIME, text_input(denoiser.cap_feat_dim), MASK)
    return describe_model(
        config,
        predict_velocity,
        transformer_spec,
        inputs,
        TEXT_ATTENTION,
        description="transformer of image and caption",
    )


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


Z_IMAGE = Family(
    "z-image",
    ZImageConfig,
    describe_networks,
    Work(count_flops, count_activations),
    "Z-Image: a transformer of one stream for image and caption, after Qwen3",
    broken_rules,
    text=read_chat(CHAT, multiple=SEGMENT, feels_weights=False),
    presets=make_presets(),
    files=SINGLE_FILES,
    folders=dict.fromkeys(PIPELINES, read_folder),
    guidance_scale=GuidanceScale(guide_by_difference),
    lora=LoraRules(LORA_TARGETS),
)
"""The family of Z-Image."""
