"""Every coefficient of every method against an integral of scipy's, or a published fraction.

A step is linear in x and in the predictions x0. If x is the first unit vector and the i-th
prediction the (i+1)-th, the final state holds the coefficients themselves.
"""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sampling import solve
from scipy.integrate import quad

from ldmref import samplers
from ldmref.samplers.moments import exponential_moment, moment_weights
from ldmref.samplers.multistep import adams_bashforth_rule, index_rule, log_rule
from ldmref.samplers.runge_kutta import (
    DORMAND_PRINCE,
    HEUN,
    MIDPOINT,
    RK4,
    Tableau,
    combine,
)

GRID = [3.0, 2.1, 1.3, 0.9, 0.4]  # no two ratios or differences are equal


def coefficients(step, sigmas):
    """Return coefficients of start and predictions in the final state; and the calls' sigmas."""
    basis = iter(np.eye(40))
    levels = []
    start = next(basis)

    def denoise(x, sigma):
        levels.append(sigma)
        return next(basis)

    end = solve(step, denoise, start, sigmas).x
    assert (end[len(levels) + 1 :] == 0).all()
    return end[: len(levels) + 1], levels


def lagrange(places, j):
    """The polynomial that is 1 at places[j] and 0 at the others."""
    others = [p for i, p in enumerate(places) if i != j]
    return lambda r: np.prod([(r - p) / (places[j] - p) for p in others])


def as_slopes(weights, sigmas):
    """Coefficients of x and the x0 if every slope e_n = (x_n - x0_n) / sigma_n has its weight.

    weights[n] lists those of the step from sigma_n: of e_n, e_(n-1), ...
    """
    size = len(sigmas)
    x = np.eye(size)[0]
    slopes = []
    for n, row in enumerate(weights):
        slopes.append((x - np.eye(size)[n + 1]) / sigmas[n])
        x = x + sum(w * slopes[n - j] for j, w in enumerate(row))
    return x


VARIABLES = {"lms": float, "deis": np.log}


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("name", VARIABLES)
def test_multistep_weights_are_integrals_of_lagrange_polynomials(name, order):
    of = VARIABLES[name]
    weights = []
    for n in range(4):
        places = [of(GRID[n - j]) for j in range(min(order, n + 1))]
        basis = [lagrange(places, j) for j in range(len(places))]
        ends = (GRID[n], GRID[n + 1])
        weights.append([quad(lambda s, p=p: p(of(s)), *ends, epsabs=1e-14)[0] for p in basis])
    got, levels = coefficients(getattr(samplers, name)(order, "euler"), GRID)
    np.testing.assert_allclose(got, as_slopes(weights, GRID), rtol=0, atol=1e-13)
    assert levels == GRID[:-1]


def test_pndm_has_the_published_fractions():
    """After a step of Heun: (3, -1)/2, (23, -16, 5)/12, (55, -59, 37, -9)/24."""
    grid = [5.0, 4.0, 2.9, 1.7, 1.1, 0.6]
    h = np.diff(grid)
    size = 7  # x, x0 at 5, x0 of Heun's end, then one for each step
    unit = np.eye(size)
    slopes = [(unit[0] - unit[1]) / grid[0]]
    trial = unit[0] + h[0] * slopes[0]
    x = unit[0] + h[0] / 2 * (slopes[0] + (trial - unit[2]) / grid[1])
    rows = {
        1: [3 / 2, -1 / 2],
        2: [23 / 12, -16 / 12, 5 / 12],
        3: [55 / 24, -59 / 24, 37 / 24, -9 / 24],
    }
    rows[4] = rows[3]
    for n, row in rows.items():
        slopes.append((x - unit[n + 2]) / grid[n])
        x = x + h[n] * sum(w * slopes[n - j] for j, w in enumerate(row))
    got, levels = coefficients(samplers.pndm(), grid)
    np.testing.assert_allclose(got, x, rtol=0, atol=1e-13)
    assert levels == [5.0, 4.0, 4.0, 2.9, 1.7, 1.1]


@pytest.mark.parametrize("rule", [adams_bashforth_rule, log_rule, index_rule])
def test_rules_of_differences_leave_the_newest_slope_its_share(rule):
    """The integral of the j-th Lagrange polynomial, for unequal levels far apart."""
    levels = [7.0, 20.0, 31.0]
    sigma = 2.0
    sigma_next = 0.1
    places = {
        adams_bashforth_rule: [sigma, *levels],
        log_rule: list(np.log([sigma, *levels])),
        index_rule: [0.0, -1.0, -2.0, -3.0],
    }[rule]
    to = {
        adams_bashforth_rule: lambda s: s,
        log_rule: np.log,
        index_rule: lambda s: (s - sigma) / (sigma_next - sigma),
    }[rule]
    want = [
        quad(lambda s, j=j: lagrange(places, j)(to(s)), sigma, sigma_next, epsabs=1e-14)[0]
        for j in (1, 2, 3)
    ]
    np.testing.assert_allclose(rule(levels, sigma, sigma_next), want, rtol=1e-11)
    assert rule([], sigma, sigma_next) == []


