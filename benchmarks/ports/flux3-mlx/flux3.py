"""flux3_mlx 0.1.0: the transformer of FLUX.3 [klein], in MLX.

No error found. It has the makers' conventions: the image's tokens first, the text without padding,
shift before scale in the last norm. Also as in the makers' code, times are rounded to bfloat16,
which the repair in port.toml leaves out: the kit's times are not.
"""

import flux3_mlx.dit as published
import mlx.core as mx
import mlx.nn as nn
import numpy as np
from flux3_mlx.autoencoder import latent_ids
from flux3_mlx.pipeline import scaled_ids
from judged import KitInputs, distance, judge

import ldmref

kit = KitInputs("flux3-klein")
config = kit.config("transformer")
published.HEADS, published.HEAD_DIM = config["num_attention_heads"], config["attention_head_dim"]
published.HIDDEN = published.HEADS * published.HEAD_DIM
published.DEPTH, published.DEPTH_SINGLE = config["num_layers"], config["num_single_layers"]
published.AXES_DIM, published.THETA = config["axes_dims_rope"], config["rope_theta"]
published.IN_CHANNELS = {
    "image": config["in_channels"],
    "image_cond": config["cond_in_channels"],
    "text": config["joint_attention_dim"],
}
published.set_compute_dtype(mx.float32)


class Port(nn.Module):
    """The network with the arguments of diffusers, and latents for tokens."""

    def __init__(self):
        super().__init__()
        self.net = published.DiT(flow_map=config["flow_map"])

    def __call__(
        self, sample, timestep, target_timestep, encoder_hidden_states, encoder_attention_mask
    ):
        _, c, h, w = sample.shape
        text = encoder_hidden_states[0, : int(encoder_attention_mask.sum())]
        text_ids = np.zeros((len(text), 4), np.float32)
        text_ids[:, 3] = np.arange(len(text))
        image = sample.reshape(c, h * w).T, scaled_ids(latent_ids(h, w))
        packed = published.pack([[(text, text_ids), None, image]])
        times = float(timestep[0]) / 1000.0, float(target_timestep[0]) / 1000.0
        return self.net(packed, times[0], t_ref=times[1]).T.reshape(sample.shape)


names = {
    "net.emb_in.*": "x_embedders.*",
    "net.txt_in": "context_embedder",
    "net.time_in.in_layer": "timestep_embedder.linear_1",
    "net.time_in.out_layer": "timestep_embedder.linear_2",
    "net.ref_time_in.in_layer": "target_timestep_embedder.linear_1",
    "net.ref_time_in.out_layer": "target_timestep_embedder.linear_2",
    "net.*_stream_modulations.*.lin": "*_stream_modulations.*.linear",
    "net.final_layer.image.adaLN_modulation.1": "norm_out.linear",
    "net.final_layer.image.linear": "proj_out",
}
LAYERS = {"q_proj": "attn.to_q", "k_proj": "attn.to_k", "v_proj": "attn.to_v",
          "attn_out": "attn.to_out.0", "mlp_in": "ff.linear_in",
          "mlp_out": "ff.linear_out"}  # fmt: skip
BLOCKS = {"content_mode_blocks": "mode_blocks", "txt_mode_blocks": "txt_mode_blocks",
          "single_blocks": "single_transformer_blocks"}  # fmt: skip
for block, ours in BLOCKS.items():
    names |= {f"net.{block}.*.{part}": f"{ours}.*.{name}" for part, name in LAYERS.items()}
names |= {
    "net.content_mode_blocks.*": "mode_blocks.*",
    "net.txt_mode_blocks.*": "txt_mode_blocks.*",
}

port, errors = Port(), {}
port.net.load_weights([(name, mx.array(x)) for name, x in kit.original().items()])
with ldmref.recording(port, call="transformer", names=names) as run:
    for call in (f"transformer.{i:03}" for i in range(4)):
        x, expected = kit.call(call)
        y = port(**{role: mx.array(array.astype(np.float32)) for role, array in x.items()})
        errors[call] = distance(y, expected)
judge("FLUX.3 klein transformer", run.trace, kit, errors)
