"""Estimates of the memory that sampling needs.

Weights are counted exactly. Copies of them in the backend have an upper bound
(`Backend.weight_bytes`). For activations, the largest simultaneous ones are counted: in the
denoiser, what its family says (in a U-Net, all skip connections and `WORKING` arrays of the widest
layer); in the decoder, `WORKING` arrays of the last level. docs/performance.md compares the
estimates with measurements.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from numbers import Real

from ldmref.backends.base import Backend
from ldmref.errors import UsageError, short_repr
from ldmref.models.config import ModelConfig
from ldmref.models.denoiser_config import UNetConfig
from ldmref.models.family import family_of
from ldmref.models.params import Spec, flatten, unflatten
from ldmref.models.streaming import count_streamed

WORKING = 4
PROGRAM = 250 * 2**20  # bytes of Python, the libraries and the threads' buffers


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of each network's weights, and of the activations in sampling and decoding.

    `streamed` are the bytes of each network whose blocks are brought one at a time; networks that
    it lacks are whole.
    """

    weights: dict[str, int]
    sampling: int
    decoding: int
    denoiser: str = "unet"
    streamed: Mapping[str, int] = field(default_factory=dict)

    @property
    def peak_resident(self) -> int:
        """The peak with all networks in memory."""
        return PROGRAM + sum(self.weights.values()) + max(self.sampling, self.decoding)

    def peak_offloaded(self, releasable: Collection[str]) -> int:
        """Return the peak with one of the releasable networks in memory at a time."""
        return max(self._peaks(releasable, self.weights).values())

    def peak_streamed(self, releasable: Collection[str]) -> int:
        """Return the least peak: one block of one releasable network in memory at a time."""
        return max(self._peaks(releasable, {**self.weights, **self.streamed}).values())

    def list_streamed(self, releasable: Collection[str], limit: int) -> tuple[str, ...]:
        """Return the releasable networks that are larger than `limit` bytes while they work."""
        peaks = self._peaks(releasable, self.weights)
        return tuple(name for name in releasable if peaks[name] > limit)

    def _peaks(self, releasable: Collection[str], weights: Mapping[str, int]) -> dict[str, int]:
        """Return the peak while each releasable network works; "" is that of all the others."""
        fixed = PROGRAM + sum(size for n, size in self.weights.items() if n not in releasable)
        working = {self.denoiser: self.sampling, "vae": self.decoding}
        kept = max((work for n, work in working.items() if n not in releasable), default=0)
        alone = {name: fixed + weights[name] + working.get(name, 0) for name in releasable}
        return {"": fixed + kept, **alone}


def parse_bytes(size: int | str | None, name: str = "max_memory") -> int | None:
    """Parse a number of bytes, given as a number or as text such as "6GB", "512 MB" or "1.5G".

    Units are powers of 1000; units with an i are powers of 1024: "6GiB".

    Raises:
        UsageError: It is neither.

    >>> parse_bytes("1.5GB"), parse_bytes("2MiB")
    (1500000000, 2097152)
    """
    if size is None or (type(size) is int and size > 0):
        return size
    pattern = r"([0-9]{1,18}(?:\.[0-9]+)?) ?(?:([kmgt])(i?))?b?"
    match = re.fullmatch(pattern, str(size).strip().lower())
    power = " kmgt".index(match[2] or " ") if match else 0
    total = int(float(match[1]) * (1024 if match[3] else 1000) ** power) if match else 0
    if total < 1:
        message = f"{name} must be a size such as 6GB or 6GiB, not {short_repr(size)}"
        code = f"E-{name.upper().replace('_', '-')}"
        raise UsageError(message, code=code)
    return total


def check_seconds(limit: float | None) -> float | None:
    """Return `limit` if it is None or a positive number of seconds.

    Raises:
        UsageError: It is neither.
    """
    number = isinstance(limit, Real) and not isinstance(limit, bool)
    if limit is not None and not (number and 0.0 < limit < math.inf):
        raise UsageError(
            f"max_seconds must be a positive number, not {short_repr(limit)}", code="E-MAX-SECONDS"
        )
    return limit


