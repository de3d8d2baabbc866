"""stable-diffusion 21f890f: the makers' U-Net of Stable Diffusion 1.5, in PyTorch."""

import torch
from judged import KitInputs, distance, judge
from ldm.modules.diffusionmodules.openaimodel import UNetModel

import ldmref

PREFIX = "model.diffusion_model."
kit = KitInputs("sd15")
config = kit.config("unet")
widths = config["block_out_channels"]
net = UNetModel(
    image_size=config["sample_size"], in_channels=config["in_channels"],
    out_channels=config["out_channels"], model_channels=widths[0], attention_resolutions=[1, 2],
    num_res_blocks=config["layers_per_block"], channel_mult=[x / widths[0] for x in widths],
    num_heads=config["attention_head_dim"][0], use_spatial_transformer=True, legacy=False,
    context_dim=config["cross_attention_dim"],
)  # fmt: skip
weights = {name: torch.tensor(x) for name, x in kit.original("unet").items()}
of_unet = {name for name in weights if name.startswith(PREFIX)}
net.load_state_dict({name.removeprefix(PREFIX): weights[name] for name in of_unet})
errors = {}
with torch.no_grad(), ldmref.recording(net, call="unet") as run:
    for call in ("unet.000", "unet.003"):
        x, expected = kit.call(call)
        given = {role: torch.tensor(value).float() for role, value in x.items()}
        y = net(given["sample"], given["timestep"], context=given["encoder_hidden_states"])
        errors[call] = distance(y, expected)
judge("Stable Diffusion 1.5 U-Net", run.trace, kit, errors)