@given(st.integers(0, 3), st.floats(1e-4, 40.0))
def test_exponential_moment_equals_mpmath(power, h):
    with mpmath.workdps(40):
        want = float(
            mpmath.quad(lambda u: h * mpmath.exp(-h * (1 - u)) * u**power, [0, 0.5, 0.9, 1])
        )
    assert exponential_moment(power, h) == pytest.approx(want, rel=1e-13)


def test_moment_weights_are_exact_for_polynomials():
    places = [-1.0, -2.5, 0.5]
    moments = [1 / 2, 1 / 3, 1 / 4]  # of r, r^2, r^3 over [0, 1]
    weights = moment_weights(places, moments)
    for power in (1, 2, 3):
        assert np.dot(weights, np.power(places, power)) == pytest.approx(moments[power - 1])
    assert moment_weights([], []) == []


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("solver", ["midpoint", "heun"])
def test_dpmpp_2m_weights(solver, eta):
    """k-diffusion's form; `heun` is the integral of the straight line through both predictions."""
    s0, s1, s2 = grid = [3.0, 2.1, 0.9]
    h0 = np.log(s0 / s1)
    h1 = np.log(s1 / s2)
    k0 = (1 + eta) * h0
    k1 = (1 + eta) * h1
    x = np.asarray([np.exp(-k0), 1 - np.exp(-k0), 0.0])
    line = quad(lambda u: (1 + eta) * np.exp(-(1 + eta) * (h1 - u)) * u / h0, 0, h1)[0]
    slope = line if solver == "heun" else 0.5 * (1 - np.exp(-k1)) * h1 / h0
    want = np.exp(-k1) * x + (1 - np.exp(-k1)) * np.eye(3)[2] + slope * np.asarray([0, -1.0, 1.0])
    noises = []
    step = samplers.dpmpp_2m(eta, solver)
    basis = iter(np.eye(3)[1:])
    end = solve(
        step,
        lambda x, s: next(basis),
        np.eye(3)[0],
        grid,
        noise=lambda: noises.append(1) or np.zeros(3),
    )
    np.testing.assert_allclose(end.x, want, atol=1e-14)
    assert len(noises) == (2 if eta else 0)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_dpmpp_3m_weights(eta):
    """k-diffusion's form: phi_2 D_1 - phi_3 D_2 with phi_3 = phi_2 / k - 1/2."""
    grid = [3.0, 2.1, 1.3, 0.9, 0.4]
    size = 5
    unit = np.eye(5)
    x = np.eye(5)[0]
    hs = []
    for n in range(4):
        h = np.log(grid[n] / grid[n + 1])
        k = h * (1 + eta)
        x = np.exp(-k) * x + (1 - np.exp(-k)) * unit[n + 1]
        phi2 = np.expm1(-k) / k + 1
        phi3 = phi2 / k - 0.5
        if n == 1:
            x = x + phi2 * (unit[2] - unit[1]) * (h / hs[0])
        elif n > 1:
            r0 = hs[-1] / h
            r1 = hs[-2] / h
            first = (unit[n + 1] - unit[n]) / r0
            second = (unit[n] - unit[n - 1]) / r1
            d1 = first + (first - second) * r0 / (r0 + r1)
            x = x + phi2 * d1 - phi3 * (first - second) / (r0 + r1)
        hs.append(h)
    basis = iter(unit[1:])
    step = samplers.dpmpp_3m(eta)
    end = solve(step, lambda x, s: next(basis), unit[0], grid, noise=lambda: np.zeros(size)).x
    np.testing.assert_allclose(end, x, atol=1e-14)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("step", [samplers.dpmpp_2m, samplers.dpmpp_3m])
def test_noise_of_the_multistep_sde_samplers(step, eta):
    """It is sigma' sqrt(1 - e^(-2 eta h)), which keeps the variance of pure noise."""
    total = 0.0
    for part in (0, 1):  # x and the noise in turn carry the variance; x0 is 0
        unit = np.asarray([1.0 - part, 0.0])
        noise = np.asarray([0.0, float(part)])
        end = solve(
            step(eta), lambda x, s: 0 * x, 2.0 * unit, [2.0, 0.7], noise=lambda n=noise: n
        ).x
        total += (end**2).sum()
    assert total == pytest.approx(0.7**2, rel=1e-13)
    end = solve(step(eta), lambda x, s: 0 * x, np.zeros(1), [2.0, 0.7], noise=lambda: np.ones(1)).x
    assert end[0] == pytest.approx(0.7 * np.sqrt(1 - (0.7 / 2.0) ** (2 * eta)), rel=1e-13)


