"""Estimates of the floating-point operations of networks, and of a backend's speed.

Convolutions, linear layers and attention count two operations per multiply-add; other operations
are not counted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from weakref import WeakKeyDictionary

import numpy as np

from ldmref.backends.base import Backend
from ldmref.math.arrays import Array
from ldmref.models.config import ModelConfig
from ldmref.models.memory import find_level
from ldmref.models.params import Params, Spec, flatten
from ldmref.models.unet import unet_spec

PROBE_SECONDS = 0.01
PROBE_CHANNELS = (64, 128, 256, 512, 1024)
_measured: WeakKeyDictionary[Backend, float] = WeakKeyDictionary()


def count_unet_flops(config: ModelConfig, width: int, height: int) -> int:
    """Count the operations of one evaluation of the U-Net for one image, without guidance.

    Args:
        config: The model's configuration.
        width: Width of the image in pixels.
        height: Height of the image in pixels.

    Returns:
        The number of operations, two for each multiply-add.

    >>> from ldmref.models import count_unet_flops, preset
    >>> f"{count_unet_flops(preset('sd15'), 512, 512):.2e}"
    '8.00e+11'
    """
    f = config.vae.factor
    tokens = config.text_encoder.max_position_embeddings
    total = 0
    for name, shape in flatten(unet_spec(config.unet)).items():
        pixels = (width // f) * (height // f) >> 2 * find_level(f"unet.{name}", config.unet)
        if len(shape) < 2 or "time_emb" in name or name.startswith(("add_", "class_")):
            continue
        if "attn2.to_k" in name or "attn2.to_v" in name:  # once per image
            continue
        total += 2 * math.prod(shape) * pixels
        if name.endswith("to_q.weight"):
            keys = tokens if "attn2" in name else pixels
            total += 4 * pixels * keys * shape[0]
    return total


def count_decoder_flops(
    spec: Mapping[str, Spec], config: ModelConfig, width: int, height: int
) -> int:
    """Count the operations of decoding one image.

    Args:
        spec: The shapes of all parameters, from `model_spec`.
        config, width, height: As for `count_unet_flops`.

    Returns:
        The number of operations, two for each multiply-add.

    >>> from ldmref.models import count_decoder_flops, model_spec, preset
    >>> sd15 = preset("sd15")
    >>> f"{count_decoder_flops(model_spec(sd15), sd15, 512, 512):.2e}"
    '2.51e+12'
    """
    f = config.vae.factor // config.vae.patch  # pixels per cell of the decoder's input
    total = 0
    cells = (width // f) * (height // f)
    levels = f.bit_length() - 1
    for name, shape in flatten(spec["vae"]).items():
        if not name.startswith(("decoder.", "post_quant_conv.")) or len(shape) < 2:
            continue
        words = name.split(".")
        level = levels if words[1] == "conv_out" else 0
        if words[1] == "up_blocks":
            level = int(words[2]) + (words[3] == "upsamplers")
        total += 2 * math.prod(shape) * (cells << 2 * level)
        if name.endswith("to_q.weight"):
            total += 4 * (cells << 2 * level) ** 2 * shape[0]
    return total


def count_products(spec: Spec, count_rows: Callable[[str], int]) -> int:
    """Count the operations of the products of a network with its matrices.

    Args:
        spec: The shapes of its parameters.
        count_rows: Returns the number of rows that a parameter of this name multiplies.

    >>> count_products({"proj": {"weight": (4, 3), "bias": (4,)}}, lambda name: 10)
    240
    """
    shapes = flatten(spec).items()
    return sum(2 * math.prod(shape) * count_rows(name) for name, shape in shapes if len(shape) > 1)


def find_rows(
    starts: Mapping[str, int], parts: Mapping[str, int] = MappingProxyType({})
) -> Callable[[str], int]:
    """Return the `count_rows` of `count_products`, for a network whose parts multiply other rows.

    Args:
        starts: The numbers of rows by the beginning of a parameter's name.
        parts: Those of parameters whose names contain something else; they count first.

    >>> count_rows = find_rows({"blocks": 64, "time_embed": 1}, {".modulation.": 1})
    >>> [count_rows(f"blocks.0.{name}.weight") for name in ("ff.up", "modulation")]
    [64, 1]
    """

    def count_rows(name: str) -> int:
        for part, count in parts.items():
            if part in name:
                return count
        return next(count for start, count in starts.items() if name.startswith(f"{start}."))

    return count_rows


def measure_flops_per_second(ops: Backend) -> float:
    """Measure how fast a backend convolves here.

    The measurement takes a few hundredths of a second and is made once per backend.
    """
    if ops not in _measured:
        seconds = 1.0
        channels = 0
        for channels in PROBE_CHANNELS:
            x = ops.asarray(np.ones((1, channels, 32, 32), np.float32))
            weight = ops.weight(np.full((channels, channels, 3, 3), 1e-3, np.float32))
            convolve = ops.compile(_convolve, Params(weight=weight))
            seconds = min(_seconds(ops, convolve, x) for _ in range(3))
            if seconds > PROBE_SECONDS:
                break
        _measured[ops] = 2 * 9 * channels**2 * 32 * 32 / seconds
    return _measured[ops]


def _convolve(ops: Backend, p: Params, x: Array) -> Array:
    return ops.conv2d(x, p.weight, padding=1)


def _seconds(ops: Backend, convolve: Callable[[Array], Array], x: Array) -> float:
    with ops.inference():
        ops.synchronize()
        start = time.perf_counter()
        convolve(x)
        ops.synchronize()
        return max(time.perf_counter() - start, 1e-9)
