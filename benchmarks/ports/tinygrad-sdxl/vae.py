"""tinygrad a9069c1: the autoencoder of SDXL, in tinygrad, of examples/sdxl.py."""

import numpy as np
from dumping import Dump, load
from examples.sdxl import FirstStageModel
from judged import KitInputs, distance, judge
from tinygrad import Tensor

from ldmref.trace import build_trace

PREFIX = "first_stage_model."
kit = KitInputs("sdxl")
config = kit.config("vae")
Tensor.manual_seed(0)
vae = FirstStageModel(
    config["latent_channels"], ch=4, in_ch=3, out_ch=3, z_ch=config["latent_channels"],
    ch_mult=[width // 4 for width in config["block_out_channels"]],
    num_res_blocks=config["layers_per_block"], resolution=8,
)  # fmt: skip
load(vae, kit.original("vae"), PREFIX)


def encode(image):
    """Return the mean of the latents of images."""
    return vae.quant_conv(vae.encoder(image)).chunk(2, dim=1)[0]


for name, run, title in (("decode", vae.decode, "decoder"), ("encode", encode, "encoder")):
    dump = Dump(vae, PREFIX)
    dump.call = f"vae.{name}"
    inputs, expected = kit.call(dump.call)
    ((role, array),) = inputs.items()
    x = Tensor(np.array(array, np.float32))
    with dump.watch():
        y = run(x)
    dump.note("", **{f"input.{role}": x, "output" if name == "decode" else "output.mean": y})
    errors = {dump.call: distance(y.numpy(), expected)}
    judge(f"SDXL autoencoder, {title}", build_trace(dump.arrays), kit, errors)
