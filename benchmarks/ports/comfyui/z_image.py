"""ComfyUI 0.33.0: the transformer of Z-Image.

Error found: the norms of queries and keys have torch's own eps, 1.19e-7, instead of 1e-5.
"""

import torch
from building import MADE, judge_images, load_weights, tensor
from comfy.ldm.lumina.model import NextDiT
from comfy.ldm.modules.diffusionmodules.mmdit import TimestepEmbedder
from comfy.utils import z_image_to_diffusers
from judged import KitInputs

kit = KitInputs("z-image")
config = kit.config("transformer")
sizes = "in_channels dim n_layers n_refiner_layers n_heads n_kv_heads norm_eps cap_feat_dim"
fields = {name: config[name] for name in (*sizes.split(), "axes_dims", "axes_lens", "rope_theta")}
net = NextDiT(
    patch_size=2, qk_norm=True, multiple_of=64, ffn_dim_multiplier=8.0 / 3.0, time_scale=1000.0,
    z_image_modulation=True, pad_tokens_multiple=32, **fields, **MADE,
)  # fmt: skip
net.t_embedder = TimestepEmbedder(1024, output_size=config["dim"], **MADE)
weights: dict[str, torch.Tensor] = {}
makers = kit.original("transformer")
for name, new in z_image_to_diffusers(config).items():
    if name in makers and isinstance(new, str):
        weights[new] = tensor(makers[name])
    elif name in makers:  # queries, keys and values are read one after the other
        joined = (weights[new[0]],) if new[0] in weights else ()
        weights[new[0]] = torch.cat([*joined, tensor(makers[name])])
load_weights(net, weights)
judge_images("Z-Image transformer", kit, net, counts=True)
