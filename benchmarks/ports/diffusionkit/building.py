"""Build DiffusionKit's transformer at the size of a kit, and the names of its layers."""

from __future__ import annotations

import sys
import types
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from judged import KitInputs, distance, judge

import ldmref

# Its __init__ needs packages of macOS.
PACKAGE = "diffusionkit.mlx"
sys.modules[PACKAGE] = package = types.ModuleType(PACKAGE)
package.__path__ = [str(Path(str(find_spec("diffusionkit").origin)).parent / "mlx")]  # type: ignore

JOINT = {
    "image_transformer_block.attn.q_proj": "attn.to_q",
    "image_transformer_block.attn.k_proj": "attn.to_k",
    "image_transformer_block.attn.v_proj": "attn.to_v",
    "image_transformer_block.attn.o_proj": "attn.to_out.0",
    "image_transformer_block.qk_norm.q_norm": "attn.norm_q",
    "image_transformer_block.qk_norm.k_norm": "attn.norm_k",
    "image_transformer_block.mlp.fc1": "ff.net.0.proj",
    "image_transformer_block.mlp.fc2": "ff.net.2",
    "image_transformer_block.adaLN_modulation.layers.1": "norm1.linear",
    "text_transformer_block.attn.q_proj": "attn.add_q_proj",
    "text_transformer_block.attn.k_proj": "attn.add_k_proj",
    "text_transformer_block.attn.v_proj": "attn.add_v_proj",
    "text_transformer_block.attn.o_proj": "attn.to_add_out",
    "text_transformer_block.qk_norm.q_norm": "attn.norm_added_q",
    "text_transformer_block.qk_norm.k_norm": "attn.norm_added_k",
    "text_transformer_block.mlp.fc1": "ff_context.net.0.proj",
    "text_transformer_block.mlp.fc2": "ff_context.net.2",
    "text_transformer_block.adaLN_modulation.layers.1": "norm1_context.linear",
    "transformer_block.attn.q_proj": "attn.to_q",
    "transformer_block.attn.k_proj": "attn.to_k",
    "transformer_block.attn.v_proj": "attn.to_v",
    "transformer_block.qk_norm.q_norm": "attn.norm_q",
    "transformer_block.qk_norm.k_norm": "attn.norm_k",
    "transformer_block.mlp.fc1": "proj_mlp",
    "transformer_block.adaLN_modulation.layers.1": "norm.linear",
    "y_embedder.mlp.layers.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.layers.2": "time_text_embed.text_embedder.linear_2",
    "t_embedder.mlp.layers.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.layers.2": "time_text_embed.timestep_embedder.linear_2",
    "final_layer.adaLN_modulation.layers.1": "norm_out.linear",
    "final_layer.linear": "proj_out",
}
NAMED = ("context_embedder", *JOINT.values())


def rename(path: str) -> str | None:
    """Return diffusers' name of a layer; None: it has none, or is only a part of one there."""
    path = path.removeprefix("net.")
    path = path.replace("multimodal_transformer_blocks", "transformer_blocks")
    path = path.replace("unified_transformer_blocks", "single_transformer_blocks")
    for own, name in JOINT.items():
        path = path.replace(own, name)
    return path if path.endswith(NAMED) and "_block." not in path else None


class Transformer(nn.Module):
    """The transformer with what the pipeline computes of the time before it is called.

    Args:
        net: The port's network.
        weights: Its weights, which it drops after computing the modulations.
    """

    def __init__(self, net: Any, weights: dict[str, mx.array]):
        super().__init__()
        self.net = net
        self._weights = [*weights.items()]

    def __call__(
        self,
        sample: mx.array,
        timestep: mx.array,
        encoder_hidden_states: mx.array,
        pooled_projections: mx.array,
    ) -> mx.array:
        """Return the velocity, (n, h, w, c)."""
        self.net.load_weights(self._weights, strict=False)
        self.net.cache_modulation_params(pooled_projections, timestep[:1])
        return self.net(sample, mx.expand_dims(encoder_hidden_states, 2), timestep)


def judge_port(title: str, kit: KitInputs, port: Transformer) -> None:
    """Judge the transformer in all calls of a kit.

    Args:
        title: What ran.
        kit: The kit.
        port: The transformer, with the kit's weights.
    """
    errors = {}
    with ldmref.recording(port, call="transformer", names=rename) as run:
        for call in kit.calls("transformer"):
            x, expected = kit.call(call)
            x = {role: mx.array(value.astype(np.float32)) for role, value in x.items()}
            sample = x["sample"].transpose(0, 2, 3, 1)
            y = port(sample, x["timestep"], x["encoder_hidden_states"], x["pooled_projections"])
            errors[call] = distance(y.transpose(0, 3, 1, 2), expected)
    judge(title, run.trace, kit, errors)
