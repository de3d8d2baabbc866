"""ComfyUI 0.33.0: the transformer of Stable Diffusion 3."""

from building import MADE, load_weights, tensor
from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper
from judged import KitInputs, distance, judge

import ldmref

kit = KitInputs("sd3-medium")
config = kit.config("transformer")
width = config["num_attention_heads"] * config["attention_head_dim"]
size = config["pos_embed_max_size"]
text = {"in_features": config["joint_attention_dim"], "out_features": width}
net = OpenAISignatureMMDITWrapper(
    input_size=None, patch_size=config["patch_size"], in_channels=config["in_channels"],
    depth=config["num_layers"], adm_in_channels=config["pooled_projection_dim"],
    context_embedder_config={"target": "torch.nn.Linear", "params": text},
    pos_embed_max_size=size, num_patches=size * size, **MADE,
)  # fmt: skip
prefix = "model.diffusion_model."
weights = kit.original("transformer")
load_weights(net, {name.removeprefix(prefix): x for name, x in weights.items()})
errors = {}
with ldmref.recording(net, call="transformer") as run:
    for call in ("transformer.000", "transformer.003"):
        x, expected = kit.call(call)
        roles = ("sample", "timestep", "encoder_hidden_states", "pooled_projections")
        errors[call] = distance(net(*(tensor(x[role]) for role in roles)), expected)
judge("Stable Diffusion 3 transformer", run.trace, kit, errors)
