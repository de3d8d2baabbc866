"""FLUX.3: separate blocks for image, references and text, then one stream.

| file            | holds                                                               |
|-----------------|---------------------------------------------------------------------|
| `config.py`     | the configuration, and what must fit together                       |
| `network.py`    | the transformer, and its flow map                                   |
| `positions.py`  | positions on four axes                                              |
| `text.py`       | the hidden states that are read, and the window of a prompt         |
| `references.py` | reference images                                                    |
| `files.py`      | diffusers' folders, and the makers' single files                    |
| `presets.py`    | the published sizes                                                 |

The distilled model is a flow map: it also reads the time to which a step leads, and its guidance is
a part of it. The autoencoder is FLUX.2's.

Black Forest Labs 2026; diffusers 0.42.1, `Flux3Transformer2DModel`.
"""

from __future__ import annotations

from ldmref.families.flux3.config import WINDOW, Flux3Config, broken_rules, transformer_of
from ldmref.families.flux3.files import ORIGINALS, PIPELINES, read_folder
from ldmref.families.flux3.network import REFERENCES as REFERENCES_MODE
from ldmref.families.flux3.network import transformer, transformer_spec
from ldmref.families.flux3.presets import make_presets
from ldmref.families.flux3.references import REFERENCES
from ldmref.families.flux3.text import encode_prompts
from ldmref.families.joint_transformers import (
    MASK,
    TIME,
    count_tokens,
    describe_model,
    latents_input,
    text_input,
)
from ldmref.families.qwen3.prompts import CHAT, read_chat
from ldmref.models.config import ModelConfig
from ldmref.models.declared import BATCH, CallSize, DeclaredNetwork, NetworkInput, TextAttention
from ldmref.models.family import (
    Family,
    GuidanceScale,
    LoraRules,
    Work,
    guide_always,
)
from ldmref.models.flops import count_products, find_rows

LORA_TARGETS = {
    "attention": (".to_q", ".to_k", ".to_v", ".to_out.0"),
    "feed_forward": (".linear_in", ".linear_out"),
    "projections": ("x_embedders.image", "x_embedders.image_cond", "context_embedder"),
}
TEXT_ATTENTION = TextAttention(
    (".attn",), ("text", "image", "references"), begin="single_transformer_blocks."
)
TIMESTEPS = (CallSize("timesteps"),)


def list_inputs(network: Flux3Config) -> tuple[NetworkInput, ...]:
    """Return the arrays that the transformer takes."""
    z, tokens = network.in_channels, CallSize("references")
    end = NetworkInput("t_next", "target_timestep", TIMESTEPS, "ends")
    return (
        latents_input(z),
        TIME,
        text_input(network.joint_attention_dim),
        MASK,
        *((end,) if network.flow_map else ()),
        NetworkInput("reference_tokens", "image_cond_hidden_states", (BATCH, tokens, z)),
        NetworkInput("reference_places", "image_cond_ids", (BATCH, tokens, 4)),
    )


def describe_networks(config: ModelConfig) -> list[DeclaredNetwork]:
    """Return the networks of a model: text encoder, transformer and autoencoder."""
    return describe_model(
        config,
        transformer,
        transformer_spec,
        list_inputs(transformer_of(config)),
        TEXT_ATTENTION,
        description="transformer of image, references and text",
    )


def count_flops(config: ModelConfig, width: int, height: int) -> int:
    """Count the operations of one evaluation for one image of `width` x `height` pixels."""
    network = transformer_of(config)
    image, text = count_tokens(config, width, height)
    pairs = network.num_layers * (image**2 + text**2)
    pairs += network.num_single_layers * (image + text) ** 2
    total = 4 * network.width * pairs
    rows = {
        "timestep_embedder": 2,
        "target_timestep_embedder": 1,
        "early_stream_modulations": 1,
        "single_stream_modulations": 1,
        "x_embedders": image,
        "context_embedder": text,
        "mode_blocks": image,
        "txt_mode_blocks": text,
        "single_transformer_blocks": image + text,
        "norm_out": 1,
        "proj_out": image,
    }
    count_rows = find_rows(rows, {f".{REFERENCES_MODE}.": 0})
    return total + count_products(transformer_spec(network), count_rows)


def count_activations(config: ModelConfig, width: int, height: int) -> int:
    """Count the numbers that a block of all modes holds at once.

    In units of the width: the tokens, their norm and the result of attention; and of the
    feed-forward layer, both halves and their product.
    """
    network = transformer_of(config)
    image, text = count_tokens(config, width, height)
    return (image + text) * (3 * network.width + 3 * network.hidden)


FLUX3 = Family(
    "flux3",
    Flux3Config,
    describe_networks,
    Work(count_flops, count_activations),
    "FLUX.3: separate blocks for image, references and text, then one stream",
    broken_rules,
    text=read_chat(CHAT, encode=encode_prompts, multiple=WINDOW, reads_padding=True),
    references=REFERENCES,
    presets=make_presets(),
    files=ORIGINALS,
    folders=dict.fromkeys(PIPELINES, read_folder),
    guidance_scale=GuidanceScale(
        guide_always, reads=lambda config: not config.denoiser.is_flow_map
    ),
    lora=LoraRules(LORA_TARGETS),
)
"""The family of FLUX.3."""
