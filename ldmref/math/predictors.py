"""Score-based sampling: predictors, Langevin correctors, and the loop over both.

Steps are pure: standard normal noise is an argument, shape of x. Times are scalars or (n,).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from array_api_compat import array_namespace

from ldmref.math.arrays import Array, along, root
from ldmref.math.reverse import VectorField
from ldmref.math.sde import LinearSDE

# (sde, score, x, t, t_next, noise) -> the state at t_next
Predictor = Callable[[LinearSDE, VectorField, Array, Array, Array, Array], Array]


def euler_maruyama(
    drift: VectorField,
    diffusion: Callable[[Array], Array],
    x: Array,
    t: Array,
    t_next: Array,
    noise: Array,
) -> Array:
    r"""One Euler-Maruyama step of a stochastic differential equation, forwards or backwards.

    .. math:: x' = x + f(x, t)\,(t' - t) + g(t)\sqrt{|t' - t|}\,\epsilon

    Args:
        drift, diffusion: `drift(x, t)` and `diffusion(t)`, of a process or of `reverse_sde`.
        x: the state at t, (n, ...).
        t, t_next: scalars or (n,); t_next < t runs backwards.
        noise: standard normal, shape of `x`.

    Returns:
        the state at t_next, shape and dtype of `x`.

    Accuracy: weak order 1 in |t' - t|; each term within 4 ulp.
    Source: Song et al. 2021, arXiv:2011.13456, section 4.1.

    >>> import numpy as np
    >>> one = np.asarray([[1.0]])
    >>> euler_maruyama(lambda x, t: -2.0 * x, lambda t: 3.0, one, 1.0, 0.75, one)
    array([[3.]])
    """
    h = t_next - t
    wiener = along(diffusion(t) * root(abs(h)), x) * noise
    return x + along(h, x) * drift(x, t) + wiener


def reverse_diffusion_step(
    sde: LinearSDE, score: VectorField, x: Array, t: Array, t_next: Array, noise: Array
) -> Array:
    r"""Discretise the reverse SDE like the forward process: the predictor of PC samplers.

    .. math:: x' = (2 - a)\,x + v\,\nabla_x \log p_t(x) + \sqrt v\,\epsilon, \qquad
              x(t) \mid x(t') \sim N(a\,x(t'), v)

    For VP, v = beta_i and a = sqrt(1 - beta_i); for VE, v = sigma_i^2 - sigma_{i-1}^2 and a = 1.

    Args:
        sde: the forward process, for its `transition`.
        score: `score(x, t)`, shape of `x`.
        x: the state at t, (n, ...).
        t, t_next: scalars or (n,), t_next <= t.
        noise: standard normal, shape of `x`.

    Returns:
        the state at t_next, shape and dtype of `x`.

    Accuracy: its mean differs from that of `euler_maruyama` by terms in (t' - t)^2; rounding is
    that of `transition`, plus 4 ulp of each term.
    Source: Song et al. 2021, arXiv:2011.13456, appendix E and algorithms 2 and 3 (predictors).

    >>> import numpy as np
    >>> from ldmref.math import VESDE
    >>> one = np.asarray([[1.0]])
    >>> reverse_diffusion_step(VESDE(1.0, 2.0), lambda x, t: -x, one, 1.0, 0.0, one).round(6)
    array([[-0.267949]])
    """
    a, v = sde.transition(t_next, t)
    return along(2.0 - a, x) * x + along(v, x) * score(x, t) + along(root(v), x) * noise


def ancestral_step(
    sde: LinearSDE, score: VectorField, x: Array, t: Array, t_next: Array, noise: Array
) -> Array:
    r"""Sample the posterior q(x(t') | x(t), x0), with x0 estimated by the score: DDPM's step.

    .. math:: x' = \frac{x + v\,\nabla_x \log p_t(x)}{a} + \frac{s(t')}{s(t)}\sqrt v\,\epsilon,
              \qquad x(t) \mid x(t') \sim N(a\,x(t'), v)

    In the coordinates x / m this is the samplers' `ancestral(eta=1)` for every process. The
    paper's eq. 4 for VP has noise sqrt(v), DDPM's "fixed large" variance, instead of beta-tilde.

    Args:
        sde: the forward process, for its `transition` and `std`.
        score: `score(x, t)`, shape of `x`.
        x: the state at t, (n, ...).
        t, t_next: scalars or (n,), t_next <= t; std(t) > 0.
        noise: standard normal, shape of `x`.

    Returns:
        the state at t_next, shape and dtype of `x`.

    Accuracy: its mean differs from that of `euler_maruyama` by terms in (t' - t)^2; rounding is
    that of `transition`, plus 4 ulp of each term.
    Source: Ho, Jain, Abbeel 2020, arXiv:2006.11239, eq. 7 and 11; Song et al. 2021,
    arXiv:2011.13456, eq. 4 and appendix F (VE).

    >>> import numpy as np
    >>> from ldmref.math import VESDE
    >>> one = np.asarray([[1.0]])
    >>> ancestral_step(VESDE(1.0, 2.0), lambda x, t: -x / 4.0, one, 1.0, 0.0, 0.0 * one)
    array([[0.25]])
    """
    a, v = sde.transition(t_next, t)
    spread = root(v) * (sde.std(t_next) / sde.std(t))
    return (x + along(v, x) * score(x, t)) / along(a, x) + along(spread, x) * noise


def langevin_step(x: Array, gradient: Array, noise: Array, step_size: Array) -> Array:
    r"""One step of Langevin dynamics, which leaves p invariant as the step size goes to 0.

    .. math:: x' = x + \delta\,\nabla_x \log p(x) + \sqrt{2\delta}\,\epsilon

    Args:
        x: the state, (n, ...).
        gradient: score at x, shape of `x`.
        noise: standard normal, shape of `x`.
        step_size: scalar or (n,), >= 0.

    Returns:
        the next state, shape and dtype of `x`.

    Accuracy: for a Gaussian of variance v, the stationary variance is v / (1 - step_size / (2 v)).
    Source: Song et al. 2021, arXiv:2011.13456, eq. 2 and algorithms 4 and 5.

    >>> import numpy as np
    >>> one = np.asarray([[1.0]])
    >>> langevin_step(one, -one, one, 0.5)
    array([[1.5]])
    """
    return x + along(step_size, x) * gradient + along(root(2.0 * step_size), x) * noise


def langevin_step_size(
    gradient: Array, noise: Array, snr: float, alpha: Array = 1.0, per_example: bool = True
) -> Array:
    r"""Return the corrector's step size from a signal-to-noise ratio.

    .. math:: \delta = 2\,\alpha\left(r\,\frac{\lVert\epsilon\rVert_2}
              {\lVert\nabla_x \log p(x)\rVert_2}\right)^2

    A step size that depends on x and on the noise does not leave p invariant, however small r is:
    in D dimensions the stationary density tends to a multiple of p^(D / (D + 2)) |grad log p|^2.
    The effect is negligible in the many dimensions of an image. It is large in two, where steps
    near a mode are long as well; use the batch's mean norms there.

    Args:
        gradient: score at x, (n, ...), nonzero.
        noise: the standard normal noise of the same step, shape of `gradient`.
        snr: r, > 0; 0.16 in the paper's code for CIFAR-10.
        alpha: a^2 of the predictor's step, 1 - beta for VP and 1 for VE; scalar or (n,).
        per_example: norms per example, as in the algorithms; otherwise their means over the batch,
            as in the paper's code (examples then depend on their batch).

    Returns:
        (n,), or 0-d if not `per_example` and `alpha` is a scalar.

    Accuracy: 8 ulp, plus the rounding of the library's sums.
    Source: Song et al. 2021, arXiv:2011.13456, algorithms 4 (VE) and 5 (VP).

    >>> import numpy as np
    >>> langevin_step_size(np.asarray([[6.0, 8.0]]), np.asarray([[3.0, 4.0]]), 0.5, 0.75)
    array([0.09375])
    """
    xp = array_namespace(gradient, noise)

    def norm(z: Array) -> Array:
        lengths = xp.sqrt(xp.sum(xp.reshape(z * z, (z.shape[0], -1)), axis=1))
        return lengths if per_example else xp.mean(lengths)

    return 2.0 * alpha * (snr * norm(noise) / norm(gradient)) ** 2


def predictor_corrector(
    sde: LinearSDE,
    score: VectorField,
    x: Array,
    times: Sequence[float],
    noise: Callable[[], Array],
    *,
    predictor: Predictor = reverse_diffusion_step,
    corrector_steps: int = 1,
    snr: float = 0.16,
    per_example: bool = True,
) -> Iterator[Array]:
    r"""Predictor-corrector sampling: per interval, a predictor step and then Langevin steps.

    .. math:: x \leftarrow \mathrm{predictor}(x, t \to t'); \qquad
              x \leftarrow x + \delta\,\nabla \log p_{t'}(x) + \sqrt{2\delta}\,\epsilon

    The corrector's alpha is a^2 of the predictor step t -> t'. The paper's algorithm 5 uses that of
    the next step, its code either; in the limit of small steps all are 1.

    Args:
        sde: the forward process, for its `transition`.
        score: `score(x, t)`, shape of `x`.
        x: the state at times[0], such as `sde.prior(noise())`.
        times: decreasing, Python floats; the score must be defined at the last one too.
        noise: `noise() -> standard normal array` of x's shape, called once per step.
        predictor: `reverse_diffusion_step`, `ancestral_step`, or a function of that signature.
        corrector_steps: Langevin steps per level, >= 0.
        snr, per_example: see `langevin_step_size`.

    Yields:
        the state after each interval of `times`.

    Accuracy: that of its steps.
    Source: Song et al. 2021, arXiv:2011.13456, algorithms 1, 2 (VE) and 3 (VP).

    >>> import numpy as np
    >>> from ldmref.math import VESDE
    >>> sde, x = VESDE(1.0, 2.0), np.asarray([[1.0]])
    >>> for x in predictor_corrector(sde, lambda x, t: -x, x, [1.0, 0.0], lambda: 0.0 * x):
    ...     x
    array([[-2.]])
    """
    for t, t_next in pairwise([float(t) for t in times]):
        x = predictor(sde, score, x, t, t_next, noise())
        alpha = sde.transition(t_next, t)[0] ** 2
        for _ in range(corrector_steps):
            gradient = score(x, t_next)
            eps = noise()
            step_size = langevin_step_size(gradient, eps, snr, alpha, per_example)
            x = langevin_step(x, gradient, eps, step_size)
        yield x
