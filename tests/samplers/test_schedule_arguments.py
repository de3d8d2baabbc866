"""Schedules and the loop refuse invalid numbers of steps and noise levels, in one line."""

from __future__ import annotations

import numpy as np
import pytest

from ldmref import samplers
from ldmref.errors import UsageError
from ldmref.samplers import SAMPLERS, get_sampler, make_schedule, sample, sigma_grid
from ldmref.samplers.config import SchedulerConfig
from ldmref.samplers.schedule import sampling_sigmas

CONFIG = SchedulerConfig()
EULER = SAMPLERS["euler"]
TABLE = sampling_sigmas(CONFIG)
JUNK = [2.5, "3", None, True, float("nan"), [3], 3j, b"3", np.float64(3.0), np.ones(2), 10**400]


def code_of(function, *args, **kwargs):
    with pytest.raises(UsageError) as caught:
        function(*args, **kwargs)
    assert len(str(caught.value)) < 200 and "\n" not in str(caught.value)
    return caught.value.code


@pytest.mark.parametrize("steps", [*JUNK, 0, -1, 1001])
@pytest.mark.parametrize("convention", ["", "diffusers"])
def test_steps_are_a_whole_number_within_the_table(steps, convention):
    config = SchedulerConfig(convention=convention)
    for spacing in samplers.SPACINGS:
        assert code_of(make_schedule, config, EULER, spacing, steps) == "E-STEPS"
    assert code_of(sigma_grid, TABLE, "karras", steps) == "E-STEPS"


@pytest.mark.parametrize("steps", [np.int64(3), np.uint8(3), np.int32(3)])
def test_steps_may_be_numpys(steps):
    for spacing in samplers.SPACINGS:
        want = make_schedule(CONFIG, EULER, spacing, 3).sigmas
        np.testing.assert_array_equal(make_schedule(CONFIG, EULER, spacing, steps).sigmas, want)


@pytest.mark.parametrize("spacing", [3, [], "kerras", b"karras", True])
def test_a_spacing_is_a_name(spacing):
    assert code_of(make_schedule, CONFIG, EULER, spacing, 3) == "E-SCHEDULE"
    assert code_of(sigma_grid, TABLE, spacing, 3) == "E-SCHEDULE"
    assert code_of(sigma_grid, TABLE, "karras", 3, spacing) == "E-SCHEDULE"


@pytest.mark.parametrize("sampler", ["euler", None, 3, samplers.heun, EULER.make()])
def test_a_sampler_is_no_name(sampler):
    assert code_of(make_schedule, CONFIG, sampler, "karras", 3) == "E-SAMPLER"


@pytest.mark.parametrize(
    "sigmas",
    [
        [1.0, float("nan"), 0.0],
        [1.0, -0.5],
        [float("inf"), 1.0, 0.0],
        "10",
        b"10",
        3.0,
        None,
        ["1", "0"],
        [None, 0.0],
        [1j, 0.0],
        [True, False],
        [10**400, 0.0],
        np.ones((2, 2)),
        object(),
    ],
)
def test_noise_levels_are_finite_numbers(sigmas):
    """Refused when the run is asked for, not at its first step."""
    step = get_sampler("euler").make()
    assert code_of(sample, lambda x, sigma: x, np.ones(2), sigmas, step) == "E-SIGMAS"
    if sigmas is not None:  # the schedule's own
        assert code_of(make_schedule, CONFIG, EULER, None, 1, sigmas) == "E-SIGMAS"


@pytest.mark.parametrize("sigmas", [[1.0, 2.0, 0.0], [1.0, 1.0, 0.0], [1.0, 0.0]])
def test_sigmas_of_a_schedule_decrease_and_are_as_many_as_its_steps(sigmas):
    assert code_of(make_schedule, CONFIG, EULER, None, 2, sigmas) == "E-SIGMAS"


@pytest.mark.parametrize("kind", [list, tuple, np.array, iter, lambda v: np.array(v, np.float32)])
def test_noise_levels_come_in_any_list(kind):
    step = get_sampler("euler").make()
    states = list(sample(lambda x, sigma: 0.0 * x, np.full(2, 4.0), kind([4.0, 1.0, 0.0]), step))
    assert [(s.sigma, s.x.tolist()) for s in states] == [(1.0, [1.0, 1.0]), (0.0, [0.0, 0.0])]


def test_noise_levels_may_be_a_tensor():
    torch = pytest.importorskip("torch")
    step = get_sampler("euler").make()
    states = list(sample(lambda x, sigma: 0 * x, np.ones(2), torch.tensor([4.0, 1.0, 0.0]), step))
    assert [state.sigma for state in states] == [1.0, 0.0]
    assert code_of(sample, lambda x, s: x, 1.0, torch.tensor([1.0, float("nan")]), step)
