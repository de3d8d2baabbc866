"""Measured orders of convergence, against a solution of the flow by another program's method."""

from __future__ import annotations

import numpy as np
import pytest
from sampling import HIGH, LOW, solve, without_noise

from ldmref import samplers
from ldmref.math import exponential_sigmas
from ldmref.samplers import SAMPLERS
from ldmref.samplers.moments import exponential_moment
from ldmref.samplers.runge_kutta import DORMAND_PRINCE, HEUN, MIDPOINT, RK4, Tableau, runge_kutta

CONVERGES = [name for name in SAMPLERS if without_noise(name) is not None]
EARLY = (16, 32, 64)  # numbers of steps for methods of high order, above rounding
OTHERS = {  # (step, order): arguments that no named sampler has
    "dpm_solver(1)": (lambda: samplers.dpm_solver(1), 1),
    "lms(1)": (lambda: samplers.lms(1), 1),
    "lms(2)": (lambda: samplers.lms(2), 2),
    "lms(3)": (lambda: samplers.lms(3), 3),
    "lms, Euler start": (lambda: samplers.lms(4, "euler"), 2),
    "lms, Runge-Kutta start": (lambda: samplers.lms(4, "runge_kutta"), 4),
    "deis(1)": (lambda: samplers.deis(1), 1),
    "deis(3), Euler start": (lambda: samplers.deis(3, "euler"), 2),
    "deis(4), Runge-Kutta start": (lambda: samplers.deis(4, "runge_kutta"), 4),
    "unipc(1)": (lambda: samplers.unipc(1), 2),
    "unipc(1, bh1)": (lambda: samplers.unipc(1, "bh1"), 2),
    "unipc(2, bh1)": (lambda: samplers.unipc(2, "bh1"), 3),
    "unipc(2), no corrector": (lambda: samplers.unipc(2, corrector=False), 2),
    "unipc(3), no corrector": (lambda: samplers.unipc(3, corrector=False), 2),
    "dpmpp_2m heun": (lambda: samplers.dpmpp_2m(0.0, "heun"), 2),
    "dpmpp_singlestep(2, heun)": (lambda: samplers.dpmpp_singlestep(2, "heun"), 2),
    "euler_churn, no churn": (lambda: samplers.euler_churn(s_churn=0.0), 1),
    "heun_churn, no churn": (lambda: samplers.heun_churn(s_churn=0.0), 2),
    "seeds_2(phi_2)": (lambda: samplers.seeds_2(0.0, solver="phi_2"), 2),
    "seeds_2(r = 0.8)": (lambda: samplers.seeds_2(0.0, 0.8), 2),
    "er_sde(1), no noise": (lambda: samplers.er_sde(1, float), 1),
    "tcd(0)": (lambda: samplers.tcd(0.0), 1),
    "gradient_estimation(1)": (lambda: samplers.gradient_estimation(1.0), 1),
}


def test_every_sampler_that_declares_an_order_and_has_a_deterministic_form_is_measured():
    """Not those that are noise at every eta, and `lcm`, which declares order 0."""
    measurable = {
        n for n, s in SAMPLERS.items() if s.order and (s.eta is not None or not s.stochastic)
    }
    assert measurable == set(CONVERGES)
    assert {"ddpm", "lcm", "er_sde", "tcd"}.isdisjoint(CONVERGES) and len(CONVERGES) >= 33


@pytest.mark.parametrize("name", [n for n in CONVERGES if not SAMPLERS[n].adaptive])
def test_measured_order_is_the_declared_order(name, measured_order):
    order = SAMPLERS[name].order
    measured = measured_order(without_noise(name), EARLY if name == "rk4" else (64, 128, 256))
    assert abs(measured - order) < 0.2


@pytest.mark.parametrize("name", OTHERS)
def test_measured_order_with_other_arguments(name, measured_order):
    make, order = OTHERS[name]
    assert abs(measured_order(make()) - order) < 0.2


def test_the_published_sums_of_er_sde_are_of_first_order(measured_order):
    """Their error is 1 / 400 of a step's, so that few steps converge at order 2, and many at 1."""
    step = samplers.er_sde(3, float)  # phi(s) = s: the probability flow
    assert abs(measured_order(step, (8, 16, 32)) - 2) < 0.2
    assert abs(measured_order(step, (2048, 4096)) - 1) < 0.2


@pytest.mark.parametrize("solver", ["midpoint", "heun"])
def test_third_order_singlestep_in_whole_blocks(solver, measured_order):
    """Another number of steps ends with a step of order 1 or 2, and the order is 2."""
    step = samplers.dpmpp_singlestep(3, solver)
    assert abs(measured_order(step, (63, 126, 255)) - 3) < 0.2


@pytest.mark.parametrize("tableau", [MIDPOINT, HEUN, RK4, DORMAND_PRINCE])
def test_measured_order_of_a_tableau_is_the_one_it_states(tableau, measured_order):
    counts = (8, 16, 32) if tableau.order == 5 else EARLY
    assert abs(measured_order(runge_kutta(tableau), counts) - tableau.order) < 0.3


def test_embedded_method_is_of_order_4(measured_order):
    low = Tableau(DORMAND_PRINCE.nodes, DORMAND_PRINCE.matrix, DORMAND_PRINCE.weights_low, 4)
    assert abs(measured_order(runge_kutta(low), EARLY) - 4) < 0.3


def test_third_derivative_counts_half_in_dpmpp_3m(flow):
    """With 2 phi_3 the method would be of third order: published weights make it one of second."""
    assert exponential_moment(2, 0.1) == pytest.approx(0.1 / 3, rel=0.05)
    problem, start, end = flow
    errors = []
    for n in (64, 128):
        sigmas = exponential_sigmas(n + 1, LOW, HIGH)
        errors.append(np.abs(solve(samplers.dpmpp_3m(0.0), problem.denoise, start, sigmas).x - end))
    assert 3.6 < errors[0].max() / errors[1].max() < 4.4


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7])
def test_rk45_error_is_within_its_tolerance(flow, tolerance):
    """At the end: 10 tolerances, whatever the sigmas."""
    problem, start, end = flow
    for count in (2, 5):
        sigmas = exponential_sigmas(count, LOW, HIGH)
        last = solve(samplers.rk45(tolerance, tolerance), problem.denoise, start, sigmas)
        assert np.abs(last.x - end).max() < 10 * tolerance


def test_rk45_evaluations_grow_like_the_fifth_root_of_the_tolerance(flow):
    problem, start, _ = flow
    counts = []
    for tolerance in (1e-4, 1e-9):
        last = solve(samplers.rk45(tolerance, tolerance), problem.denoise, start, [HIGH, LOW])
        counts.append(last.history[1])
    assert 5.0 < counts[1] / counts[0] < 20.0  # 10^(5/5) = 10


def test_rk45_records_every_evaluation(flow):
    problem, start, _ = flow
    calls = []

    def denoise(x, sigma):
        calls.append(sigma)
        return problem.denoise(x, sigma)

    last = solve(samplers.rk45(1e-6, 1e-6), denoise, start, [1.0, 0.5, 0.1, 0.0])
    assert last.history[1] == len(calls) and calls[0] == 1.0
    assert (len(calls) - 3) % 6 == 0  # one to begin each interval, six for each part tried
