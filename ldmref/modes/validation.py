"""Validation of single values: each function returns the value in its own type, or refuses it.

They are used by the declarations in `parameters.py`; `name` is the parameter's.
"""

from __future__ import annotations

import numbers
import secrets
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ldmref.errors import UsageError, did_you_mean, short_repr
from ldmref.io.images.arrays import host_array, is_array
from ldmref.modes.declaration import Parameter
from ldmref.prompts.text_checks import check_text

MAX_STEPS = 1000
MAX_SIDE = 8192
MAX_COUNT = 10_000
MAX_JUMPS = 100
MAX_SIGMA = 1e6


def validate(parameter: Parameter, value: Any) -> Any:
    """A value in its own type; None, where it is allowed, is the default.

    Raises:
        UsageError: it is of another type, or out of range.
    """
    name = parameter.name
    low = parameter.minimum
    high = parameter.maximum
    if value is None and parameter.optional:
        return parameter.default
    if parameter.check is not None:
        return parameter.check(name, value)
    if parameter.choices:
        return choice(name, value, tuple(parameter.choices))
    if parameter.type is bool:
        return flag(name, value)
    if low is None or high is None:
        return value
    return (
        integer(name, value, int(low), int(high))
        if parameter.type is int
        else number(name, value, low, high)
    )


def texts(name: str, value: Any) -> list[str]:
    """One text, or a list of them; not empty, valid Unicode, not endless."""
    listed = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    texts: list[Any] = list(value) if listed else [value]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise UsageError(
            f"{name} must be a string or a list of strings, not {short_repr(value)}",
            code="E-PROMPT",
        )
    for text in texts:
        check_text(name.replace("_", " "), text)
    return texts


def text(name: str, value: Any) -> str:
    """One text."""
    if not isinstance(value, str):
        raise UsageError(
            f"{name} must be a single string, not {short_repr(value)}", code="E-PROMPT"
        )
    return texts(name, value)[0]


def integer(name: str, value: Any, low: int, high: int) -> int:
    """A whole number in a range."""
    if not is_whole(value):
        raise UsageError(
            f"{name} must be a whole number, not {short_repr(value)}", code=_code(name)
        )
    if not low <= int(value) <= high:
        raise UsageError(
            f"{name} must be from {low} to {high}, not {short_repr(value)}", code=_code(name)
        )
    return int(value)


def noise_level(name: str, value: Any) -> float:
    """A sigma: a number from 0 to `MAX_SIGMA`, or an array of one such number."""
    if is_array(value) and getattr(value, "ndim", 1) == 0:
        value = host_array(value).item()
    return number(name, value, 0.0, MAX_SIGMA)


def number(name: str, value: Any, low: float, high: float) -> float:
    """A number in a range."""
    real = not isinstance(value, bool) and isinstance(value, int | float | np.floating | np.integer)
    if not real or not low <= value <= high:
        raise UsageError(
            f"{name} must be a number from {low:g} to {high:g}, not {short_repr(value)}",
            code=_code(name),
        )
    return float(value)


def _code(name: str) -> str:
    return "E-" + name.upper().replace("_", "-").replace(" ", "-")


def choice(name: str, value: Any, known: Sequence[str]) -> str:
    """One of a few names."""
    if not isinstance(value, str) or value not in known:
        raise UsageError(
            f"unknown {name} {short_repr(value)}",
            code=_code(name),
            hint=did_you_mean(value if isinstance(value, str) else "", known),
        )
    return value


def flag(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool | np.bool_):
        raise UsageError(f"{name} must be True or False, not {short_repr(value)}", code=_code(name))
    return bool(value)


