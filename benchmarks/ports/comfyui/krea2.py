"""ComfyUI 0.33.0: the transformer of Krea 2.

It takes no mask: texts come without padding, so each image of a batch runs by itself.
"""

from building import MADE, judge_images, load_weights
from comfy.ldm.flux.layers import EmbedND
from comfy.ldm.krea2.model import SingleStreamDiT
from judged import KitInputs

kit = KitInputs("krea-2")
config = kit.config("transformer")
heads, head = config["num_attention_heads"], config["attention_head_dim"]
net = SingleStreamDiT(
    features=heads * head, tdim=config["timestep_embed_dim"], txtdim=config["text_hidden_dim"],
    heads=heads, kvheads=config["num_key_value_heads"], multiplier=2,
    layers=config["num_layers"], channels=config["in_channels"] // 4, patch=2,
    theta=config["rope_theta"], txtlayers=config["num_text_layers"],
    txtheads=config["text_num_attention_heads"],
    txtkvheads=config["text_num_key_value_heads"], **MADE,
)  # fmt: skip
net.pe_embedder = EmbedND(head, int(config["rope_theta"]), config["axes_dims_rope"])
load_weights(net, kit.original("transformer"))
judge_images("Krea 2 transformer", kit, net)
