"""Samplers with a network that is a flow map: it reads where each step leads.

The exact map of Gaussian data is the oracle: whole runs must be exact in any number of steps.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldmref.math import gaussian_average_velocity, gaussian_flow_map
from ldmref.samplers import (
    FLOW,
    SAMPLERS,
    Interval,
    SchedulerConfig,
    configured_step,
    get_guidance,
    get_sampler,
    guided_denoiser,
    make_schedule,
    sample,
)
from ldmref.samplers.interfaces import Guided, GuidedDenoiser, toward

CONFIG = SchedulerConfig(prediction_type="flow", spacing="flow", final_sigma="zero", shift=6.93)
MEAN, VARIANCE = 0.4, 2.25
JUMPS = sorted(name for name, sampler in SAMPLERS.items() if sampler.jumps)
levels = st.lists(st.floats(0.02, 0.98), max_size=6, unique=True).map(
    lambda inner: [1.0, *sorted(inner, reverse=True), 0.0]
)


def make_map(seen=None):
    """Return the exact flow map of the data as a denoiser of `sample`."""

    def network(xt, sigma, names, interval):
        end = interval.end
        if seen is not None:
            seen.append((sigma, end))
        slope = gaussian_average_velocity(xt, sigma, end, MEAN, VARIANCE)
        return [slope for _ in names]

    return guided_denoiser(network, "flow", get_guidance("cfg"), 1.0, path=FLOW)


def run(name, sigmas, x, noise=None, eta=None, first_step=0, seen=None):
    """Return the last state of a run of a sampler from x."""
    sampler = get_sampler(name)
    schedule = make_schedule(CONFIG, sampler, None, len(sigmas) - 1, sigmas)
    step, visits = configured_step(CONFIG, sampler, schedule, eta=eta, first_step=first_step)
    states = sample(make_map(seen), x, schedule.sigmas, step, noise=noise, visits=visits, path=FLOW)
    *_, last = states
    return last.x


@given(levels, st.floats(-3, 3))
@pytest.mark.parametrize("name", ["euler", "ddim"])
def test_any_number_of_steps_is_exact(name, sigmas, x):
    got = run(name, sigmas, np.asarray([[x]]))
    want = gaussian_flow_map(x, 1.0, 0.0, MEAN, VARIANCE)
    assert abs(got[0, 0] - want) < 1e-9


@given(levels, st.floats(-3, 3), st.data())
def test_runs_may_begin_at_a_middle_level(sigmas, x, data):
    """As those of img2img do."""
    first = data.draw(st.integers(0, len(sigmas) - 2))
    got = run("euler", sigmas, np.asarray([[x]]), first_step=first)
    want = gaussian_flow_map(x, sigmas[first], 0.0, MEAN, VARIANCE)
    assert abs(got[0, 0] - want) < 1e-9


@given(levels, st.floats(0.0, 1.0))
@pytest.mark.parametrize("name", JUMPS)
def test_fresh_noise_leaves_the_distribution_exact(name, sigmas, eta):
    """The last state is affine in the first and in each noise, so its moments are exact."""
    sampler = get_sampler(name)
    options = {} if sampler.eta is None else {"eta": eta}
    draws = len(sigmas)

    def last(numbers):
        rest = iter(numbers[1:])
        noise = lambda: np.asarray([[next(rest)]])  # noqa: E731
        return float(run(name, sigmas, np.asarray([[numbers[0]]]), noise, **options)[0, 0])

    zero = last(np.zeros(draws + 1))
    weights = [last(unit) - zero for unit in np.eye(draws + 1)]
    assert abs(zero - MEAN) < 1e-9
    assert abs(np.sum(np.square(weights)) - VARIANCE) < 1e-9


def test_a_network_reads_where_its_step_leads():
    """The next level; that below it where noise is added; the data where all of it is new."""
    sigmas = [1.0, 0.75, 0.25, 0.0]
    noise = lambda: np.zeros((1, 1))  # noqa: E731
    ends = {}
    for name in JUMPS:
        seen = []
        run(name, sigmas, np.zeros((1, 1)), noise, seen=seen)
        assert [sigma for sigma, _ in seen] == pytest.approx(sigmas[:-1])
        ends[name] = [end for _, end in seen]
    assert ends["euler"] == ends["ddim"] == sigmas[1:]
    assert ends["lcm"] == [0.0, 0.0, 0.0]
    for name in ("tcd", "euler_a"):
        assert 0 < ends[name][1] < sigmas[2]
        assert ends[name][2] == 0.0
    assert ends["tcd"][0] == pytest.approx(0.7 * 0.75, abs=2e-3)  # of the timestep
    assert ends["euler_a"][0] < 1e-9  # from pure noise, all of the noise is new


def test_the_end_of_a_step_is_the_next_level():
    interval = Interval(0, 1, 2, 1.0, 0.5)

    def predict(x, sigma, memory, unconditional, within, scale):
        return Guided(within.end, None, ())

    denoise = GuidedDenoiser(predict)
    assert interval.end == 0.5 and interval._replace(target=0.25).end == 0.25
    assert toward(denoise, interval, 0.5) is denoise
    assert toward(denoise, interval, 0.25)(0.0, 1.0) == 0.25
    plain = lambda x, sigma: x  # noqa: E731
    assert toward(plain, interval, 0.25) is plain
