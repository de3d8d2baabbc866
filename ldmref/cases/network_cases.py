"""Networks as golden cases: a configuration with random parameters and inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ldmref.cases.parameters import random_array, random_parameters, random_stream
from ldmref.cases.shrink import SIZE, WIDTHS
from ldmref.models import autoencoder, classifier, controlnet, rescaler, taesd, text, unet
from ldmref.models.config import AutoencoderConfig, ModelConfig, TextConfig, UNetConfig
from ldmref.models.params import Params
from ldmref.trace.backend import UNET_ROLES

LENGTH = 7  # tokens
TIMESTEPS = (741.0, 3.0)  # of the two examples of a batch


@dataclass(frozen=True)
class NetworkCase:
    """One network with its parameters and inputs.

    Args:
        name: `FAMILY.NETWORK`, such as "sdxl.unet".
        description: What the network is, in a few words.
        function: `function(ops, params, *args, **inputs)`.
        params: Parameters, float32.
        args: Configurations and options, before the inputs.
        inputs: Arrays by the name of the argument.
        roles: The name of each input in the case, where it differs from the argument's.
        outputs: Names of the results, in their order.
    """

    name: str
    description: str
    function: Callable[..., Any]
    params: Params = field(repr=False)
    args: tuple[Any, ...]
    inputs: dict[str, Any] = field(repr=False)
    roles: dict[str, str]
    outputs: tuple[str, ...] = ("output",)


def unet_cases(family: str, config: UNetConfig) -> Iterator[NetworkCase]:
    """Yield a U-Net."""
    name = f"{family}.unet"
    inputs = _unet_inputs(name, config)
    params = random_parameters(name, unet.unet_spec(config))
    yield NetworkCase(name, "U-Net", unet.unet, params, (config,), inputs, UNET_ROLES)


def _unet_inputs(name: str, config: UNetConfig, height: int = SIZE) -> dict[str, Any]:
    inputs: dict[str, Any] = {
        "x": random_array(f"{name}/sample", (2, config.in_channels, height, SIZE)),
        "t": np.asarray(TIMESTEPS, np.float32),
        "context": None,
    }
    if config.cross_attention_dim:
        shape = (2, LENGTH, config.cross_attention_dim)
        inputs["context"] = random_array(f"{name}/context", shape)
    if config.addition_embed_type:
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        inputs["pooled"] = random_array(f"{name}/pooled", (2, pooled))
        sizes = [[1024, 768, 0, 16, 1024, 1024], [512, 512, 8, 0, 768, 1024]]
        inputs["sizes"] = np.asarray(sizes, np.float32)
    return inputs


def autoencoder_cases(family: str, config: AutoencoderConfig) -> Iterator[NetworkCase]:
    """Yield the decoder and the encoder of an autoencoder."""
    params = random_parameters(f"{family}.vae", autoencoder.autoencoder_spec(config))
    kind = "VQ autoencoder" if config.codebook_size else "KL autoencoder"
    z = random_array(f"{family}.vae/latents", (1, config.latent_channels, SIZE, SIZE))
    side = SIZE * config.factor
    image = random_array(f"{family}.vae/image", (1, config.in_channels, side, side), 0.5)
    yield NetworkCase(
        f"{family}.vae.decode",
        f"decoder of a {kind}",
        autoencoder.decode,
        params,
        (config,),
        {"z": z},
        {"z": "latents"},
    )
    function, outputs = autoencoder.encode, ("output.mean", "output.logvar")
    if config.codebook_size:  # the logarithm of the variance is minus infinity
        function, outputs = _encode_mean, ("output.mean",)
    yield NetworkCase(
        f"{family}.vae.encode",
        f"encoder of a {kind}",
        function,
        params,
        (config,),
        {"image": image},
        {},
        outputs,
    )


def _encode_mean(ops: Any, p: Params, config: AutoencoderConfig, image: Any) -> Any:
    return autoencoder.encode(ops, p, config, image)[0]


def text_encoder_cases(
    family: str, config: TextConfig, which: str = "text_encoder"
) -> Iterator[NetworkCase]:
    """Yield a text encoder; `which` is its name in the model."""
    name = f"{family}.{which}"
    params = random_parameters(name, text.text_spec(config))
    length = 1 if config.model_type == "class" else LENGTH
    ids = random_stream(f"{name}/ids").integers(0, config.vocab_size - 1, (2, length))
    ids[:, -1] = config.vocab_size - 1  # the end token
    if config.projection_dim:
        yield NetworkCase(
            name,
            "text encoder with pooled output",
            text.text_encoder_pooled,
            params,
            (config,),
            {"ids": ids},
            {"ids": "input_ids"},
            ("output", "output.pooled"),
        )
        return
    roles = {"ids": "input_ids"}
    yield NetworkCase(
        name,
        f"text encoder ({config.model_type})",
        text.text_encoder,
        params,
        (config,),
        {"ids": ids},
        roles,
    )


def rescaler_case(config: ModelConfig) -> NetworkCase:
    """Return the encoder of a model's segmentation maps."""
    name = f"{config.name}.cond_stage"
    params = random_parameters(name, rescaler.rescaler_spec(config))
    side = SIZE * config.vae.factor
    classes = config.segmentation_classes
    labels = random_stream(f"{name}/labels").integers(0, classes, (1, 1, side, side))
    onehot = (labels == np.arange(classes)[:, None, None]).astype(np.float32)
    return NetworkCase(
        name,
        "encoder of segmentation maps",
        _rescale,
        params,
        (config.vae.factor,),
        {"onehot": onehot},
        {"onehot": "labels"},
    )


