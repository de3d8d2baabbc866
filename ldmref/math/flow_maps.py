"""Flow maps: one evaluation goes from flow time t to any smaller r, not only to a near one.

On the path x_t = (1 - t) x0 + t eps the ODE dx/dt = v(x, t) takes a state x_t to x_r. A flow map
returns that state at once, by the average velocity u(x_t, t, r) = (x_t - x_r) / (t - r). MeanFlow
and shortcut models learn u; a consistency model learns the map to r = 0, which is the data. For
Gaussian data the map is known in closed form: `gaussian_flow_map`.

`t`, `r`, `eta` and `share` are scalars or (n,), and broadcast over the trailing axes; an array of
any other length raises ValueError. Times run from 1 (noise) to 0 (data).
"""

from __future__ import annotations

from ldmref.math.arrays import Array, along, root


def flow_map_step(xt: Array, average_velocity: Array, t: Array, r: Array) -> Array:
    r"""Go from flow time t to r along the average velocity between them.

    .. math:: x_r = x_t - (t - r)\, u(x_t, t, r)

    Args:
        xt: data at flow time t, (n, ...), real floating.
        average_velocity: u, shape of `xt`: of MeanFlow for t and r, of a shortcut model for t and
            the length t - r. A velocity v in its place makes an Euler step.
        t: flow time, scalar or (n,), in [0, 1].
        r: flow time, scalar or (n,), in [0, 1]; r = 0 is the consistency function.

    Returns:
        x_r, shape and dtype of `xt`.

    Raises:
        ValueError: a time and `xt` disagree in n.

    Accuracy: each term within 3 ulp, and that of t - r.
    Source: Geng et al. 2025, arXiv:2505.13447, section 4.1, sampling; Frans et al. 2024,
    arXiv:2410.12557, section 3, where time runs from noise to data and d = t - r.

    >>> import numpy as np
    >>> flow_map_step(np.asarray([[1.0]]), np.asarray([[2.0]]), 0.75, 0.25)
    array([[0.]])
    """
    return xt - along(t - r, xt) * average_velocity


def mean_flow_target(velocity: Array, derivative: Array, t: Array, r: Array) -> Array:
    r"""Return the target of MeanFlow from a velocity and a Jacobian-vector product.

    .. math:: u = v - (t - r) \frac{d u}{d t}, \qquad
              \frac{d u}{d t} = v \cdot \nabla_x u + \frac{\partial u}{\partial t}

    Args:
        velocity: v at (x_t, t), (n, ...), real floating. In training eps - x0 of one pair.
        derivative: du/dt along the path, shape of `velocity`: the Jacobian-vector product of
            u(x, t, r) with the tangents (v, 1, 0).
        t: flow time, scalar or (n,), in [0, 1].
        r: flow time, scalar or (n,), in [0, 1].

    Returns:
        what u(x_t, t, r) must be, shape and dtype of `velocity`; at r = t the velocity itself. In
        training no gradient passes through it.

    Raises:
        ValueError: a time and `velocity` disagree in n.

    Accuracy: each term within 3 ulp, and that of t - r.
    Source: Geng et al. 2025, arXiv:2505.13447, eq. 6, the MeanFlow identity, with the total
    derivative of eq. 8.

    >>> import numpy as np
    >>> mean_flow_target(np.asarray([[2.0]]), np.asarray([[4.0]]), 0.75, 0.5)
    array([[1.]])
    """
    return velocity - along(t - r, velocity) * derivative


def shortcut_target(first: Array, second: Array, share: Array = 0.5) -> Array:
    r"""Return the average velocity of two steps one after the other: the shortcut model's target.

    .. math:: u(x_t, t, r) = w\, u(x_t, t, m) + (1 - w)\, u(x_m, m, r), \qquad
              w = \frac{t - m}{t - r}

    Args:
        first: u(x_t, t, m) of the step from t to m, (n, ...), real floating.
        second: u(x_m, m, r) of the step from m to r, at the state x_m that the first step leads
            to, shape of `first`.
        share: w, scalar or (n,), in [0, 1]; 1/2 for two steps of the same length, as in shortcut
            models.

    Returns:
        the average velocity of the step from t to r, shape and dtype of `first`. In training no
        gradient passes through it.

    Raises:
        ValueError: `share` and `first` disagree in n.

    Accuracy: each term within 3 ulp.
    Source: Frans et al. 2024, arXiv:2410.12557, section 3, self-consistency, for w = 1/2; for any w
    the displacements of the two steps add up.

    >>> import numpy as np
    >>> shortcut_target(np.asarray([[1.0]]), np.asarray([[2.0]]))
    array([[1.5]])
    """
    return along(share, first) * first + along(1.0 - share, first) * second


