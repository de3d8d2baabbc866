"""Stochastic steps of flow models: each is a Gaussian transition with a mean and a std.

The path is x_s = (1 - s) x0 + s eps, the velocity u = eps - x0, and a step goes from s to a smaller
s'. Published steps are of two kinds. The first solves the reverse SDE for one Euler-Maruyama step,
and is given by the diffusion coefficient g(s): Flow-GRPO, Dance. The second puts predicted data and
noise together again at s', of which a part is fresh, and is given by the std of the fresh part:
CPS, Precise, the DDPM posterior, ancestral sampling (ComfyUI), `stochastic_sampling` (diffusers).

`s`, `s_next`, `diffusion` and `std` are scalars or (n,), and broadcast over the trailing axes.
"""

from __future__ import annotations

import math
from numbers import Real

from ldmref.math.arrays import Array, along, array_namespace, root
from ldmref.math.flow import eps_from_velocity, x0_from_velocity


def flow_sde_transition(
    xs: Array, velocity: Array, s: Array, s_next: Array, diffusion: Array
) -> tuple[Array, Array]:
    r"""Make one Euler-Maruyama step of the reverse SDE with the marginals of the flow.

    .. math:: \mu = x_s + (s' - s) \left(u + \frac{g^2}{2 s}\,\epsilon\right), \qquad
              q = g \sqrt{s - s'}, \qquad \epsilon = x_s + (1 - s)\, u

    Args:
        xs: data at flow time s, (n, ...), real floating.
        velocity: u, shape of `xs`.
        s: flow time, scalar or (n,), in (0, 1].
        s_next: s', scalar or (n,), in [0, 1], and < s.
        diffusion: g, scalar or (n,), >= 0: `flow_grpo_diffusion` of Flow-GRPO, a constant of Dance.

    Returns:
        (mean, std): the mean in shape and dtype of `xs`; the std in the shape of g.

    Accuracy: each term within 8 ulp.
    Source: Song et al. 2021, arXiv:2011.13456, eq. 6, with the drift that keeps the flow's
    marginals for every g, as in Flow-GRPO (arXiv:2505.05470) and Dance (arXiv:2505.07818).

    >>> import numpy as np
    >>> mean, std = flow_sde_transition(np.asarray([[1.0]]), np.asarray([[2.0]]), 0.5, 0.25, 1.0)
    >>> mean, std
    (array([[0.]]), 0.5)
    """
    eps = eps_from_velocity(xs, velocity, s)
    drift = velocity + along(diffusion * diffusion / (2.0 * s), xs) * eps
    return xs + along(s_next - s, xs) * drift, diffusion * root(s - s_next)


def flow_renoise_transition(
    xs: Array, velocity: Array, s: Array, s_next: Array, std: Array
) -> tuple[Array, Array]:
    r"""Put predicted data and noise together again at s', with fresh noise of a given std.

    .. math:: \mu = (1 - s')\, x_0 + \sqrt{s'^2 - q^2}\;\epsilon, \qquad
              x_0 = x_s - s\, u, \qquad \epsilon = x_s + (1 - s)\, u

    Args:
        xs: data at flow time s, (n, ...), real floating.
        velocity: u, shape of `xs`.
        s: flow time, scalar or (n,), in (0, 1].
        s_next: s', scalar or (n,), in [0, 1].
        std: q, scalar or (n,), >= 0 and <= s_next: 0 is an Euler step; `s_next` replaces all noise,
            as `stochastic_sampling` of diffusers does.

    Returns:
        (mean, std): the mean in shape and dtype of `xs`; the std as given.

    Accuracy: each term within 8 ulp; q near s' loses digits of the root, up to sqrt(eps) s'.
    Derived: both parts of x_{s'} = (1 - s') x0 + s' eps have their size if the noise that is kept
    and the fresh noise have the variances s'^2 - q^2 and q^2.

    >>> import numpy as np
    >>> mean, _ = flow_renoise_transition(np.asarray([[1.0]]), np.asarray([[2.0]]), 0.5, 0.25, 0.15)
    >>> float(mean[0, 0]).__round__(12)
    0.4
    """
    x0 = x0_from_velocity(xs, velocity, s)
    eps = eps_from_velocity(xs, velocity, s)
    kept = root(_not_negative((s_next - std) * (s_next + std)))
    return along(1.0 - s_next, xs) * x0 + along(kept, xs) * eps, std


