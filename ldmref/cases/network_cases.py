"""Networks as golden cases: a declared network with random parameters and inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ldmref.backends.numpy import NumpyBackend
from ldmref.cases.parameters import random_array, random_parameters, random_stream
from ldmref.cases.shrink import SIZE
from ldmref.models.autoencoder_config import BaseAutoencoderConfig
from ldmref.models.autoencoder_kind import autoencoder_of
from ldmref.models.conditioning import get_hidden_states
from ldmref.models.config import TEXT_ENCODERS, ModelConfig, TextConfig
from ldmref.models.declared import DeclaredNetwork, NetworkInput
from ldmref.models.family import family_of
from ldmref.models.params import Params
from ldmref.models.text import text_encoder_pooled
from ldmref.models.text_kind import kind_of
from ldmref.prompts.prompt_template import PLAIN
from ldmref.prompts.tokens import Tokens

LENGTH = 7  # tokens
REFERENCES = 5  # tokens of reference images
TIMESTEPS = (741.0, 3.0)  # of the two examples of a batch
ENDS = (502.0, 0.0)  # of the steps of a flow map from there
GUIDANCE = (3.5, 1.0)
SIZES = ((1024, 768, 0, 16, 1024, 1024), (512, 512, 8, 0, 768, 1024))  # of SDXL, likewise
ONE_EXAMPLE = ("vae", "taesd", "cond_stage")  # networks whose batch is one image
KEYS = {"x": "sample", "z": "latents"}  # argument -> the name of its random stream
NAMES = {
    "hint": "controlnet_cond",
    "onehot": "labels",
}  # in cases; others have their role


@dataclass(frozen=True)
class NetworkCase:
    """One network with its parameters and inputs.

    Args:
        name: `FAMILY.NETWORK`, such as "sdxl.unet".
        description: What the network is, in a few words.
        function: `function(ops, params, **settings, **inputs)`.
        params: Parameters, float32.
        settings: Configurations and other arguments that are not arrays.
        inputs: Arrays by the name of the argument.
        roles: The name of each input in the case.
        outputs: Names of the results, in their order.
    """

    name: str
    description: str
    function: Callable[..., Any]
    params: Params = field(repr=False)
    settings: Mapping[str, Any]
    inputs: dict[str, Any] = field(repr=False)
    roles: dict[str, str]
    outputs: tuple[str, ...] = ("output",)


def network_case(
    family: str, network: DeclaredNetwork, name: str = "", tokens: int = LENGTH
) -> NetworkCase:
    """Return the case of a network; equal names give equal parameters and inputs.

    Args:
        family: The family, the first part of the name. "": the name has one part.
        network: The network.
        name: The other part of the name. "": the network's.
        tokens: The number of tokens of a text that the denoiser reads.
    """
    owner = "vae" if network.params == "tiny" else network.params
    prefix = f"{family}." if family else ""
    key = prefix + owner
    function, outputs = network.function, network.outputs
    config = network.settings.get("config")
    if isinstance(config, BaseAutoencoderConfig):
        kind = autoencoder_of(config)
        if function is kind.encode and not kind.has_posterior:  # log-variances are minus infinity
            function, outputs = encode_mean, outputs[:1]
    return NetworkCase(
        prefix + (name or network.name),
        network.description,
        function,
        random_parameters(key, network.spec()),
        network.settings,
        {x.argument: random_input(key, network, x, tokens) for x in network.inputs},
        {x.argument: getattr(x, "case", "") or NAMES.get(x.role, x.role) for x in network.inputs},
        tuple(f"output.{role}" if role else "output" for role, _ in outputs),
    )


def count_text_tokens(config: ModelConfig, length: int | None = LENGTH) -> int:
    """Return how many tokens the denoiser reads of a text.

    Args:
        config: The configuration of the model.
        length: The number of tokens for each encoder, none of which its template drops. None: as
            many as each reads at once.
    """
    encoders = config.text_encoders
    templates = {} if length else family_of(config).text.templates(config)
    if not encoders or any(kind_of(encoder).reads != "text" for encoder in encoders):
        return LENGTH
    tokens = []
    for name, encoder in zip(TEXT_ENCODERS, encoders, strict=False):
        shape = (1, 1, length or encoder.max_position_embeddings)
        ids = np.zeros(shape, np.int64)
        dropped = templates.get(name, PLAIN).dropped
        tokens.append(Tokens(ids, np.ones(shape), np.ones_like(ids), [1], [0], [], dropped))

    def compile_network(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def encode(encoder: TextConfig, ids: Any, *_: object) -> Any:
            states = np.zeros((*ids.shape, encoder.hidden_size))
            pooled = np.zeros((1, encoder.projection_dim or encoder.hidden_size))
            return (states, pooled) if function is text_encoder_pooled else states

        return encode

    family = family_of(config)
    ops = NumpyBackend(dtype="float64")
    encoded = family.text.encode(ops, encoders, tokens, compile_network)
    found = family.text.condition_text(ops, config, encoded, (0, 0)).context
    return LENGTH if found is None else int(get_hidden_states(found).shape[1])


def random_input(
    key: str,
    network: DeclaredNetwork,
    x: NetworkInput,
    tokens: int = LENGTH,
    side: tuple[int, int] = (SIZE, SIZE),
) -> np.ndarray:
    """Return an input of a case.

    Args:
        key: The beginning of the names of its random streams.
        network: The network.
        x: The declared input.
        tokens: The number of tokens of a text that the denoiser reads.
        side: Height and width of the latents.
    """
    batch = 1 if network.name.partition(".")[0] in ONE_EXAMPLE else 2
    height, width = side
    sizes = {"batch": batch, "timesteps": batch, "height": height, "width": width}
    sizes |= {"tokens": tokens, "references": REFERENCES}
    shape = x.shape_at(sizes)
    stream = KEYS.get(x.argument, x.argument)
    if x.content == "timesteps":
        return np.asarray(TIMESTEPS, np.float32)
    if x.content == "ends":
        return np.asarray(ENDS, np.float32)
    if x.content == "guidance":
        return np.asarray(GUIDANCE, np.float32)
    if x.content == "sizes":
        return np.asarray(SIZES, np.float32)
    if x.content == "ids":
        end = x.below - 1
        shape = (batch, min(shape[1], LENGTH))
        ids = random_stream(f"{key}/{stream}").integers(0, end, shape)
        ids[:, -1] = end
        return ids
    if x.content == "mask":  # the second example has padding
        length = min(shape[1], LENGTH) if network.reads_tokens else shape[1]
        kept = np.asarray([[length], [max(length - 2, 1)]])[:batch]
        return (np.arange(length)[None, :] < kept).astype(np.int64)
    if x.content == "labels":
        return random_stream(f"{key}/{stream}").integers(0, x.below, shape)
    if x.content == "classes":
        n, classes, height, width = shape
        labels = random_stream(f"{key}/labels").integers(0, classes, (n, 1, height, width))
        return (labels == np.arange(classes)[:, None, None]).astype(np.float32)
    if x.content == "image":
        return random_array(f"{key}/{stream}", shape, 0.5)
    if x.content == "hint":
        return random_array(f"{key}/{stream}", shape, 0.25) + np.float32(0.5)
    stream = "features" if x.argument == "hint" else stream
    return random_array(f"{key}/{stream}", shape)


def encode_mean(ops: object, p: Params, config: BaseAutoencoderConfig, image: object) -> Any:
    """Return the mean alone of what an encoder returns."""
    return autoencoder_of(config).encode(ops, p, config, image)[0]
