"""musubi-tuner 30c658c: the transformer of Z-Image, in PyTorch, as its inference calls it.

Error found: at a batch of one, the caption is cut to its tokens, and neither caption nor image is
filled up to 32 tokens with the learned ones (zimage_utils.py, `trim_pad_embeds_and_mask`).
"""

import torch
from judged import KitInputs, distance, judge
from musubi_tuner.zimage.zimage_model import ZImageTransformer2DModel
from musubi_tuner.zimage.zimage_utils import trim_pad_embeds_and_mask

import ldmref

kit = KitInputs("z-image")
config = kit.config("transformer")
sizes = (
    "in_channels dim n_layers n_refiner_layers n_heads n_kv_heads "
    "norm_eps cap_feat_dim rope_theta t_scale axes_dims axes_lens"
)
net = ZImageTransformer2DModel(**{name: config[name] for name in sizes.split()})
weights = {name: torch.tensor(x) for name, x in kit.weights("transformer").items()}
net.load_state_dict(weights, strict=True)
net.eval()

errors = {}
with torch.no_grad(), ldmref.recording(net, call="transformer") as run:
    for call in kit.calls("transformer"):
        x, expected = kit.call(call)
        for row in range(len(expected)):
            given = {name: torch.tensor(value[row : row + 1]) for name, value in x.items()}
            latents = given["sample"].float()[:, :, None]
            time = 1.0 - given["timestep"].float() / 1000.0
            caption, mask = given["encoder_hidden_states"].float(), given["encoder_attention_mask"]
            length = latents.shape[3] * latents.shape[4] // 4
            caption, _ = trim_pad_embeds_and_mask(length, caption, mask.bool())
            y = -net(latents, time, caption, None)
            errors[f"{call} {row}"] = distance(y[:, :, 0], expected[row : row + 1])
judge("Z-Image transformer", run.trace, kit, errors)
