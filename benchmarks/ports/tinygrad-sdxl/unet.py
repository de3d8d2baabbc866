"""tinygrad a9069c1: the U-Net of SDXL, in tinygrad, as examples/sdxl.py calls it."""

import numpy as np
from dumping import Dump, load
from extra.models import unet
from judged import KitInputs, distance, judge
from tinygrad import Tensor, dtypes

from ldmref.trace import build_trace

PREFIX = "model.diffusion_model."
unet.mixed_precision_dtype = dtypes.float32
kit = KitInputs("sdxl")
config = kit.config("unet")
widths = config["block_out_channels"]
net = unet.UNetModel(
    config["projection_class_embeddings_input_dim"], config["in_channels"], config["out_channels"],
    widths[0], [2, 4], config["layers_per_block"], [width / widths[0] for width in widths],
    config["transformer_layers_per_block"], config["cross_attention_dim"],
    config["use_linear_projection"], n_heads=config["attention_head_dim"][0],
    num_groups=config["norm_num_groups"],
)  # fmt: skip
load(net, kit.original("unet"), PREFIX)
dump, errors = Dump(net, PREFIX), {}
with dump.watch():
    for dump.call in ("unet.000", "unet.003"):
        x, expected = kit.call(dump.call)
        given = {role: Tensor(np.array(value, np.float32)) for role, value in x.items()}
        dump.note("", **{f"input.{role}": value for role, value in given.items()})
        times = given["time_ids"]
        sizes = unet.timestep_embedding(times.flatten(), config["addition_time_embed_dim"])
        vector = given["text_embeds"].cat(sizes.reshape(len(x["time_ids"]), -1), dim=1)
        y = net(given["sample"], given["timestep"], given["encoder_hidden_states"], vector)
        dump.note("", output=y)
        errors[dump.call] = distance(y.numpy(), expected)
judge("SDXL U-Net", build_trace(dump.arrays), kit, errors)
