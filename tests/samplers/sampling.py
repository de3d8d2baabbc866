"""Sampling to the end, for all tests of samplers."""

from __future__ import annotations

from ldmref.samplers import SAMPLERS, sample

# the interval on which orders are measured: all of the mixture happens there
LOW = 0.1
HIGH = 1.0


def no_noise():
    raise AssertionError("drew noise")


def solve(step, denoise, x, sigmas, noise=no_noise, **extra):
    """Return the last `State` of a run; `step` is a step function or a name in SAMPLERS."""
    step = SAMPLERS[step].make() if isinstance(step, str) else step
    return list(sample(denoise, x, sigmas, step, noise=noise, **extra))[-1]


def without_noise(name):
    """Return the deterministic part of a sampler; None where it has none that solves the flow."""
    entry = SAMPLERS[name]
    if not entry.order:
        return None
    if entry.eta is not None:
        return entry.make(eta=0.0)
    return None if entry.stochastic else entry.make()
