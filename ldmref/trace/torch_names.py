"""The names and kinds that ldmref gives to the modules of diffusers and transformers.

Classes are known by name, so torch is imported only to record. `ldmref.backends.named` describes
the names of operations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any

from ldmref.models.text_kind import find_text_encoder
from ldmref.ports.network_port import list_text_encoder_ports

KINDS = {
    "Linear": "linear",
    "Conv2d": "conv2d",
    "GroupNorm": "group_norm",
    "LayerNorm": "layer_norm",
    "Embedding": "embedding",
    "Timesteps": "timestep_embedding",
    "ResnetBlock2D": "resnet_block",
    "ResnetBlockCondNorm2D": "resnet_block",
    "Transformer2DModel": "spatial_transformer",
    "BasicTransformerBlock": "transformer_block",
    "Attention": "attention",
    "FeedForward": "feed_forward",
    "GEGLU": "geglu",
    "GELU": "project_gelu",
    "TimestepEmbedding": "mlp",
    "Downsample2D": "downsample",
    "Upsample2D": "upsample",
    "CLIPTextEmbeddings": "embed_tokens",
    "CLIPEncoderLayer": "encoder_layer",
    "CLIPAttention": "self_attention",
    "CLIPMLP": "clip_mlp",
}
# Inputs other than the first, which is called "input". Masks are left out: ldmref has none.
ROLES = {"temb": "emb", "encoder_hidden_states": "context"}
# Classes whose residual sums ldmref names `add`: whether diffusers writes the residual second.
RESIDUALS = {
    "ResnetBlock2D": False,
    "BasicTransformerBlock": True,
    "Transformer2DModel": True,
    "Attention": True,
    "CLIPEncoderLayer": False,
}
# Activations that are modules; those that call functions of torch are seen as these functions.
ACTIVATIONS = {
    "QuickGELUActivation": "quick_gelu",
    "NewGELUActivation": "gelu",
    "FastGELUActivation": "gelu",
    "AccurateGELUActivation": "gelu",
}
ACTIVATION_MODULES = ("nn.modules.activation", ".activations")
# Modules whose results ldmref computes where they are used: cosines and sines of positions.
WITHOUT_LAYER = ("FluxPosEmbed",)
# Modules that only hold others: ldmref has no layer of that name.
CONTAINER = re.compile(
    r"|((encoder|decoder)\.)?((down|up)_blocks\.\d+|mid_block)|encoder|decoder"
    r"|text_model(\.encoder)?|controlnet_cond_embedding|(.*\.)?(down|up)sample"
)


def class_in(module: object, table: Collection[str]) -> str:
    """Return the name of the module's class, or of its nearest base class, that is in a table."""
    names = (c.__name__ for c in type(module).__mro__)
    return next((name for name in names if name in table), "")


def classes_of_diffusers(module: object) -> list[type]:
    """Return the classes of a module that are diffusers' own, the nearest one first."""
    return [kind for kind in type(module).__mro__ if kind.__module__.startswith("diffusers.")]


def kind_of(module: Any) -> str:
    """Return the kind of layer that a module is, "" if it is not known."""
    kind = KINDS.get(class_in(module, KINDS), "")
    if kind == "project_gelu" and not hasattr(module, "proj"):
        return ""  # PyTorch's class of this name is an activation
    if kind == "attention" and not hasattr(module, "heads"):
        return ""  # another program's class of this name
    if kind == "attention" and getattr(module, "group_norm", None) is not None:
        return "attention_block"
    if kind == "downsample" and module.padding == 0:
        return "downsample_padded"
    return kind


def is_layer(name: str, module: object) -> bool:
    """Return whether a module is a layer; activations and holders of layers are none."""
    if type(module).__module__.endswith(ACTIVATION_MODULES) and not kind_of(module):
        return False  # seen as the function of torch that it calls
    return CONTAINER.fullmatch(name) is None and not class_in(module, WITHOUT_LAYER)


def attributes_of(module: Any, kind: str) -> dict[str, Any]:
    """Return the arguments of a layer that are not arrays, as ldmref calls them."""
    if kind == "conv2d":
        return {"stride": module.stride[0], "padding": _padding(module.padding)}
    if kind == "group_norm":
        return {"groups": module.num_groups, "eps": module.eps}
    if kind == "layer_norm":
        return {"eps": module.eps}
    if kind in ("attention", "attention_block"):
        return {"num_heads": module.heads}
    if kind == "self_attention":
        return {"num_heads": module.num_heads}
    return {}


def _padding(padding: Any) -> Any:
    return padding if isinstance(padding, str) else padding[0]


def make_renamer(network: object) -> Callable[[str], str]:
    """Return ldmref's names of a network's modules: those of its kind of text encoder."""
    ports = (port for port in list_text_encoder_ports() if class_in(network, port.classes))
    port = next(ports, None)
    return (lambda path: path) if port is None else find_text_encoder(port.name).rename
