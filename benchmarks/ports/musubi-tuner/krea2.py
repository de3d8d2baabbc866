"""musubi-tuner 30c658c: the transformer of Krea 2, in PyTorch, as its inference calls it.

No error was found. The image comes first in its sequence, which is filled up to 256 tokens, the
text's states have an axis of layers, and one mask covers image and text.
"""

import torch
from judged import KitInputs, distance, judge
from musubi_tuner.krea2.krea2_mmdit import PositionalEncoding, SingleMMDiTConfig, SingleStreamDiT
from musubi_tuner.krea2.krea2_sampling import gather_valid_text, prepare

import ldmref

kit = KitInputs("krea-2")
config = kit.config("transformer")
heads, head = config["num_attention_heads"], config["attention_head_dim"]
texts = config["num_text_layers"], config["text_hidden_dim"]
net = SingleStreamDiT(SingleMMDiTConfig(
    features=heads * head, tdim=config["timestep_embed_dim"], txtdim=texts[1], heads=heads,
    kvheads=config["num_key_value_heads"], multiplier=2, layers=config["num_layers"], patch=2,
    channels=config["in_channels"] // 4, theta=config["rope_theta"], txtlayers=texts[0],
    txtheads=config["text_num_attention_heads"],
    txtkvheads=config["text_num_key_value_heads"],
))  # fmt: skip
net.posemb = PositionalEncoding(heads * head, config["axes_dims_rope"], config["rope_theta"])
net.load_state_dict({name: torch.tensor(x) for name, x in kit.original("transformer").items()})
errors = {}
with torch.no_grad(), ldmref.recording(net, call="transformer") as run:
    for call in kit.calls("transformer"):
        x, expected = kit.call(call)
        given = {role: torch.tensor(value).float() for role, value in x.items()}
        states = given["encoder_hidden_states"].unflatten(-1, texts)
        text, mask = gather_valid_text(states, given["encoder_attention_mask"].bool())
        tokens, places, mask = prepare(given["sample"], text.shape[1], 2, mask)
        y = net(img=tokens, context=text, t=given["timestep"] / 1000, pos=places, mask=mask)
        n, _, rows, columns = expected.shape
        y = y.reshape(n, rows // 2, columns // 2, -1, 2, 2).permute(0, 3, 1, 4, 2, 5)
        errors[call] = distance(y.reshape(expected.shape), expected)
judge("Krea 2 transformer", run.trace, kit, errors)
