"""mlx-examples 7ddca42: the text encoders of Stable Diffusion 2.1 and of SDXL, in MLX.

No error was found.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from judged import KitInputs, distance, judge
from loading import load_weights
from stable_diffusion.stable_diffusion.clip import CLIPTextModel
from stable_diffusion.stable_diffusion.config import CLIPTextModelConfig
from stable_diffusion.stable_diffusion.model_io import map_clip_text_encoder_weights

import ldmref

NAMES = {
    "token_embedding": "embeddings.token_embedding",
    "position_embedding": "embeddings.position_embedding",
    "layers.": "encoder.layers.",
    "attention": "self_attn",
    "query_proj": "q_proj",
    "key_proj": "k_proj",
    "value_proj": "v_proj",
    "linear1": "mlp.fc1",
    "linear2": "mlp.fc2",
    "act": "mlp.activation_fn",
}


def rename(path: str) -> str | None:
    """Return transformers' name of a layer; None: the whole encoder."""
    if path == "text":
        return None
    path = path.removeprefix("text.")
    for own, name in NAMES.items():
        path = path.replace(own, name)
    return path if path == "text_projection" else f"text_model.{path}"


class Read(nn.Module):
    """A text encoder that returns what the port's pipeline reads of it."""

    def __init__(self, text: Any, layer: int | None):
        super().__init__()
        self.text = text
        self.layer = layer

    def __call__(self, input_ids: mx.array) -> Any:
        """Return the states, and the pooled text of an encoder that has a projection."""
        found = self.text(input_ids)
        states = found.last_hidden_state
        if self.layer is not None:
            states = found.hidden_states[self.layer]
        return (states, found.pooled_output) if "text_projection" in self.text else states


def build(config: dict[str, Any]) -> CLIPTextModel:
    """Return a text encoder, as `load_text_encoder` of the port builds it."""
    projected = "WithProjection" in config["architectures"][0]
    return CLIPTextModel(
        CLIPTextModelConfig(
            num_layers=config["num_hidden_layers"],
            model_dims=config["hidden_size"],
            num_heads=config["num_attention_heads"],
            max_length=config["max_position_embeddings"],
            vocab_size=config["vocab_size"],
            projection_dim=config["projection_dim"] if projected else None,
            hidden_act=config["hidden_act"],
        )
    )


ENCODERS = (
    ("sd2-base", "text_encoder", None, "Stable Diffusion 2.1 text encoder"),
    ("sdxl", "text_encoder", -2, "SDXL text encoder"),
    ("sdxl", "text_encoder_2", -2, "SDXL second text encoder"),
)
for name, part, layer, title in ENCODERS:
    kit = KitInputs(name)
    text = build(kit.config(part))
    load_weights(text, kit.weights(part), map_clip_text_encoder_weights)
    net = Read(text, layer)
    errors = {}
    with ldmref.recording(net, call=part, names=rename) as run:
        for call in (call for call in kit.run.calls if call.partition("~")[0] == part):
            x, expected = kit.call(call)
            y = net(mx.array(x["input_ids"]))
            errors[call] = distance(np.array(y[0] if isinstance(y, tuple) else y), expected)
    judge(title, run.trace, kit, errors)
