"""Flow matching with straight paths: the same diffusion in another parametrisation.

x_s = (1 - s) x0 + s eps is x0 + sigma eps, and the variance-preserving x_t, up to a factor. The
flow time s runs from 0 (data) to 1 (noise), as in Stable Diffusion 3; in Lipman et al. it is 1 - s.
`s` is a scalar or (n,), and broadcasts over the trailing axes; an array of any other length
raises ValueError.
"""

from __future__ import annotations

import math

from array_api_compat import array_namespace

from ldmref.math.activations import sigmoid
from ldmref.math.arrays import Array, along, root


def flow_sample(x0: Array, eps: Array, s: Array) -> Array:
    r"""Mix clean data and noise linearly.

    .. math:: x_s = (1 - s)\, x_0 + s\,\epsilon

    Args:
        x0: clean data, (n, ...), real floating.
        eps: standard normal noise, shape and dtype of `x0`.
        s: flow time, scalar or (n,), in [0, 1]; dimensionless.

    Returns:
        x_s, shape and dtype of `x0`.

    Raises:
        ValueError: `s` and `x0` disagree in n.

    Accuracy: each term within 3 ulp.
    Source: Lipman et al. 2022, arXiv:2210.02747, eq. 22 with sigma_min = 0 and t = 1 - s.

    >>> import numpy as np
    >>> flow_sample(np.asarray([[1.0]]), np.asarray([[3.0]]), 0.25)
    array([[1.5]])
    """
    return along(1.0 - s, x0) * x0 + along(s, x0) * eps


def flow_velocity(x0: Array, eps: Array) -> Array:
    r"""Return the velocity from data to noise: the prediction target of flow matching.

    .. math:: u = \frac{d x_s}{d s} = \epsilon - x_0

    Args:
        x0: clean data, (n, ...), real floating.
        eps: unit noise, shape of `x0`.

    Returns:
        u, shape and dtype of `x0`; a step is x_{s'} = x_s + (s' - s) u.

    Accuracy: 1 ulp.
    Source: Lipman et al. 2022, arXiv:2210.02747, eq. 23 with sigma_min = 0 (there x_1 - x_0, data
    minus noise, since time is reversed).

    >>> import numpy as np
    >>> flow_velocity(np.asarray([[1.0]]), np.asarray([[3.0]]))
    array([[2.]])
    """
    return eps - x0


def x0_from_velocity(xs: Array, velocity: Array, s: Array) -> Array:
    r"""Clean data from the flow's velocity.

    .. math:: x_0 = x_s - s\, u

    Args:
        xs: data at flow time s, (n, ...), real floating.
        velocity: u, shape of `xs`.
        s: flow time, scalar or (n,), in [0, 1].

    Returns:
        x0, shape and dtype of `xs`.

    Accuracy: each term within 2 ulp; no division, so it holds at every noise level.
    Derived: x_s = (1 - s) x0 + s eps and u = eps - x0, solved for x0.

    >>> import numpy as np
    >>> x0_from_velocity(np.asarray([[1.5]]), np.asarray([[2.0]]), 0.25)
    array([[1.]])
    """
    return xs - along(s, xs) * velocity


def eps_from_velocity(xs: Array, velocity: Array, s: Array) -> Array:
    r"""Return unit noise from the flow's velocity.

    .. math:: \epsilon = x_s + (1 - s)\, u

    Args:
        xs: data at flow time s, (n, ...), real floating.
        velocity: u, shape of `xs`.
        s: flow time, scalar or (n,), in [0, 1].

    Returns:
        eps, shape and dtype of `xs`.

    Accuracy: each term within 3 ulp; no division, so it holds at every noise level.
    Derived: x_s = (1 - s) x0 + s eps and u = eps - x0, solved for eps.

    >>> import numpy as np
    >>> eps_from_velocity(np.asarray([[1.5]]), np.asarray([[2.0]]), 0.25)
    array([[3.]])
    """
    return xs + along(1.0 - s, xs) * velocity


def sigma_from_flow_time(s: Array) -> Array:
    r"""Return the sigma of flow time s in the coordinates x = x0 + sigma eps, x = x_s / (1-s).

    .. math:: \sigma = \frac{s}{1 - s}

    Args:
        s: flow time, scalar or any shape, in [0, 1).

    Returns:
        the same shape and dtype, in [0, inf).

    Accuracy: 2 ulp of s / (1 - s).
    Derived: x_s divided by its coefficient of x0.

    >>> sigma_from_flow_time(0.75)
    3.0
    """
    return s / (1.0 - s)


