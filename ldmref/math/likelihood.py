"""Exact log-likelihoods along a flow: the divergence of its velocity, integrated with the state.

`velocity(x, t)` has the shape of x, (n, ...), and acts on each example independently, as that of
`probability_flow` does. Probes are arguments, so all functions are pure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from array_api_compat import array_namespace, device

from ldmref.math.arrays import Array
from ldmref.math.ode import integrate_rk4
from ldmref.math.reverse import VectorField

Derivative = Callable[
    [VectorField, Array, float, Array], Array
]  # (velocity, x, t, direction) -> like x


def directional_derivative(velocity: VectorField, x: Array, t: float, direction: Array) -> Array:
    r"""Jacobian-vector product of a velocity, by a central difference.

    .. math:: J v \approx \frac{u(x + h v, t) - u(x - h v, t)}{2 h}, \qquad
              h = \epsilon^{1/3}\ \text{of the dtype}

    Works in every array library. With automatic differentiation (`torch.func.jvp`), pass a function
    with the same arguments to the divergences below.

    Args:
        velocity: `velocity(x, t)`, shape of `x`.
        x: the state at t, (n, ...).
        t: scalar.
        direction: v, of unit size, broadcastable to `x`.

    Returns:
        J v, shape and dtype of `x`.

    Accuracy: error h^2 / 6 times the third derivative along v, and eps^(2/3) times |u| and |x| |J|:
    about 1e-10 in float64 and 1e-4 in float32; exact up to rounding where u is quadratic in x.
    Derived: Taylor's theorem, balancing truncation and rounding error.

    >>> import numpy as np
    >>> x, v = np.asarray([[2.0, 1.0]]), np.asarray([[1.0, 0.0]])
    >>> directional_derivative(lambda x, t: t * x * x, x, 3.0, v).round(9)
    array([[12.,  0.]])
    """
    h = float(array_namespace(x).finfo(x.dtype).eps) ** (1.0 / 3.0)
    return (velocity(x + h * direction, t) - velocity(x - h * direction, t)) / (2.0 * h)


def exact_divergence(
    velocity: VectorField, x: Array, t: float, derivative: Derivative = directional_derivative
) -> Array:
    r"""Compute the divergence of a velocity from D directional derivatives.

    .. math:: \nabla\cdot u = \operatorname{tr} J = \sum_{k=1}^{D} e_k^T J e_k

    Args:
        velocity: `velocity(x, t)`, shape of `x`.
        x: the state at t, (n, ...), with few elements D per example.
        t: scalar.
        derivative: J v, with the signature of `directional_derivative`.

    Returns:
        the divergence of each example, (n,), dtype of `x`.

    Accuracy: D times that of `derivative`.
    Derived: definition of the trace.

    >>> import numpy as np
    >>> exact_divergence(lambda x, t: t * x * x, np.asarray([[2.0, 1.0]]), 3.0).round(9)
    array([18.])
    """
    xp = array_namespace(x)
    shape = (1, *x.shape[1:])
    size = xp.reshape(x, (x.shape[0], -1)).shape[1]
    total = xp.zeros((x.shape[0],), dtype=x.dtype, device=device(x))
    for k in range(size):
        basis = xp.reshape(xp.eye(1, size, k=k, dtype=x.dtype, device=device(x)), shape)
        total = total + _inner(derivative(velocity, x, t, basis), basis)
    return total


def hutchinson_divergence(
    velocity: VectorField,
    x: Array,
    t: float,
    probes: Array,
    derivative: Derivative = directional_derivative,
) -> Array:
    r"""Estimate the divergence of a velocity by Skilling and Hutchinson's method.

    .. math:: \nabla\cdot u = E[v^T J v] \approx \frac1m \sum_{i=1}^m v_i^T J v_i, \qquad
              E[v] = 0,\ E[v v^T] = I

    Args:
        velocity: `velocity(x, t)`, shape of `x`.
        x: the state at t, (n, ...).
        t: scalar.
        probes: (m, n, ...), m >= 1: signs +-1 (Rademacher) or standard normal numbers.
        derivative: J v, with the signature of `directional_derivative`.

    Returns:
        an unbiased estimate per example, (n,), dtype of `x`.

    Accuracy: variance `hutchinson_variance` / m, plus the error of `derivative`; exact with one
    Rademacher probe if J is diagonal.
    Source: Skilling 1989; Hutchinson 1990; Grathwohl et al. 2019, arXiv:1810.01367, section 3.1;
    Song et al. 2021, arXiv:2011.13456, eq. 40.

    >>> import numpy as np
    >>> signs = np.asarray([[[1.0, -1.0]]])
    >>> hutchinson_divergence(lambda x, t: t * x * x, np.asarray([[2.0, 1.0]]), 3.0, signs).round(9)
    array([18.])
    """
    terms = [
        _inner(derivative(velocity, x, t, probes[i, ...]), probes[i, ...])
        for i in range(probes.shape[0])
    ]
    return sum(terms[1:], start=terms[0]) / len(terms)


def hutchinson_variance(jacobian: Array, rademacher: bool = True) -> Array:
    r"""Return the variance of the Skilling-Hutchinson estimate with one probe.

    .. math:: \operatorname{Var}[v^T J v] = 2\,\lVert S \rVert_F^2 \text{ (normal)}, \qquad
              2\sum_{i \ne j} S_{ij}^2 \text{ (signs)}, \qquad S = \tfrac12 (J + J^T)

    Args:
        jacobian: J, (n, d, d).
        rademacher: probes are signs, otherwise standard normal.

    Returns:
        the variance of each example, (n,), dtype of `jacobian`.

    Accuracy: 4 ulp plus the rounding of the library's sum; all terms are positive.
    Source: Hutchinson 1990; Avron and Toledo 2011, J. ACM 58(2), article 8.

    >>> import numpy as np
    >>> J = np.asarray([[[1.0, 2.0], [0.0, 3.0]]])
    >>> hutchinson_variance(J), hutchinson_variance(J, rademacher=False)
    (array([4.]), array([24.]))
    """
    xp = array_namespace(jacobian)
    symmetric = 0.5 * (jacobian + xp.matrix_transpose(jacobian))
    size = jacobian.shape[-1]
    weights = xp.ones((size, size), dtype=jacobian.dtype, device=device(jacobian))
    if rademacher:
        weights = weights - xp.eye(size, dtype=jacobian.dtype, device=device(jacobian))
    return 2.0 * xp.sum(weights * symmetric * symmetric, axis=(1, 2))


def flow_log_likelihood(
    velocity: VectorField,
    divergence: Callable[[Array, float], Array],
    log_prior: Callable[[Array], Array],
    x: Array,
    times: Sequence[float],
) -> tuple[Array, Array]:
    r"""Log-density of data under a flow, by the instantaneous change of variables.

    .. math:: \frac{d \log p_t(x(t))}{dt} = -\nabla\cdot u(x(t), t), \qquad
              \log p_0(x(0)) = \log p_T(x(T)) + \int_0^T \nabla\cdot u(x(t), t)\,dt

    State and integral are integrated together by `integrate_rk4`.

    Args:
        velocity: `velocity(x, t)`, such as that of `probability_flow`, shape of `x`.
        divergence: `divergence(x, t)`, (n,): a closed form, `exact_divergence`, or
            `hutchinson_divergence` with the same probes at all times.
        log_prior: log-density at the last time, (n, ...) -> (n,), such as `VPSDE().log_prior`.
        x: data at times[0], (n, ...).
        times: from data to prior, Python floats; one step per interval.

    Returns:
        (log-density in nats, (n,), dtype of `x`; the state at times[-1], shape of `x`).
        `bits_per_dimension` takes the negative of the first.

    Accuracy: order 4 in the step size, plus the error of `divergence`.
    Source: Chen et al. 2018, arXiv:1806.07366, theorem 1; Song et al. 2021, arXiv:2011.13456,
    eq. 39.

    >>> import numpy as np
    >>> from ldmref.math import VPSDE
    >>> unit = VPSDE().log_prior  # x' = x stretches N(0, 1 / e^2) to N(0, 1) in unit time
    >>> args = lambda x, t: x, lambda x, t: 0.0 * x[:, 0] + 1.0, unit
    >>> nats, _ = flow_log_likelihood(*args, np.asarray([[0.0]]), np.linspace(0.0, 1.0, 33))
    >>> (nats - unit(np.asarray([[0.0]]))).round(6)
    array([1.])
    """
    xp = array_namespace(x)

    def joint(state: Array, t: float) -> Array:
        xt = xp.reshape(state[:, :-1], x.shape)
        return attach(velocity(xt, t), divergence(xt, t))

    def attach(value: Array, scalar: Array) -> Array:
        flat = xp.reshape(value, (x.shape[0], -1))
        return xp.concat([flat, xp.reshape(scalar, (x.shape[0], 1))], axis=1)

    zero = xp.zeros((x.shape[0],), dtype=x.dtype, device=device(x))
    state = integrate_rk4(joint, attach(x, zero), times)
    end = xp.reshape(state[:, :-1], x.shape)
    return log_prior(end) + state[:, -1], end


def _inner(a: Array, b: Array) -> Array:
    """Inner product per example, (n,)."""
    xp = array_namespace(a)
    return xp.sum(xp.reshape(a * b, (a.shape[0], -1)), axis=1)
