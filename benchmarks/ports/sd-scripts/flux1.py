"""sd-scripts 48d368f: the transformer of Flux.1 [dev], in PyTorch, as its inference calls it.

No error found.
"""

import torch
from judged import KitInputs, distance, judge
from library.flux_models import Flux, FluxParams
from library.flux_utils import pack_latents, prepare_img_ids, unpack_latents

import ldmref

kit = KitInputs("flux-dev")
config = kit.config("transformer")
net = Flux(
    FluxParams(
        in_channels=config["in_channels"], vec_in_dim=config["pooled_projection_dim"],
        context_in_dim=config["joint_attention_dim"], mlp_ratio=4.0,
        hidden_size=config["num_attention_heads"] * config["attention_head_dim"],
        num_heads=config["num_attention_heads"], depth=config["num_layers"],
        depth_single_blocks=config["num_single_layers"], axes_dim=config["axes_dims_rope"],
        theta=10000, qkv_bias=True, guidance_embed=True,
    )
)  # fmt: skip
weights = {name: torch.tensor(x) for name, x in kit.original("transformer").items()}
net.load_state_dict(weights, strict=True)
errors = {}
with torch.no_grad(), ldmref.recording(net, call="transformer") as run:
    for call in ("transformer.000", "transformer.003"):
        x, expected = kit.call(call)
        tensors = {role: torch.tensor(value).float() for role, value in x.items()}
        latents, text = tensors["sample"], tensors["encoder_hidden_states"]
        rows, columns = (size // 2 for size in latents.shape[2:])
        positions = prepare_img_ids(len(latents), rows, columns), torch.zeros(*text.shape[:2], 3)
        y = net(
            img=pack_latents(latents), img_ids=positions[0], txt=text, txt_ids=positions[1],
            timesteps=tensors["timestep"] / 1000.0, y=tensors["pooled_projections"],
            guidance=tensors["guidance"], txt_attention_mask=None,
        )  # fmt: skip
        errors[call] = distance(unpack_latents(y, rows, columns), expected)
judge("Flux.1 dev transformer", run.trace, kit, errors)
