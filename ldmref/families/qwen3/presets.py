"""The published sizes of Qwen3 and Qwen3-VL (model cards of Qwen, config.json)."""

from __future__ import annotations

from dataclasses import replace

from ldmref.families.qwen3.encoder import Qwen3Config
from ldmref.families.qwen3.siblings import VL_THETA
from ldmref.models.text_config import TextConfig

SIZE_4B = Qwen3Config()
SIZE_06B = replace(
    SIZE_4B,
    hidden_size=1024,
    intermediate_size=3072,
    num_hidden_layers=28,
    num_attention_heads=16,
)
SIZE_8B = replace(SIZE_4B, hidden_size=4096, intermediate_size=12288)


def shrink_qwen3(text: TextConfig, length: int, layers: int = 3) -> Qwen3Config:
    """Return a small version of a text encoder, for golden cases.

    Args:
        text: The configuration of a Qwen3.
        length: The number of tokens that it reads at once.
        layers: The number of its layers.
    """
    assert isinstance(text, Qwen3Config)
    return replace(
        text,
        vocab_size=512,
        hidden_size=20,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=6,
        max_position_embeddings=length,
    )


QWEN3_SIZES = {
    "qwen3-0.6b": SIZE_06B,
    "qwen3-4b": SIZE_4B,
    "qwen3-8b": SIZE_8B,
    "qwen3-vl-4b": replace(SIZE_4B, rope_theta=VL_THETA),
    "qwen3-vl-8b": replace(SIZE_8B, rope_theta=VL_THETA),
}
"""Configurations by name. Tensors of qwen3-4b fit qwen3-vl-4b: only `rope_theta` differs."""
