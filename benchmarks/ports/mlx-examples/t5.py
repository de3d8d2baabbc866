"""mlx-examples 7ddca42: T5, the second text encoder of Flux.1, in MLX.

Error found: its MLP has the exact GELU instead of the tanh approximation.
"""

import mlx.core as mx
from flux.flux.t5 import T5Config, T5Encoder
from judged import KitInputs, distance, judge
from loading import load_sanitized

import ldmref

FIRST = "encoder.block.0.layer.0.SelfAttention"
NAMES = {
    "wte": "shared",
    "layers.": "block.",
    ".attention": ".layer.0.SelfAttention",
    ".query_proj": ".q",
    ".key_proj": ".k",
    ".value_proj": ".v",
    ".out_proj": ".o",
    ".ln1": ".layer.0.layer_norm",
    ".ln2": ".layer.1.layer_norm",
    ".dense": ".layer.1.DenseReluDense",
    "encoder.ln": "encoder.final_layer_norm",
    "encoder.relative_attention_bias.embeddings": f"{FIRST}.relative_attention_bias",
}


def rename(path: str) -> str | None:
    """Return transformers' name of a layer."""
    if path in ("encoder", "encoder.relative_attention_bias"):
        return None
    for own, name in NAMES.items():
        path = path.replace(own, name)
    return path


kit = KitInputs("flux-dev")
net = T5Encoder(T5Config.from_dict(kit.config("text_encoder_2")))
load_sanitized(net, kit.weights("text_encoder_2"))
errors = {}
with ldmref.recording(net, call="text_encoder_2", names=rename) as run:
    for call in (call for call in kit.run.calls if call.partition("~")[0] == "text_encoder_2"):
        x, expected = kit.call(call)
        errors[call] = distance(net(mx.array(x["input_ids"])), expected)
judge("Flux.1 T5", run.trace, kit, errors)
