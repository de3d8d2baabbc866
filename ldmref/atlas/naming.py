"""The inverse: which row of the atlas makes a list of flow times, and with how many tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ldmref.atlas.intervals import Printed, depends_on_tokens, fit_mu, fit_tokens, oddness
from ldmref.atlas.making import make_flow_sigmas, shift_mu
from ldmref.atlas.positions import count_steps, place_late, takes_shift
from ldmref.atlas.table import FlowSchedule, read_flow_schedules
from ldmref.errors import InputError
from ldmref.math import shift_flow_time

FLOAT32 = 2e-6  # programs compute in single precision
TIMESTEPS = 800.0  # from which numbers are timesteps; no row begins below 0.8 in usual runs
LATEST = 1.001  # the largest flow time of t + 1, that without a shift
USUAL_TOKENS = 4096  # of 1024 x 1024 pixels
KNOWN = ("diffusers", "ComfyUI")
INFORMATIVE = 2  # numbers between 0 and 1 that a fitted shift must explain


@dataclass(frozen=True)
class SigmaMatch:
    """A row of the atlas, and how near its flow times are to a list.

    Args:
        row: The row.
        tokens: The likeliest number of image tokens, or the nearest; 0 if it depends on none.
        distance: The largest difference of two flow times.
        matches: Whether all differences are below the precision of the list.
        shifted_again: Whether it is the row's list with its shift applied a second time.
        agreeing: The smallest and the largest number of tokens that match.
        late: Whether it is the row's list with 1 added to the timesteps once too often.

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
    agreeing: tuple[int, int] = (0, 0)
    late: bool = False

    def __str__(self) -> str:
        return f"{self.row.family}, {self.what}: {self.row.program}"

    @property
    def what(self) -> str:
        """The rule, the number of tokens and what was done again, in words."""
        size = f", {self.tokens} tokens" if self.tokens else ""
        low, high = self.agreeing
        span = f" (or any from {low} to {high})" if low < high else ""
        again = ", shifted a second time" if self.shifted_again else ""
        late = ", at t + 1" if self.late else ""
        return f"{self.row.rule}{size}{span}{again}{late}"


@dataclass(frozen=True)
class ShiftFit:
    """A shift with which one spacing makes a list to its last digit.

    Args:
        row: A row with this spacing; its own shift is another.
        mu: The logarithm of the shift.
        factor: The shift k = e^mu. The simplest number that agrees is one of both.
        low: The smallest mu that agrees.
        high: The largest mu that agrees.
        others: Families whose programs have this spacing, with their mu at 4096 tokens, the
            nearest first.

    Example:
        >>> str(fit_shifts([1.0, 0.84, 0.63636, 0.36842], 5e-6)[0])[:56]
        'linspace(1, 1/n, n) with k = 1.75 (mu 0.559616) fits to '
    """

    row: FlowSchedule
    mu: float
    factor: float
    low: float
    high: float
    others: tuple[tuple[str, float], ...] = ()

    @property
    def decimals(self) -> int:
        """How many decimals k or mu has, whichever has fewer."""
        return min(_decimals(self.mu), _decimals(self.factor))

    def __str__(self) -> str:
        last = f", stretched to {self.row.terminal:g}" if self.row.terminal else ""
        shift = f"k = {self.factor:.6g} (mu {self.mu:.6g})"
        if _decimals(self.mu) < _decimals(self.factor):
            shift = f"mu = {self.mu:.6g} (k {self.factor:.6g})"
        theirs = ", ".join(f"{family} has mu {mu:.4g}" for family, mu in self.others)
        text = f"{self.row.spacing}{last} with {shift} fits to the last digit, which no family has"
        return f"{text}; {theirs}" if theirs else text


