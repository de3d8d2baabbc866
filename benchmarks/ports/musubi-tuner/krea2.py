"""musubi-tuner 30c658c: the transformer of Krea 2, in PyTorch, as its inference calls it.

No error was found. The image is first in the sequence, which is filled up to 256 tokens; the text's
states have an axis of layers; and one mask covers image and text.
"""

import torch
from judged import KitInputs, distance, judge
from musubi_tuner.krea2.krea2_mmdit import PositionalEncoding, SingleMMDiTConfig, SingleStreamDiT
from musubi_tuner.krea2.krea2_sampling import gather_valid_text, prepare

import ldmref

kit = KitInputs("krea-2")
config = kit.config("transformer")
names = (
    "heads=num_attention_heads kvheads=num_key_value_heads layers=num_layers theta=rope_theta "
    "tdim=timestep_embed_dim txtdim=text_hidden_dim txtlayers=num_text_layers "
    "txtheads=text_num_attention_heads txtkvheads=text_num_key_value_heads"
)
sizes = {own: config[theirs] for own, _, theirs in (x.partition("=") for x in names.split())}
sizes |= {"features": config["num_attention_heads"] * config["attention_head_dim"]}
sizes |= {"channels": config["in_channels"] // 4, "patch": 2, "multiplier": 2}
net = SingleStreamDiT(SingleMMDiTConfig(**sizes))
net.posemb = PositionalEncoding(sizes["features"], config["axes_dims_rope"], sizes["theta"])
net.load_state_dict({name: torch.tensor(x) for name, x in kit.original("transformer").items()})

errors = {}
with torch.no_grad(), ldmref.recording(net, call="transformer") as run:
    for call in kit.calls("transformer"):
        x, expected = kit.call(call)
        given = {role: torch.tensor(value).float() for role, value in x.items()}
        states = given["encoder_hidden_states"].unflatten(-1, (-1, sizes["txtdim"]))
        text, mask = gather_valid_text(states, given["encoder_attention_mask"].bool())
        image, places, mask = prepare(given["sample"], text.shape[1], 2, mask)
        y = net(img=image, context=text, t=given["timestep"] / 1000, pos=places, mask=mask)
        n, _, rows, columns = expected.shape
        y = y.reshape(n, rows // 2, columns // 2, -1, 2, 2).permute(0, 3, 1, 4, 2, 5)
        errors[call] = distance(y.reshape(expected.shape), expected)
judge("Krea 2 transformer", run.trace, kit, errors)
