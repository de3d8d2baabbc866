"""ComfyUI 0.33.0: the transformer of FLUX.2 [klein].

Error found: the norms of queries and keys have torch's own eps, 1.19e-7, instead of 1e-6.
"""

from building import MADE, judge_batches, load_weights
from comfy.ldm.flux.model import Flux
from judged import KitInputs

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
judge_batches("FLUX.2 klein transformer", kit, net, ("encoder_hidden_states",))