def flow_time_from_sigma(sigma: Array) -> Array:
    r"""Invert `sigma_from_flow_time`.

    .. math:: s = \frac{\sigma}{1 + \sigma}

    Args:
        sigma: scalar or any shape, >= 0.

    Returns:
        the same shape and dtype, in [0, 1].

    Accuracy: 2 ulp.
    Derived: `sigma_from_flow_time` solved for s.

    >>> flow_time_from_sigma(3.0)
    0.75
    """
    return sigma / (1.0 + sigma)


def alpha_bar_from_flow_time(s: Array) -> Array:
    r"""Return the alpha-bar of flow time s, where x_t = x_s / sqrt((1-s)^2 + s^2).

    .. math:: \bar\alpha = \frac{(1 - s)^2}{(1 - s)^2 + s^2}

    Args:
        s: flow time, scalar or any shape, in [0, 1].

    Returns:
        the same shape and dtype, in [0, 1].

    Accuracy: 6 ulp, and twice that of 1 - s.
    Derived: alpha_bar = 1 / (1 + sigma^2) with sigma = s / (1 - s).

    >>> alpha_bar_from_flow_time(0.5), alpha_bar_from_flow_time(0.25)
    (0.5, 0.9)
    """
    signal = (1.0 - s) * (1.0 - s)
    return signal / (signal + s * s)


def flow_time_from_alpha_bar(alpha_bar: Array) -> Array:
    r"""Invert `alpha_bar_from_flow_time`.

    .. math:: s = \frac{\sqrt{1 - \bar\alpha}}{\sqrt{\bar\alpha} + \sqrt{1 - \bar\alpha}}

    Args:
        alpha_bar: scalar or any shape, in [0, 1]; dimensionless.

    Returns:
        the same shape and dtype, in [0, 1].

    Accuracy: 4 ulp, and that of 1 - alpha_bar.
    Derived: `alpha_bar_from_flow_time` solved for s.

    >>> round(flow_time_from_alpha_bar(0.9), 12)
    0.25
    """
    noise = root(1.0 - alpha_bar)
    return noise / (root(alpha_bar) + noise)


def shift_flow_time(s: Array, shift: float = 3.0) -> Array:
    r"""Shift flow times towards noise for large images: sigma is multiplied by `shift`.

    .. math:: s' = \frac{k\,s}{1 + (k - 1)\,s}, \qquad
              \frac{s'}{1 - s'} = k\,\frac{s}{1 - s}

    Args:
        s: flow time, scalar or any shape, in [0, 1].
        shift: k, > 0; 1 is the identity; 3 in Stable Diffusion 3, the root of the ratio of pixel
            counts in the paper.

    Returns:
        the same shape and dtype, in [0, 1]; 0 and 1 are fixed points. Shifts multiply.

    Accuracy: 4 ulp; the denominator is taken as (1 - s) + k s, in which nothing cancels.
    Source: Esser et al. 2024, arXiv:2403.03206, eq. 23.

    >>> shift_flow_time(0.5)
    0.75
    """
    return shift * s / ((1.0 - s) + shift * s)


def logit_normal_time(z: Array, mean: float = 0.0, std: float = 1.0) -> Array:
    r"""Flow time of training, logit-normal for standard normal z: most near the middle.

    .. math:: s = \frac{1}{1 + e^{-(m + c z)}}, \qquad \log\frac{s}{1 - s} \sim N(m, c^2)

    Args:
        z: standard normal noise, any shape, real floating.
        mean: m; above 0 it favours noise.
        std: c, > 0; small values favour the middle.

    Returns:
        s, shape and dtype of `z`, in [0, 1].

    Accuracy: that of the library's exp, times 1 + |m + c z|.
    Source: Esser et al. 2024, arXiv:2403.03206, section 3.1 and eq. 19.

    >>> import numpy as np
    >>> logit_normal_time(np.asarray([0.0, np.log(3.0)]))
    array([0.5 , 0.75])
    """
    return sigmoid(mean + std * z)


