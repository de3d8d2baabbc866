"""FLUX.3: separate blocks for image, references and text, then one stream.

| file            | holds                                                               |
|-----------------|---------------------------------------------------------------------|
| `config.py`     | the configuration, and what must fit together                       |
| `network.py`    | the transformer, and its flow map                                   |
| `positions.py`  | positions on four axes                                              |
| `text.py`       | the hidden states that are read, and the window of a prompt         |
| `references.py` | reference images                                                    |
| `files.py`      | diffusers' folders                                                  |
| `original.py`   | the makers' single files                                            |
| `presets.py`    | the published sizes                                                 |
| `work.py`       | operations and memory                                               |

The distilled model is a flow map: it also reads the time to which a step leads, and its guidance is
a part of it. The autoencoder is FLUX.2's.

Black Forest Labs 2026; diffusers 0.42.1, `Flux3Transformer2DModel`.
"""

from __future__ import annotations

from ldmref.families.flux3.config import WINDOW, Flux3Config, broken_rules, transformer_of
from ldmref.families.flux3.files import PIPELINES, read_folder
from ldmref.families.flux3.network import transformer, transformer_spec
from ldmref.families.flux3.original import ORIGINALS
from ldmref.families.flux3.presets import make_presets
from ldmref.families.flux3.references import REFERENCES
from ldmref.families.flux3.text import encode_prompts
from ldmref.families.flux3.work import count_activations, count_flops
from ldmref.families.joint_transformers import (
    MASK,
    TIME,
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
