"""Lists of flow times as people paste them, and the answer to one in words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from ldmref.atlas.naming import SigmaMatch
from ldmref.errors import InputError, short_repr

NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
NOT_NUMBERS = re.compile(r"(?:device|dtype|size)=\S+|(?<![\d.])[A-Za-z_]\w*")
NEAREST = 3
MAX_TEXT = 2**18  # characters
MAX_NUMBERS = 2000  # a run has at most 1000 steps
MAX_DIGITS = 64
MAX_EXPONENT = 99


class NamedSchedule(NamedTuple):
    """What is known of a list of flow times, one text for each rule with its programs.

    Args:
        same: The rules that make the same numbers; () if none does.
        nearest: The nearest others, with their distances, at most three.
    """

    same: tuple[str, ...]
    nearest: tuple[str, ...]


def read_numbers(text: str) -> tuple[list[float], float]:
    """Return the numbers of a text, and half a unit of the last digit that is printed.

    Args:
        text: Numbers with anything between them, such as a printed tensor.

    Returns:
        The numbers, and how far each may be from the one that was printed.

    Raises:
        InputError: There are no numbers.

    >>> values, unit = read_numbers("tensor([1.0000, 0.9884, 0.7595], device='cuda:0')")
    >>> values, round(unit, 9)
    ([1.0, 0.9884, 0.7595], 5.5e-05)
    """
    texts = find_numbers(text)
    if not texts:
        hint = "as in: echo 1.0 0.95455 0.9 | ldmref schedule"
        raise InputError("there are no numbers on standard input", code="E-SIGMAS", hint=hint)
    units = []
    for number in texts:
        mantissa, _, exponent = number.lower().partition("e")
        decimals = len(mantissa.partition(".")[2])
        units.append(10.0 ** (int(exponent or 0) - decimals))
    unit = min(units)
    return [float(number) for number in texts], unit if unit == 1.0 else 0.55 * unit


def find_numbers(text: str) -> list[str]:
    """Return the numbers of a text as they are written there.

    Raises:
        InputError: There are more than a schedule has, or one that is out of range.

    >>> find_numbers("tensor([1.0000, 0.5], device='cuda:0')")
    ['1.0000', '0.5']
    """
    texts: list[str] = []
    for match in NUMBER.finditer(NOT_NUMBERS.sub(" ", text[: MAX_TEXT + 1])):
        texts.append(match[0])
        if len(texts) > MAX_NUMBERS:
            break
    if len(text) > MAX_TEXT or len(texts) > MAX_NUMBERS:
        message = f"a schedule has at most {MAX_NUMBERS:,} numbers, and the text has more"
        raise InputError(message, code="E-SIGMAS", hint="give the numbers of one run")
    for number in texts:
        exponent = number.lower().partition("e")[2]
        if len(number) > MAX_DIGITS or abs(int(exponent or 0)) > MAX_EXPONENT:
            message = f"{short_repr(number)} is no flow time: they are from 0 to 1"
            raise InputError(message, code="E-SIGMAS", hint="or timesteps, from 0 to 1000")
    return texts


def describe_matches(matches: Sequence[SigmaMatch]) -> NamedSchedule:
    """Return the matches of a list in words; those that were shifted again only if they match.

    Args:
        matches: The rows of the atlas, the nearest first, from `name_sigmas`.

    Returns:
        The rules that make the list, and the nearest others.

    Example:
        >>> from ldmref.atlas import name_sigmas
        >>> describe_matches(name_sigmas([1.0, 0.9, 0.75, 0.5], 1e-6)).same[0]
        'SD3, constant shift 3: to 1/n, ComfyUI'
    """
    same = _describe([match for match in matches if match.matches])
    others = [match for match in matches if not match.matches and not match.shifted_again]
    return NamedSchedule(tuple(same), tuple(_describe(others, distances=True)[:NEAREST]))


def _describe(matches: list[SigmaMatch], distances: bool = False) -> list[str]:
    """Return one text for each family and rule, with the programs that use it."""
    programs: dict[tuple[str, str], list[str]] = {}
    for match in matches:
        what = str(match).removesuffix(f": {match.row.program}")
        away = f" (up to {match.distance:.2g} away)" if distances else ""
        programs.setdefault((what, away), []).append(match.row.program)
    return [f"{what}: {', '.join(names)}{away}" for (what, away), names in programs.items()]
