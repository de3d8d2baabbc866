"""What a flow step is given under each name, and how its numbers are read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from ldmref.check.flow_step_calls import (
    COUNT,
    SHAPE,
    FlowStepCalls,
    ReturnedArray,
    SchedulerStandIn,
    same_noise,
    values_of,
)
from ldmref.errors import InputError

TIMES = (1.0, 0.75, 0.5, 0.2, 0.0)
LEVEL = 0.6
INDEX = 2
X, U, REACHED = (np.full(SHAPE, value) for value in (0.5, -0.5, 0.25))
NAMES = {
    0.5: ("sample", "latents", "x", "xs", "xt", "x_t", "z"),
    -0.5: ("model_output", "velocity", "v", "u", "noise_pred", "pred", "prediction"),
    TIMES[INDEX]: ("sigma", "s", "t", "sigma_t", "s_cur", "t_cur"),
    TIMES[INDEX + 1]: ("sigma_next", "s_next", "sigma_prev", "t_next", "t_prev"),
    TIMES[1]: ("sigma_max", "at_one"),
    INDEX: ("index", "step_index", "i"),
    500.0: ("timestep",),
    LEVEL: ("noise_level", "eta", "a", "kappa", "level"),
    0.25: ("prev_sample", "x_next", "next_sample", "next_latents", "fixed_next_latents"),
    True: ("grpo", "ddpo", "sde_solver"),
    None: ("key", "generator"),
}


def calls(function, times=TIMES):
    return FlowStepCalls(function, times, LEVEL)


def given(names):
    """What a step with parameters of these names gets."""
    source = f"lambda {', '.join(names)}: got.update({', '.join(f'{n}={n}' for n in names)}) or 1.0"
    got = {}
    calls(eval(source, {"got": got}))._call(INDEX, X, U, REACHED)
    return got


@pytest.mark.parametrize(
    ("value", "name"), [(value, name) for value, names in NAMES.items() for name in names]
)
def test_every_name_has_its_value(value, name):
    got = given([name])[name]
    if value is None or value is True:
        assert got is value
    else:
        assert np.all(np.asarray(got) == value)


def test_states_and_timesteps_have_a_batch():
    got = given(["sample", "timestep", "sigma", "sigmas"])
    assert got["sample"].shape == SHAPE and got["timestep"].shape == SHAPE[:1]
    assert np.ndim(got["sigma"]) == 0
    assert got["sigmas"].tolist() == [*TIMES]
    assert COUNT == math.prod(SHAPE[1:])


@pytest.mark.parametrize("name", ["self", "scheduler"])
def test_a_scheduler_knows_its_steps(name):
    stand_in = given([name])[name]
    assert stand_in.sigmas.tolist() == [*TIMES] and stand_in.step_index == INDEX
    assert stand_in.timesteps.tolist() == [1000.0, 750.0, 500.0, 200.0]
    found = [stand_in.index_for_timestep(t) for t in (1000.0, 750.0, 499.0, 200.0)]
    assert found == [0, 1, 2, 3]


def test_names_that_are_not_known_may_have_defaults():
    assert calls(lambda sample, banana=1: sample).roles == {"sample": "state"}
    assert calls(lambda sample, *banana, **more: sample).roles == {"sample": "state"}
    with pytest.raises(InputError) as caught:
        calls(lambda sample, banana: sample)
    assert caught.value.code == "E-AGAINST"


# -- arrays ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of_state", "of_velocity", "expected"),
    [
        (1.0, 0.0, False), (0.0, 1.0, False), (0.0, 0.0, False), (1.0, -0.8, False),
        (1.0, 0.2, False), (1.0, -0.3, True), (0.9, 0.0, True), (1.0, 1.01e-4, True),
        (1.0, 0.99e-4, False), (math.nan, math.nan, True),
    ],
)  # fmt: skip
def test_the_known_arrays_are_no_transition(of_state, of_velocity, expected):
    assert ReturnedArray(0, of_state, of_velocity, 0.0).is_transition(0.8) == expected


def test_coefficients_stds_and_places_are_read():
    def step(sample, velocity, sigma, sigma_next, noise_level):
        noise = np.random.default_rng().standard_normal(sample.shape)
        mean = 0.9 * sample - 0.3 * velocity + 7.0
        return "text", sample - sigma * velocity, mean + 0.5 * noise, mean, None, 3.0

    law = calls(step).measure(1)
    assert (law.s, law.s_next) == (0.75, 0.5)
    assert [a.position for a in law.arrays] == [2, 3]
    for array in law.arrays:
        assert array.of_state == pytest.approx(0.9, abs=1e-12)
        assert array.of_velocity == pytest.approx(-0.3, abs=1e-12)
    assert law.std == law.arrays[0].std == pytest.approx(0.5, rel=0.05)
    assert law.arrays[1].std == 0.0
    assert math.isnan(law.of_state) and math.isnan(law.curvature) and math.isnan(law.height)
    read = law.read_from(3)
    assert (read.of_state, read.of_velocity) == (law.arrays[1].of_state, law.arrays[1].of_velocity)
    assert read.position == 3 and law.position is None


def test_an_array_that_is_not_linear_alike_everywhere_has_no_coefficient():
    ramp = np.linspace(0.0, 1.0, math.prod(SHAPE)).reshape(SHAPE)

    def step(sample, velocity):
        more = ramp if sample.shape == SHAPE else 0.0
        return sample * (1.5 + more) + velocity

    (array,) = calls(step).measure(0).arrays
    assert math.isnan(array.of_state) and array.of_velocity == 1.0


def test_a_log_density_has_its_maximum_curvature_and_height():
    def step(sample, velocity, prev_sample):
        gap = prev_sample - (0.7 * sample - 0.4 * velocity)
        return (5.0 - 3.0 * gap**2).mean(axis=(1, 2, 3))

    law = calls(step).measure(0)
    assert law.of_state == pytest.approx(0.7) and law.of_velocity == pytest.approx(-0.4)
    assert law.curvature == pytest.approx(3.0) and law.height == pytest.approx(5.0)
    assert law.arrays == () and math.isnan(law.std)


def test_the_first_parabola_among_the_values_counts():
    def step(sample, velocity, prev_sample):
        gap = (prev_sample - 0.5 * sample).mean()
        return 2.0, prev_sample, None, 1e9 + 0.0 * gap, -4.0 * gap**2, -9.0 * gap**2

    assert calls(step).measure(0).curvature == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("height", "curvature", "expected"),
    [(1e6, 0.9, False), (1e6, 1.1, True), (1.0, 0.9e-6, False), (1.0, 1.1e-6, True),
     (0.0, 1.1e-9, True), (0.0, 0.9e-9, False)],
)  # fmt: skip
def test_a_curvature_is_more_than_a_rounding(height, curvature, expected):
    """A millionth of the values, or of 0.001."""

    def step(sample, velocity, prev_sample):
        return height - curvature * prev_sample.mean() ** 2

    assert math.isfinite(calls(step).measure(0).curvature) == expected


# -- numbers that are lost ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "lost"), [("array", (True, False)), ("number", (False, True)), ("", (False, False))]
)
def test_lost_arrays_and_other_values_are_told_apart(bad, lost):
    def step(sample, velocity):
        array = sample * (np.nan if bad == "array" else 1.0)
        return array, np.inf if bad == "number" else 1.0, None

    assert calls(step).lost_numbers(1) == lost


def test_numbers_that_are_lost_with_a_given_state_count():
    def step(sample, velocity, prev_sample=None):
        return sample, 1.0 if prev_sample is None else np.nan

    assert calls(step).lost_numbers(0) == (False, True)


def test_the_last_step_may_have_no_density():
    def step(sample, velocity, sigma_next):
        if float(sigma_next) in (0.0, 0.75):
            raise ZeroDivisionError
        return sample

    assert calls(step).lost_numbers(len(TIMES) - 2) == (False, True)
    with pytest.raises(InputError):
        calls(step).lost_numbers(0)


def test_a_state_is_given_to_a_step_that_cannot_draw_one():
    seen = []

    def step(sample, velocity, prev_sample):
        seen.append(prev_sample is None)
        return sample + 0.0 * prev_sample

    calls(step).measure(0)
    assert seen.count(True) == 1
    seen.clear()

    def drawing(sample, velocity, prev_sample):
        seen.append(prev_sample is None)
        return 0.5 * sample

    calls(drawing).measure(0)
    assert seen.count(True) >= 4 and seen.count(False) == 6


# -- noise and containers -------------------------------------------------------------------------


def test_noise_is_the_same_in_every_block_and_then_as_before():
    np.random.seed(5)  # noqa: NPY002
    expected = np.random.standard_normal(3)  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    drawn = []
    for _ in range(2):
        with same_noise(None):
            own = np.random.default_rng(7).standard_normal(2)
            fresh = np.random.default_rng().standard_normal(2)
            drawn.append([fresh, np.random.standard_normal(2), own])  # noqa: NPY002
    assert np.array_equal(drawn[0], drawn[1])
    assert np.array_equal(drawn[0][0], np.random.default_rng(0).standard_normal(2))
    assert np.array_equal(drawn[0][2], np.random.default_rng(7).standard_normal(2))
    assert np.array_equal(np.random.standard_normal(3), expected)  # noqa: NPY002
    with pytest.raises(KeyError), same_noise(None):
        raise KeyError
    one, other = (np.random.default_rng().standard_normal(2) for _ in range(2))
    assert not np.array_equal(one, other)


@dataclass
class Data:
    x: float
    mean: float


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ((1.0, 2.0), [1.0, 2.0]),
        ([1.0, 2.0], [1.0, 2.0]),
        ({"b": 1.0, "a": 2.0}, [1.0, 2.0]),
        (Data(1.0, 2.0), [1.0, 2.0]),
        (SimpleNamespace(b=1.0, a=2.0), [1.0, 2.0]),
        (3.0, [3.0]),
        (4, [4]),
        ((), []),
    ],
)
def test_values_keep_their_order(result, expected):
    assert values_of(result) == expected


@pytest.mark.parametrize("result", ["text", None, object(), SimpleNamespace()])
def test_what_holds_no_values_is_refused(result):
    with pytest.raises(InputError) as caught:
        values_of(result)
    assert caught.value.code == "E-AGAINST"


def test_the_stand_in_counts_to_the_nearest_timestep():
    stand_in = SchedulerStandIn(np.asarray(TIMES), 1)
    assert [stand_in.index_for_timestep(t) for t in (880.0, 870.0, 0.0)] == [0, 1, 3]
