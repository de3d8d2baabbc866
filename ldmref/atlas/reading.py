"""Lists of flow times as people paste them, and the answer to one in words."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from ldmref.atlas.intervals import oddness
from ldmref.atlas.naming import ShiftFit, SigmaMatch, fit_shifts, name_sigmas
from ldmref.errors import InputError, short_repr

NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
NOT_FINITE = re.compile(r"(?<![\w.])[-+]?(?:nan|inf|infinity)(?!\w)", re.IGNORECASE)
NOT_NUMBERS = re.compile(r"(?:device|dtype|size)=\S+|(?<![\d.])[A-Za-z_]\w*")
NEAREST = 3
PLAIN = 2  # decimals of a shift that is stated although an unusual size would make it
NEAR = 0.2  # the largest distance of a row that is offered as near
MAX_TEXT = 2**18  # characters
MAX_NUMBERS = 2000  # a run has at most 1000 steps
MAX_DIGITS = 64
MAX_EXPONENT = 99


class NamedSchedule(NamedTuple):
    """What is known of a list of flow times, one text for each rule with its programs.

    Args:
        same: The rules that make the same numbers; () if none does.
        nearest: The nearest others, with their distances, at most three.
        fitted: Constant shifts that no family uses and that make the same numbers, at most three;
            () if a row makes them for an image of a usual size.
    """

    same: tuple[str, ...]
    nearest: tuple[str, ...]
    fitted: tuple[str, ...] = ()


def name_numbers(text: str) -> NamedSchedule:
    """Return what is known of the flow times of a text, in words.

    Args:
        text: Numbers with anything between them, such as a printed tensor.

    Returns:
        The rules that make the list, the nearest others, and shifts that fit.

    Raises:
        InputError: There are no numbers, or they are no flow times.

    Example:
        >>> name_numbers("1.0 0.9 0.75 0.5").same[0]
        'Z-Image, constant shift 3: Tongyi, diffusers, ComfyUI, ComfyUI sgm_uniform, DiffSynth'
    """
    values, precision = read_numbers(text)
    matches = name_sigmas(values, precision)
    same = [match for match in matches if match.matches]
    if any(not match.tokens or oddness(match.tokens) < 2 for match in same):
        return describe_matches(matches)
    fits = fit_shifts(values, precision)
    return describe_matches(matches, [fit for fit in fits if not same or fit.decimals <= PLAIN])


def read_numbers(text: str) -> tuple[list[float], list[float]]:
    """Return the numbers of a text, and half a unit of the last digit of each.

    Programs print with a number of decimals or of significant digits, and leave out zeros at the
    end. So the last digit of a number is that of the longest, by decimals or by significant digits,
    whichever is coarser.

    Args:
        text: Numbers with anything between them, such as a printed tensor.

    Returns:
        The numbers, and how far each may be from the one that was printed: half a unit, or a
        whole one if all are whole numbers, which may be cut.

    Raises:
        InputError: There are no numbers.

    >>> values, units = read_numbers("tensor([1.0000, 0.9884, 0.7595], device='cuda:0')")
    >>> values, units
    ([1.0, 0.9884, 0.7595], [5e-05, 5e-05, 5e-05])
    >>> read_numbers("0.998 0.0123")[1]
    [0.0005, 5e-05]
    """
    texts = find_numbers(text)
    if not texts:
        hint = "as in: echo 1.0 0.95455 0.9 | ldmref schedule"
        raise InputError("there are no numbers on standard input", code="E-SIGMAS", hint=hint)
    powers = [_last_digit(number) for number in texts]
    last = min(power for power, _ in powers)
    digits = max(digits for _, digits in powers)
    units = []
    for number, (power, _) in zip(texts, powers, strict=True):
        leading = math.floor(math.log10(abs(float(number)))) if float(number) else power
        units.append(10.0 ** max(last, leading + 1 - digits))
    return [float(number) for number in texts], [u if last >= 0 else u / 2 for u in units]


def find_numbers(text: str) -> list[str]:
    """Return the numbers of a text as they are written there.

    Raises:
        InputError: There are more than a schedule has, or one that is out of range or not finite.

    >>> find_numbers("tensor([1.0000, 0.5], device='cuda:0')")
    ['1.0000', '0.5']
    """
    words = re.sub(r"(?:device|dtype|size)=\S+", " ", text[: MAX_TEXT + 1])
    if (found := NOT_FINITE.search(words)) is not None:
        message = f"{found[0]!r} is no flow time: they are from 0 to 1"
        raise InputError(message, code="E-SIGMAS", hint="a run that makes it is wrong before it")
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


def _last_digit(number: str) -> tuple[int, int]:
    """Return the power of ten of a number's last digit, and how many significant digits it has."""
    mantissa, _, exponent = number.lower().partition("e")
    whole, _, decimals = mantissa.partition(".")
    digits = len((whole + decimals).lstrip("+-0"))
    return int(exponent or 0) - len(decimals), digits


def describe_matches(matches: Sequence[SigmaMatch], fits: Sequence[ShiftFit] = ()) -> NamedSchedule:
    """Return the matches of a list in words; those that were shifted again only if they match.

    Args:
        matches: The rows of the atlas, the nearest first, from `name_sigmas`.
        fits: Shifts that no row has, from `fit_shifts`.

    Returns:
        The rules that make the list, the nearest others, and the fitted shifts.

    Example:
        >>> from ldmref.atlas import name_sigmas
        >>> describe_matches(name_sigmas([1.0, 0.9, 0.75, 0.5], 1e-6)).same[0]
        'Z-Image, constant shift 3: Tongyi, diffusers, ComfyUI, DiffSynth'
    """
    same = _describe([match for match in matches if match.matches])
    others = [
        match
        for match in matches
        if not match.matches and not match.shifted_again and match.distance <= NEAR
    ]
    nearest = _describe(others, distances=True)[:NEAREST]
    return NamedSchedule(tuple(same), tuple(nearest), tuple(str(fit) for fit in fits[:NEAREST]))


def _describe(matches: list[SigmaMatch], distances: bool = False) -> list[str]:
    """Return one text for each rule and its programs, with the families that share them."""
    programs: dict[tuple[str, str, str], list[str]] = {}
    for match in matches:
        away = f" (up to {match.distance:.2g} away)" if distances else ""
        programs.setdefault((match.row.family, match.what, away), []).append(match.row.program)
    families: dict[tuple[str, str], list[str]] = {}
    for (family, what, away), names in programs.items():
        families.setdefault((f"{what}: {', '.join(names)}", away), []).append(family)
    return [f"{_join(names)}, {what}{away}" for (what, away), names in families.items()]


def _join(families: list[str]) -> str:
    if len(families) > NEAREST:
        return f"{', '.join(families[:2])} and {len(families) - 2} more families"
    return " and ".join(families)
