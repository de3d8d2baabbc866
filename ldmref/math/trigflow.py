"""TrigFlow: the path on a quarter of a circle, x_t = cos(t) x0 + sin(t) z, of consistency models.

The angle t runs from pi / 2 (noise) to 0 (data). Data and noise z have the same standard deviation,
and x_t keeps it. The network's output is the velocity F = dx_t / dt = cos(t) z - sin(t) x0 of
a pair; its mean is v-prediction for alpha-bar = cos(t)^2.

`t`, `r` and `s` are scalars or (n,), and broadcast over the trailing axes; an array of any other
length raises ValueError.
"""

from __future__ import annotations

import math
from numbers import Real

from array_api_compat import array_namespace

from ldmref.math.arrays import Array, along, root


def trigflow_step(xt: Array, velocity: Array, t: Array, r: Array = 0.0) -> Array:
    r"""Turn a state and its velocity from angle t to r: DDIM on the circle.

    .. math:: x_r = \cos(t - r)\, x_t - \sin(t - r)\, F, \qquad
              x_0 = \cos(t)\, x_t - \sin(t)\, F

    Args:
        xt: data at angle t, (n, ...), real floating.
        velocity: F at (x_t, t), shape of `xt`. A network that is scaled by the standard deviation
            of the data, as in the paper, returns F divided by it.
        t: angle, scalar or (n,), in [0, pi/2].
        r: angle, scalar or (n,), in [0, pi/2]; 0 is the consistency function.

    Returns:
        x_r, shape and dtype of `xt`.

    Raises:
        ValueError: an angle and `xt` disagree in n.

    Accuracy: each term within 3 ulp, and that of t - r.
    Source: Lu, Song 2024, arXiv:2410.11081, section 3, where r = 0 is the consistency function;
    diffusers 0.42.1, `SCMScheduler`.

    >>> import numpy as np
    >>> x, velocity = np.asarray([[3.0]]), np.asarray([[-4.0]])
    >>> trigflow_step(x, velocity, np.pi / 2).round(12)
    array([[4.]])
    """
    cosine, sine = _on_circle(t - r)
    return along(cosine, xt) * xt - along(sine, xt) * velocity


def trigflow_average_velocity(xt: Array, xr: Array, t: Array, r: Array) -> Array:
    r"""Return the velocity whose single turn leads from one state of a trajectory to another.

    .. math:: F(x_t, t, r) = \frac{\cos(t - r)\, x_t - x_r}{\sin(t - r)}

    It is the target of a flow map that is trained on stored trajectories, and takes the place of F
    in `trigflow_step`. For r -> t it is the velocity at t, and from pure noise to the data -x_0.

    Args:
        xt: the state at angle t, (n, ...), real floating.
        xr: the state at angle r of the same trajectory, shape of `xt`.
        t: angle, scalar or (n,), in [0, pi/2].
        r: angle, scalar or (n,), in [0, pi/2], not t.

    Returns:
        F, shape and dtype of `xt`.

    Raises:
        ValueError: an angle and `xt` disagree in n.

    Accuracy: each term within 4 ulp, and that of t - r.
    Derived: `trigflow_step` solved for its velocity.

    >>> import numpy as np
    >>> start, end = np.asarray([[3.0]]), np.asarray([[4.0]])
    >>> trigflow_average_velocity(start, end, np.pi / 2, 0.0).round(12)
    array([[-4.]])
    """
    cosine, sine = _on_circle(t - r)
    return along(cosine / sine, xt) * xt - along(1.0 / sine, xt) * xr


def trigflow_renoise_step(xt: Array, velocity: Array, noise: Array, t: Array, r: Array) -> Array:
    r"""Jump to the data, then return to angle r with fresh noise: multistep sampling of sCM.

    .. math:: x_r = \cos(r) \left(\cos(t)\, x_t - \sin(t)\, F\right) + \sin(r)\, z

    Args:
        xt: data at angle t, (n, ...), real floating.
        velocity: F at (x_t, t), shape of `xt`.
        noise: z, normal with the standard deviation of the data, shape of `xt`.
        t: angle, scalar or (n,), in [0, pi/2].
        r: angle, scalar or (n,), in [0, pi/2]; after the last step 0, without noise.

    Returns:
        x_r, shape and dtype of `xt`.

    Raises:
        ValueError: an angle and `xt` disagree in n.

    Accuracy: each term within 6 ulp.
    Source: Song et al. 2023, arXiv:2303.01469, algorithm 1, on the path of Lu, Song 2024,
    arXiv:2410.11081, section 3; diffusers 0.42.1, `SCMScheduler`.

    >>> import numpy as np
    >>> x, velocity, z = (np.asarray([[v]]) for v in (3.0, -4.0, 2.0))
    >>> trigflow_renoise_step(x, velocity, z, np.pi / 2, np.pi / 6).round(3)
    array([[4.464]])
    """
    cosine, sine = _on_circle(r)
    clean = trigflow_step(xt, velocity, t)
    return along(cosine, xt) * clean + along(sine, xt) * noise


def trigflow_velocity(xs: Array, velocity: Array, s: Array) -> Array:
    r"""Return TrigFlow's velocity from a flow model's state and velocity.

    .. math:: F = \frac{(1 - 2 s)\, x_s + (1 - 2 s + 2 s^2)\, u}{\sqrt{s^2 + (1 - s)^2}}, \qquad
              x_t = \frac{x_s}{\sqrt{s^2 + (1 - s)^2}}, \qquad \tan t = \frac{s}{1 - s}

    Args:
        xs: (1 - s) x0 + s eps, (n, ...), real floating; the same point of both paths.
        velocity: u = eps - x0 of the flow model at (x_s, s), shape of `xs`.
        s: flow time, scalar or (n,), in [0, 1]; `flow_time_from_angle` of t.

    Returns:
        F at (x_t, t), shape and dtype of `xs`.

    Raises:
        ValueError: `s` and `xs` disagree in n.

    Accuracy: each term within 8 ulp, and that of 1 - 2 s.
    Source: Chen et al. 2025, arXiv:2503.09641, the transformation of SANA-Sprint, which needs no
    training; diffusers 0.42.1, `SanaSprintPipeline`.

    >>> import numpy as np
    >>> trigflow_velocity(np.asarray([[0.5]]), np.asarray([[3.0]]), 0.5).round(6)
    array([[2.12132]])
    """
    length = root(s * s + (1.0 - s) * (1.0 - s))
    shared = ((1.0 - s) - s) / length
    return along(shared, xs) * xs + along(length, xs) * velocity


def flow_time_from_angle(t: Array) -> Array:
    r"""Return the flow time with the ratio of noise and data of TrigFlow's angle.

    .. math:: s = \frac{\sin t}{\sin t + \cos t}

    Args:
        t: angle, scalar or array, in [0, pi/2].

    Returns:
        s, shape and dtype of `t`; a float for a scalar.

    Accuracy: 4 ulp, and the cosine's absolute error near pi/2.
    Source: Chen et al. 2025, arXiv:2503.09641; tan t = s / (1 - s), solved for s.

    >>> round(flow_time_from_angle(math.pi / 4), 12)
    0.5
    """
    cosine, sine = _on_circle(t)
    return sine / (sine + cosine)


def _on_circle(angle: Array) -> tuple[Array, Array]:
    """Return the cosine and sine of a scalar or an array."""
    if isinstance(angle, Real):
        return math.cos(angle), math.sin(angle)
    xp = array_namespace(angle)
    return xp.cos(angle), xp.sin(angle)
