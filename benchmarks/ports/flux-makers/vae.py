"""Flux.1 802fb47: the makers' autoencoder, in PyTorch, which scales the latents within."""

import torch
from flux.modules.autoencoder import AutoEncoder, AutoEncoderParams
from judged import KitInputs, distance, judge

import ldmref

kit = KitInputs("flux-dev")
config = kit.config("vae")
widths = config["block_out_channels"]
params = AutoEncoderParams(
    resolution=8, in_channels=config["in_channels"], ch=4, out_ch=config["out_channels"],
    ch_mult=[width // 4 for width in widths], num_res_blocks=config["layers_per_block"],
    z_channels=config["latent_channels"], scale_factor=config["scaling_factor"],
    shift_factor=config["shift_factor"],
)  # fmt: skip
vae = AutoEncoder(params)
vae.load_state_dict({name: torch.tensor(x) for name, x in kit.original("vae").items()})
scale, shift = params.scale_factor, params.shift_factor
(image, mean), (latents, decoded) = (
    [torch.tensor(x).float() for x in (*inputs.values(), output)]
    for inputs, output in map(kit.call, ("vae.encode", "vae.decode"))
)
errors = {}
with torch.no_grad(), ldmref.recording({"vae": vae}) as run:
    found = vae.encode(image)
    errors["vae.encode"] = distance(found / scale + shift, mean.numpy())
    found = vae.decode((latents - shift) * scale)
    errors["vae.decode"] = distance(found, decoded.numpy())
judge("Flux.1 autoencoder", run.trace, kit, errors)
