"""Differences between the images of one seed on all backends, in all dtypes and at all speeds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ldmref import modes
from ldmref.backends import Backend, available, get_backend
from ldmref.backends.base import DTYPES
from ldmref.errors import LdmrefError, UsageError, did_you_mean
from ldmref.loading import load
from ldmref.samplers import get_sampler

SPEEDS = ("exact", "fast", "fastest")
SAMPLERS_SHOWN = ("ddim", "euler", "euler_a", "heun", "dpmpp_2m")
# Combinations that take minutes, and are left out unless their dtype or speed is named.
SLOW = {
    ("numpy", "float16", "exact"): "NumPy multiplies float16 matrices without BLAS",
    ("torch", "float32", "fastest"): "torch.compile takes minutes",
    ("torch", "float16", "fastest"): "torch.compile takes minutes",
    ("torch", "bfloat16", "fastest"): "torch.compile takes minutes",
}


@dataclass(frozen=True)
class ImageComparison:
    """The images of one backend, dtype and speed, compared with NumPy's in float64.

    Args:
        backend, dtype, speed: The backend.
        sampler: The sampler; "" if nothing was generated.
        largest: Largest difference of a pixel's channel, in 1/255.
        mean: Mean difference, in 1/255.
        psnr: 10 log10(255^2 / mean squared difference) in dB; infinite for equal images.
        reason: Why nothing was generated.
    """

    backend: str
    dtype: str
    speed: str
    sampler: str = ""
    largest: int = 0
    mean: float = 0.0
    psnr: float = math.inf
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON: the numbers, or the reason why there are none."""
        values = asdict(self)
        if self.reason:
            return {key: values[key] for key in ("backend", "dtype", "speed", "reason")}
        del values["reason"]
        return values | {"psnr": self.psnr if math.isfinite(self.psnr) else None}


def compare_images(
    prompt: str,
    *,
    backends: Sequence[str] = (),
    dtypes: Sequence[str] = (),
    speeds: Sequence[str] = (),
    samplers: Sequence[str] = (),
    model: str = "emoji",
    **request: Any,
) -> Iterator[ImageComparison]:
    """Generate the image of one seed on all backends, and compare it with NumPy's in float64.

    Args:
        prompt: The prompt.
        backends: Names; by default all built-in backends that can run here.
        dtypes: Names; by default all of each backend.
        speeds: Names; by default all of each backend.
        samplers: Names; by default `SAMPLERS_SHOWN`.
        model: Name or path of the model, as for `ldmref.load`.
        request: Further parameters of `modes.txt2img`, such as `steps`; the seed is 0 by default.

    Returns:
        An iterator of comparisons. Backends that cannot run, and combinations that take minutes and
        were not named, give one with a reason.

    Raises:
        UsageError: A name is not known.
    """
    for kind, names, known in (("dtype", dtypes, DTYPES), ("speed", speeds, SPEEDS)):
        for name in names:
            if name not in known:
                hint = did_you_mean(name, known)
                raise UsageError(f"unknown {kind} {name!r}", code=f"E-{kind.upper()}", hint=hint)
    samplers = [get_sampler(name).name for name in samplers or SAMPLERS_SHOWN]

    def generate(ops: Backend) -> Iterator[np.ndarray]:
        loaded = load(model, backend=ops)
        for sampler in samplers:
            result = modes.txt2img(loaded, prompt, sampler=sampler, **{"seed": 0, **request})
            yield np.asarray(result.images[0], float)

    opened = [
        ops for name in backends or available() for ops in _combinations(str(name), dtypes, speeds)
    ]
    references = list(generate(get_backend("numpy", dtype="float64")))
    for ops in opened:
        if isinstance(ops, ImageComparison):
            yield ops
            continue
        for sampler, image, reference in zip(samplers, generate(ops), references, strict=True):
            yield _compared(ops, sampler, image, reference)


def _combinations(
    name: str, dtypes: Sequence[str], speeds: Sequence[str]
) -> Iterator[Backend | ImageComparison]:
    """Yield a backend in every dtype and speed that it has, or the reasons why it cannot run."""
    if reason := available().get(name):
        yield ImageComparison(name, "", "", reason=reason)
        return
    for dtype in dtypes or DTYPES:
        for speed in speeds or SPEEDS:
            try:
                ops = get_backend(name, dtype=dtype, speed=speed)
            except UsageError as error:
                if error.code in ("E-DTYPE", "E-SPEED"):
                    continue
                raise
            except LdmrefError as error:
                yield ImageComparison(name, dtype, speed, reason=str(error))
                continue
            reason = SLOW.get((name, dtype, speed))
            named = dtype in dtypes and (speed in speeds or speed == "exact")
            if reason and not named:
                reason += f"; add --dtype {dtype} --speed {speed}"
                yield ImageComparison(name, dtype, speed, reason=reason)
            else:
                yield ops


def _compared(
    ops: Backend, sampler: str, image: np.ndarray, reference: np.ndarray
) -> ImageComparison:
    difference = np.abs(image - reference)
    square = float(np.mean(difference**2))
    psnr = 10.0 * math.log10(255.0**2 / square) if square else math.inf
    return ImageComparison(
        ops.name,
        ops.dtype,
        ops.speed,
        sampler,
        int(difference.max()),
        float(difference.mean()),
        psnr,
    )
