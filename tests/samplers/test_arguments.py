"""Arguments that are refused, how methods start, and every sampler in every array library."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sampling import no_noise, solve

from ldmref import samplers
from ldmref.math import karras_sigmas
from ldmref.samplers import SAMPLERS
from ldmref.testing.mixture import three_modes

MIXTURE = three_modes()
X = 2.0 * np.random.default_rng(0).standard_normal((5, 2))
GRID = karras_sigmas(8, 0.1, 4.0).tolist()


def end(step, grid):
    return solve(step, MIXTURE.denoise, X, grid, no_noise).x


# -- limits of the arguments ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: samplers.dpm_solver(0), "order must be 1, 2 or 3, not 0"),
        (lambda: samplers.dpm_solver(4), "order must be 1, 2 or 3"),
        (lambda: samplers.lms(0), "order must be from 1 to 4, not 0"),
        (lambda: samplers.lms(5), "order must be from 1 to 4"),
        (lambda: samplers.deis(0), "order must be from 1 to 4, not 0"),
        (lambda: samplers.deis(5), "order must be from 1 to 4"),
        (lambda: samplers.lms(4, "rk"), "start must be"),
        (lambda: samplers.deis(2, "heun"), "start must be"),
        (lambda: samplers.unipc(0), "order must be 1 to 3"),
        (lambda: samplers.unipc(4), "order must be 1 to 3"),
        (lambda: samplers.unipc(2, "bh3"), "bh3"),
        (lambda: samplers.dpmpp_2m(0.0, "euler"), "solver must be"),
        (lambda: samplers.dpmpp_singlestep(1), "order must be 2 or 3"),
        (lambda: samplers.dpmpp_singlestep(4), "order must be 2 or 3"),
        (lambda: samplers.dpmpp_singlestep(2, "bh1"), "solver midpoint or heun"),
        (lambda: samplers.heun_churn(s_churn=-1.0), "s_churn >= 0"),
        (lambda: samplers.churn(samplers.heun(), s_tmin=-1.0), "s_tmin <= s_tmax"),
        (lambda: samplers.euler_churn(s_noise=0.0), "s_noise > 0"),
        (lambda: samplers.heun_churn(s_tmin=2.0, s_tmax=1.0), "s_tmin <= s_tmax"),
        (lambda: samplers.heun_churn(s_churn=math.nan), "s_churn >= 0"),
        (lambda: samplers.rk45(rtol=0.0), "tolerances must be positive"),
        (lambda: samplers.rk45(atol=0.0), "tolerances must be positive"),
        (lambda: samplers.rk45(atol=math.nan), "tolerances must be positive"),
    ],
)
def test_arguments_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_start_methods_of_multistep():
    """Runge-Kutta for order - 1 steps; Heun for one step of PNDM; Euler grows from order 1."""
    grid = GRID[:2]
    np.testing.assert_array_equal(end(samplers.lms(2), grid=grid), end("rk4", grid=grid))
    np.testing.assert_array_equal(end(samplers.pndm(), grid=grid), end("heun", grid=grid))
    for make in (samplers.lms, samplers.deis):
        one = end(make(3, "runge_kutta"), grid=GRID[:3])
        np.testing.assert_array_equal(one, end("rk4", grid=GRID[:3]))
        assert (end(make(3, "runge_kutta"), grid=GRID[:4]) != end("rk4", grid=GRID[:4])).any()
        np.testing.assert_allclose(
            end(make(4, "euler"), grid=grid), end("euler", grid=grid), atol=1e-14
        )


# -- every library and dtype ----------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_stay_in_the_library_and_dtype(xp, dtype, xp_assert_close, to_numpy, name):
    """The trajectory in each library equals NumPy's in float64, to the rounding of the dtype."""
    stream = np.random.default_rng(3)
    start = stream.integers(-2048, 2048, (2, 3, 2)) / 1024
    noises = [stream.integers(-2048, 2048, start.shape) / 1024 for _ in range(16)]

    def run(convert, tanh):
        draws = iter([convert(n) for n in noises])
        steps = samplers.sample(
            lambda x, sigma: tanh(x / (1.0 + sigma)),
            convert(8.0 * start),
            [8.0, 5.0, 3.0, 1.5, 1.0, 0.5, 0.0],
            SAMPLERS[name].make(),
            noise=lambda: next(draws),
        )
        return [(step.x, step.x0) for step in steps]

    wide = run(lambda a: a, np.tanh)
    native = run(lambda a: xp.asarray(a, dtype=getattr(xp, dtype)), xp.tanh)
    # the parts that rk45 takes depend on rounding, its error does not
    ulps = 0.1 / np.finfo(dtype).eps * 1e-2 if name == "rk45" and dtype == "float32" else 64
    for got, want in zip(native, wide, strict=True):
        for a, b in zip(got, want, strict=True):
            xp_assert_close(
                a, b, like=xp.asarray([0.0], dtype=getattr(xp, dtype)), ulps=ulps, scale=8.0
            )


@pytest.mark.parametrize("name", SAMPLERS)
def test_huge_sigma_loses_nothing_in_float32(name):
    """A cosine schedule's table ends near sigma = 2e4; a step from there must not corrupt x0."""
    x0 = np.asarray([[0.25, -0.5]], np.float32)
    eps = np.asarray([[0.3, 0.7]], np.float32)
    x = solve(
        name,
        lambda x, s: x0,
        np.float32(2e4) * eps,
        [2e4, 10.0, 5.0, 2.0, 1.0],
        noise=lambda: 0 * eps,
    ).x
    if not SAMPLERS[name].stochastic:
        np.testing.assert_allclose(x, eps + x0, atol=1e-4)
    assert x.dtype == np.float32
