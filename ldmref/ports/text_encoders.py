"""The text encoders that families share, as transformers and diffusers have them."""

from __future__ import annotations

from typing import Any

from ldmref.models.text_config import TextConfig
from ldmref.ports.library_object import LibraryObject
from ldmref.ports.network_port import NetworkPort

# That transformers has under the same names
CLIP_FIELDS = """
    vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads
    max_position_embeddings hidden_act layer_norm_eps eos_token_id
""".split()
# In configuration files, what else published ones have and other programs read.
CLIP_TYPE = {"model_type": "clip_text_model"}
T5_TYPE = {
    "model_type": "t5",
    "dense_act_fn": "gelu_new",
    "is_gated_act": True,
    "tie_word_embeddings": False,
}


def describe_clip(config: TextConfig) -> LibraryObject:
    """Return transformers' `CLIPTextModel` of a configuration, or the one with a projection.

    >>> describe_clip(TextConfig(projection_dim=1280)).path
    'transformers:CLIPTextModelWithProjection'
    """
    kind = "CLIPTextModel" + "WithProjection" * bool(config.projection_dim)
    settings = {name: getattr(config, name) for name in CLIP_FIELDS}
    settings["projection_dim"] = config.projection_dim or config.hidden_size
    return LibraryObject(f"transformers:{kind}", settings, stored=CLIP_TYPE)


def select_hidden_states(output: Any, skip: int, pipe: object) -> Any:
    """Return the hidden states that diffusers' pipelines take from an output of transformers.

    Args:
        output: The output of the text encoder; T5's has no `hidden_states`.
        skip: The number of final layers to leave out.
        pipe: The pipeline. Those of several text encoders leave out the last layer of CLIP and its
            norm.
    """
    hidden = getattr(output, "hidden_states", None)
    if hidden and hasattr(pipe, "text_encoder_2"):
        return hidden[-(skip + 2)]
    if hidden and skip:  # the pipeline applies the norm itself, to replace this output
        return hidden[-(skip + 1)]
    return output.last_hidden_state


def describe_t5(config: TextConfig) -> LibraryObject:
    """Return transformers' `T5EncoderModel` of a configuration.

    >>> describe_t5(TextConfig(model_type="t5", hidden_size=4096)).settings["d_model"]
    4096
    """
    settings = {
        "vocab_size": config.vocab_size,
        "d_model": config.hidden_size,
        "d_kv": config.head_dim or config.hidden_size // config.num_attention_heads,
        "d_ff": config.intermediate_size,
        "num_layers": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "relative_attention_num_buckets": config.relative_attention_num_buckets,
        "relative_attention_max_distance": config.relative_attention_max_distance,
        "feed_forward_proj": "gated-gelu",
        "layer_norm_epsilon": config.layer_norm_eps,
    }
    return LibraryObject("transformers:T5EncoderModel", settings, stored=T5_TYPE)


def describe_ldmbert(config: TextConfig) -> LibraryObject:
    """Return diffusers' `LDMBertModel` of a configuration.

    >>> describe_ldmbert(TextConfig(model_type="ldmbert", hidden_size=1280)).settings["d_model"]
    1280
    """
    settings = {
        "vocab_size": config.vocab_size,
        "d_model": config.hidden_size,
        "encoder_ffn_dim": config.intermediate_size,
        "encoder_layers": config.num_hidden_layers,
        "encoder_attention_heads": config.num_attention_heads,
        "head_dim": config.head_dim or config.hidden_size // config.num_attention_heads,
        "max_position_embeddings": config.max_position_embeddings,
    }
    path = "diffusers.pipelines.latent_diffusion:LDMBertModel"
    return LibraryObject(path, settings, stored={"model_type": "ldmbert"})


CLIP_PORT = NetworkPort("clip", describe_clip, ("CLIPTextModel", "CLIPTextModelWithProjection"))
T5_PORT = NetworkPort("t5", describe_t5, ("T5EncoderModel",))
LDMBERT_PORT = NetworkPort("ldmbert", describe_ldmbert)
