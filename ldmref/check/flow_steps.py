"""Name a stochastic flow step: which published variant a function is, or what it lacks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ldmref import math as lm
from ldmref.check.flow_step_calls import COUNT, LAYOUTS, FlowStepCalls, MeasuredStep

LEVEL = 0.6  # not 0.7, which some functions have in their text
TIMES = tuple(float(3 * t / (1 + 2 * t)) for t in np.linspace(1.0, 0.0, 11))
INNER = (3, 5, 7, 8)  # steps from flow times below 0.9, where no guard acts
CLOSE = 2e-3
SDES = ("Flow-GRPO", "Dance", "Flow-GRPO for Wan", "SDE with g = a sqrt(s)")  # noise at s' = 0 also


@dataclass(frozen=True)
class FlowStepReport:
    """What a step function is.

    Args:
        name: The published variant, or "unknown".
        level: The noise level that its law has (of DDIM, Dance and Precise eta); NaN without one.
        guard: Flow-GRPO's treatment of flow time 1; "" of others.
        density: The convention of its log-density.
        missing: What is wrong or missing, one sentence each.
    """

    name: str
    level: float
    guard: str
    density: str
    missing: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether it is a published variant and lacks nothing."""
        return self.name != "unknown" and not self.missing

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON; a level that is not there becomes None."""
        return asdict(self) | {"level": None if math.isnan(self.level) else self.level}


def identify_flow_step(function: Callable[..., Any]) -> FlowStepReport:
    """Return which published stochastic flow step a function is, and what it lacks.

    Args:
        function: The step; its parameters are recognised by their names, such as `sample`,
            `model_output`, `sigma` and `sigma_next`, or `self` and `timestep`.

    Raises:
        InputError: A parameter without a default has an unknown name.

    Example:
        >>> from ldmref.math import cps_std, flow_renoise_transition, transition_log_density
        >>> def step(x, velocity, s, s_next, noise_level, x_next):
        ...     mean, std = flow_renoise_transition(
        ...         x, velocity, s, s_next, cps_std(s_next, noise_level)
        ...     )
        ...     return mean, transition_log_density(mean if x_next is None else x_next, mean, std)
        >>> report = identify_flow_step(step)
        >>> report.name, round(report.level, 3), report.density
        ('CPS', 0.6, 'the sum over all values')
    """
    calls = FlowStepCalls(function, TIMES, LEVEL)
    missing = []
    if any(any(calls.lost_numbers(i)) for i in INNER):
        _check_numbers(calls, "unknown", missing)
        return FlowStepReport("unknown", math.nan, "", "not compared", tuple(missing))
    steps, (name, level, stds) = _read(calls, missing)
    _check_numbers(calls, name, missing)
    guard = ""
    if name == "Flow-GRPO":
        guard = _guard(calls, steps[0].position, level, missing)
    if not math.isnan(level) and "noise level" in calls.roles.values():
        if abs(level - LEVEL) > 0.01 and name not in ("DDPM posterior", "stochastic_sampling"):
            missing.append(
                f"the noise level has no effect: {LEVEL} was passed, {level:.3g} is used"
            )
    density = _density(steps, stds, missing)
    _check_sampled(steps, stds, missing)
    return FlowStepReport(name, level, guard, density, tuple(missing))


def _read(
    calls: FlowStepCalls, missing: list[str]
) -> tuple[list[MeasuredStep], tuple[str, float, list[float]]]:
    """Return the law of each step and its name, from the log-density or else from an array."""
    steps = [calls.measure(i) for i in INNER]
    if not any(math.isnan(step.of_state) for step in steps):
        named = _name(steps, missing)
        if all(step.arrays for step in steps) and not all(_has_own_mean(step) for step in steps):
            missing.append("no array that is returned has the mean of the log-density")
        return steps, named
    read = []
    for position in _positions(steps):
        sentences = []
        of_array = [step.read_from(position) for step in steps]
        named = _name(of_array, sentences)
        read.append((bool(sentences), position, sentences, of_array, named))
    if not read:
        missing.append(f"neither a state, a mean nor a log-density is recognised: {LAYOUTS}")
        return steps, ("unknown", math.nan, [])
    _, _, sentences, steps, named = min(read, key=lambda item: item[:2])
    missing += sentences
    return steps, named


def _positions(steps: Sequence[MeasuredStep]) -> list[int]:
    """Return the places of the arrays that may be a state or a mean in all steps."""
    known = [
        {a.position for a in p.arrays if not math.isnan(a.of_state + a.of_velocity)} for p in steps
    ]
    return sorted(set.intersection(*known))


def _has_own_mean(step: MeasuredStep) -> bool:
    """Return whether an array agrees with the log-density; one that is drawn may not show it."""
    return any(
        math.isnan(a.of_state + a.of_velocity)
        or (_close(a.of_state, step.of_state) and _close(a.of_velocity, step.of_velocity))
        for a in step.arrays
    )


def _check_numbers(calls: FlowStepCalls, name: str, missing: list[str]) -> None:
    """Find a NaN or an infinity in any step; a law without noise has an infinite log-density."""
    for i in range(len(TIMES) - 1):
        in_arrays, in_others = calls.lost_numbers(i)
        has_noise = TIMES[i + 1] > 0.0 or name in SDES
        if in_arrays or (in_others and has_noise and name != "Euler (ODE)"):
            what = "a state or a mean" if in_arrays else "a log-density or a std"
            times = f"s = {TIMES[i]:.3g} to {TIMES[i + 1]:.3g}"
            missing.append(f"NaN or infinity in {what} of the step from {times}")
            return


def _name(steps: Sequence[MeasuredStep], missing: list[str]) -> tuple[str, float, list[float]]:
    """Return the variant, its noise level, and the std of each step."""
    named = _name_renoising(steps) or _name_sde(steps)
    if named:
        return named
    if all(_is_euler(step) for step in steps):
        if any(step.curvature > 0 or step.std > CLOSE for step in steps):
            missing.append("the drift lacks the term g^2 / (2 s) eps: noise without its correction")
            return "unknown", math.nan, [_std_from_density(step) for step in steps]
        return "Euler (ODE)", math.nan, [0.0] * len(steps)
    nearest, distance = _nearest(steps)
    missing.append(f"no published step has this mean; nearest: {nearest}, {distance:.2g} away")
    return "unknown", math.nan, []


def _close(a: float, b: float) -> bool:
    return abs(a - b) <= CLOSE * max(1.0, abs(b))


def _same(values: Sequence[float]) -> bool:
    return all(_close(v, values[0]) for v in values)


def _is_euler(step: MeasuredStep) -> bool:
    return _close(step.of_state, 1.0) and _close(step.of_velocity, step.s_next - step.s)


def _name_sde(steps: Sequence[MeasuredStep]) -> tuple[str, float, list[float]] | None:
    """Return the variant with this drift; None if it is none of an SDE, or of another g."""
    squares = []
    for step in steps:
        length = step.s_next - step.s
        square = 2 * step.s * (step.of_state - 1) / length
        expected = length * (1 + square * (1 - step.s) / (2 * step.s))
        if square < 1e-4 or not _close(step.of_velocity, expected):
            return None
        squares.append(square)
    stds = [math.sqrt(g * (p.s - p.s_next)) for g, p in zip(squares, steps, strict=True)]
    shares = {
        "Flow-GRPO": [g * (1 - p.s) / p.s for g, p in zip(squares, steps, strict=True)],
        "Dance": squares,
        "Flow-GRPO for Wan": [
            g / (p.s * TIMES[1]) ** 2 for g, p in zip(squares, steps, strict=True)
        ],
        "SDE with g = a sqrt(s)": [g / p.s for g, p in zip(squares, steps, strict=True)],
    }
    for name, values in shares.items():
        if _same(values) and not (name.endswith("Wan") and not _close(values[0], 1.0)):
            level = math.nan if name.endswith("Wan") else math.sqrt(values[0])
            return name, level, stds
    return None


def _name_renoising(steps: Sequence[MeasuredStep]) -> tuple[str, float, list[float]] | None:
    """Return the variant that puts data and noise together in this way; None if it does not."""
    kept = []
    for step in steps:
        share = step.of_state - (1 - step.s_next)
        expected = share * (1 - step.s) - (1 - step.s_next) * step.s
        if not _close(step.of_velocity, expected) or not -CLOSE < share < step.s_next - CLOSE:
            return None
        kept.append(max(share, 0.0) / step.s_next)
    stds = [p.s_next * math.sqrt(1 - k * k) for k, p in zip(kept, steps, strict=True)]
    if max(kept) < CLOSE:
        return "stochastic_sampling", 1.0, stds
    if _same(kept):
        return "CPS", 2 / math.pi * math.acos(kept[0]), stds
    falls = [math.log(p.s_next * (1 - p.s) / (p.s * (1 - p.s_next))) for p in steps]
    powers = [2 * math.log(max(k, 1e-9)) / fall for k, fall in zip(kept, falls, strict=True)]
    if _same(powers):
        level = math.sqrt(powers[0])
        return ("DDPM posterior" if _close(level, math.sqrt(2)) else "Precise"), level, stds
    shares = [(1 - k * k) / -math.expm1(2 * fall) for k, fall in zip(kept, falls, strict=True)]
    if _same(shares):
        return "flow DDIM", math.sqrt(shares[0]), stds
    for eta in (LEVEL, 1.0):
        ours = [lm.ancestral_flow_std(p.s, p.s_next, eta) for p in steps]
        if all(_close(a, b) for a, b in zip(ours, stds, strict=True)):
            return "ancestral RF", eta, stds
    return None


def _nearest(steps: Sequence[MeasuredStep]) -> tuple[str, float]:
    """Return the published step whose means are nearest at the noise level passed."""
    from ldmref.testing.flow_chains import LAWS

    distances = {}
    for name, make_law in LAWS.items():
        law = make_law(TIMES, LEVEL)
        worst = 0.0
        for p in steps:
            ours = [float(law(x, u, p.s, p.s_next)[0]) for x, u in ((1.0, 0.0), (0.0, 1.0))]
            gaps = (abs(ours[0] - p.of_state), abs(ours[1] - p.of_velocity))
            worst = max(worst, *gaps)
        distances[name] = worst
    name = min(distances, key=distances.__getitem__)
    return name, distances[name]


def _guard(calls: FlowStepCalls, position: int | None, level: float, missing: list[str]) -> str:
    """Describe the step from flow time 1, where g is infinite without a guard."""
    first = calls.measure(0)
    if position is not None and position in [array.position for array in first.arrays]:
        first = first.read_from(position)
    square = 2 * (first.of_state - 1) / (first.s_next - 1) / level**2  # 1 / (1 - s_max)
    if not math.isfinite(square) or square > 1e5:
        std = level * math.sqrt(square * (1 - TIMES[1])) if square > 0 else math.inf
        if math.isfinite(std):
            missing.append(f"the step from s = 1 has no guard: its noise has the std {std:.3g}")
        return "none: the first step is infinite, or nearly so"
    if _close(square * (1 - TIMES[1]), 1.0):
        return "that of the authors' code: 1 - s_1 in place of 1 - s at s = 1"
    clamps = {
        1 - 1 / square: "s is at most {:g} in 1 - s",
        square / (1 + square): "s is at most {:g} in s / (1 - s)",
    }
    value = min(clamps, key=lambda v: abs(v - round(v, 3)))
    return clamps[value].format(round(value, 4))


def _std_from_density(step: MeasuredStep) -> float:
    return math.sqrt(0.5 / step.curvature) if step.curvature > 0 else step.std


def _density(steps: Sequence[MeasuredStep], stds: Sequence[float], missing: list[str]) -> str:
    """Describe the log-density: its convention, and what it leaves out."""
    if any(math.isnan(step.curvature) for step in steps):
        return "none is returned"
    if not stds:
        return "not compared"
    ratios = [2 * q * q * p.curvature for q, p in zip(stds, steps, strict=True)]
    words = {1.0: "the mean over all values", float(COUNT): "the sum over all values"}
    scale = next((v for v in words if all(abs(r / v - 1) < 0.02 for r in ratios)), None)
    if scale is None:
        for value, text in words.items():
            if all(_close(step.curvature * COUNT / value, COUNT) for step in steps):
                return f"{text} of -(x' - mean)^2, without 1 / (2 std^2) and constants"
            lengths = [p.s - p.s_next for p in steps]
            if all(abs(r / h / value - 1) < 0.02 for r, h in zip(ratios, lengths, strict=True)):
                missing.append("the log-density has the std g and not g sqrt(s - s')")
                return text
        missing.append("the log-density has another std than the mean implies")
        return "of another transition"
    gaps = [
        p.height / scale + math.log(q) + 0.5 * math.log(2 * math.pi)
        for q, p in zip(stds, steps, strict=True)
    ]
    if all(abs(gap) < 0.02 for gap in gaps):
        return words[scale]
    if all(abs(p.height) < 0.02 * scale for p in steps):
        return f"{words[scale]}, without constants"
    if all(abs(gap - 0.5 * math.log(2 * math.pi)) < 0.02 for gap in gaps):
        return f"{words[scale]}, without ln 2 pi"
    missing.append("the log-density has another constant than -ln std - ln(2 pi) / 2")
    return words[scale]


def _check_sampled(
    steps: Sequence[MeasuredStep], stds: Sequence[float], missing: list[str]
) -> None:
    """Compare the std of the states that are sampled with that of the law."""
    if not stds or all(math.isnan(step.std) or step.std == 0.0 for step in steps):
        return
    pairs = [(p.std, q) for p, q in zip(steps, stds, strict=True) if q]
    if not all(abs(sampled / q - 1) < 0.08 for sampled, q in pairs):
        texts = ", ".join(f"{sampled:.3g} for {q:.3g}" for sampled, q in pairs[:2])
        missing.append(f"the noise that is sampled has another std than the law: {texts}")
