"""The names that programs give to the arrays of a network, and the layers that read these first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ldmref.models.declared import NetworkInput
from ldmref.ports.port import find_port

if TYPE_CHECKING:
    from ldmref.models.declared import DeclaredNetwork

NAMES = {  # by role, of the networks of all families; numbers are places of arguments
    "sample": ("input", "0", "x"),
    "timestep": ("t", "timesteps"),
    "encoder_hidden_states": ("context",),
    "encoder_attention_mask": ("attention_mask", "mask"),
    "pooled_projections": ("y", "pooled"),
    "text_embeds": ("added_cond_kwargs.text_embeds", "text_time.0"),
    "time_ids": ("added_cond_kwargs.time_ids", "text_time.1"),
    "class_labels": ("y",),
    "controlnet_mode": ("mode",),
    "input_ids": ("input", "0", "ids"),
    "attention_mask": ("mask",),
    "latents": ("input", "z", "x", "0", "sample"),
    "image": ("input", "x", "0", "sample"),
    "onehot": ("input", "x", "0"),
}
OF_NETWORKS = {"controlnet.hint": {"hint": ("input", "0")}}  # of this network alone
TOKEN_TABLES = ("embeddings", "token_embedding", "shared", "embed_tokens")  # which read ids first
LAYERS = {
    "input_ids": tuple((table, role) for table in TOKEN_TABLES for role in ("ids", "input")),
}
LAYERS_OF_NETWORKS = {"classifier": {"timestep": (("time_proj", "input"),)}}


def names_of(network: DeclaredNetwork | Any, x: NetworkInput) -> tuple[str, ...]:
    """Return the names under which programs pass an array to a network, its role first.

    Args:
        network: The network.
        x: One of its inputs.

    Returns:
        The names, each once.

    >>> import ldmref
    >>> network = ldmref.random_model("flux-tiny").denoiser
    >>> names_of(network, network.inputs[0])
    ('sample', 'input', '0', 'x', 'img', 'hidden_states')
    """
    common = OF_NETWORKS.get(network.name, NAMES).get(x.role, ())
    own = find_port(_family_of(network)).arguments.get(x.argument, ())
    former = getattr(x, "also", ())  # which a declaration of an earlier version says itself
    return tuple(dict.fromkeys((x.role, *common, *own, *former)))


def first_layers_of(network: DeclaredNetwork, x: NetworkInput) -> tuple[tuple[str, str], ...]:
    """Return the ends of the names of layers that read an array first, with their role for it.

    Args:
        network: The network.
        x: One of its inputs.

    Returns:
        Pairs of an end of a name and a role.

    >>> import ldmref
    >>> network = ldmref.random_model("tiny").denoiser
    >>> first_layers_of(network, network.input_of("context"))
    (('attn2.to_k', 'input'),)
    """
    own = find_port(_family_of(network)).first_layers.get(x.argument, ())
    common = LAYERS_OF_NETWORKS.get(network.name, LAYERS).get(x.role, ())
    return (*common, *own, *getattr(x, "layers", ()))


def _family_of(network: Any) -> str:
    """Return the name of the family whose denoiser or ControlNet a network is; "": of none."""
    config = getattr(network, "settings", {}).get("config")
    return getattr(config, "family", "")
