"""Conditioning by Bayes' rule: a joint model of x and y, or a model of x and a classifier of y.

Both follow from grad_x log p(x, y) = grad_x log p(x | y) = grad_x log p(x) + grad_x log p(y | x).
The third option, a model of p(x | y) and p(x), is `guidance.classifier_free_guidance`.
"""

from __future__ import annotations

from ldmref.math.arrays import Array, amplitudes
from ldmref.math.forward import q_sample


def conditional_scores(joint: Array, size: int) -> tuple[Array, Array]:
    r"""Split the score of a joint model into the two conditional scores.

    .. math:: \nabla_x \log p(x, y) = \nabla_x \log p(x | y), \qquad
              \nabla_y \log p(x, y) = \nabla_y \log p(y | x)

    since p(y) does not depend on x, nor p(x) on y. Both are at the noise level of the joint model,
    so y is noisy too; see `replace_known`.

    Args:
        joint: score of (x, y) stacked along axis 1, (n, size + ..., ...), real floating.
        size: number of entries of axis 1 that belong to x, from 0 to all.

    Returns:
        (score of x given y, (n, size, ...); score of y given x, the rest).

    Accuracy: exact.
    Derived: log p(x, y) = log p(x | y) + log p(y), differentiated with respect to x alone.

    >>> import numpy as np
    >>> conditional_scores(np.asarray([[1.0, 2.0, 3.0]]), 2)
    (array([[1., 2.]]), array([[3.]]))
    """
    return joint[:, :size, ...], joint[:, size:, ...]


def replace_known(x: Array, known: Array, mask: Array, alpha_bar: Array, eps: Array) -> Array:
    r"""Condition a joint model during sampling: replace the known part by its noised value.

    .. math:: x_t \leftarrow m\, x_t + (1 - m)\left(\sqrt{\bar\alpha}\, y
              + \sqrt{1 - \bar\alpha}\,\epsilon\right)

    An approximation: the unknown part depends on y only through the noisy x_t.

    Args:
        x: state at level `alpha_bar`, (n, ...), real floating.
        known: clean data, valid where the mask is 0, shape of `x`.
        mask: 1 = unknown, 0 = known, broadcastable to `x`.
        alpha_bar: scalar or (n,), in [0, 1].
        eps: standard normal noise, shape of `x`.

    Returns:
        shape and dtype of `x`; exact copies where the mask is 0 or 1.

    Raises:
        ValueError: `alpha_bar` and `x` disagree in n.

    Accuracy: that of `q_sample`.
    Source: Song et al. 2021, arXiv:2011.13456, section 5 (imputation); Ho et al. 2022,
    arXiv:2204.03458, section 3.1 (replacement method).

    >>> import numpy as np
    >>> x = np.asarray([[7.0, 7.0]])
    >>> replace_known(x, np.asarray([[1.0, 1.0]]), np.asarray([[1.0, 0.0]]), 0.64, 2.0 + 0 * x)
    array([[7., 2.]])
    """
    return mask * x + (1.0 - mask) * q_sample(known, alpha_bar, eps)


def classifier_guidance(score: Array, grad_log_p_y: Array, scale: float = 1.0) -> Array:
    r"""Return the score of p(x) p(y | x)^s, from the score of x and a classifier.

    .. math:: \nabla_x \log p_s(x | y) = \nabla_x \log p(x) + s\,\nabla_x \log p(y | x), \qquad
              p_s(x | y) \propto p(x)\, p(y | x)^s

    s = 1 is Bayes' rule, the score of x given y. Other s give the score of another density.

    Args:
        score: grad log p(x_t), (n, ...), real floating.
        grad_log_p_y: grad of log p(y | x_t) with respect to x_t, shape of `score`.
        scale: s, any finite number; dimensionless.

    Returns:
        the guided score, shape and dtype of `score`.

    Accuracy: 2 ulp of each term.
    Source: Dhariwal and Nichol 2021, arXiv:2105.05233, section 4.2 (eq. 12 and 13).

    >>> import numpy as np
    >>> classifier_guidance(np.asarray([[1.0]]), np.asarray([[2.0]]), 3.0)
    array([[7.]])
    """
    return score + scale * grad_log_p_y


def classifier_guidance_eps(
    eps: Array, grad_log_p_y: Array, alpha_bar: Array, scale: float = 1.0
) -> Array:
    r"""Classifier guidance of a noise prediction, as DDIM needs it.

    .. math:: \hat\epsilon = \epsilon - \sqrt{1 - \bar\alpha}\; s\,\nabla_{x_t} \log p(y | x_t)

    Args:
        eps: expected unit noise given x_t, (n, ...), real floating.
        grad_log_p_y: grad of log p(y | x_t) with respect to x_t, shape of `eps`.
        alpha_bar: scalar or (n,), in [0, 1].
        scale: s, any finite number; dimensionless.

    Returns:
        the guided eps, shape and dtype of `eps`.

    Raises:
        ValueError: `alpha_bar` and `eps` disagree in n.

    Accuracy: 4 ulp of each term.
    Source: Dhariwal and Nichol 2021, arXiv:2105.05233, eq. 14 and algorithm 2.

    >>> import numpy as np
    >>> classifier_guidance_eps(np.asarray([[1.0]]), np.asarray([[2.0]]), 0.75, 3.0)
    array([[-2.]])
    """
    _, noise = amplitudes(alpha_bar, eps)
    return eps - noise * (scale * grad_log_p_y)


def classifier_guidance_mean(
    mean: Array, variance: Array, grad_log_p_y: Array, scale: float = 1.0
) -> Array:
    r"""Classifier guidance of an ancestral step: shift its mean.

    .. math:: \hat\mu = \mu + s\,\Sigma\,\nabla_x \log p(y | x)\big|_{x = \mu}

    Exact where log p(y | x) is linear in x.

    Args:
        mean: mu of the reverse step, (n, ...), real floating.
        variance: Sigma, its variance: scalar, or an array broadcastable to `mean`.
        grad_log_p_y: gradient of log p(y | x), taken at the mean, shape of `mean`.
        scale: s, any finite number; dimensionless.

    Returns:
        the guided mean, shape and dtype of `mean`.

    Accuracy: 3 ulp of each term.
    Source: Dhariwal and Nichol 2021, arXiv:2105.05233, eq. 10 and algorithm 1.

    >>> import numpy as np
    >>> classifier_guidance_mean(np.asarray([[1.0]]), 0.5, np.asarray([[2.0]]), 3.0)
    array([[4.]])
    """
    return mean + scale * variance * grad_log_p_y


def implicit_classifier(cond: Array, uncond: Array) -> Array:
    r"""Gradient of the classifier implied by a conditional and an unconditional model.

    .. math:: \nabla_x \log p(y | x) = \nabla_x \log p(x | y) - \nabla_x \log p(x)

    Args:
        cond: score of x given y, (n, ...), real floating.
        uncond: score of x, shape of `cond`.

    Returns:
        grad_x log p(y | x), shape and dtype of `cond`. With it `classifier_guidance` of `uncond` is
        classifier-free guidance.

    Accuracy: 1 ulp.
    Source: Ho and Salimans 2022, arXiv:2207.12598, section 3.2 (implicit classifier).

    >>> import numpy as np
    >>> implicit_classifier(np.asarray([[3.0]]), np.asarray([[1.0]]))
    array([[2.]])
    """
    return cond - uncond