def logit_normal_density(s: Array, mean: float = 0.0, std: float = 1.0) -> Array:
    r"""Return the density of `logit_normal_time`: how often training visits a flow time.

    .. math:: p(s) = \frac{1}{c \sqrt{2 \pi}}\, \frac{1}{s (1 - s)}
              \exp\left(-\frac{\left(\log\frac{s}{1 - s} - m\right)^2}{2 c^2}\right)

    Args:
        s: flow time, any shape, in (0, 1), real floating.
        mean: m; above 0 it favours noise.
        std: c, > 0; small values favour the middle.

    Returns:
        p, shape and dtype of `s`, >= 0; its integral over (0, 1) is 1.

    Accuracy: that of the library's exp and logarithms, times 1 + z^2 + |log p| with z = (log(s / (1
    - s)) - m) / c; it falls to 0 at both ends.
    Source: Esser et al. 2024, arXiv:2403.03206, eq. 19.

    >>> import numpy as np
    >>> logit_normal_density(np.asarray([0.1, 0.5, 0.9])).round(3)
    array([0.397, 1.596, 0.397])
    """
    xp = array_namespace(s)
    below, above = xp.log(s), xp.log1p(-s)
    z = (below - above - mean) / std
    return xp.exp(-0.5 * z * z - below - above) / (std * math.sqrt(2.0 * math.pi))


def mode_time(u: Array, scale: float = 1.29) -> Array:
    r"""Flow time of training from a uniform number: more near the middle, and some at both ends.

    .. math:: s = 1 - u - c \left(\cos^2\frac{\pi u}{2} - 1 + u\right)

    Args:
        u: uniform number, any shape, in [0, 1], real floating.
        scale: c, in [-1, 1.75]: above 0 it favours the middle, below 0 the ends; 0 is uniform. At
            2 / (pi - 2) = 1.7519 the density at the middle is infinite.

    Returns:
        s, shape and dtype of `u`, in [0, 1]; 1 for u = 0 and 0 for u = 1.

    Accuracy: 8 ulp of 1.
    Source: Esser et al. 2024, arXiv:2403.03206, section 3.1 (mode sampling with heavy tails).

    >>> import numpy as np
    >>> mode_time(np.asarray([0.0, 0.5, 1.0]))
    array([1. , 0.5, 0. ])
    """
    xp = array_namespace(u)
    sine = xp.sin((0.5 * math.pi) * u)
    return (1.0 - u) + scale * (sine * sine - u)


def cosmap_time(u: Array) -> Array:
    r"""Flow time of training from a uniform number, with the log-SNR of the cosine schedule.

    .. math:: s = 1 - \frac{1}{\tan(\pi u / 2) + 1}, \qquad
              \frac{s}{1 - s} = \tan\frac{\pi u}{2}

    Args:
        u: uniform number, any shape, in [0, 1], real floating.

    Returns:
        s, shape and dtype of `u`, in [0, 1], whose density is `cosmap_weight`.

    Accuracy: 8 ulp.
    Source: Esser et al. 2024, arXiv:2403.03206, section 3.1 (CosMap).

    >>> import numpy as np
    >>> cosmap_time(np.asarray([0.0, 0.5, 1.0])).round(12)
    array([0. , 0.5, 1. ])
    """
    xp = array_namespace(u)
    angle = (0.5 * math.pi) * u
    sine = xp.sin(angle)
    return sine / (sine + xp.cos(angle))


def cosmap_weight(s: Array) -> Array:
    r"""Return the density of `cosmap_time`, which is also a weight of losses at uniform times.

    .. math:: w = \frac{2}{\pi - 2 \pi s + 2 \pi s^2}

    Args:
        s: flow time, any shape, in [0, 1], real floating.

    Returns:
        w, shape and dtype of `s`, in [0.6366, 1.2733]; its mean over uniform times is 1.

    Accuracy: 8 ulp.
    Source: Esser et al. 2024, arXiv:2403.03206, section 3.1 (CosMap); a weight in the training
    scripts of diffusers and kohya.

    >>> import numpy as np
    >>> (np.pi * cosmap_weight(np.asarray([0.0, 0.5, 1.0]))).round(12)
    array([2., 4., 2.])
    """
    rest = 1.0 - s
    return (2.0 / math.pi) / (rest * rest + s * s)


def sigma_sqrt_weight(s: Array) -> Array:
    r"""Weight of a velocity's squared error that favours little noise: "sigma_sqrt" of diffusers.

    .. math:: w = s^{-2}

    Args:
        s: flow time, any shape, in (0, 1], real floating.

    Returns:
        w, shape and dtype of `s`. Despite its name it is no square root.

    Accuracy: 2 ulp.
    Source: the training scripts of diffusers, `compute_loss_weighting_for_sd3`; it is not in the
    paper on Stable Diffusion 3.

    >>> import numpy as np
    >>> sigma_sqrt_weight(np.asarray([1.0, 0.5]))
    array([1., 4.])
    """
    return 1.0 / (s * s)
