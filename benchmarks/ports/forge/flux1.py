"""Forge dfdcbab: the transformer of Flux.1 [dev], in PyTorch, which reads and returns latents."""

import preparing  # noqa: F401
import torch
from backend.nn.flux import IntegratedFluxTransformer2DModel
from judged import KitInputs, distance, judge

import ldmref

kit = KitInputs("flux-dev")
config = kit.config("transformer")
net = IntegratedFluxTransformer2DModel(
    in_channels=config["in_channels"] // 4, vec_in_dim=config["pooled_projection_dim"],
    context_in_dim=config["joint_attention_dim"], mlp_ratio=4.0, theta=10000, qkv_bias=True,
    hidden_size=config["num_attention_heads"] * config["attention_head_dim"],
    num_heads=config["num_attention_heads"], depth=config["num_layers"],
    depth_single_blocks=config["num_single_layers"], axes_dim=config["axes_dims_rope"],
    guidance_embed=config["guidance_embeds"],
)  # fmt: skip
net.load_state_dict({name: torch.tensor(x) for name, x in kit.original().items()})
errors = {}
with torch.no_grad(), ldmref.recording(net, call="transformer") as run:
    for call in ("transformer.000", "transformer.003"):
        x, expected = kit.call(call)
        given = {role: torch.tensor(value).float() for role, value in x.items()}
        y = net(
            given["sample"], given["timestep"] / 1000, given["encoder_hidden_states"],
            given["pooled_projections"], given["guidance"],
        )  # fmt: skip
        errors[call] = distance(y, expected)
judge("Flux.1 dev transformer", run.trace, kit, errors)
