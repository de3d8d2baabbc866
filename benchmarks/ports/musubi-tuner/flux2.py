"""musubi-tuner 30c658c: the transformer of FLUX.2 [klein], in PyTorch, as inference calls it.

No error was found.
"""

import torch
from judged import KitInputs, distance, judge
from musubi_tuner.flux_2.flux2_models import Flux2, Flux2Params
from musubi_tuner.flux_2.flux2_utils import listed_prc_img, prc_txt

import ldmref

kit = KitInputs("flux2-klein-4b")
config = kit.config("transformer")
net = Flux2(
    Flux2Params(
        in_channels=config["in_channels"], context_in_dim=config["joint_attention_dim"],
        hidden_size=config["num_attention_heads"] * config["attention_head_dim"],
        num_heads=config["num_attention_heads"], depth=config["num_layers"],
        depth_single_blocks=config["num_single_layers"], axes_dim=config["axes_dims_rope"],
        theta=int(config["rope_theta"]), mlp_ratio=config["mlp_ratio"], use_guidance_embed=False,
    ),
    attn_mode="torch",
)  # fmt: skip
weights = {name: torch.tensor(x) for name, x in kit.original("transformer").items()}
net.load_state_dict(weights)
errors = {}
with torch.no_grad(), ldmref.recording(net, call="transformer") as run:
    for call in kit.calls("transformer"):
        x, expected = kit.call(call)
        given = {role: torch.tensor(value).float() for role, value in x.items()}
        images, places = listed_prc_img(list(given["sample"]))
        texts, orders = zip(*map(prc_txt, given["encoder_hidden_states"]), strict=True)
        y = net(
            x=torch.stack(images), x_ids=torch.stack(places), timesteps=given["timestep"] / 1000,
            ctx=torch.stack(texts), ctx_ids=torch.stack(orders), guidance=None,
        )  # fmt: skip
        image = y.transpose(1, 2).reshape(expected.shape)
        errors[call] = distance(image, expected)
judge("FLUX.2 klein transformer", run.trace, kit, errors)
