"""All targets by name."""

from __future__ import annotations

import random

from . import configs, files, names, programs, quantized, texts
from .guard import Target, check
from .mutate import mutator

TARGETS: dict[str, Target] = (
    files.TARGETS
    | quantized.TARGETS
    | texts.TARGETS
    | configs.TARGETS
    | names.TARGETS
    | programs.TARGETS
)


def fuzz_blindly(target: Target, seeds: list[bytes], rng: random.Random) -> bytes:
    """Return an input that is some changes away from a seed."""
    change = mutator(target.mutate, target.words)
    data = rng.choice(seeds)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = change(data, rng)
    return data


def failure(target: Target, data: bytes) -> tuple[str, str] | None:
    """Return (place and error, message) of the failure of an input; None if there is none.

    Two inputs that fail for one reason have the same first element.
    """
    try:
        check(target, data)
    except BaseException as error:  # Rust's panics are not an Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        trace = error.__traceback__
        place = ""
        while trace is not None:
            file = trace.tb_frame.f_code.co_filename
            if "/ldmref/" in file or "/tests/fuzz/" in file:
                place = f"{file.rpartition('/')[2]}:{trace.tb_lineno}"
            trace = trace.tb_next
        return f"{place} {type(error).__name__}", str(error)[:300]
    return None


def minimised(target: Target, data: bytes, tries: int = 2000) -> bytes:
    """Return a shorter input with the same failure, by deletion of blocks."""
    wanted = failure(target, data)
    size = max(1, len(data) // 2)
    if wanted is None:
        return data
    while tries > 0:
        at = 0
        shorter = data
        while at < len(shorter) and tries > 0:
            candidate = shorter[:at] + shorter[at + size :]
            tries = tries - 1
            found = failure(target, candidate)
            if found is not None and found[0] == wanted[0]:
                shorter = candidate
            else:
                at += size
        if size == 1 and shorter == data:
            break
        data = shorter
        size = max(1, size // 2)
    return data
