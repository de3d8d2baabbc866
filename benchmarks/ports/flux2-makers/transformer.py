"""FLUX.2 ab7cca6: the makers' transformer, at the size of FLUX.2 [klein], in PyTorch."""

import torch
from flux2.model import Flux2, Flux2Params
from judged import KitInputs, distance, judge

import ldmref

kit = KitInputs("flux2-klein-4b")
config = kit.config("transformer")
net = Flux2(
    Flux2Params(
        in_channels=config["in_channels"], context_in_dim=config["joint_attention_dim"],
        hidden_size=config["num_attention_heads"] * config["attention_head_dim"],
        num_heads=config["num_attention_heads"], depth=config["num_layers"],
        depth_single_blocks=config["num_single_layers"], axes_dim=config["axes_dims_rope"],
        theta=int(config["rope_theta"]), mlp_ratio=config["mlp_ratio"],
    )
)  # fmt: skip
net.load_state_dict({name: torch.tensor(x) for name, x in kit.original().items()})


def places(*sizes):
    """Return the four positions of tokens, as `prc_img` and `prc_txt` do."""
    return torch.cartesian_prod(*map(torch.arange, sizes))


errors = {}
with torch.no_grad(), ldmref.recording(net, call="transformer") as run:
    for call in kit.calls("transformer"):
        x, expected = kit.call(call)
        given = {role: torch.tensor(value).float() for role, value in x.items()}
        images, text = given["sample"], given["encoder_hidden_states"]
        of_image, of_text = places(1, *images.shape[2:], 1), places(1, 1, 1, text.shape[1])
        y = net(
            images.flatten(2).mT, of_image.expand(len(images), -1, -1), given["timestep"] / 1000,
            text, of_text.expand(len(images), -1, -1), guidance=None,
        )  # fmt: skip
        errors[call] = distance(y.mT.reshape(expected.shape), expected)
judge("FLUX.2 klein transformer", run.trace, kit, errors)