def name_sigmas(
    values: Sequence[float], precision: float | Sequence[float] = FLOAT32
) -> list[SigmaMatch]:
    """Name a list of flow times by the rows of the atlas that make it.

    Args:
        values: Flow times, falling, with or without the 0 at the end; or 1000 times as much, as
            timesteps are.
        precision: The largest difference at which two flow times are the same, such as half a unit
            of the last digit that was printed; for all, or one for each.

    Returns:
        All rows, those that match first, the best known of them before the others, then the
        nearest. A list that begins above 1, at most at 1.001, is compared with rows whose timesteps
        are one too large.

    Raises:
        InputError: Less than two numbers, numbers that rise, or numbers that are no flow times.

    Example:
        >>> match = name_sigmas([1.0, 0.9375, 0.83333, 0.625], 5e-6)[0]
        >>> match.row.family, match.row.rule, match.matches
        ('HunyuanImage 2.1', 'constant shift 5', True)
    """
    found: dict[tuple[str, bool, bool], SigmaMatch] = {}
    for reading in _readings(values, precision):
        for match in _compare(reading):
            key = match.row.name, match.shifted_again, match.late
            known = found.get(key)
            if known is None or _rank(match) < _rank(known):
                found[key] = match
    return sorted(found.values(), key=_likeliest)


def fit_shifts(
    values: Sequence[float], precision: float | Sequence[float] = FLOAT32
) -> list[ShiftFit]:
    """Fit a constant shift to a list of flow times, for each spacing of the atlas.

    Args:
        values: As `name_sigmas` takes them.
        precision: As `name_sigmas` takes it.

    Returns:
        The shifts that agree with every number as it is printed, the simplest number first; []
        if no shift does, or if less than two numbers lie between 0 and 1.

    Raises:
        InputError: As of `name_sigmas`.

    Example:
        >>> [round(fit.factor, 6) for fit in fit_shifts([1.0, 0.84, 0.63636, 0.36842], 5e-6)]
        [1.75]
    """
    fits: dict[tuple[float, float], ShiftFit] = {}  # one of spacings that are the same here
    tried: set[tuple[str, float, int]] = set()
    for reading in _readings(values, precision):
        times = reading.times
        if np.count_nonzero((times > 0) & (times < 1)) < INFORMATIVE:
            return []  # the other reading has the same numbers between 0 and 1
        for row in read_flow_schedules():
            key = row.spacing, row.terminal, len(times)
            if key in tried or not takes_shift(row):
                continue
            tried.add(key)
            for steps in count_steps(row, len(times)):
                _, low, high = fit_mu(row, steps, reading)
                if low <= high:
                    fit = _shift_fit(row, steps, low, high)
                    same = fits.get((low, high))
                    fits[low, high] = fit if same is None else _joined(same, fit)
    return sorted(fits.values(), key=lambda fit: fit.decimals)


def _shift_fit(row: FlowSchedule, steps: int, low: float, high: float) -> ShiftFit:
    """Return a fit with the simplest number of its interval, as k or as mu."""
    mu = _simplest(low, high)
    factor = _simplest(math.exp(low), math.exp(high))
    if _decimals(mu) < _decimals(factor):
        factor = math.exp(mu)
    else:
        mu = math.log(factor)
    theirs: dict[str, float] = {}
    for other in read_flow_schedules():
        if (other.spacing, other.terminal) == (row.spacing, row.terminal):
            theirs.setdefault(other.family, shift_mu(other, steps, 4096))
    nearest = sorted(theirs.items(), key=lambda item: abs(item[1] - mu))[:2]
    return ShiftFit(row, mu, factor, low, high, tuple(nearest))


def _joined(one: ShiftFit, other: ShiftFit) -> ShiftFit:
    """Return a fit with the families of another spacing that makes the same numbers."""
    theirs = dict(other.others) | dict(one.others)
    nearest = sorted(theirs.items(), key=lambda item: abs(item[1] - one.mu))
    return replace(one, others=tuple(nearest[:2]))


def _simplest(low: float, high: float) -> float:
    """Return the number with the fewest decimals of an interval, the nearest to its middle."""
    for decimals in range(12):
        number = round((low + high) / 2, decimals)
        if low <= number <= high:
            return number
    return (low + high) / 2


def _decimals(number: float) -> int:
    """Return how many decimals a number has, at most 12."""
    return next((k for k in range(12) if math.isclose(round(number, k), number)), 12)


def _readings(values: Sequence[float], precision: float | Sequence[float]) -> Iterator[Printed]:
    """Yield a list without the 0 at its end, and as it is."""
    times, margins = _read(values, precision)
    if times[-1] == 0.0 and len(times) > 2:
        yield Printed(times[:-1], margins[:-1])
    yield Printed(times, margins)