def flow_map_renoise_step(
    xt: Array, average_velocity: Array, noise: Array, t: Array, r: Array, eta: Array = 1.0
) -> Array:
    r"""Jump below r by a flow map, then return to r with fresh noise.

    .. math:: x_d = x_t - (t - d)\, u(x_t, t, d), \qquad d = (1 - \eta)\, r

    .. math:: x_r = k\, x_d + \sqrt{r^2 - k^2 d^2}\; z, \qquad k = \frac{1 - r}{1 - d}

    For eta = 1 this is multistep consistency sampling, and LCM for flows: to x0 and back. For eta =
    0 it is `flow_map_step`; between them it is the sampler of TCD.

    Args:
        xt: data at flow time t, (n, ...), real floating.
        average_velocity: u(x_t, t, d), shape of `xt`; for eta = 1 that to the data.
        noise: z, standard normal, shape of `xt`.
        t: flow time, scalar or (n,), in (0, 1].
        r: flow time, scalar or (n,), in [0, 1); after the last step 0, without noise.
        eta: share of r by which the jump goes below it, scalar or (n,), in [0, 1].

    Returns:
        x_r, shape and dtype of `xt`. With the exact map it has the distribution of the path at r,
        for every eta and every number of steps.

    Raises:
        ValueError: a time or `eta` and `xt` disagree in n.

    Accuracy: each term within 12 ulp, and that of 1 - r; nothing cancels in the noise.
    Derived: given x_d, the path at r has the mean k x_d and the variance r^2 - k^2 d^2. Song et al.
    2023, arXiv:2303.01469, algorithm 1 for eta = 1; Zheng et al. 2024, arXiv:2402.19159, for all.

    >>> import numpy as np
    >>> x, u, z = (np.asarray([[v]]) for v in (2.0, 1.0, 4.0))
    >>> flow_map_renoise_step(x, u, z, 1.0, 0.5)
    array([[2.5]])
    """
    d = (1.0 - eta) * r
    kept = (1.0 - r) / (1.0 - d)
    # r^2 - k^2 d^2 = (r - k d) (r + k d), each over 1 - d
    fresh = root(eta * r * (r * (1.0 - d) + d * (1.0 - r))) / (1.0 - d)
    jumped = flow_map_step(xt, average_velocity, t, d)
    return along(kept, xt) * jumped + along(fresh, xt) * noise


def gaussian_flow_map(xt: Array, t: Array, r: Array, mean: float, variance: float) -> Array:
    r"""Return the exact flow map of Gaussian data.

    .. math:: x_r = (1 - r)\, m + \frac{S_r}{S_t} \left(x_t - (1 - t)\, m\right), \qquad
              S_t = \sqrt{(1 - t)^2 v + t^2}

    Args:
        xt: data at flow time t, (n, ...), real floating, or a number.
        t: flow time, scalar or (n,), in [0, 1].
        r: flow time, scalar or (n,), in [0, 1], below or above t.
        mean: m of the data N(m, v), scalar.
        variance: v of each value, independent of the others, scalar, > 0.

    Returns:
        x_r, shape and dtype of `xt`.

    Raises:
        ValueError: a time and `xt` disagree in n.

    Accuracy: each term within 12 ulp.
    Derived: `gaussian_flow_velocity` is (ln S_t)' (x_t - (1 - t) m) - m, so that (x_t - (1 - t) m)
    / S_t stays constant along the ODE.

    >>> round(gaussian_flow_map(1.75, 1.0, 0.0, 0.5, 4.0), 12)
    4.0
    """
    ratio = _spread(r, variance) / _spread(t, variance)
    return along((1.0 - r) * mean, xt) + along(ratio, xt) * (xt - along((1.0 - t) * mean, xt))


def gaussian_average_velocity(xt: Array, t: Array, r: Array, mean: float, variance: float) -> Array:
    r"""Return the exact average velocity of Gaussian data between flow times t and r.

    .. math:: u(x_t, t, r) = \frac{t + r - (2 - t - r)\, v}{S_t\, (S_t + S_r)}
              \left(x_t - (1 - t)\, m\right) - m

    Args:
        xt: data at flow time t, (n, ...), real floating, or a number.
        t: flow time, scalar or (n,), in [0, 1].
        r: flow time, scalar or (n,), in [0, 1].
        mean: m of the data N(m, v), scalar.
        variance: v of each value, independent of the others, scalar, > 0.

    Returns:
        u, shape and dtype of `xt`; at r = t `gaussian_flow_velocity`. S_t as in
        `gaussian_flow_map`.

    Raises:
        ValueError: a time and `xt` disagree in n.

    Accuracy: 16 ulp of each term, and that of t + r - (2 - t - r) v.
    Derived: (x_t - x_r) / (t - r) of `gaussian_flow_map`, with S_t - S_r = (S_t^2 - S_r^2) / (S_t +
    S_r), in which t - r divides out; so it holds at r = t.

    >>> round(gaussian_average_velocity(1.75, 1.0, 0.0, 0.5, 4.0), 12)
    -2.25
    """
    spread = _spread(t, variance)
    push = ((t + r) - ((1.0 - t) + (1.0 - r)) * variance) / (
        spread * (spread + _spread(r, variance))
    )
    return along(push, xt) * (xt - along((1.0 - t) * mean, xt)) - mean


def _spread(t: Array, variance: float) -> Array:
    """Return the standard deviation of the path at t."""
    return root((1.0 - t) * (1.0 - t) * variance + t * t)
