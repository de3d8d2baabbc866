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


class Denoiser(torch.nn.Module):
    """Arrays of a batch for the lists of images and captions that the pipeline gives."""

    def __init__(self):
        super().__init__()
        self.net = net

    def forward(self, sample, timestep, encoder_hidden_states, encoder_attention_mask):
        rows = zip(encoder_hidden_states, encoder_attention_mask, strict=True)
        captions = [caption[mask > 0] for caption, mask in rows]
        images = list(sample.unsqueeze(2).unbind(dim=0))
        found, _ = self.net(images, (1000 - timestep) / 1000, captions)
        return -torch.stack(found).squeeze(2)


denoiser, errors = Denoiser(), {}
with torch.no_grad(), ldmref.recording(denoiser, call="transformer", names={"net.*": "*"}) as run:
    for call in ("transformer.000", "transformer.002"):
        x, expected = kit.call(call)
        y = denoiser(**{role: torch.tensor(value).float() for role, value in x.items()})
        errors[call] = distance(y, expected)
judge("Z-Image transformer", run.trace, kit, errors)
