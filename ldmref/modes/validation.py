"""Checks of single values: each returns the value in its own type, or raises a `UsageError`.

The fields in `parameters.py` and `requests.py` use them; `name` is that of the parameter.
"""

from __future__ import annotations

import numbers
import secrets
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ldmref.errors import UsageError, short_repr
from ldmref.io.images.arrays import host_array, is_array
from ldmref.prompts.text_checks import check_text

MAX_STEPS = 1000
MAX_SIDE = 8192
MAX_COUNT = 10_000
MAX_JUMPS = 100
MAX_SIGMA = 1e6


def check_texts(name: str, value: Any) -> list[str]:
    """Return one text or several as a list; check the Unicode and the length of each."""
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


def check_single_text(name: str, value: object) -> str:
    """Return one text."""
    if not isinstance(value, str):
        raise UsageError(
            f"{name} must be a single string, not {short_repr(value)}", code="E-PROMPT"
        )
    return check_texts(name, value)[0]


def check_integer(name: str, value: Any, low: int, high: int) -> int:
    """Return a whole number in a range."""
    if not is_whole(value):
        raise UsageError(
            f"{name} must be a whole number, not {short_repr(value)}", code=code_for(name)
        )
    if not low <= int(value) <= high:
        raise UsageError(
            f"{name} must be from {low} to {high}, not {short_repr(value)}", code=code_for(name)
        )
    return int(value)


def check_noise_level(name: str, value: object, most: float = MAX_SIGMA) -> float:
    """Return a sigma: a number from 0 to `most`, or an array of one such number."""
    if is_array(value) and getattr(value, "ndim", 1) == 0:
        value = host_array(value).item()
    return check_number(name, value, 0.0, most)


def check_number(name: str, value: Any, low: float, high: float) -> float:
    """Return a number in a range."""
    real = not isinstance(value, bool) and isinstance(value, int | float | np.floating | np.integer)
    if not real or not low <= value <= high:
        raise UsageError(
            f"{name} must be a number from {low:g} to {high:g}, not {short_repr(value)}",
            code=code_for(name),
        )
    return float(value)


def code_for(name: str) -> str:
    """Return the error code of a parameter."""
    return "E-" + name.upper().replace("_", "-").replace(" ", "-")


def check_flag(name: str, value: object) -> bool:
    """Return True or False."""
    if not isinstance(value, bool | np.bool_):
        raise UsageError(
            f"{name} must be True or False, not {short_repr(value)}", code=code_for(name)
        )
    return bool(value)


