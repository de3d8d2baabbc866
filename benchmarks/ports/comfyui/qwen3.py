"""ComfyUI 0.33.0: Qwen3, the text encoder of Z-Image and FLUX.2 [klein]."""

import torch
from building import MADE, load_weights, tensor
from comfy.text_encoders.llama import Qwen3_4B, Qwen3_4BConfig
from judged import KitInputs, distance, judge

import ldmref

kit = KitInputs("z-image")
config = kit.config("text_encoder")
Qwen3_4BConfig.head_dim = config["head_dim"]
sizes = "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads"
fields = {name: config[name] for name in (*sizes.split(), "num_key_value_heads", "rms_norm_eps")}
fields |= {"rope_theta": config["rope_parameters"]["rope_theta"]}
net = Qwen3_4B(fields, **MADE)
load_weights(net, kit.weights("text_encoder"))
errors = {}
with ldmref.recording(net, call="text_encoder") as run:
    for call in ("text_encoder", "text_encoder~1"):
        x, expected = kit.call(call)
        mask = x["attention_mask"][0] > 0
        asked = {"intermediate_output": -2, "final_layer_norm_intermediate": False}
        ids, real = torch.tensor(x["input_ids"]), tensor(x["attention_mask"])
        _, states = net(ids, attention_mask=real, **asked)
        errors[call] = distance(states[:, mask], expected[:, mask])
judge("Qwen3", run.trace, kit, errors)
