"""The published sizes of Qwen3 and Qwen3-VL (model cards of Qwen, config.json)."""

from __future__ import annotations

from dataclasses import replace

from ldmref.families.qwen3.encoder import Qwen3Config
from ldmref.families.qwen3.siblings import VL_THETA

SIZE_4B = Qwen3Config()
SIZE_06B = replace(
    SIZE_4B,
    hidden_size=1024,
    intermediate_size=3072,
    num_hidden_layers=28,
    num_attention_heads=16,
)
SIZE_8B = replace(SIZE_4B, hidden_size=4096, intermediate_size=12288)

QWEN3_SIZES = {
    "qwen3-0.6b": SIZE_06B,
    "qwen3-4b": SIZE_4B,
    "qwen3-8b": SIZE_8B,
    "qwen3-vl-4b": replace(SIZE_4B, rope_theta=VL_THETA),
    "qwen3-vl-8b": replace(SIZE_8B, rope_theta=VL_THETA),
}
"""Configurations by name. Tensors of qwen3-4b fit qwen3-vl-4b: only `rope_theta` differs."""
