"""FLUX.2 ab7cca6: the makers' autoencoder, in PyTorch, which normalizes the latents within."""

import torch
from flux2.autoencoder import AutoEncoder, AutoEncoderParams
from judged import KitInputs, distance, judge

import ldmref

kit = KitInputs("flux2-klein-4b")
config = kit.config("vae")
params = AutoEncoderParams(
    resolution=8, in_channels=config["in_channels"], ch=4, out_ch=config["out_channels"],
    ch_mult=[width // 4 for width in config["block_out_channels"]],
    num_res_blocks=config["layers_per_block"], z_channels=config["latent_channels"],
)  # fmt: skip
vae = AutoEncoder(params).eval()
vae.load_state_dict({name: torch.tensor(x) for name, x in kit.original("vae").items()}, False)
(image, mean), (latents, decoded) = (
    [torch.tensor(x).float() for x in (*inputs.values(), output)]
    for inputs, output in map(kit.call, ("vae.encode", "vae.decode"))
)


def pack(x):
    """Return latents as the makers' transformer reads them."""
    return vae.normalize(torch.nn.functional.pixel_unshuffle(x, 2))


errors = {}
with torch.no_grad():
    packed, expected = pack(latents), pack(mean)
    with ldmref.recording({"vae": vae}) as run:
        errors["vae.encode"] = distance(vae.encode(image), expected.numpy())
        errors["vae.decode"] = distance(vae.decode(packed), decoded.numpy())
judge("FLUX.2 autoencoder", run.trace, kit, errors)
