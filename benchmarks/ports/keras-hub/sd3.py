"""keras-hub 0.32.0: the transformer of Stable Diffusion 3.5 medium, in Keras on PyTorch.

No error found. The last norms have shift before scale, as the makers' file.
"""

import os
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
from judged import KitInputs, distance, judge
from keras import ops
from keras_hub.src.models.stable_diffusion_3.mmdit import MMDiT
from loading import load_weights

import ldmref

kit = KitInputs("sd35-medium")
config, (x, _) = kit.config("transformer"), kit.call("transformer.000")
heads, depth = config["num_attention_heads"], config["num_layers"]
width = heads * config["attention_head_dim"]


class Port(keras.layers.Layer):
    """The network with the arguments of diffusers, and channels before rows and columns."""

    def __init__(self):
        super().__init__()
        self.net = MMDiT(
            config["patch_size"], width, depth, heads, config["pos_embed_max_size"],
            latent_shape=x["sample"].transpose(0, 2, 3, 1).shape[1:],
            context_shape=x["encoder_hidden_states"].shape[1:],
            pooled_projection_shape=x["pooled_projections"].shape[1:], qk_norm=config["qk_norm"],
            dual_attention_indices=config["dual_attention_layers"],
        )  # fmt: skip
        self.built = True

    def call(self, sample, timestep, encoder_hidden_states, pooled_projections):
        y = self.net({
            "latent": ops.transpose(sample, (0, 2, 3, 1)),
            "context": encoder_hidden_states,
            "pooled_projection": pooled_projections,
            "timestep": timestep[:, None],
        })  # fmt: skip
        return ops.transpose(y, (0, 3, 1, 2))


EMBED, BLOCK = "time_text_embed", "transformer_blocks.*"
names: dict[str, Any] = {
    "net.patch_embedding.patch_embedding": "pos_embed.proj",
    "net.context_embedding": "context_embedder",
    "net.output_ada_layer_norm.dense": "norm_out.linear",
    "net.output_ada_layer_norm.norm": "norm_out.layer_norm",
    "net.output_dense": "proj_out",
}


def add_mlp(mlp, first, act, second):
    """Add the layers of an MLP of keras-hub, of which the first has an activation within."""
    names.update({f"{mlp}.dense1": first, f"{mlp}.dense2": second})
    names[f"{mlp}.dense1.activation"] = act


def add_attention(block, number, attention, queries, norms, out):
    """Add the layers of an attention."""
    names.update({
        f"{block}.attention_qkv{number}": [f"{BLOCK}.{attention}.{name}" for name in queries],
        f"{block}.q_norm{number}": f"{BLOCK}.{attention}.{norms}q",
        f"{block}.k_norm{number}": f"{BLOCK}.{attention}.{norms}k",
        f"{block}.attention_proj{number}": f"{BLOCK}.{attention}.{out}",
    })  # fmt: skip


for mlp, name in (("vector_embedding", "text"), ("timestep_embedding.mlp", "timestep")):
    embedder = f"{EMBED}.{name}_embedder"
    add_mlp(f"net.{mlp}", f"{embedder}.linear_1", f"{embedder}.silu", f"{embedder}.linear_2")
for stream, end, again in (("x", "", ""), ("context", "_context", "~1")):
    block, ff = f"net.joint_blocks.*.{stream}_block", f"{BLOCK}.ff{end}.net"
    names[f"{block}.ada_layer_norm.dense"] = f"{BLOCK}.norm1{end}.linear"
    names[f"{block}.ada_layer_norm.norm"] = f"{BLOCK}.norm1{end}.layer_norm"
    names[f"{block}.norm2"] = f"{BLOCK}.layer_norm{again}"
    add_mlp(f"{block}.mlp", f"{ff}.0.proj", f"{ff}.0.gelu_tanh", f"{ff}.2")
OWN, ADDED = ("to_q", "to_k", "to_v"), ("add_q_proj", "add_k_proj", "add_v_proj")
add_attention("net.joint_blocks.*.x_block", "", "attn", OWN, "norm_", "to_out.0")
add_attention("net.joint_blocks.*.x_block", "2", "attn2", OWN, "norm_", "to_out.0")
add_attention("net.joint_blocks.*.context_block", "", "attn", ADDED, "norm_added_", "to_add_out")

weights = kit.weights("transformer")
for layer in ("norm_out", f"transformer_blocks.{depth - 1}.norm1_context"):  # shift is first
    for name in (f"{layer}.linear.weight", f"{layer}.linear.bias"):
        weights[name] = np.roll(weights[name], width, axis=0)
port, errors = Port(), {}
load_weights(port, names | {"net.position_embedding": "pos_embed"}, weights)
with ldmref.recording(port, call="transformer", names=names) as run:
    for call in (f"transformer.{i:03}" for i in range(6)):
        x, expected = kit.call(call)
        y = port(**{role: array.astype(np.float32) for role, array in x.items()})
        errors[call] = distance(y.detach(), expected)
judge("SD3.5 medium transformer", run.trace, kit, errors)
