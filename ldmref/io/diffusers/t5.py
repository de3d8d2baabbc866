"""The configuration of transformers' T5EncoderModel, and the names in its files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldmref.io.diffusers.checks import require_plain
from ldmref.models.config import TextConfig

T5_CLASS = "T5EncoderModel"
PLAIN: dict[str, tuple[Any, ...]] = {
    "dense_act_fn": ("gelu_new",),
    "is_gated_act": (True,),
    "is_decoder": (False,),
}
# Defaults of T5Config, for fields that a configuration omits.
DEFAULTS: dict[str, Any] = {
    "vocab_size": 32128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 6,
    "num_heads": 8,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
}
FIELDS = {
    "d_model": "hidden_size",
    "d_kv": "head_dim",
    "d_ff": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "layer_norm_epsilon": "layer_norm_eps",
}


def convert_t5_config(data: Mapping[str, Any], length: int) -> TextConfig:
    """Convert the configuration of a T5 encoder.

    Args:
        data: The contents of config.json.
        length: The number of tokens that the pipeline gives it.

    Returns:
        The configuration; a family that masks padding sets `use_attention_mask` in it.

    Raises:
        CorruptModelError: It is another kind of T5: the first version has no gate.

    >>> from ldmref.io.diffusers import convert_t5_config
    >>> convert_t5_config({"d_model": 64, "feed_forward_proj": "gated-gelu"}, 120).hidden_size
    64
    """
    data = DEFAULTS | split_activation(str(data.get("feed_forward_proj", "relu"))) | dict(data)
    require_plain(data, PLAIN, "the T5 encoder's configuration")
    fields = {FIELDS.get(name, name): data[name] for name in DEFAULTS}
    fields["layer_norm_eps"] = float(fields["layer_norm_eps"])
    return TextConfig(
        model_type="t5",
        hidden_act="gelu_new",
        max_position_embeddings=length,
        eos_token_id=1,
        **fields,
    )


def split_activation(projection: str) -> dict[str, Any]:
    """Return the fields that `feed_forward_proj` stands for in transformers, where they win.

    >>> split_activation("gated-gelu")
    {'dense_act_fn': 'gelu_new', 'is_gated_act': True}
    """
    gate, _, name = projection.rpartition("-")
    dense = "gelu_new" if projection == "gated-gelu" else name
    return {"dense_act_fn": dense, "is_gated_act": gate == "gated"}
