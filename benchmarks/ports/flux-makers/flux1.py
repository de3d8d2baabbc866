"""Flux.1 802fb47: the makers' transformer of Flux.1 [dev], in PyTorch, as `denoise` calls it."""

import torch
from einops import rearrange
from flux.model import Flux, FluxParams
from judged import KitInputs, distance, judge

import ldmref

PACKED = "b c (h ph) (w pw) -> b (h w) (c ph pw)"
kit = KitInputs("flux-dev")
config = kit.config("transformer")
net = Flux(
    FluxParams(
        in_channels=config["in_channels"], out_channels=config["out_channels"],
        vec_in_dim=config["pooled_projection_dim"], context_in_dim=config["joint_attention_dim"],
        hidden_size=config["num_attention_heads"] * config["attention_head_dim"], mlp_ratio=4.0,
        num_heads=config["num_attention_heads"], depth=config["num_layers"],
        depth_single_blocks=config["num_single_layers"], axes_dim=config["axes_dims_rope"],
        theta=10000, qkv_bias=True, guidance_embed=True,
    )
)  # fmt: skip
net.load_state_dict({name: torch.tensor(x) for name, x in kit.original("transformer").items()})
errors = {}
with torch.no_grad(), ldmref.recording(net, call="transformer") as run:
    for call in ("transformer.000", "transformer.003"):
        x, expected = kit.call(call)
        given = {role: torch.tensor(value).float() for role, value in x.items()}
        images, text = given["sample"], given["encoder_hidden_states"]
        rows, columns = (torch.arange(size // 2.0) for size in images.shape[2:])
        places = torch.cartesian_prod(torch.zeros(1), rows, columns).expand(len(images), -1, -1)
        y = net(
            img=rearrange(images, PACKED, ph=2, pw=2), img_ids=places, txt=text,
            txt_ids=torch.zeros(*text.shape[:2], 3), timesteps=given["timestep"] / 1000,
            y=given["pooled_projections"], guidance=given["guidance"],
        )  # fmt: skip
        errors[call] = distance(y, rearrange(torch.tensor(expected), PACKED, ph=2, pw=2).numpy())
judge("Flux.1 dev transformer", run.trace, kit, errors)