def multiple_of(name: str, value: int, multiple: int) -> None:
    """A width or height that every level of the networks halves evenly."""
    integer(name, value, 1, MAX_SIDE)
    if value % multiple:
        low = value // multiple * multiple
        high = (value // multiple + 1) * multiple
        raise UsageError(
            f"{name} must be a multiple of {multiple}, not {value}",
            code="E-SIZE",
            hint=f"use {low} or {high}" if low else f"use {high}",
        )


def images(prompts: int, count: int) -> None:
    """Refuse more than `MAX_COUNT` images, `count` for each of the prompts."""
    if prompts * count > MAX_COUNT:
        raise UsageError(
            f"{prompts} prompts with {count} images each are {prompts * count} images, "
            f"the limit is {MAX_COUNT}",
            code="E-COUNT",
            hint="make several requests",
        )


def jumps(name: str, value: Any) -> tuple[int, int]:
    """Jump length and number of samples of RePaint."""
    value = _listed(value)
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or len(value) != 2:
        raise UsageError(
            f"{name} must be (jump length, samples), not {short_repr(value)}",
            code=_code(name),
            hint=f"{name}=(10, 10)",
        )
    length = integer(f"{name} jump length", value[0], 1, MAX_COUNT)
    return length, integer(f"{name} times", value[1], 1, MAX_JUMPS)


def positions(name: str, value: Any) -> list[float]:
    """Numbers from 0 to 1: that many, evenly spaced, or a list of them."""
    if isinstance(value, numbers.Integral):
        return np.linspace(0.0, 1.0, integer(name, value, 2, MAX_COUNT)).tolist()
    value = _listed(value)
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise UsageError(
            f"{name} must be a whole number or a list of numbers, not {short_repr(value)}",
            code="E-POSITIONS",
        )
    if not 1 <= len(value) <= MAX_COUNT:
        raise UsageError(
            f"{name} must be from 1 to {MAX_COUNT}, not {len(value)}", code="E-POSITIONS"
        )
    return [number(name, position, 0.0, 1.0) for position in value]


def _listed(value: Any) -> Any:
    """A one-dimensional NumPy array as a list; everything else as it is."""
    return value.tolist() if isinstance(value, np.ndarray) and value.ndim == 1 else value


def seeds(name: str, value: Any) -> int | list[int] | None:
    """A seed, or a list of them; -1 is a random one, None."""
    value = _listed(value)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_seed(name, seed) for seed in value]
    return None if is_whole(value) and value == -1 else _seed(name, value)


def seed_per_image(seed: int | Sequence[int] | None, n: int) -> tuple[int, ...]:
    """A seed for each of n images: the list, or seed + i modulo 2^64; None is a random seed."""
    if isinstance(seed, Sequence):
        if len(seed) != n:
            raise UsageError(
                f"{len(seed)} seeds for {n} images", code="E-SEED", hint="one seed per image"
            )
        return tuple(seed)
    first = secrets.randbits(32) if seed is None else seed
    return tuple((first + i) % 2**64 for i in range(n))


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number, and not a bool."""
    return not isinstance(value, bool) and isinstance(value, numbers.Integral)


def _seed(name: str, seed: Any) -> int:
    if seed is None or (is_whole(seed) and seed == -1):
        return secrets.randbits(32)
    if not is_whole(seed) or not 0 <= int(seed) < 2**64:
        raise UsageError(
            f"{name} must be a whole number from 0 to 2^64 - 1, or -1 for a random one, "
            f"not {short_repr(seed)}",
            code=_code(name),
        )
    return int(seed)


def sigmas(name: str, value: Any) -> tuple[float, ...]:
    """Floats, strictly decreasing, the last 0 or more."""
    if is_array(value):
        value = host_array(value)
        value = value.tolist() if value.ndim == 1 else value
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise UsageError(
            f"{name} must be a list of floats, not {short_repr(value)}", code="E-SIGMAS"
        )
    if not 2 <= len(value) <= MAX_STEPS + 1:
        raise UsageError(
            f"{name} must be from 2 to {MAX_STEPS + 1} numbers, not {len(value)}", code="E-SIGMAS"
        )
    levels = tuple(number(name, level, 0.0, MAX_SIGMA) for level in value)
    if all(is_whole(level) for level in value):
        raise UsageError(
            f"{name} must be floats, not whole numbers, which look like timesteps",
            code="E-SIGMAS",
            hint="noise levels are such as 14.6, 7.1, 2.3, 0.0",
        )
    for before, after in pairwise(levels):
        if not after < before:
            raise UsageError(
                f"{name} must decrease, and {before:g} is followed by {after:g}", code="E-SIGMAS"
            )
    return levels


def noise(name: str, value: Any) -> np.ndarray:
    """Finite numbers (n, c, h, w) of any library, float32."""
    try:
        array = np.asarray(host_array(value) if is_array(value) else value)
        if array.dtype.kind == "c":
            raise TypeError("complex numbers")
        array = np.array(array, np.float32)
    except (TypeError, ValueError, OverflowError, BufferError, RuntimeError) as error:
        raise UsageError(f"{name} must be an array of numbers", code=_code(name)) from error
    if not np.isfinite(array).all():
        raise UsageError(f"{name} hold NaN or infinity", code=_code(name))
    return array
