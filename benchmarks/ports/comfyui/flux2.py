"""ComfyUI 0.33.0: the transformer of FLUX.2 [klein].

Error found: the norms of queries and keys have torch's own eps, 1.19e-7, instead of 1e-6.
"""

from building import MADE, load_weights, tensor
from comfy.ldm.flux.model import Flux
from judged import KitInputs, distance, judge

import ldmref

kit = KitInputs("flux2-klein-4b")
config = kit.config("transformer")
heads, head = config["num_attention_heads"], config["attention_head_dim"]
net = Flux(
    in_channels=config["in_channels"], out_channels=config["in_channels"], vec_in_dim=None,
    context_in_dim=config["joint_attention_dim"], hidden_size=heads * head, num_heads=heads,
    mlp_ratio=config["mlp_ratio"], depth=config["num_layers"], patch_size=1, qkv_bias=False,
    depth_single_blocks=config["num_single_layers"], axes_dim=config["axes_dims_rope"],
    theta=int(config["rope_theta"]), guidance_embed=False, txt_ids_dims=[3], ops_bias=False,
    global_modulation=True, mlp_silu_act=True, **MADE,
)  # fmt: skip
load_weights(net, kit.original("transformer"))
errors = {}
with ldmref.recording(net, call="transformer") as run:
    for call in ("transformer.000", "transformer.003"):
        x, expected = kit.call(call)
        time, text = tensor(x["timestep"]) / 1000.0, tensor(x["encoder_hidden_states"])
        errors[call] = distance(net(tensor(x["sample"]), time, text), expected)
judge("FLUX.2 klein transformer", run.trace, kit, errors)
