"""DiffSynth-Studio 2.1.12: the transformer of Krea 2, in PyTorch.

Error found: the converter of diffusers' weights gives the norms of queries in the blocks of the
text the weights of the norms of keys (utils/state_dict_converters/krea2_dit.py).
"""

import contextlib

import diffsynth.models.krea2_dit as krea2_dit
import torch
from diffsynth.pipelines.krea2 import model_fn_krea2
from judged import KitInputs, distance, judge
from loading import convert, rename

import ldmref

kit = KitInputs("krea-2")
config = kit.config("transformer")
krea2_dit.sdpa_kernel = contextlib.nullcontext  # cuDNN's, which CPUs do not have
net = krea2_dit.SingleStreamDiT({
    "features": config["num_attention_heads"] * config["attention_head_dim"],
    "tdim": config["timestep_embed_dim"], "txtdim": config["text_hidden_dim"],
    "heads": config["num_attention_heads"], "kvheads": config["num_key_value_heads"],
    "multiplier": 4, "layers": config["num_layers"], "patch": 2,
    "channels": config["in_channels"] // 4, "txtheads": config["text_num_attention_heads"],
    "txtkvheads": config["text_num_key_value_heads"], "txtlayers": config["num_text_layers"],
})  # fmt: skip
net.posemb.axdims = config["axes_dims_rope"]
text = net.txtfusion
text.layerwise_blocks = text.layerwise_blocks[: config["num_layerwise_text_blocks"]]
text.refiner_blocks = text.refiner_blocks[: config["num_refiner_text_blocks"]]
weights = convert(kit.weights("transformer"))
for name, module in net.named_modules():  # the published widths are multiples of 128
    if ".mlp." in name:
        module.weight = torch.nn.Parameter(weights[f"{name}.weight"])
net.load_state_dict(weights)


class Denoiser(torch.nn.Module):
    """What a step of the pipeline computes, with the arguments of ldmref."""

    def forward(self, sample, timestep, encoder_hidden_states, encoder_attention_mask):
        states = encoder_hidden_states.unflatten(-1, (config["num_text_layers"], -1))
        height, width = (8 * size for size in sample.shape[2:])
        mask = encoder_attention_mask > 0
        return model_fn_krea2(self.net, sample, timestep / 1000, states, mask, height, width)


denoiser = Denoiser()
denoiser.net = net
errors = {}
with torch.no_grad(), ldmref.recording(denoiser, call="transformer", names=rename) as run:
    for call in ("transformer.000", "transformer.001", "transformer.002", "transformer.003"):
        x, expected = kit.call(call)
        y = denoiser(**{role: torch.tensor(array).float() for role, array in x.items()})
        errors[call] = distance(y, expected)
judge("Krea 2 transformer", run.trace, kit, errors)