def wrong_side(name: str, value: int, multiple: int, most: int | None) -> UsageError:
    """Return the error of a width or height that is too large, or not halved evenly everywhere.

    Args:
        name: The parameter.
        value: The number of pixels.
        multiple: The number that it must be a multiple of.
        most: The largest number that the model knows positions for; None: any.
    """
    if value > MAX_SIDE:
        message = f"{name} must be from 1 to {MAX_SIDE}, not {value}"
        return UsageError(message, code=code_for(name))
    if most is not None and value > most:
        return UsageError(
            f"{name} must be at most {most}, not {value}: the model knows no positions beyond",
            code="E-SIZE",
            hint=f"use {most // multiple * multiple} or less",
        )
    low = value // multiple * multiple
    high = (value // multiple + 1) * multiple
    return UsageError(
        f"{name} must be a multiple of {multiple}, not {value}",
        code="E-SIZE",
        hint=f"use {low} or {high}" if low else f"use {high}",
    )


def too_many_images(prompts: int, count: int) -> UsageError:
    """Return the error of more than `MAX_COUNT` images, `count` for each of the prompts."""
    return UsageError(
        f"{prompts} prompts with {count} images each are {prompts * count} images, "
        f"the limit is {MAX_COUNT}",
        code="E-COUNT",
        hint="make several requests",
    )


def check_jumps(name: str, value: object) -> tuple[int, int]:
    """Return the jump length and the number of samples of RePaint."""
    value = _as_list(value)
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or len(value) != 2:
        raise UsageError(
            f"{name} must be (jump length, samples), not {short_repr(value)}",
            code=code_for(name),
            hint=f"{name}=(10, 10)",
        )
    length = check_integer(f"{name} jump length", value[0], 1, MAX_COUNT)
    return length, check_integer(f"{name} times", value[1], 1, MAX_JUMPS)


def check_positions(name: str, value: object) -> list[float]:
    """Return numbers from 0 to 1: that many, evenly spaced, or a list of them."""
    if isinstance(value, numbers.Integral):
        return np.linspace(0.0, 1.0, check_integer(name, value, 2, MAX_COUNT)).tolist()
    value = _as_list(value)
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise UsageError(
            f"{name} must be a whole number or a list of numbers, not {short_repr(value)}",
            code="E-POSITIONS",
        )
    if not 1 <= len(value) <= MAX_COUNT:
        raise UsageError(
            f"{name} must be from 1 to {MAX_COUNT}, not {len(value)}", code="E-POSITIONS"
        )
    return [check_number(name, position, 0.0, 1.0) for position in value]


def _as_list(value: object) -> Any:
    """Return a one-dimensional NumPy array as a list, and everything else as it is."""
    return value.tolist() if isinstance(value, np.ndarray) and value.ndim == 1 else value


def check_seeds(name: str, value: Any) -> int | list[int] | None:
    """Return a seed or a list of seeds; -1 is random: alone it becomes None, in a list a number."""
    if is_whole(value) and value == -1:
        return None
    value = _as_list(value)
    listed = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    asked: Sequence[Any] = value if listed else [value]
    seeds = []
    for seed in asked:
        if seed is None or (is_whole(seed) and seed == -1):
            seed = secrets.randbits(32)
        if not is_whole(seed) or not 0 <= int(seed) < 2**64:
            raise UsageError(
                f"{name} must be a whole number from 0 to 2^64 - 1, or -1 for a random one, "
                f"not {short_repr(seed)}",
                code=code_for(name),
            )
        seeds.append(int(seed))
    return seeds if listed else seeds[0]


def assign_prompts(
    prompt: str | Sequence[str] | None, negative_prompt: str | Sequence[str] | None, count: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return prompts and negative prompts, one of each per image."""
    prompts = [prompt] if isinstance(prompt, str) else prompt or [""]
    negatives = [negative_prompt] if isinstance(negative_prompt, str) else negative_prompt or [""]
    if len(negatives) not in (1, len(prompts)):
        raise UsageError(
            f"{len(negatives)} negative prompts for {len(prompts)} prompts",
            code="E-PROMPT",
            hint="give one, or as many as prompts",
        )
    if len(prompts) * count > MAX_COUNT:
        raise too_many_images(len(prompts), count)
    if len(negatives) == 1:
        negatives = [negatives[0]] * len(prompts)
    pairs = zip(prompts, negatives, strict=True)
    prompts, negatives = zip(*(pair for pair in pairs for _ in range(count)), strict=True)
    return prompts, negatives


def assign_seeds(seed: int | Sequence[int] | None, n: int) -> tuple[int, ...]:
    """Return a seed for each of n images: the list, or seed + i modulo 2^64; None is random."""
    if isinstance(seed, Sequence):
        if len(seed) != n:
            raise UsageError(
                f"{len(seed)} seeds for {n} images", code="E-SEED", hint="one seed per image"
            )
        return tuple(seed)
    first = secrets.randbits(32) if seed is None else seed
    return tuple((first + i) % 2**64 for i in range(n))


def is_whole(value: object) -> bool:
    """Return whether a value is a whole number; a bool is not."""
    return not isinstance(value, bool) and isinstance(value, numbers.Integral)


def check_sigmas(name: str, value: object) -> tuple[float, ...]:
    """Return numbers that strictly decrease to 0 or more, as floats."""
    if is_array(value):
        value = host_array(value)
        value = value.tolist() if value.ndim == 1 else value
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise UsageError(
            f"{name} must be a list of numbers, not {short_repr(value)}", code="E-SIGMAS"
        )
    if not 2 <= len(value) <= MAX_STEPS + 1:
        raise UsageError(
            f"{name} must be from 2 to {MAX_STEPS + 1} numbers, not {len(value)}", code="E-SIGMAS"
        )
    levels = tuple(check_number(name, level, 0.0, MAX_SIGMA) for level in value)
    for before, after in pairwise(levels):
        if not after < before:
            raise UsageError(
                f"{name} must decrease, and {before:g} is followed by {after:g}", code="E-SIGMAS"
            )
    return levels


def check_noise(name: str, value: object) -> np.ndarray:
    """Return finite numbers (n, c, h, w) of any library as float32."""
    try:
        array = np.asarray(host_array(value) if is_array(value) else value)
        if array.dtype.kind == "c":
            raise TypeError("complex numbers")
        array = np.array(array, np.float32)
    except (TypeError, ValueError, OverflowError, BufferError, RuntimeError) as error:
        raise UsageError(f"{name} must be an array of numbers", code=code_for(name)) from error
    if not np.isfinite(array).all():
        raise UsageError(f"{name} hold NaN or infinity", code=code_for(name))
    return array


def _read_array(value: Any) -> np.ndarray:
    """Return an array of any library on the host; a value that is not an array has dtype object."""
    try:
        return host_array(value)
    except (TypeError, ValueError, BufferError, RuntimeError):
        return np.asarray(None)


def check_text_mask(name: str, value: object) -> np.ndarray:
    """Return a copy of a mask of tokens, (n, l), as int64.

    Raises:
        UsageError: The value is something else.
    """
    array = _read_array(value)
    if array.dtype.kind not in "biuf" or array.ndim != 2 or not np.isin(array, (0, 1)).all():
        raise UsageError(
            f"{name} must be an array (n, l) of 0 and 1, not {short_repr(value)}",
            code="E-PROMPT-EMBEDS",
            hint="1 is a hidden state that is read, 0 padding",
        )
    return np.array(array, np.int64)


def check_embeddings(name: str, value: object) -> np.ndarray:
    """Return a copy of finite floating-point numbers of any library, float32 or float64.

    Raises:
        UsageError: The value is something else.
    """
    array = _read_array(value)
    if array.dtype.kind != "f" or array.ndim not in (2, 3) or not array.size:
        raise UsageError(
            f"{name} must be an array of floating-point numbers, not {short_repr(value)}",
            code="E-PROMPT-EMBEDS",
            hint="model.encode_text gives hidden states",
        )
    if not np.isfinite(array).all():
        raise UsageError(f"{name} holds NaN or infinity", code="E-PROMPT-EMBEDS")
    return np.array(array, np.float64 if array.dtype == np.float64 else np.float32)