def _compare(printed: Printed) -> Iterator[SigmaMatch]:
    """Yield how near each row is, and each row with its shift applied a second time."""
    fits: dict[tuple[str, float, float], tuple[float, float, float]] = {}
    late = printed.times[0] > 1.0 + printed.precision[0]
    for row in read_flow_schedules():
        for steps in count_steps(row, len(printed.times)):
            if late:
                yield from _match_late(row, steps, printed)
                continue
            tokens, low, high = 0, 0, 0
            if depends_on_tokens(row):
                key = row.spacing, row.terminal, row.std
                if key not in fits:
                    fits[key] = fit_mu(row, steps, printed)
                tokens, low, high = fit_tokens(row, steps, printed, fits[key])
            ours = make_flow_sigmas(row, steps, tokens or 4096)[:-1]
            yield _match(row, tokens, ours, printed, agreeing=(low, high))
            factor = math.exp(shift_mu(row, steps, tokens or 4096))
            if takes_shift(row) and factor != 1.0:
                again = shift_flow_time(ours, factor)
                yield _match(row, tokens, again, printed, again=True)


def _match_late(row: FlowSchedule, steps: int, printed: Printed) -> Iterator[SigmaMatch]:
    """Yield how near a row is whose timesteps are one too late, if it does not count tokens."""
    if depends_on_tokens(row):
        return
    made = place_late(row, steps, shift_mu(row, steps, 4096))
    if made is not None and len(made) == len(printed.times):
        yield replace(_match(row, 0, made, printed), late=True)


def _likeliest(match: SigmaMatch) -> tuple[bool, bool, int, bool, int, int, float]:
    """Order matches first, those of odd numbers of tokens last among them; then by distance.

    Of several that match, those come first that need no other size than 1024 x 1024. Then the row
    of a family's maker is named, diffusers' and ComfyUI's default, which most people run, and the
    others in the order of the table.
    """
    if not match.matches:
        return True, False, 0, False, 0, 0, match.distance
    odd = oddness(match.tokens) if match.tokens else 0
    resized = match.tokens not in (0, USUAL_TOKENS)
    return False, match.shifted_again, odd, resized, *_known(match.row), match.distance


def _known(row: FlowSchedule) -> tuple[int, int]:
    """Return how well a row is known, and its place in the table."""
    rows = read_flow_schedules()
    place = rows.index(row)
    first = place == 0 or rows[place - 1].family != row.family
    others = (1 + KNOWN.index(row.program)) if row.program in KNOWN else 1 + len(KNOWN)
    return 0 if first else others, place


def _rank(match: SigmaMatch) -> tuple[bool, float]:
    return not match.matches, match.distance


def _match(
    row: FlowSchedule,
    tokens: int,
    ours: np.ndarray,
    printed: Printed,
    again: bool = False,
    agreeing: tuple[int, int] = (0, 0),
) -> SigmaMatch:
    distance = float(np.max(np.abs(ours - printed.times)))
    return SigmaMatch(row, tokens, distance, max(printed.excess(ours)) <= 1, again, agreeing)


def _read(
    values: Sequence[float], precision: float | Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return falling flow times, and how far each may be from the number that was printed."""
    times = np.asarray(values, np.float64)
    if times.ndim != 1 or len(times) < 2 or not np.isfinite(times).all():
        raise InputError("a schedule has at least two finite numbers", code="E-SIGMAS", hint="")
    margins = np.broadcast_to(np.asarray(precision, np.float64), times.shape)
    if (np.diff(times) > 0).any():
        hint = "reverse the list: a run starts at noise, with the largest"
        raise InputError("flow times must fall, and these rise", code="E-SIGMAS", hint=hint)
    span = f"{times[0]:.6g} to {times[-1]:.6g}"
    if times[0] >= TIMESTEPS:
        times, margins = times / 1000, margins / 1000
    margins = margins + FLOAT32
    if times[-1] < 0.0 or times[0] > LATEST + margins[0] or times[0] == 0.0:
        raise InputError(
            f"{span} are no flow times, which are in [0, 1]",
            code="E-SIGMAS",
            hint="timesteps of a whole run fall from about 1000; sigmas of x0 + sigma eps, such as "
            "14.61 to 0.03 of Stable Diffusion, belong to models without a flow",
        )
    return times, margins
