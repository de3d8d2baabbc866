"""Questions of piece 2: encoder and decoder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ldmref.check.capstone import networks as net
from ldmref.check.capstone.networks import MistakenBackend, random, weights_of, wrong
from ldmref.check.capstone.questions import (
    WEIGHTS,
    ConfigAt,
    Mistake,
    Question,
    Student,
    WeightsAt,
    ask,
)
from ldmref.check.results import CheckResult
from ldmref.math.arrays import Array
from ldmref.models import layers
from ldmref.models.autoencoder import decode, encode
from ldmref.models.params import Params

HALVED = (
    "before it halves a grid, the encoder pads with pad_bottom_right, and its convolution of "
    "stride 2 pads nothing more"
)


def encoders(student: Student) -> Iterator[CheckResult]:
    """Yield the marks of the encoder on a random image, and with extreme log-variances."""
    image = np.tanh(random(student.rng("encode"), 1, 3, 64, 32))
    config, p = net.embedded_model().config.kl_or_vq, weights_of("vae")

    def network(ops: Any = net.RIGHT) -> dict:
        mean, logvar = encode(ops, p, config, image)
        return {"mean": mean, "logvar": logvar}

    def other(mean: Any = lambda m, v: m, logvar: Any = lambda m, v: v) -> dict:
        parts = network()
        return {"mean": mean(*parts.values()), "logvar": logvar(*parts.values())}

    def padded_evenly(ops: Any, p: Any, x: Array) -> Any:
        return layers.conv2d(ops, p.conv, x, stride=2)

    scale = np.float32(config.scaling_factor)
    mistakes = [
        wrong(
            "the encoder pads all four sides before it halves a grid; " + HALVED,
            network,
            of_layers={layers.downsample_padded: padded_evenly},
        ),
        Mistake(
            "the log-variance is halved: that is the logarithm of the standard deviation",
            lambda: other(logvar=lambda m, v: np.float32(0.5) * v),
        ),
        Mistake(
            "a variance is returned: the second result is its logarithm",
            lambda: other(logvar=lambda m, v: np.exp(v)),
        ),
        Mistake(
            "a standard deviation is returned: the second result is the logarithm of the variance",
            lambda: other(logvar=lambda m, v: np.exp(np.float32(0.5) * v)),
        ),
        Mistake(
            "mean and log-variance are exchanged: the first channels of quant_conv are the mean",
            lambda: other(lambda m, v: v, lambda m, v: m),
        ),
        Mistake(
            "the mean is multiplied by the scaling factor, which belongs to the denoiser's input",
            lambda: other(lambda m, v: m * scale),
        ),
        _without("quant_conv", network, p.quant_conv),
        *_of_both(network, p.encoder.conv_norm_out.weight),
    ]
    arguments = {"p": WeightsAt("vae"), "config": ConfigAt("vae"), "image": image}
    question = Question("encode", "of a random image", arguments, network(), mistakes, HALVED)
    result = ask(student, question)
    yield result
    if result.holds:
        yield from clipped_encoders(student)


def clipped_encoders(student: Student) -> Iterator[CheckResult]:
    """Yield the mark of an encoder whose last bias puts log-variances far outside of the range."""
    image = np.tanh(random(student.rng("clip"), 1, 3, 16, 16))
    config, p = net.embedded_model().config.kl_or_vq, weights_of("vae")
    bias = np.where(np.arange(32) < 24, 50.0, -50.0).astype(np.float16)
    bias[:16] = 0.0
    shifted = Params(p | {"quant_conv": Params(p.quant_conv | {"bias": bias.astype(np.float32)})})
    mean, logvar = encode(net.RIGHT, shifted, config, image)
    right = {"mean": mean, "logvar": logvar}

    def unclipped() -> dict:
        # a shift moves the output and nothing else, so it can be added after an ordinary encoder
        within = encode(net.RIGHT, p, config, image)[1]
        shift = bias[16:].astype(np.float32) - p.quant_conv.bias[16:]
        return {"mean": mean, "logvar": within + shift[:, None, None]}

    mistakes = [Mistake("the log-variance is not clipped to the range from -30 to 20", unclipped)]
    arguments = {"p": WeightsAt("vae"), "config": ConfigAt("vae"), "image": image}
    law = "of extreme log-variances"
    question = Question("encode", law, arguments, right, mistakes, HALVED)
    with TemporaryDirectory() as folder:
        path = Path(folder) / WEIGHTS.name
        path.write_bytes(with_bias("vae.quant_conv.bias", bias))
        yield ask(Student(student.module, student.backend, student.seed, path), question)


def with_bias(name: str, bias: np.ndarray) -> bytes:
    """Return the embedded model's file with another bias, in the file's own type."""
    data = bytearray(WEIGHTS.read_bytes())
    begin = 8 + int.from_bytes(data[:8], "little")
    first, last = json.loads(data[8:begin])[name]["data_offsets"]
    data[begin + first : begin + last] = bias.astype("<f2").tobytes()
    return bytes(data)


def decoders(student: Student) -> Iterator[Question]:
    """Yield the decoder on random latents."""
    # more spread than real latents, so that some pixels are outside of [-1, 1]
    z = random(student.rng("decode"), 1, 16, 8, 4, scale=4.0)
    config, p = net.embedded_model().config.kl_or_vq, weights_of("vae")

    def network(ops: Any = net.RIGHT, z: Array = z) -> dict:
        return {"image": decode(ops, p, config, z)}

    scale = np.float32(config.scaling_factor)
    mistakes = [
        Mistake(
            "z is divided by the scaling factor, which the sampler has done already",
            lambda: network(z=z / scale),
        ),
        Mistake("z is multiplied by the scaling factor", lambda: network(z=z * scale)),
        Mistake(
            "the image is clipped; the sampler does that",
            lambda: {"image": np.clip(network()["image"], -1.0, 1.0)},
        ),
        Mistake(
            "tanh is applied to the image; the decoder ends with conv_out",
            lambda: {"image": np.tanh(network()["image"])},
        ),
        _without("post_quant_conv", network, p.post_quant_conv),
        *_of_both(network, p.decoder.conv_norm_out.weight),
    ]
    arguments = {"p": WeightsAt("vae"), "config": ConfigAt("vae"), "z": z}
    hint = "each level but the last doubles the grid, with upsample_nearest and then a convolution"
    yield Question("decode", "of random latents", arguments, network(), mistakes, hint)


def _of_both(network: Any, last: object) -> list[Mistake]:
    """Return the mistakes of encoder and decoder; `last` is the weight of the last norm."""

    def end_without_silu(x: Array, weight: Array, bias: Array, groups: int, eps: float) -> Any:
        norm = net.RIGHT.group_norm if weight is last else net.RIGHT.group_norm_silu
        return norm(x, weight, bias, groups, eps)

    def left_out(ops: object, p: object, x: object, *args: object) -> Any:
        return x

    def only_attention(ops: object, p: Any, x: Array, *args: Any) -> Any:
        return layers.attention_block(net.RIGHT, p, x, *args) - x

    def without_norm(ops: object, p: Any, x: Array, *args: Any) -> Any:
        mistaken = MistakenBackend(group_norm=lambda x, *args: x)
        return layers.attention_block(mistaken, p, x, *args)

    return [
        wrong("there is no SiLU after conv_norm_out", network, group_norm_silu=end_without_silu),
        wrong("the middle has no attention", network, of_layers={layers.attention_block: left_out}),
        wrong(
            "the attention of the middle has no GroupNorm before it",
            network,
            of_layers={layers.attention_block: without_norm},
        ),
        wrong(
            "the attention of the middle is not added to its input",
            network,
            of_layers={layers.attention_block: only_attention},
        ),
    ]


def _without(name: str, network: Any, conv: Any) -> Mistake:
    """Return the mistake that a convolution is left out."""

    def conv2d(
        x: Array, weight: Array, bias: Array | None = None, stride: int = 1, padding: int = 0
    ) -> Any:
        return x if weight is conv.weight else net.RIGHT.conv2d(x, weight, bias, stride, padding)

    return Mistake(f"{name} is left out", lambda: network(MistakenBackend(conv2d=conv2d)))
