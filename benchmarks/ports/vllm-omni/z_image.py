"""vllm-omni 0.30.0: the transformer of Z-Image, in PyTorch, as its pipeline calls it.

Errors found: attention reads the padding of a batch, since its mask is commented out
(z_image_transformer.py), and all images have the positions of the first one (rope.py).
"""

import torch
from judged import KitInputs, distance, judge
from on_cpu import build
from vllm_omni.diffusion.models.z_image.z_image_transformer import ZImageTransformer2DModel

import ldmref

kit = KitInputs("z-image")
config = kit.config("transformer")
sizes = (
    "in_channels dim n_layers n_refiner_layers n_heads n_kv_heads "
    "norm_eps cap_feat_dim rope_theta t_scale axes_dims axes_lens"
)
fields = {name: config[name] for name in sizes.split()}
net = build(lambda: ZImageTransformer2DModel(**fields)).requires_grad_(False).eval()
net.load_weights((name, torch.tensor(x)) for name, x in kit.weights("transformer").items())


class Denoiser(torch.nn.Module):
    """Arrays of a batch for the lists of images and captions that the pipeline gives."""

    def __init__(self):
        super().__init__()
        self.net = net

    def forward(self, sample, timestep, encoder_hidden_states, encoder_attention_mask):
        rows = zip(encoder_hidden_states, encoder_attention_mask, strict=True)
        captions = [caption[mask > 0] for caption, mask in rows]
        y, _ = self.net(list(sample[:, :, None]), (1000.0 - timestep) / 1000.0, captions)
        return -torch.stack(y)[:, :, 0]


NAMES = {
    "net.*.to_qkv": ["*.to_q", "*.to_k", "*.to_v"],
    "net.*.w13": ["*.w1", "*.w3"],
    "net.*": "*",
}
denoiser, errors = Denoiser(), {}
with ldmref.recording(denoiser, call="transformer", names=NAMES) as run:
    for call in kit.calls("transformer"):
        x, expected = kit.call(call)
        y = denoiser(**{role: torch.tensor(value).float() for role, value in x.items()})
        errors[call] = distance(y, expected)
judge("Z-Image transformer", run.trace, kit, errors)
