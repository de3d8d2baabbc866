"""Tiny networks of every family: the presets with fewer channels, layers and words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ldmref.cases.parameters import random_array, random_parameters, random_stream
from ldmref.models import autoencoder, classifier, controlnet, rescaler, taesd, text, unet
from ldmref.models.config import AutoencoderConfig, ModelConfig, TextConfig, UNetConfig
from ldmref.models.params import Params
from ldmref.models.presets import PRESETS
from ldmref.models.presets_ldm import FIRST_STAGES

WIDTHS = (8, 12, 12)
HIDDEN = 16  # width of a text encoder
WORDS = 40
LENGTH = 7  # tokens
SIZE = 8  # latent height and width
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


UNET_ROLES = {
    "x": "sample",
    "t": "timestep",
    "context": "encoder_hidden_states",
    "pooled": "text_embeds",
    "sizes": "time_ids",
}


def networks() -> Iterator[NetworkCase]:
    """Yield all networks; those that are equal to one of an earlier family are left out."""
    seen: set[str] = set()
    presets = [config for name, config in PRESETS.items() if name != "tiny"]
    presets.sort(key=lambda config: config.name != "sd15")  # the names of what others share with it
    for preset in presets:
        config = shrink(preset)
        parts = [(config.unet, _unet), (config.vae, _autoencoder)]
        parts += [(encoder, _text) for encoder in config.text_encoders]
        for i, (part, make) in enumerate(parts):
            if repr(part) in seen:
                continue
            seen.add(repr(part))
            second = "text_encoder_2" if i == 3 else "text_encoder"
            yield from make(preset.name, part, *([second] if make is _text else []))
        if config.segmentation_classes:
            yield _rescaler(config)
    for name in ("vq-f8", "kl-f16"):  # with attention at lower levels
        yield from _autoencoder(name, shrink_autoencoder(FIRST_STAGES[name]))
    yield from _controlnet(shrink(PRESETS["sd15"]).unet)
    yield from _tiny_autoencoder()
    yield _classifier()


def shrink(config: ModelConfig) -> ModelConfig:
    """Return a tiny model of the same family."""
    encoders = [shrink_text(encoder) for encoder in config.text_encoders]
    width = sum(encoder.hidden_size for encoder in encoders)
    pooled = encoders[-1].projection_dim if encoders else 0
    segmentation = {"segmentation_classes": 5} if config.segmentation_classes else {}
    return replace(
        config,
        unet=shrink_unet(config.unet, width, pooled),
        vae=shrink_autoencoder(config.vae),
        **dict(zip(("text_encoder", "text_encoder_2"), encoders, strict=False)),
        **segmentation,
    )


def shrink_unet(u: UNetConfig, context: int, pooled: int = 0) -> UNetConfig:
    """Return the last levels of a U-Net, with one layer each and `WIDTHS` channels."""
    k = min(len(u.block_out_channels), len(WIDTHS))
    return replace(
        u,
        in_channels=4 * (u.in_channels // u.out_channels) + u.in_channels % u.out_channels,
        out_channels=4,
        sample_size=SIZE,
        block_out_channels=WIDTHS[:k],
        layers_per_block=1,
        attention_levels=u.attention_levels[-k:],
        num_heads=tuple(1 if heads == 1 else 2 for heads in u.num_heads[-k:]),
        transformer_layers_per_block=tuple(min(d, 2) for d in u.transformer_layers_per_block[:k]),
        cross_attention_dim=context if u.cross_attention_dim else 0,
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + pooled,
        norm_num_groups=4,
    )


def shrink_autoencoder(v: AutoencoderConfig) -> AutoencoderConfig:
    """Return an autoencoder with two levels, three if one of the later ones has attention."""
    k = min(len(v.block_out_channels), 3 if any(v.attention_levels) else 2)
    return replace(
        v,
        latent_channels=4,
        block_out_channels=WIDTHS[:k],
        layers_per_block=1,
        attention_levels=v.attention_levels[-k:],
        codebook_size=32 if v.codebook_size else 0,
        norm_num_groups=4,
        scaling_factor=1.0,
        preview=(),
    )


def shrink_text(t: TextConfig) -> TextConfig:
    """Return a text encoder with at most two layers and `WORDS` words."""
    return replace(
        t,
        vocab_size=WORDS,
        hidden_size=HIDDEN,
        intermediate_size=4 * HIDDEN,
        num_hidden_layers=min(t.num_hidden_layers, 2 + t.skipped_layers),
        num_attention_heads=min(t.num_attention_heads, 2),
        head_dim=12 if t.head_dim else 0,
        max_position_embeddings=min(t.max_position_embeddings, 16),
        projection_dim=8 if t.projection_dim else 0,
        eos_token_id=min(t.eos_token_id, WORDS - 1),
        class_names=(),
    )


def _unet(family: str, config: UNetConfig) -> Iterator[NetworkCase]:
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


def _autoencoder(family: str, config: AutoencoderConfig) -> Iterator[NetworkCase]:
    params = random_parameters(f"{family}.vae", autoencoder.autoencoder_spec(config))
    kind = "VQ autoencoder" if config.codebook_size else "KL autoencoder"
    z = random_array(f"{family}.vae/latents", (1, config.latent_channels, SIZE, SIZE))
    side = SIZE * config.factor
    image = random_array(f"{family}.vae/image", (1, config.in_channels, side, side), 0.5)
    yield NetworkCase(
        f"{family}.vae.decode", f"decoder of a {kind}", autoencoder.decode, params, (config,),
        {"z": z}, {"z": "latents"},
    )  # fmt: skip
    function, outputs = autoencoder.encode, ("output.mean", "output.logvar")
    if config.codebook_size:  # the logarithm of the variance is minus infinity
        function, outputs = _encode_mean, ("output.mean",)
    yield NetworkCase(
        f"{family}.vae.encode", f"encoder of a {kind}", function, params, (config,),
        {"image": image}, {}, outputs,
    )  # fmt: skip


def _encode_mean(ops: Any, p: Params, config: AutoencoderConfig, image: Any) -> Any:
    return autoencoder.encode(ops, p, config, image)[0]


def _text(family: str, config: TextConfig, which: str = "text_encoder") -> Iterator[NetworkCase]:
    name = f"{family}.{which}"
    params = random_parameters(name, text.text_spec(config))
    length = 1 if config.model_type == "class" else LENGTH
    ids = random_stream(f"{name}/ids").integers(0, config.vocab_size - 1, (2, length))
    ids[:, -1] = config.vocab_size - 1  # the end token
    if config.projection_dim:
        yield NetworkCase(
            name, "text encoder with pooled output", text.text_encoder_pooled, params, (config,),
            {"ids": ids}, {"ids": "input_ids"}, ("output", "output.pooled"),
        )  # fmt: skip
        return
    roles = {"ids": "input_ids"}
    yield NetworkCase(
        name, f"text encoder ({config.model_type})", text.text_encoder, params, (config,),
        {"ids": ids}, roles,
    )  # fmt: skip


def _rescaler(config: ModelConfig) -> NetworkCase:
    name = f"{config.name}.cond_stage"
    params = random_parameters(name, rescaler.rescaler_spec(config))
    side = SIZE * config.vae.factor
    classes = config.segmentation_classes
    labels = random_stream(f"{name}/labels").integers(0, classes, (1, 1, side, side))
    onehot = (labels == np.arange(classes)[:, None, None]).astype(np.float32)
    return NetworkCase(
        name, "encoder of segmentation maps", _rescale, params, (config.vae.factor,),
        {"onehot": onehot}, {"onehot": "labels"},
    )  # fmt: skip


def _rescale(ops: Any, p: Params, factor: int, onehot: Any) -> Any:
    return rescaler.rescaler(ops, p, onehot, factor)


def _controlnet(config: UNetConfig) -> Iterator[NetworkCase]:
    widths = (4, 8)
    net = controlnet.ControlNetConfig(unet=config, conditioning_embedding_out_channels=widths)
    params = random_parameters("sd15.controlnet", controlnet.controlnet_spec(net))
    hint = random_array("sd15.controlnet/hint", (2, 3, 2 * SIZE, 2 * SIZE), 0.25) + np.float32(0.5)
    yield NetworkCase(
        "sd15.controlnet.encode_hint", "encoder of a ControlNet's image", controlnet.encode_hint,
        params, (), {"hint": hint}, {"hint": "controlnet_cond"},
    )  # fmt: skip
    inputs = _unet_inputs("sd15.controlnet", config)
    shape = (2, config.block_out_channels[0], SIZE, SIZE)
    inputs["hint"] = random_array("sd15.controlnet/features", shape)
    down = 1 + sum(1 + (i < 2) for i in range(len(config.block_out_channels)))
    names = (*(f"output.down.{i}" for i in range(down)), "output.mid")
    yield NetworkCase(
        "sd15.controlnet", "ControlNet", controlnet.controlnet, params, (net,), inputs,
        UNET_ROLES | {"hint": "controlnet_cond"}, names,
    )  # fmt: skip


def _tiny_autoencoder() -> Iterator[NetworkCase]:
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
    yield NetworkCase("taesd.vae.encode", "TAESD's encoder", encode, params, (), {"image": image}, {})


def _classifier() -> NetworkCase:
    config = classifier.ClassifierConfig(
        block_out_channels=WIDTHS[:2], norm_num_groups=4, class_names=("a", "b", "c")
    )
    params = random_parameters("classifier", classifier.classifier_spec(config))
    u = config.unet
    x = random_array("classifier/sample", (2, u.in_channels, SIZE, SIZE))
    inputs = {"x": x, "t": np.asarray(TIMESTEPS, np.float32)}
    return NetworkCase(
        "classifier", "classifier of noisy latents", classifier.classifier, params, (config,),
        inputs, UNET_ROLES,
    )  # fmt: skip
