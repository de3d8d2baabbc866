"""What is allowed of a step covers rounding in every sampler, and no fault of the last steps.

Each step is taken twice from the same arrays: in NumPy's float32 or float16, and in float64.
"""

from __future__ import annotations

import numpy as np
import pytest

from ldmref.locate.layouts import relative_error
from ldmref.locate.pipeline.steps import _least
from ldmref.locate.precision import EPSILONS
from ldmref.samplers import SAMPLERS, SchedulerConfig, configured_step, make_schedule
from ldmref.samplers.loop import run_intervals

SHAPE = (1, 4, 8, 8)
NAMES = [name for name, sampler in SAMPLERS.items() if not sampler.adaptive]
LAST = 3  # steps whose faults must be found


class Run:
    """A run of a sampler whose predictions and noise are numbers of a format."""

    def __init__(self, name, dtype, spacing, steps):
        self.dtype = np.dtype(dtype)
        self.epsilon = EPSILONS[dtype]
        sampler = SAMPLERS[name]
        schedule = make_schedule(SchedulerConfig(), sampler, spacing, steps)
        self.step, visits = configured_step(SchedulerConfig(), sampler, schedule)
        self.intervals = list(run_intervals(schedule.sigmas.tolist(), visits))
        self.rng = np.random.default_rng(steps)
        self.image = 0.8 * self.rng.standard_normal(SHAPE)
        self.start = self.image + self.intervals[0].sigma * self.rng.standard_normal(SHAPE)

    def take(self, x, interval, history, kind, fault=None):
        """Take one step in the format, "exact", or "rounded": exact with each x0 rounded."""
        kept, given = iter(self.predictions), iter(self.noise)

        def denoise(x, sigma):
            e = next(kept, None)
            if e is None:
                away = (np.asarray(x, np.float64) - self.image) / max(sigma, 1e-9)
                e = (0.9 * away + 0.3 * self.rng.standard_normal(SHAPE)).astype(self.dtype)
                self.predictions.append(e)
            if fault == "sign":
                e = -e
            if kind == "format":
                return x - self.dtype.type(sigma) * e
            x0 = x - sigma * e.astype(np.float64)
            return x0.astype(self.dtype).astype(np.float64) if kind == "rounded" else x0

        def noise():
            z = next(given, None)
            if z is None:
                z = self.rng.standard_normal(SHAPE).astype(self.dtype)
                self.noise.append(z)
            return z if kind == "format" else z.astype(np.float64)

        if fault == "level":
            interval = interval._replace(sigma=1.05 * interval.sigma)
        wide = self.dtype if kind == "format" else np.float64
        result, _, history = self.step(denoise, x.astype(wide), interval, history, noise)
        return np.asarray(result, np.float64), history

    def steps(self):
        """Yield interval, state, the step in the format, the exact one, and what is allowed."""
        x = self.start
        histories = {"format": (), "exact": (), "rounded": ()}
        for interval in self.intervals:
            x = x.astype(self.dtype)
            self.predictions, self.noise, self.before = [], [], dict(histories)
            found = {}
            for kind in histories:
                found[kind], histories[kind] = self.take(x, interval, histories[kind], kind)
            allowed = _least(self.epsilon, x, found["exact"], found["rounded"])
            yield interval, x, found["format"], found["exact"], allowed
            x = found["exact"]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("spacing", ["karras", "leading"])
def test_rounding_is_allowed_in_every_sampler(dtype, spacing):
    worst = {}
    for name in NAMES:
        for interval, _, got, exact, allowed in Run(name, dtype, spacing, 12).steps():
            if np.isfinite(exact).all() and np.isfinite(got).all():
                share = relative_error(got, exact) / allowed
                worst[name] = max(worst.get(name, (0.0, 0.0)), (share, interval.sigma))
    assert len(worst) == len(NAMES)
    assert max(worst.values()) < (0.8, 0.0), max(worst.items(), key=lambda item: item[1])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rounding_that_a_long_last_interval_multiplies_is_allowed(dtype):
    """Karras' last interval, from 0.03 to 0, is seven times the one before; LMS extrapolates."""
    *_, (_, x, got, exact, allowed) = Run("lms_euler", dtype, "karras", 100).steps()
    error = relative_error(got, exact)
    assert 0.1 * allowed < error < 0.8 * allowed
    assert error > _least(EPSILONS[dtype], x, exact)  # without the step of rounded predictions


def test_a_step_that_leaves_little_is_allowed_the_rounding_of_its_state():
    state, expected = np.array([4096.0]), np.array([3.0])
    assert _least(1.0, state, expected) == pytest.approx(4 * 4096 / 3 + 5)
    assert _least(1.0, expected, expected) == 16.0
    assert _least(1.0, expected, expected, np.array([np.nan])) == 16.0
    assert _least(1.0, expected, expected, 6.0 * expected) == 20.0


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m", "unipc", "lms", "deis", "euler_a"])
@pytest.mark.parametrize("spacing", ["karras", "leading"])
@pytest.mark.parametrize("fault", ["sign", "level", "not taken"])
def test_faults_of_the_last_steps_are_not_allowed(name, spacing, fault):
    run = Run(name, "float32", spacing, 10)
    for interval, x, _, exact, allowed in run.steps():
        if interval.i < len(run.intervals) - LAST:
            continue
        wrong = np.asarray(x, np.float64)
        if fault != "not taken":
            wrong, _ = run.take(x, interval, run.before["exact"], "exact", fault)
        error = relative_error(wrong, exact)
        if fault == "level" and interval.sigma_next == 0.0 and error == 0.0:
            continue  # the last step returns x0, wherever it starts
        assert error > 100 * allowed, (interval.sigma, error, allowed)


def test_errors_of_short_floats_do_not_overflow():
    """Twice the largest float16 is infinite in float16."""
    largest = np.full(3, 6e4, np.float16)
    assert relative_error(-largest, largest) == 2.0