def _rescale(ops: Any, p: Params, factor: int, onehot: Any) -> Any:
    return rescaler.rescaler(ops, p, onehot, factor)


def controlnet_cases(config: UNetConfig) -> Iterator[NetworkCase]:
    """Yield a ControlNet of a U-Net and the encoder of its image."""
    widths = (4, 8)
    net = controlnet.ControlNetConfig(unet=config, conditioning_embedding_out_channels=widths)
    params = random_parameters("sd15.controlnet", controlnet.controlnet_spec(net))
    hint = random_array("sd15.controlnet/hint", (2, 3, 2 * SIZE, 2 * SIZE), 0.25) + np.float32(0.5)
    yield NetworkCase(
        "sd15.controlnet.encode_hint",
        "encoder of a ControlNet's image",
        controlnet.encode_hint,
        params,
        (),
        {"hint": hint},
        {"hint": "controlnet_cond"},
    )
    inputs = _unet_inputs("sd15.controlnet", config)
    shape = (2, config.block_out_channels[0], SIZE, SIZE)
    inputs["hint"] = random_array("sd15.controlnet/features", shape)
    down = 1 + sum(1 + (i < 2) for i in range(len(config.block_out_channels)))
    names = (*(f"output.down.{i}" for i in range(down)), "output.mid")
    yield NetworkCase(
        "sd15.controlnet",
        "ControlNet",
        controlnet.controlnet,
        params,
        (net,),
        inputs,
        UNET_ROLES | {"hint": "controlnet_cond"},
        names,
    )


def tiny_autoencoder_cases() -> Iterator[NetworkCase]:
    """Yield TAESD's decoder and encoder."""
    config = taesd.TinyConfig(
        encoder_channels=8,
        decoder_channels=8,
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )
    params = random_parameters("taesd.vae", taesd.tiny_spec(config))
    z = random_array("taesd.vae/latents", (1, 4, SIZE, SIZE))
    image = random_array("taesd.vae/image", (1, 3, 2 * SIZE, 2 * SIZE), 0.5)
    decode = taesd.tiny_decode
    yield NetworkCase("taesd.vae.decode", "TAESD's decoder", decode, params, (), {"latents": z}, {})
    encode = taesd.tiny_encode
    yield NetworkCase(
        "taesd.vae.encode", "TAESD's encoder", encode, params, (), {"image": image}, {}
    )


def classifier_case() -> NetworkCase:
    """Return a classifier of noisy latents."""
    config = classifier.ClassifierConfig(
        block_out_channels=WIDTHS[:2], norm_num_groups=4, class_names=("a", "b", "c")
    )
    params = random_parameters("classifier", classifier.classifier_spec(config))
    u = config.unet
    x = random_array("classifier/sample", (2, u.in_channels, SIZE, SIZE))
    inputs = {"x": x, "t": np.asarray(TIMESTEPS, np.float32)}
    return NetworkCase(
        "classifier",
        "classifier of noisy latents",
        classifier.classifier,
        params,
        (config,),
        inputs,
        UNET_ROLES,
    )