def estimate_memory(
    spec: Mapping[str, Spec],
    config: ModelConfig,
    ops: Backend,
    size: tuple[int, int],
    n: int = 1,
    tile: int | None = None,
    reference_pixels: int = 0,
) -> MemoryEstimate:
    """Estimate the memory of sampling and decoding `n` images at a time, with guidance.

    Args:
        spec: The shapes of all parameters, from `model_spec`.
        config: The model's configuration.
        ops: The backend.
        size: Width and height of the images in pixels.
        n: The number of images at a time.
        tile: The side of the decoder's tiles in pixels; None: decoded at once.
        reference_pixels: Pixels of the reference images that the denoiser reads beside an image.
    """
    width, height = size
    sizes = unflatten(
        {
            name: ops.weight_bytes(shape, _pixels(name, config, n, width, height))
            for name, shape in flatten(spec).items()
        }
    )
    weights = {name: sum(flatten(tree).values()) for name, tree in sizes.items()}
    in_parts = {} if ops.compiles else {n: count_streamed(tree) for n, tree in sizes.items()}
    streamed = {name: min(weights[name], part) for name, part in in_parts.items()}
    number = ops.weight_bytes((1,), 0)  # bytes
    decoded = width * height if tile is None else min(width * height, 4 * tile * tile)
    read = enlarge(config, width, height, reference_pixels)
    sampling = 2 * n * number * family_of(config).work.activations(config, *read)
    decoding = n * number * WORKING * config.vae.decoder_width * decoded
    return MemoryEstimate(weights, sampling, decoding, config.denoiser.network, streamed)


def enlarge(config: ModelConfig, width: int, height: int, pixels: int) -> tuple[int, int]:
    """Return the size of an image with as many further pixels, in whole rows of tokens.

    A denoiser that reads reference images as tokens works as for an image of this size.

    >>> from ldmref.models import preset
    >>> enlarge(preset("sd3-medium"), 1024, 1024, 512 * 512)
    (1024, 1280)
    """
    side = config.size_multiple
    return width, height + side * -(-pixels // (width * side))


def _pixels(name: str, config: ModelConfig, n: int, width: int, height: int) -> int:
    """Count the pixels at a layer, at least; in autoencoders, the latent cells."""
    f = config.vae.factor
    latents = n * (width // f) * (height // f)
    if not name.startswith(f"{config.denoiser.network}."):
        return latents
    if isinstance(config.denoiser, UNetConfig):
        return 2 * latents >> 2 * find_level(name, config.denoiser)
    return 2 * latents // config.denoiser.side_multiple**2


def find_level(name: str, config: UNetConfig) -> int:
    """Return how many times the latents are halved before a layer, such as `unet.conv_in`."""
    words = name.split(".")
    deepest = len(config.block_out_channels) - 1
    level = 0
    if words[1] == "mid_block":
        level = deepest
    elif words[1] in ("down_blocks", "up_blocks"):
        i = int(words[2])
        level = deepest - i if words[1] == "up_blocks" else i
        level += {"upsamplers": -1, "downsamplers": 1}.get(words[3], 0)
    return level


def count_unet_activations(config: ModelConfig, width: int, height: int) -> int:
    """Count the simultaneous activations of a U-Net per image of `width` x `height` pixels."""
    unet = config.unet
    w, h = width // config.vae.factor, height // config.vae.factor
    skips = 0
    widest = 0
    channels = unet.block_out_channels
    for level, c in enumerate(channels):
        size = (w >> level) * (h >> level)
        skips += (unet.layers_per_block + 1) * c * size
        above = channels[min(level + 1, len(channels) - 1)]
        widest = max(widest, (c + above) * size)
    return skips + WORKING * widest
