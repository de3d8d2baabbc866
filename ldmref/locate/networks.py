"""The network of a recorded call: ldmref's function, its parameters, the recorded arguments."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ldmref.errors import UsageError
from ldmref.locate.arguments import RecordedArguments
from ldmref.models.autoencoder import decode, encode
from ldmref.models.controlnet import ControlNet, controlnet, encode_hint
from ldmref.models.model import LatentDiffusion
from ldmref.models.rescaler import rescaler
from ldmref.models.taesd import tiny_decode, tiny_encode
from ldmref.models.text import text_encoder, text_encoder_pooled
from ldmref.models.unet import unet
from ldmref.trace.model import Trace

NETWORKS = (
    "unet",
    "vae.decode",
    "vae.encode",
    "text_encoder",
    "text_encoder_2",
    "taesd.decode",
    "taesd.encode",
    "cond_stage",
    "controlnet",
    "controlnet.hint",
)
HOST = (
    "tokens", "tokens_2", "schedule", "guidance", "sampler", "jump", "scale_input", "add_noise",
    "initial", "train",
)  # fmt: skip


@dataclass(frozen=True)
class RecordedNetwork:
    """A network with the arguments of one call.

    Attributes:
        function: `function(ops, params, **arguments)`.
        params: Its parameters.
        arguments: Configurations, and arrays: recorded, or NaN where they were not recorded.
        complete: Whether all arrays were recorded.
    """

    function: Callable[..., Any]
    params: Mapping[str, Any]
    arguments: Mapping[str, Any]
    complete: bool


def network_of(call: str) -> str:
    """Return the network of a call, "" for computations on the host.

    >>> network_of("unet.003"), network_of("text_encoder_2.001"), network_of("sampler.000")
    ('unet', 'text_encoder_2', '')
    """
    name = re.sub(r"(~\d+|\.\d+)+$", "", call)
    if name in ("vae", "vae.decoder"):
        return "vae.decode"
    return name if name in NETWORKS else ""


def is_host(call: str) -> bool:
    """Return whether a call is a computation on the host.

    >>> is_host("sampler.000"), is_host("tokens_2~1"), is_host("samplers")
    (True, True, False)
    """
    return re.sub(r"(~\d+|\.\d+)+$", "", call) in HOST


def open_network(
    model: LatentDiffusion,
    port: Trace,
    call: str,
    controlnets: Sequence[ControlNet] = (),
    assume: bool = False,
) -> RecordedNetwork:
    """Return the network of a recorded call.

    Args:
        model: The model.
        port: The trace.
        call: The call.
        controlnets: The ControlNets of the run.
        assume: Whether all shapes are assumed, because the recorded ones do not fit each other.

    Raises:
        UsageError: The model does not have such a network.
    """
    kind = network_of(call)
    arguments = RecordedArguments(port, call, model, assume)
    if kind.startswith("controlnet"):
        return _open_controlnet(controlnets, arguments, kind)
    name = kind.partition(".")[0]
    params = find_parameters(model, name)
    if params is None:
        message = f"the trace has the call {call!r}, and {model.config.name!r} has no {name}"
        raise UsageError(message, code="E-TRACE-MODEL", hint="choose the port's model: --model")
    functions = {
        "unet": _unet,
        "vae.decode": _decode,
        "vae.encode": _encode,
        "text_encoder": _text_encoder,
        "text_encoder_2": _text_encoder,
        "taesd.decode": _tiny_decode,
        "taesd.encode": _tiny_encode,
        "cond_stage": _cond_stage,
    }
    function, values = functions[kind](model, arguments, kind)
    return RecordedNetwork(function, params, values, arguments.complete)


def find_parameters(model: LatentDiffusion, network: str) -> Mapping[str, Any] | None:
    """Return the parameters of a network, None if the model does not have it."""
    if network == "taesd":
        tiny = model.tiny_autoencoder
        return None if tiny is None else tiny.params
    return model.params[network] if network in model.params else None


def _unet(
    model: LatentDiffusion, found: RecordedArguments, kind: str
) -> tuple[Callable, dict[str, Any]]:
    config = model.config.unet
    x = found.read("sample", "input", "0", "x")
    if x is None:
        n, h, w = found.batch_and_size(len(config.block_out_channels))
        x = found.missing((n, config.in_channels, h, w))
    if x.ndim == 4 and x.shape[1] != config.in_channels == x.shape[3]:
        x = x.transpose(0, 3, 1, 2)
    n = x.shape[0]
    t = found.read("timestep", "1", "t", "timesteps")
    t = found.missing((n,)) if t is None else np.broadcast_to(np.asarray(t, np.float64).ravel(), n)
    values: dict[str, Any] = {"config": config, "x": x, "t": np.array(t), "context": None}
    if config.cross_attention_dim and (config.attention == "cross" or config.class_embed_type):
        context = found.read("encoder_hidden_states", "2", "context")
        if context is None:
            context = found.layer_input("attn2.to_k")
        if context is None:
            length = found.length("attn2.to_k", "attn2.to_v")
            context = found.missing((n, length, config.cross_attention_dim))
        values["context"] = context
    if config.addition_embed_type:
        width = config.addition_time_embed_dim
        pooled = found.read("text_embeds", "added_cond_kwargs.text_embeds")
        sizes = found.read("time_ids", "added_cond_kwargs.time_ids")
        d = config.projection_class_embeddings_input_dim - 6 * width
        values["pooled"] = found.missing((n, d)) if pooled is None else pooled
        values["sizes"] = found.missing((n, 6)) if sizes is None else np.asarray(sizes, np.float64)
    values["control"] = found.residuals()
    return unet, values


def _open_controlnet(
    controlnets: Sequence[ControlNet], found: RecordedArguments, kind: str
) -> RecordedNetwork:
    """Return a ControlNet or its hint encoder; several ControlNets are called in turn."""
    numbers = re.findall(r"\d+", found.call)
    net = controlnets[int(numbers[-1]) % len(controlnets) if numbers else 0]
    factor = net.config.factor
    if kind == "controlnet.hint":
        shape = (1, net.config.conditioning_channels, factor, factor)
        hint = found.read_or_missing(shape, "hint", "input", "0")
        return RecordedNetwork(encode_hint, net.params, {"hint": hint}, found.complete)
    _, values = _unet(found.model, found, kind)
    del values["control"]
    values["config"] = net.config
    x = values["x"]
    hint = found.read("hint")
    if hint is None:
        hint = found.layer_output("controlnet_cond_embedding")
    if hint is None:
        width = net.config.unet.block_out_channels[0]
        hint = found.missing((x.shape[0], width, *x.shape[2:]))
    return RecordedNetwork(controlnet, net.params, values | {"hint": hint}, found.complete)


def _decode(
    model: LatentDiffusion, found: RecordedArguments, kind: str
) -> tuple[Callable, dict[str, Any]]:
    config = model.config.vae
    z = found.read("latents", "input", "z", "0", "sample")
    if z is None:
        n, h, w = found.batch_and_size(len(config.block_out_channels))
        z = found.missing((n, config.latent_channels, h, w))
    return decode, {"config": config, "z": z}


def _encode(
    model: LatentDiffusion, found: RecordedArguments, kind: str
) -> tuple[Callable, dict[str, Any]]:
    config = model.config.vae
    image = found.read("image", "input", "x", "0", "sample")
    if image is None:
        n, h, w = found.batch_and_size(len(config.block_out_channels))
        f = config.factor
        image = found.missing((n, config.in_channels, h * f, w * f))
    return encode, {"config": config, "image": image}


def _tiny_decode(
    model: LatentDiffusion, found: RecordedArguments, kind: str
) -> tuple[Callable, dict[str, Any]]:
    shape = (1, model.config.vae.latent_channels, 1, 1)
    return tiny_decode, {"latents": found.read_or_missing(shape, "latents", "input", "x", "0")}


def _tiny_encode(
    model: LatentDiffusion, found: RecordedArguments, kind: str
) -> tuple[Callable, dict[str, Any]]:
    factor = model.config.vae.factor
    shape = (1, model.config.vae.in_channels, factor, factor)
    return tiny_encode, {"image": found.read_or_missing(shape, "image", "input", "x", "0")}


def _cond_stage(
    model: LatentDiffusion, found: RecordedArguments, kind: str
) -> tuple[Callable, dict[str, Any]]:
    factor = model.config.vae.factor
    shape = (1, model.config.segmentation_classes, factor, factor)
    onehot = found.read_or_missing(shape, "onehot", "input", "x", "0")
    return rescaler, {"onehot": onehot, "factor": factor}


def _text_encoder(
    model: LatentDiffusion, found: RecordedArguments, kind: str
) -> tuple[Callable, dict[str, Any]]:
    index = int(kind == "text_encoder_2")
    config = model.config.text_encoders[index]
    ids = found.read("input_ids", "input", "0", "ids")
    if ids is None:
        ids = found.layer_input("embeddings", "ids")
    if ids is None:
        ids = found.layer_input("token_embedding", "ids")
    if ids is None:
        found.complete = False
        x = found.layer_input("layer_norm1")
        ids = np.zeros(x.shape[:2] if x is not None else (1, config.max_position_embeddings))
    function = text_encoder_pooled if config.projection_dim else text_encoder
    asked = (found.port.manifest.get("params") or {}).get("clip_skip")
    entry = found.port.find(found.call)
    asked = asked if entry is None else entry.attributes.get("clip_skip", asked)
    skip = asked if isinstance(asked, int) and 0 < asked < config.num_hidden_layers else 0
    return function, {"config": config, "ids": np.asarray(ids, np.int64), "skip": skip}
