"""Values as text on the command line: seeds, jumps, positions, noise."""

from __future__ import annotations

import re

import numpy as np

from ldmref.errors import InputError, UsageError, short_repr
from ldmref.support.config import read_number
from ldmref.support.files import not_a_file


def parse_seeds(text: str) -> int | list[int]:
    """Read a whole number, or several with commas between."""
    if not re.fullmatch(r"-?[0-9]{1,40}(,-?[0-9]{1,40})*", text):
        raise UsageError(
            f"seed must be a whole number from 0 to 2^64 - 1, or -1, not {short_repr(text)}",
            code="E-SEED",
            hint="several images may have a seed each: --seed 1,2,3",
        )
    seeds = [int(seed) for seed in text.split(",")]
    return seeds if len(seeds) > 1 else seeds[0]


def parse_jumps(text: str) -> tuple[int, int]:
    """Read RePaint's jump length and number of samples, with a comma between."""
    if not re.fullmatch(r"[0-9]{1,9},[0-9]{1,9}", text):
        raise UsageError(
            f"resample must be two whole numbers, not {short_repr(text)}",
            code="E-RESAMPLE",
            hint="--resample 10,10",
        )
    length, samples = text.split(",")
    return int(length), int(samples)


def parse_positions(text: str) -> list[float]:
    """Read numbers with commas between."""
    try:
        return [read_number(position) for position in text.split(",")]
    except ValueError:
        raise UsageError(
            f"positions must be numbers from 0 to 1, not {short_repr(text)}",
            code="E-POSITIONS",
            hint="--positions 0,0.25,0.5,1",
        ) from None


def parse_sigmas(text: str) -> list[float]:
    """Read numbers with commas between."""
    try:
        return [read_number(sigma) for sigma in text.split(",")]
    except ValueError:
        raise UsageError(
            f"sigmas must be numbers, not {short_repr(text)}",
            code="E-SIGMAS",
            hint="--sigmas 14.6,7.1,2.3,0",
        ) from None


def read_noise(path: str) -> np.ndarray:
    """Read the array of floating-point numbers in a .npy file.

    Raises:
        InputError: The file does not exist, or does not hold finite floating-point numbers.
    """
    if problem := not_a_file(path):
        raise InputError(f"{path!r} {problem}", code="E-LATENTS", hint="check the path")
    try:  # mapped: a header that promises more than the file holds costs nothing
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy raises many kinds for damaged files
        raise InputError(
            f"cannot read {path!r} as a NumPy array",
            code="E-LATENTS",
            hint="ldmref invert --noise noise.npy writes one",
        ) from error
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        kind = array.dtype if isinstance(array, np.ndarray) else "an archive"
        raise InputError(
            f"the array in {path!r} is {kind}, not floating-point numbers", code="E-LATENTS"
        )
    with np.errstate(over="ignore"):
        noise = np.array(array, np.float32)
    if not np.isfinite(noise).all():
        raise InputError(f"the array in {path!r} holds NaN or infinity", code="E-LATENTS")
    return noise
