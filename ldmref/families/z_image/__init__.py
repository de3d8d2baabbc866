"""Z-Image: a transformer of one stream for image and caption, after Qwen3.

| file           | holds                                                                   |
|----------------|-------------------------------------------------------------------------|
| `config.py`    | the configuration, and what must fit together                           |
| `network.py`   | the transformer: refiners, one stream, learned padding tokens           |
| `text.py`      | the hidden states that are read                                         |
| `files.py`     | diffusers' folders                                                      |
| `original.py`  | single files, of the makers and of ComfyUI                              |
| `presets.py`   | the published sizes                                                     |
| `work.py`      | operations and memory                                                   |

The network computes the makers' function: its time is 0 for noise and 1 for the image, and it
predicts x0 - eps. The declaration turns both around: samplers, guidance and traces see
ldmref's t and eps - x0. diffusers' guidance scale g is 1 + g here. Captions of different lengths in
one batch give each image as its caption alone does.

Z-Image Team 2025, arXiv:2511.22699.
"""

from __future__ import annotations

from ldmref.backends.base import Backend
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
from ldmref.families.z_image.files import PIPELINES, read_folder
from ldmref.families.z_image.network import transformer, transformer_spec
from ldmref.families.z_image.original import SINGLE_FILES
from ldmref.families.z_image.presets import make_presets
from ldmref.families.z_image.work import count_activations, count_flops
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
