"""Checks of single arguments: each returns the value in its own type, or says what is wrong."""

from __future__ import annotations

import numbers
import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np

from ldmref.errors import UsageError, did_you_mean
from ldmref.models.config import ModelConfig
from ldmref.prompts.tokenizer import MAX_CHARACTERS, PromptOptions
from ldmref.samplers import ALIASES, get_sampler
from ldmref.samplers.grids import SPACINGS

MAX_STEPS, MAX_COUNT, MAX_SIDE = 1000, 10_000, 8192
MAX_TIMES = 100
MIN_TILE = 4  # latent cells
MAX_AREA = 64  # pixels, as a multiple of the area on which the model was trained


def texts(name: str, value: Any) -> list[str]:
    """One text, or a list of them; not empty, valid Unicode, not endless."""
    texts = [value] if isinstance(value, str) else value
    if (
        not isinstance(texts, Sequence)
        or isinstance(texts, bytes)
        or not texts
        or not all(isinstance(text, str) for text in texts)
    ):
        raise UsageError(
            f"{name} must be a string or a list of strings, not {value!r}", code="E-PROMPT"
        )
    for text in texts:
        if len(text) > MAX_CHARACTERS:
            raise UsageError(
                f"the {name.replace('_', ' ')} is too long: {len(text)} characters, "
                f"the limit is {MAX_CHARACTERS}",
                code="E-PROMPT-LENGTH",
                hint="shorten it; the model reads only its first words anyway",
            )
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UsageError(
                f"the {name.replace('_', ' ')} is no valid Unicode text", code="E-PROMPT"
            ) from error
    return list(texts)


def reading(config: ModelConfig, long_prompts: Any, prompt_weights: Any) -> PromptOptions:
    """How prompts are read, if the model can read them so."""
    read = PromptOptions(long_prompts, prompt_weights)
    if read.long_prompts == "chunk" and config.unet.class_embed_type:
        raise UsageError(
            f"{config.name!r} reads one chunk only: its last token stands for the whole prompt",
            code="E-LONG-PROMPTS",
            hint="use long_prompts=truncate",
        )
    return read


def integer(name: str, value: Any, low: int, high: int) -> int:
    """A whole number in a range."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise UsageError(f"{name} must be a whole number, not {value!r}", code=_code(name))
    if not low <= int(value) <= high:
        raise UsageError(f"{name} must be from {low} to {high}, not {value}", code=_code(name))
    return int(value)


def number(name: str, value: Any, low: float, high: float) -> float:
    """A number in a range."""
    real = not isinstance(value, bool) and isinstance(value, numbers.Real)
    if not real or not low <= float(value) <= high:
        raise UsageError(
            f"{name} must be a number from {low:g} to {high:g}, not {value!r}", code=_code(name)
        )
    return float(value)


def _code(name: str) -> str:
    return "E-" + name.upper().replace("_", "-").replace(" ", "-")


def side(config: ModelConfig, name: str, value: Any) -> int:
    """A width or height that every level of the networks halves evenly."""
    value = integer(name, value, 1, MAX_SIDE)
    m = config.size_multiple
    if value % m:
        low, high = value // m * m, (value // m + 1) * m
        raise UsageError(
            f"{name} must be a multiple of {m}, not {value}",
            code="E-SIZE",
            hint=f"use {low} or {high}" if low else f"use {high}",
        )
    return value


def tile(config: ModelConfig, value: Any) -> int | None:
    """The side of the decoder's tiles: whole latent cells, at least `MIN_TILE`."""
    if value is None:
        return None
    f = config.vae.factor
    value = integer("tile", value, MIN_TILE * f, MAX_SIDE)
    if value % f:
        raise UsageError(
            f"tile must be a multiple of {f}, not {value}",
            code="E-TILE",
            hint=f"use {value // f * f}",
        )
    return value


def sampler_and_schedule(sampler: Any, schedule: Any) -> tuple[str, str]:
    """Our names for both; "DPM++ 2M Karras" names both at once."""
    if not isinstance(sampler, str) or not isinstance(schedule, str):
        raise UsageError("sampler and schedule must be names", code="E-SAMPLER")
    name = sampler.strip()
    head, _, tail = name.rpartition(" ")
    if head and tail.lower() in SPACINGS:  # A1111: "DPM++ 2M Karras"
        name, schedule = head, tail.lower()
    name = ALIASES.get(name.lower(), name.lower())
    get_sampler(name)
    if schedule not in SPACINGS:
        raise UsageError(
            f"unknown schedule {schedule!r}",
            code="E-SCHEDULE",
            hint=did_you_mean(schedule, SPACINGS),
        )
    return name, schedule


def choice(name: str, value: Any, known: Sequence[str]) -> str:
    """One of a few names."""
    if value not in known:
        raise UsageError(
            f"unknown {name} {value!r}", code=_code(name), hint=did_you_mean(str(value), known)
        )
    return value


def flag(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise UsageError(f"{name} must be True or False, not {value!r}", code=_code(name))
    return value


def resampling(value: Any, steps: int) -> tuple[int, int] | None:
    """Jump length and times of RePaint."""
    if value is None:
        return None
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or len(value) != 2:
        raise UsageError(
            f"resample must be (jump length, times), not {value!r}",
            code="E-RESAMPLE",
            hint="resample=(10, 10)",
        )
    length = integer("resample jump length", value[0], 1, steps)
    return length, integer("resample times", value[1], 1, MAX_TIMES)


def positions(value: Any) -> np.ndarray:
    """Places from 0 to 1, (n,) float64: as many as asked, evenly spaced, or as given."""
    if isinstance(value, numbers.Integral):
        return np.linspace(0.0, 1.0, integer("positions", value, 2, MAX_COUNT))
    if isinstance(value, str | bytes) or not isinstance(value, Sequence | np.ndarray):
        raise UsageError(
            f"positions must be a whole number or a list of numbers, not {value!r}",
            code="E-POSITIONS",
        )
    if not 1 <= len(value) <= MAX_COUNT:
        raise UsageError(
            f"positions must be from 1 to {MAX_COUNT}, not {len(value)}", code="E-POSITIONS"
        )
    return np.asarray([number("positions", one, 0.0, 1.0) for one in value])


def seeds(seed: Any, n: int) -> tuple[int, ...]:
    """A seed for each of n pictures."""
    if isinstance(seed, Sequence) and not isinstance(seed, str | bytes):
        if len(seed) != n:
            raise UsageError(
                f"{len(seed)} seeds for {n} pictures", code="E-SEED", hint="one seed per picture"
            )
        return tuple(_seed(s) for s in seed)
    first = _seed(seed)
    return tuple((first + i) % 2**64 for i in range(n))


def _seed(seed: Any) -> int:
    whole = not isinstance(seed, bool) and isinstance(seed, numbers.Integral)
    if seed is None or (whole and seed == -1):
        return secrets.randbits(32)
    if not whole or not 0 <= int(seed) < 2**64:
        raise UsageError(
            f"seed must be a whole number from 0 to 2^64 - 1, or -1 for a random one, not {seed!r}",
            code="E-SEED",
        )
    return int(seed)