@pytest.mark.parametrize("tableau", [MIDPOINT, HEUN, RK4, DORMAND_PRINCE])
def test_tableaux_fulfil_the_order_conditions_exactly(tableau):
    """All rooted trees up to order 4, and of order 5 the bushy ones (Butcher, section 31)."""
    c = tableau.nodes
    b = tableau.weights
    a = [[*row, *[0] * (len(c) - len(row))] for row in tableau.matrix]
    of_a = lambda v: [sum(x * y for x, y in zip(row, v, strict=True)) for row in a]  # noqa: E731
    times = lambda *vs: [np.prod(x, dtype=object) for x in zip(*vs, strict=True)]  # noqa: E731
    trees = [
        (1, [1] * len(c), 1),
        (2, c, 2),
        (3, times(c, c), 3),
        (3, of_a(c), 6),
        (4, times(c, c, c), 4),
        (4, times(c, of_a(c)), 8),
        (4, of_a(times(c, c)), 12),
        (4, of_a(of_a(c)), 24),
        (5, times(c, c, c, c), 5),
        (5, times(c, c, of_a(c)), 10),
        (5, times(c, of_a(times(c, c))), 15),
        (5, times(c, of_a(of_a(c))), 30),
        (5, times(of_a(c), of_a(c)), 20),
        (5, of_a(times(c, c, c)), 20),
        (5, of_a(times(c, of_a(c))), 40),
        (5, of_a(of_a(times(c, c))), 60),
        (5, of_a(of_a(of_a(c))), 120),
    ]
    for order, vector, density in trees:
        holds = sum(x * y for x, y in zip(b, vector, strict=True)) * density == 1
        assert holds or order > tableau.order
        if tableau.weights_low and order <= 4:
            low = sum(x * y for x, y in zip(tableau.weights_low, vector, strict=True))
            assert low * density == 1
    assert [len(row) for row in tableau.matrix] == list(range(len(c)))


def test_dormand_prince_is_scipys():
    from scipy.integrate import RK45

    floats = [float(f) for f in DORMAND_PRINCE.weights[:-1]]
    np.testing.assert_allclose(floats, RK45.B, rtol=1e-15)
    gap = [
        float(b - a)
        for a, b in zip(DORMAND_PRINCE.weights, DORMAND_PRINCE.weights_low, strict=True)
    ]
    np.testing.assert_allclose(gap, RK45.E, atol=1e-15)
    for i, row in enumerate(DORMAND_PRINCE.matrix[:-1]):
        np.testing.assert_allclose([float(f) for f in row], RK45.A[i, :i], rtol=1e-15)
    np.testing.assert_allclose([float(f) for f in DORMAND_PRINCE.nodes[:-1]], RK45.C)


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"matrix": ((), (1,), (0, 1))}, "not an explicit tableau"),
        ({"matrix": ((0,), (1, 0))}, "not an explicit tableau"),
        ({"weights": (1,)}, "not an explicit tableau"),
        ({"nodes": (0, 2)}, "sum to its node"),
        ({"weights": (1, 1)}, "weights do not sum"),
        ({"weights_low": (1, 1)}, "weights do not sum"),
    ],
)
def test_what_is_no_tableau_is_refused(changes, message):
    right = {"nodes": (0, 1), "matrix": ((), (1,)), "weights": (1, 0), "order": 1}
    Tableau(**right)
    with pytest.raises(ValueError, match=message):
        Tableau(**(right | changes))


def test_combine_skips_zeros_and_refuses_another_length():
    assert combine([0, 2], [np.nan, 3.0]) == 6.0
    assert combine([], []) == 0.0
    with pytest.raises(ValueError, match="zip"):
        combine([1.0], [])


@pytest.mark.parametrize("step", [samplers.lms(2, "euler"), samplers.lms(4, "euler")])
def test_slopes_are_remembered_where_a_constraint_moves_the_point(step):
    """As in inpainting: the memory holds slopes, not differences of points that were replaced."""
    x0s = [np.asarray([0.3]), np.asarray([-0.2])]
    stream = iter(x0s)
    e0 = (5.0 - x0s[0]) / 3.0
    x1 = 5.0 - e0 + 0.7
    e1 = (x1 - x0s[1]) / 2.0
    want = x1 - 0.8 * e1 + 0.5 * 0.8**2 * (e1 - e0) / (2.0 - 3.0) + 0.7
    got = solve(
        step,
        lambda x, s: next(stream),
        np.asarray([5.0]),
        [3.0, 2.0, 1.2],
        constrain=lambda x, s: x + 0.7,
    )
    np.testing.assert_allclose(got.x, want, rtol=1e-14)
