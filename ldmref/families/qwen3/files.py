"""The configuration files of transformers' Qwen3 and Qwen3-VL."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldmref.families.qwen3.encoder import Qwen3Config
from ldmref.io.diffusers.checks import read_json, require_plain

PLAIN: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "use_sliding_window": (False,),
}
DEFAULTS: dict[str, Any] = {  # of transformers' class
    "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
    "head_dim": 128, "rms_norm_eps": 1e-6,
}  # fmt: skip


def read_text_encoder(folder: Path) -> Qwen3Config:
    """Read the configuration of a folder of transformers, whose last hidden state is read.

    Which states a family reads, and of how many tokens, is not in the file: replace
    `hidden_layers`, `final_norm` and `max_position_embeddings`.

    Args:
        folder: The folder of a Qwen3 model, or of Qwen3-VL, of which the text part is used.

    Raises:
        InputError: There is no config.json.
        CorruptModelError: It asks for something that is not supported.
    """
    return convert_text_config(read_json(folder / "config.json"))


def convert_text_config(data: Mapping[str, Any]) -> Qwen3Config:
    """Convert the contents of a config.json; see `read_text_encoder`.

    Raises:
        CorruptModelError: It asks for something that is not supported.
    """
    data = data.get("text_config") or data
    require_plain(data, PLAIN, "the text encoder's configuration")
    fields = {name: data.get(name, default) for name, default in DEFAULTS.items()}
    rope = data.get("rope_parameters") or data.get("rope_scaling") or {}
    require_plain(rope, {"rope_type": ("default",)}, "the text encoder's rotary positions")
    theta = rope.get("rope_theta", data.get("rope_theta", 10000.0))
    return Qwen3Config(
        layer_norm_eps=float(fields.pop("rms_norm_eps")), rope_theta=float(theta), **fields
    )
