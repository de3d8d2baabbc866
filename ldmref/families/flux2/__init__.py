"""FLUX.2 klein: a transformer whose first blocks have two streams, after Qwen3.

| file             | holds                                                            |
|------------------|------------------------------------------------------------------|
| `config.py`      | the configuration of the transformer, and what must fit together |
| `network.py`     | the transformer                                                  |
| `text.py`        | the chat around a prompt, and the layers of Qwen3 that are read  |
| `references.py`  | reference images as further tokens                               |
| `files.py`       | diffusers' folders, and the makers' single files                 |
| `presets.py`     | the published sizes                                              |

The levels are shifted by the numbers of image tokens and of steps. A distilled model is one whose
default guidance scale is 1: diffusers ignores another one there, ldmref does what is asked. The
autoencoder is `ldmref.families.autoencoders.flux2`.

Black Forest Labs 2025, github.com/black-forest-labs/flux2.
"""

from __future__ import annotations

from ldmref.families.flux2.config import Flux2Config, broken_rules, transformer_of
from ldmref.families.flux2.files import ORIGINALS, PIPELINES, read_folder
from ldmref.families.flux2.network import transformer, transformer_spec
from ldmref.families.flux2.presets import SCALES, make_presets
from ldmref.families.flux2.references import REFERENCES
from ldmref.families.flux2.text import CHAT, encode_prompts
from ldmref.families.joint_transformers import (
    GUIDANCE,
    TIME,
    count_tokens,
    count_two_stream_flops,
    describe_model,
    latents_input,
    text_input,
)
from ldmref.families.qwen3.prompts import read_chat
from ldmref.models.config import ModelConfig
from ldmref.models.declared import BATCH, CallSize, DeclaredNetwork, NetworkInput, TextAttention
from ldmref.models.family import (
    Family,
    GuidanceScale,
    LoraRules,
    Work,
)

LORA_TARGETS = {
    "attention": (".to_q", ".to_k", ".to_v", ".to_out.0", ".add_q_proj", ".add_k_proj",
                  ".add_v_proj", ".to_add_out", ".to_qkv_mlp_proj", ".attn.to_out"),
    "feed_forward": (".ff.linear_in", ".ff.linear_out", ".ff_context.linear_in",
                     ".ff_context.linear_out"),
    "projections": ("x_embedder", "context_embedder"),
}  # fmt: skip
TEXT_ATTENTION = TextAttention((".attn",), ("text", "image", "references"))
REFERENCE_TOKENS = CallSize("references")
ONCE = ("time_guidance_embed", "double_stream_modulation", "single_stream_modulation", "norm_out")


def describe_networks(config: ModelConfig) -> list[DeclaredNetwork]:
    """Return the networks of a model: text encoder, transformer and autoencoder."""
    denoiser = transformer_of(config)
    z = denoiser.in_channels
    inputs = (
        latents_input(z),
        TIME,
        text_input(denoiser.joint_attention_dim),
        *((GUIDANCE,) if denoiser.guidance_embeds else ()),
        NetworkInput("reference_tokens", "reference_tokens", (BATCH, REFERENCE_TOKENS, z)),
        NetworkInput("reference_positions", "reference_positions", (BATCH, REFERENCE_TOKENS, 4)),
    )
    return describe_model(config, transformer, transformer_spec, inputs, TEXT_ATTENTION)


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


FLUX2 = Family(
    "flux2",
    Flux2Config,
    describe_networks,
    Work(count_flops, count_activations),
    "FLUX.2 klein: a transformer with streams for image and text, then one for both, after Qwen3",
    broken_rules,
    text=read_chat(CHAT, encode=encode_prompts),
    references=REFERENCES,
    presets=make_presets(),
    files=ORIGINALS,
    folders=dict.fromkeys(PIPELINES, read_folder),
    guidance_scale=GuidanceScale(reads=lambda config: config.defaults.cfg_scale != SCALES[True]),
    draws_images=False,
    lora=LoraRules(LORA_TARGETS),
)
"""The family of FLUX.2 klein."""