def _not_negative(a: Array) -> Array:
    """Return a, or 0 where rounding made it negative."""
    if isinstance(a, Real):
        return max(a, 0.0)
    return array_namespace(a).where(a > 0.0, a, 0.0 * a)


def flow_grpo_diffusion(s: Array, at_one: float, noise_level: float = 0.7) -> Array:
    r"""Return the diffusion coefficient of Flow-GRPO, with its guard at s = 1.

    .. math:: g = a \sqrt{\frac{s}{1 - \bar s}}, \qquad
              \bar s = \begin{cases} s_1 & s = 1 \\ s & \text{otherwise} \end{cases}

    Args:
        s: flow time, scalar or any shape, in [0, 1].
        at_one: s_1, scalar, in [0, 1), in the place of s where s = 1, where g is infinite. The
            authors' code takes the second flow time of the list.
        noise_level: a, scalar, >= 0.

    Returns:
        g, shape and dtype of `s`.

    Accuracy: 5 ulp, and that of 1 - s.
    Source: Liu et al. 2025, arXiv:2505.05470; the guard is in the authors' code only.

    >>> flow_grpo_diffusion(0.5, 0.9, 1.0), round(flow_grpo_diffusion(1.0, 0.96, 1.0), 12)
    (1.0, 5.0)
    """
    if isinstance(s, Real):
        return noise_level * root(s / (1.0 - (at_one if s == 1.0 else s)))
    xp = array_namespace(s)
    return noise_level * root(s / xp.where(s == 1.0, 1.0 - at_one + 0.0 * s, 1.0 - s))


def flow_grpo_clamped_diffusion(s: Array, largest: float = 0.95, noise_level: float = 0.7) -> Array:
    r"""Return the diffusion coefficient of Flow-GRPO with a clamped denominator.

    .. math:: g = a \sqrt{\frac{s}{1 - \min(s, s_{max})}}

    Args:
        s: flow time, scalar or any shape, in [0, 1].
        largest: s_max, scalar, in [0, 1): copies of the step have 0.95, 0.99 and 0.999.
        noise_level: a, scalar, >= 0.

    Returns:
        g, shape and dtype of `s`.

    Accuracy: 5 ulp, and that of 1 - s.
    Derived: a g that stays finite at s = 1, as copies of Flow-GRPO's step have it.

    >>> flow_grpo_clamped_diffusion(0.5, 0.95, 1.0)
    1.0
    >>> round(flow_grpo_clamped_diffusion(1.0, 0.96, 1.0), 12)
    5.0
    """
    if isinstance(s, Real):
        return noise_level * root(s / (1.0 - min(s, largest)))
    xp = array_namespace(s)
    return noise_level * root(s / (1.0 - xp.where(s < largest, s, largest + 0.0 * s)))


def cps_std(s_next: Array, noise_level: float = 0.7) -> Array:
    r"""Return the std of the fresh noise of coefficients-preserving sampling (CPS).

    .. math:: q = s' \sin\frac{a \pi}{2}

    The share that is kept, cos(a pi / 2), does not depend on the length of the step; therefore more
    steps do not lead to the distribution of the data (docs/math/flow_sde.md).

    Args:
        s_next: s', scalar or any shape, in [0, 1].
        noise_level: a, scalar, in [0, 1]; 1 replaces all noise.

    Returns:
        q, shape and dtype of `s_next`.

    Accuracy: 3 ulp.
    Source: Wang, Yu 2025, arXiv:2509.05952, as in the authors' code.

    >>> cps_std(0.5, 1.0), round(cps_std(0.5, 1 / 3), 12)
    (0.5, 0.25)
    """
    return s_next * math.sin(0.5 * math.pi * noise_level)


