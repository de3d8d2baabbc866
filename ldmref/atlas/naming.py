"""The inverse: which row of the atlas makes a list of flow times, and with how many tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from ldmref.atlas.making import TOKEN, make_flow_sigmas, positions_of, shift_mu
from ldmref.atlas.table import FlowSchedule, read_flow_schedules
from ldmref.errors import InputError
from ldmref.math import shift_flow_time

TOKENS = 16, 65536  # from 64 x 64 to 4096 x 4096 pixels
FLOAT32 = 2e-6  # programs compute in single precision


@dataclass(frozen=True)
class SigmaMatch:
    """A row of the atlas, and how near its flow times are to a list.

    Args:
        row: The row.
        tokens: The number of image tokens with which it is nearest; 0 if it depends on none.
        distance: The largest difference of two flow times.
        matches: Whether all differences are below the precision of the list.
        shifted_again: Whether it is the row's list with its shift applied a second time.

    Example:
        >>> from ldmref.atlas import find_flow_schedule
        >>> str(SigmaMatch(find_flow_schedule("FLUX.1"), 4096, 0.0, True))
        'FLUX.1, mu by tokens, 4096 tokens: BFL'
    """

    row: FlowSchedule
    tokens: int
    distance: float
    matches: bool
    shifted_again: bool = False

    def __str__(self) -> str:
        size = f", {self.tokens} tokens" if self.tokens else ""
        again = ", shifted a second time" if self.shifted_again else ""
        return f"{self.row.family}, {self.row.rule}{size}{again}: {self.row.program}"


def name_sigmas(values: Sequence[float], precision: float = FLOAT32) -> list[SigmaMatch]:
    """Name a list of flow times by the rows of the atlas that make it.

    Args:
        values: Flow times, falling, with or without the 0 at the end; or 1000 times as much, as
            timesteps are.
        precision: The largest difference at which two flow times are the same, such as half a unit
            of the last digit that was printed.

    Returns:
        All rows, those that match first, then the nearest.

    Raises:
        InputError: Less than two numbers, numbers that rise, or numbers out of range.

    Example:
        >>> match = name_sigmas([1.0, 0.9375, 0.83333, 0.625], 5e-6)[0]
        >>> match.row.family, match.row.rule, match.matches
        ('Wan', 'constant shift 5', True)
    """
    times, precision = _read(values, precision)
    found: dict[tuple[str, bool], SigmaMatch] = {}
    ends_at_0 = times[-1] == 0.0 and len(times) > 2
    for reading in (times[:-1], times) if ends_at_0 else (times,):
        for match in _compare(reading, precision):
            key = match.row.name, match.shifted_again
            if key not in found or match.distance < found[key].distance:
                found[key] = match
    return sorted(found.values(), key=_likeliest)


def _compare(times: np.ndarray, precision: float) -> Iterator[SigmaMatch]:
    """Yield how near each row is, and each row with its shift applied a second time."""
    for row in read_flow_schedules():
        if row.positions == "list" and len(row.sigmas) != len(times):
            continue
        tokens = _best_tokens(row, times)
        ours = make_flow_sigmas(row, len(times), tokens or 4096)[:-1]
        yield _match(row, tokens, ours, times, precision)
        factor = math.exp(shift_mu(row, len(times), tokens or 4096))
        if row.shift != "none" and factor != 1.0:
            again = shift_flow_time(ours, factor)
            yield _match(row, tokens, again, times, precision, True)


def _likeliest(match: SigmaMatch) -> tuple[bool, bool, bool, float]:
    """Order matches first, those of odd numbers of tokens last among them; then by distance."""
    if not match.matches:
        return True, False, False, match.distance
    odd_size = match.tokens > 0 and math.isqrt(match.tokens) ** 2 != match.tokens
    return False, match.shifted_again, odd_size, match.distance


def _match(
    row: FlowSchedule,
    tokens: int,
    ours: np.ndarray,
    times: np.ndarray,
    precision: float,
    again: bool = False,
) -> SigmaMatch:
    distance = float(np.max(np.abs(ours - times)))
    return SigmaMatch(row, tokens, distance, distance <= precision, again)


def _read(values: Sequence[float], precision: float) -> tuple[np.ndarray, float]:
    """Return falling flow times, and their precision."""
    times = np.asarray(values, np.float64)
    if times.ndim != 1 or len(times) < 2 or not np.isfinite(times).all():
        raise InputError("a schedule has at least two finite numbers", code="E-SIGMAS", hint="")
    if times.max() > 2.0:
        times, precision = times / 1000, precision / 1000
    if (np.diff(times) > 0).any():
        hint = "reverse the list: a run starts at noise, with the largest"
        raise InputError("flow times must fall, and these rise", code="E-SIGMAS", hint=hint)
    if times.min() < 0.0 or times.max() > 1.0 + precision:
        raise InputError("flow times must be in [0, 1]", code="E-SIGMAS", hint="")
    return times, max(precision, FLOAT32)


def _best_tokens(row: FlowSchedule, times: np.ndarray) -> int:
    """Return the number of tokens with which a row is nearest; 0 if it depends on none."""
    steps = len(times)
    near = _solve_tokens(row, times)
    if not near:
        return 0
    around = {min(max(n + k, TOKENS[0]), TOKENS[1]) for n in near for k in range(-4, 5)}

    def distance(tokens: int) -> float:
        return float(np.max(np.abs(make_flow_sigmas(row, steps, tokens)[:-1] - times)))

    return min(sorted(around), key=distance)


def _solve_tokens(row: FlowSchedule, times: np.ndarray) -> list[int]:
    """Return the numbers of tokens that give the middle of a list: two for FLUX.2, none or one."""
    middle = len(times) // 2
    if row.positions == "logit-normal":
        mean = _logit(times[middle]) - row.std * float(special.ndtri(1 - middle / len(times)))
        return [_clip(row.pixels * math.exp(2 * min(mean, 8.0)) / TOKEN**2)]
    if not row.shift.startswith("tokens"):
        return []
    mu = _fit_mu(row, times)
    solved = []
    for low, high in ((256, 4096), (4301, 8192)):  # mu is linear in tokens, in two parts for FLUX.2
        at_low, at_high = (shift_mu(row, len(times), n) for n in (low, high))
        if at_high != at_low:
            solved.append(_clip(low + (mu - at_low) * (high - low) / (at_high - at_low)))
    return solved


def _clip(tokens: float) -> int:
    return round(min(max(tokens, TOKENS[0]), TOKENS[1]))


def _logit(s: float) -> float:
    s = min(max(s, 1e-9), 1 - 1e-9)
    return math.log(s / (1 - s))


def _fit_mu(row: FlowSchedule, times: np.ndarray) -> float:
    """Return the mu whose flow times are nearest to a list, by the logit of its middle.

    The stretch to a terminal flow time is undone first: 1 - s = c (1 - s'), where c depends on mu.
    """
    steps = len(times)
    mu = 1.0
    for _ in range(60):
        s = positions_of(row, steps, mu)
        middle = steps // 2
        value = times[middle]
        if row.terminal:
            last = float(shift_flow_time(s[-1], math.exp(mu)))
            value = 1 - (1 - value) * (1 - last) / (1 - row.terminal)
        if not 0.0 < value < 1.0:
            return mu
        odds = _logit(value) - _logit(s[middle])
        if abs(odds - mu) < 1e-12:
            break
        mu = min(max(odds, -4.0), 8.0)
    return mu
