"""keras-hub 0.32.0: the transformer of Flux.1 [dev], in Keras on PyTorch.

Error found: the MLPs of both streams have the exact GELU instead of its tanh approximation
(flux_layers.py, `DoubleStreamBlock`: `Activation("gelu")`).
"""

import os

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
from judged import KitInputs, distance, judge
from keras import ops
from keras_hub.src.models.flux.flux_model import FluxBackbone
from loading import load_weights

import ldmref
from ldmref.trace.name_maps import make_renamer

kit = KitInputs("flux-dev")
config = kit.config("transformer")
heads, width = config["num_attention_heads"], config["attention_head_dim"]
x, _ = kit.call("transformer.000")
n_text, axes = x["encoder_hidden_states"].shape[1], len(config["axes_dims_rope"])
n_image = x["sample"].size // config["in_channels"] // len(x["sample"])
net = FluxBackbone(
    config["in_channels"], heads * width, 4.0, heads, config["num_layers"],
    config["num_single_layers"], config["axes_dims_rope"], theta=10000, use_bias=True,
    guidance_embed=True, image_shape=(n_image, config["in_channels"]),
    text_shape=(n_text, config["joint_attention_dim"]), image_ids_shape=(n_image, axes),
    text_ids_shape=(n_text, axes), y_shape=(config["pooled_projection_dim"],),
)  # fmt: skip
BLOCK, SINGLE = "transformer_blocks.*", "single_transformer_blocks.*"
names = {
    "image_input_embedder": "x_embedder",
    "text_input_embedder": "context_embedder",
    "final_layer.linear": "proj_out",
    "final_layer.norm_final": "norm_out.layer_norm",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
    "single_blocks.*.linear1": [
        f"{SINGLE}.attn.to_q", f"{SINGLE}.attn.to_k", f"{SINGLE}.attn.to_v",
        [f"{SINGLE}.proj_mlp", 4],
    ],
    "single_blocks.*.linear2": f"{SINGLE}.proj_out",
    "single_blocks.*.pre_norm": f"{SINGLE}.norm.layer_norm",
    "single_blocks.*.modulation.linear_projection": f"{SINGLE}.norm.linear",
    "single_blocks.*.norm.query_norm": f"{SINGLE}.attn.norm_q",
    "single_blocks.*.norm.key_norm": f"{SINGLE}.attn.norm_k",
}  # fmt: skip
for part, out in (("time_input", "timestep"), ("vector", "text"), ("guidance_input", "guidance")):
    embedder = f"time_text_embed.{out}_embedder"
    names[f"{part}_embedder.input_layer"] = f"{embedder}.linear_1"
    names[f"{part}_embedder.output_layer"] = f"{embedder}.linear_2"
for stream, suffix, added, ff, out in (
    ("image", "", "", "ff", "to_out.0"),
    ("text", "_context", "added_", "ff_context", "to_add_out"),
):
    own = f"double_blocks.*.{stream}"
    qkv = [f"add_{x}_proj" if added else f"to_{x}" for x in "qkv"]
    names |= {
        f"{own}_attn.qkv": [f"{BLOCK}.attn.{name}" for name in qkv],
        f"{own}_attn.norm.query_norm": f"{BLOCK}.attn.norm_{added}q",
        f"{own}_attn.norm.key_norm": f"{BLOCK}.attn.norm_{added}k",
        f"{own}_attn.proj": f"{BLOCK}.attn.{out}",
        f"{own}_mod.linear_projection": f"{BLOCK}.norm1{suffix}.linear",
        f"{own}_norm1": f"{BLOCK}.norm1{suffix}.layer_norm",
        f"{own}_norm2": f"{BLOCK}.layer_norm" + "~1" * bool(added),
        f"{own}_mlp.0": f"{BLOCK}.{ff}.net.0.proj",
        f"{own}_mlp.2": f"{BLOCK}.{ff}.net.2",
    }
rename = make_renamer(names)


class Port(keras.layers.Layer):
    """The network with the arguments of diffusers, and latents for tokens."""

    def __init__(self):
        super().__init__()
        self.net, self.built = net, True

    def call(self, sample, timestep, encoder_hidden_states, pooled_projections, guidance):
        n, c, h, w = sample.shape
        cut = ops.transpose(ops.reshape(sample, (n, c, h // 2, 2, w // 2, 2)), (0, 2, 4, 1, 3, 5))
        rows, columns = np.indices((h // 2, w // 2)).reshape(2, -1)
        ids = np.stack([0 * rows, rows, columns], axis=-1)[None]
        y = self.net({
            "image": ops.reshape(cut, (n, n_image, 4 * c)),
            "image_ids": ops.convert_to_tensor(ids, "float32"),
            "text": encoder_hidden_states,
            "text_ids": ops.zeros((n, n_text, axes)),
            "y": pooled_projections,
            "timesteps": timestep / 1000.0,
            "guidance": guidance,
        })  # fmt: skip
        cut = ops.reshape(y, (n, h // 2, w // 2, c, 2, 2))
        return ops.reshape(ops.transpose(cut, (0, 3, 1, 4, 2, 5)), sample.shape)


weights = kit.weights("transformer")
for name in ("norm_out.linear.weight", "norm_out.linear.bias"):  # the makers have shift first
    weights[name] = np.roll(weights[name], heads * width, axis=0)
load_weights(net, names, weights)
port, errors = Port(), {}
with ldmref.recording(port, call="transformer", names=lambda path: rename(path[4:])) as run:
    for call in (f"transformer.{i:03}" for i in range(4)):
        x, expected = kit.call(call)
        y = port(**{role: array.astype(np.float32) for role, array in x.items()})
        errors[call] = distance(y.detach(), expected)
judge("Flux.1 dev transformer", run.trace, kit, errors)