def precise_std(s: Array, s_next: Array, eta: float = 1.0) -> Array:
    r"""Return the std of the fresh noise of Precise, which fits the length of the step.

    .. math:: q = s' \sqrt{1 - r^{\eta^2}}, \qquad r = \frac{s'\,(1 - s)}{s\,(1 - s')}

    Args:
        s: flow time, scalar or any shape, in (0, 1].
        s_next: s', scalar or shape of `s`, in [0, 1), and <= s.
        eta: scalar, >= 0; 0 is an Euler step, sqrt(2) the DDPM posterior.

    Returns:
        q, shape and dtype of `s`. The share of the noise that is kept, r^(eta^2 / 2), multiplies
        over steps, so that two short steps renew as much as a long one.

    Accuracy: 8 + 4 eta^2 ulp of s', amplified by s'/q where little is renewed.
    Derived: the reverse SDE with Flow-GRPO's g for a = eta, solved exactly while x0 keeps its
    value, as Zou et al. 2026, arXiv:2605.23522, describe it.

    >>> round(precise_std(0.8, 0.5, 2.0**0.5), 12) == round(flow_posterior_std(0.8, 0.5), 12)
    True
    >>> precise_std(1.0, 0.5)
    0.5
    """
    ratio = s_next * (1.0 - s) / (s * (1.0 - s_next))
    return s_next * root(1.0 - ratio ** (eta * eta))


def flow_posterior_std(s: Array, s_next: Array) -> Array:
    r"""Return the std of the exact Gaussian q(x_{s'} | x_s, x0): that of DDPM, for the flow.

    .. math:: q = s' \sqrt{1 - r^2}, \qquad r = \frac{s'\,(1 - s)}{s\,(1 - s')}

    Args:
        s: flow time, scalar or any shape, in (0, 1].
        s_next: s', scalar or shape of `s`, in [0, 1), and <= s.

    Returns:
        q, shape and dtype of `s`; with it `flow_renoise_transition` has the mean of the posterior.

    Accuracy: 8 ulp, and that of s - s'.
    Derived: Bayes' rule for x_s = (1 - s) / (1 - s') x_{s'} + fresh noise.

    >>> flow_posterior_std(1.0, 0.5), round(flow_posterior_std(0.75, 0.5), 12)
    (0.5, 0.471404520791)
    """
    ratio = s_next * (1.0 - s) / (s * (1.0 - s_next))
    return s_next * root((1.0 - ratio) * (1.0 + ratio))


def ancestral_flow_std(s: Array, s_next: Array, eta: float = 1.0) -> Array:
    r"""Return the std of the fresh noise of ComfyUI's ancestral Euler step for flows.

    .. math:: q = \sqrt{s'^2 - s_d^2 \left(\frac{1 - s'}{1 - s_d}\right)^2}, \qquad
              s_d = s' \left(1 + \eta \left(\frac{s'}{s} - 1\right)\right)

    Args:
        s: flow time, scalar or any shape, in (0, 1].
        s_next: s', scalar or shape of `s`, in [0, 1), and <= s.
        eta: scalar, in [0, 1]; 0 is an Euler step.

    Returns:
        q, shape and dtype of `s`. The step to s_d, rescaled so that signal and noise have the ratio
        of s', and renoised, is `flow_renoise_transition`.

    Accuracy: 12 ulp, and that of s - s' and 1 - s'; exactly 0 for eta = 0 and for s' = s.
    Source: ComfyUI, `sample_euler_ancestral_RF`; the same function in diffusers serves LTX.

    >>> ancestral_flow_std(0.5, 0.25, 0.0), round(ancestral_flow_std(0.5, 0.25), 12)
    (0.0, 0.225876975726)
    """
    further = eta * s_next * ((s - s_next) / s)  # s' - s_d, exactly 0 for an Euler step
    down = s_next * ((1.0 - eta) + eta * (s_next / s))
    above = (1.0 - s_next) + further  # 1 - s_d
    kept = down * (1.0 - s_next) / above
    return root((further / above) * (s_next + kept))  # (s' - kept) (s' + kept)
