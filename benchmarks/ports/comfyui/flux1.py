"""ComfyUI 0.33.0: the transformer of Flux.1 [dev].

Error found: the norms of queries and keys have torch's own eps, 1.19e-7, instead of 1e-6.
"""

from building import MADE, judge_batches, load_weights
from comfy.ldm.flux.model import Flux
from judged import KitInputs

kit = KitInputs("flux-dev")
config = kit.config("transformer")
net = Flux(
    in_channels=config["in_channels"] // 4, out_channels=config["in_channels"] // 4,
    vec_in_dim=config["pooled_projection_dim"], context_in_dim=config["joint_attention_dim"],
    hidden_size=config["num_attention_heads"] * config["attention_head_dim"],
    mlp_ratio=4.0, num_heads=config["num_attention_heads"], depth=config["num_layers"],
    depth_single_blocks=config["num_single_layers"], axes_dim=config["axes_dims_rope"],
    theta=10000, patch_size=2, qkv_bias=True, guidance_embed=True, txt_ids_dims=[], **MADE,
)  # fmt: skip
load_weights(net, kit.original("transformer"))
roles = ("encoder_hidden_states", "pooled_projections", "guidance")
judge_batches("Flux.1 dev transformer", kit, net, roles)
