"""generative-models 0ad7de9: the makers' U-Net of SDXL, in PyTorch, with its embedding of sizes."""

import torch
from judged import KitInputs, distance, judge
from sgm.modules.diffusionmodules.openaimodel import Timestep, UNetModel

import ldmref

PREFIX = "model.diffusion_model."
kit = KitInputs("sdxl")
config = kit.config("unet")
widths = config["block_out_channels"]
heads = config["attention_head_dim"][0]
net = UNetModel(
    config["in_channels"], widths[0], config["out_channels"], config["layers_per_block"], [2, 4],
    channel_mult=[x / widths[0] for x in widths], num_classes="sequential", num_heads=heads,
    transformer_depth=config["transformer_layers_per_block"], use_linear_in_transformer=True,
    context_dim=config["cross_attention_dim"], spatial_transformer_attn_type="softmax",
    adm_in_channels=config["projection_class_embeddings_input_dim"],
)  # fmt: skip
of_sizes = Timestep(config["addition_time_embed_dim"])
weights = {name: torch.tensor(x) for name, x in kit.original("unet").items() if PREFIX in name}
net.load_state_dict({name.removeprefix(PREFIX): x for name, x in weights.items()})
errors = {}
with torch.no_grad(), ldmref.recording(net, call="unet") as run:
    for call in ("unet.000", "unet.003"):
        x, expected = kit.call(call)
        given = {role: torch.tensor(value).float() for role, value in x.items()}
        sizes = of_sizes(given["time_ids"].flatten()).reshape(len(expected), -1)
        vector = torch.cat([given["text_embeds"], sizes], dim=1)
        y = net(given["sample"], given["timestep"], given["encoder_hidden_states"], vector)
        errors[call] = distance(y, expected)
judge("SDXL U-Net", run.trace, kit, errors)
