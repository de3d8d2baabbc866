"""Forge dfdcbab: the transformers of Stable Diffusion 3 and 3.5 medium, in PyTorch."""

import preparing  # noqa: F401
import torch
from backend.nn.mmditx import MMDiTX
from judged import KitInputs, distance, judge

import ldmref

PREFIX = "model.diffusion_model."
ROLES = ("sample", "timestep", "pooled_projections", "encoder_hidden_states")
for name, title in (("sd3-medium", "Stable Diffusion 3"), ("sd35-medium", "SD3.5 medium")):
    kit = KitInputs(name)
    config, makers = kit.config("transformer"), kit.original("transformer")
    weights = {name.removeprefix(PREFIX): torch.tensor(x) for name, x in makers.items()}
    rows, columns = weights["context_embedder.weight"].shape
    text = {"in_features": columns, "out_features": rows}
    net = MMDiTX(
        input_size=None, patch_size=config["patch_size"], in_channels=config["in_channels"],
        depth=config["num_layers"], num_patches=weights["pos_embed"].shape[1],
        adm_in_channels=config["pooled_projection_dim"],
        context_embedder_config={"target": "torch.nn.Linear", "params": text},
        pos_embed_max_size=config["pos_embed_max_size"],
        qk_norm="rms" if "qk_norm" in config else None,
        x_block_self_attn_layers=config["dual_attention_layers"],
    )  # fmt: skip
    net.load_state_dict(weights)
    errors = {}
    with torch.no_grad(), ldmref.recording(net, call="transformer") as run:
        for call in ("transformer.000", "transformer.003"):
            x, expected = kit.call(call)
            y = net(*(torch.tensor(x[role]).float() for role in ROLES))
            errors[call] = distance(y, expected)
    judge(f"{title} transformer", run.trace, kit, errors)
