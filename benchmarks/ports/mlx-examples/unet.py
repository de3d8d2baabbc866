"""mlx-examples 7ddca42: the U-Net of Stable Diffusion 2.1 and of SDXL, in MLX.

Error found: the group norm before each transformer has MLX's own eps, 1e-5, instead of 1e-6.
"""

import mlx.core as mx
import numpy as np
from judged import KitInputs, distance, judge
from loading import load_weights, rename
from stable_diffusion.stable_diffusion.config import UNetConfig
from stable_diffusion.stable_diffusion.model_io import map_unet_weights
from stable_diffusion.stable_diffusion.unet import UNetModel

import ldmref

SAME = (
    "in_channels out_channels block_out_channels norm_num_groups down_block_types "
    "addition_embed_type addition_time_embed_dim projection_class_embeddings_input_dim"
)


def build(config):
    """Return a U-Net, as `load_unet` of the port builds it from the published configuration."""
    count = len(config["block_out_channels"])
    heads, layers = config["attention_head_dim"], config["transformer_layers_per_block"]
    return UNetModel(
        UNetConfig(
            layers_per_block=[config["layers_per_block"]] * count,
            transformer_layers_per_block=[layers] * count if isinstance(layers, int) else layers,
            num_attention_heads=[heads] * count if isinstance(heads, int) else heads,
            cross_attention_dim=[config["cross_attention_dim"]] * count,
            up_block_types=config["up_block_types"][::-1],
            **{name: config[name] for name in SAME.split()},
        )
    )


for name, title in (("sd2-base", "Stable Diffusion 2.1"), ("sdxl", "SDXL")):
    kit = KitInputs(name)
    net = build(kit.config("unet"))
    load_weights(net, kit.weights("unet"), map_unet_weights)
    errors = {}
    with ldmref.recording(net, call="unet", names=rename) as run:
        for call in kit.calls("unet"):
            x, expected = kit.call(call)
            x = {role: mx.array(array.astype(np.float32)) for role, array in x.items()}
            sample = x["sample"].transpose(0, 2, 3, 1)
            text = x["encoder_hidden_states"]
            more = (x["text_embeds"], x["time_ids"]) if "text_embeds" in x else None
            y = net(sample, x["timestep"], text, text_time=more)
            errors[call] = distance(y.transpose(0, 3, 1, 2), expected)
    judge(f"{title} U-Net", run.trace, kit, errors)
