"""Qwen3 as transformers has it, and what pipelines of diffusers read of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ldmref.families.qwen3.encoder import OUT_LAYERS, Qwen3Config
from ldmref.models.text_config import MOST_TOKENS, TextConfig
from ldmref.ports.library_object import LibraryObject
from ldmref.ports.network_port import NetworkPort

# That transformers has under the same names
QWEN3_FIELDS = """
    vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads
    num_key_value_heads head_dim
""".split()
VISION = {  # of which no prompt reads anything
    "depth": 1,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_heads": 2,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0],
}
CONTEXT = MOST_TOKENS  # tokens of the published language model


def describe_qwen3(config: Qwen3Config) -> LibraryObject:
    """Return transformers' `Qwen3ForCausalLM` of a configuration.

    >>> describe_qwen3(Qwen3Config()).path
    'transformers:Qwen3ForCausalLM'
    """
    return LibraryObject(
        "transformers:Qwen3ForCausalLM",
        describe_settings(config),
        stored={"model_type": "qwen3"},
        rename=lambda name: f"model.{name}",
    )


def describe_qwen3_vl(config: TextConfig, kind: str) -> LibraryObject:
    """Return a class of transformers for Qwen3-VL, with the smallest network that sees images.

    Args:
        config: The configuration of the text part.
        kind: The class.

    >>> describe_qwen3_vl(Qwen3Config(), "Qwen3VLModel").settings["vision_config"]["depth"]
    1
    """
    assert isinstance(config, Qwen3Config)
    half = config.head_dim // 2  # angles of a head, shared by time, row and column
    text = describe_settings(config)
    text["rope_parameters"] |= {"mrope_section": [half - 2 * (half // 3), half // 3, half // 3]}
    vision = VISION | {"out_hidden_size": config.hidden_size}
    before = "language_model." if kind == "Qwen3VLModel" else "model.language_model."
    return LibraryObject(
        f"transformers:{kind}",
        {"text_config": text, "vision_config": vision},
        stored={"model_type": "qwen3_vl"},
        rename=lambda name: before + name,
    )


def describe_settings(config: Qwen3Config) -> dict[str, Any]:
    """Return the fields of the configuration of transformers."""
    read = {OUT_LAYERS: [*config.hidden_layers]} if len(config.hidden_layers) > 1 else {}
    return {
        **{name: getattr(config, name) for name in QWEN3_FIELDS},
        **read,
        "rms_norm_eps": config.layer_norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": True,
    }


class TextProcessor:
    """The texts of Qwen3-VL's processor, whose images need more libraries.

    Args:
        tokenizer: A tokenizer of transformers.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer

    def __call__(self, text: list[str], **options: object) -> Any:
        """Return the ids and the mask of texts."""
        return self.tokenizer(text, **options)

    def apply_chat_template(self, messages: Sequence[Mapping[str, Any]], **options: object) -> Any:
        """Return messages with the text before and after them."""
        return self.tokenizer.apply_chat_template(messages, **options)


def read_layers(output: Any, usual: Sequence[int], skip: int, pipe: object) -> Any:
    """Return the hidden states that a pipeline of diffusers reads, side by side.

    Args:
        output: The output of transformers' Qwen3 with its hidden states.
        usual: The layers that are read where the encoder's configuration says no others.
        skip: Number of layers by which the states come earlier.
        pipe: The pipeline.
    """
    config = getattr(getattr(pipe, "text_encoder", None), "config", None)
    config = getattr(config, "text_config", config)
    layers = getattr(config, OUT_LAYERS, None) or usual
    if max(layers) >= len(output.hidden_states):  # a call that names others: not known
        return output.hidden_states[-1 - skip]
    return join_layers(output, layers, skip)


def join_layers(output: Any, layers: Sequence[int], skip: int) -> Any:
    """Return the hidden states of some layers side by side, (n, l, k * hidden_size).

    Args:
        output: The output of transformers' Qwen3 with its hidden states.
        layers: The numbers of the layers, 0 for the embeddings.
        skip: Number of layers by which the states come earlier.
    """
    import torch

    return torch.cat([output.hidden_states[number - skip] for number in layers], dim=-1)


QWEN3_PORT = NetworkPort(
    "qwen3",
    describe_qwen3,
    (
        "Qwen3Model",
        "Qwen3ForCausalLM",
        "Qwen3VLTextModel",
        "Qwen3VLModel",
        "Qwen3VLForConditionalGeneration",
    ),
)
