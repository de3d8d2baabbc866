"""Z-Image c7ec135: the makers' transformer, in PyTorch, as their pipeline calls it.

No error was found.
"""

import torch
from judged import KitInputs, distance, judge
from zimage.transformer import ZImageTransformer2DModel

import ldmref

kit = KitInputs("z-image")
config = kit.config("transformer")
sizes = (
    "in_channels dim n_layers n_refiner_layers n_heads n_kv_heads "
    "norm_eps cap_feat_dim rope_theta t_scale axes_dims axes_lens"
)
net = ZImageTransformer2DModel(**{name: config[name] for name in sizes.split()})
weights = {name: torch.tensor(x) for name, x in kit.weights("transformer").items()}
net.load_state_dict(weights)


errors = {}
with torch.no_grad(), ldmref.recording(net, call="transformer") as run:
    for call in ("transformer.000", "transformer.002"):
        x, expected = kit.call(call)
        arrays = {role: torch.tensor(value).float() for role, value in x.items()}
        rows = zip(arrays["encoder_hidden_states"], arrays["encoder_attention_mask"], strict=True)
        captions = [caption[mask > 0] for caption, mask in rows]
        images = list(arrays["sample"].unsqueeze(2).unbind(dim=0))
        found, _ = net(images, (1000 - arrays["timestep"]) / 1000, captions)
        errors[call] = distance(-torch.stack(found).squeeze(2), expected)
judge("Z-Image transformer", run.trace, kit, errors)
