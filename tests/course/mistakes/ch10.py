"""Wrong answers to the exercises of chapter 10; the part after `__` says what is wrong."""

import numpy as np


def score_from_eps__towards_the_noise(eps, alpha_bar):
    """The sign: this vector points to higher noise."""
    return eps / np.sqrt(1.0 - np.reshape(alpha_bar, (-1, *[1] * (eps.ndim - 1))))


def score_from_eps__variance_instead_of_deviation(eps, alpha_bar):
    """The noise is divided by its variance, as if eps were sqrt(1 - alpha_bar) eps."""
    return -eps / (1.0 - np.reshape(alpha_bar, (-1, *[1] * (eps.ndim - 1))))


def probability_flow__drift_of_the_reverse_sde(sde, score):
    """The page's exercise: g^2 instead of g^2 / 2."""

    def velocity(x, t):
        g = np.reshape(sde.diffusion(t), (-1, *[1] * (x.ndim - 1)))
        return sde.drift(x, t) - g**2 * score(x, t)

    return velocity


def probability_flow__g_is_not_squared(sde, score):
    """g / 2 instead of g^2 / 2."""

    def velocity(x, t):
        g = np.reshape(sde.diffusion(t), (-1, *[1] * (x.ndim - 1)))
        return sde.drift(x, t) - 0.5 * g * score(x, t)

    return velocity


def hutchinson_variance__of_an_unsymmetric_matrix(jacobian, rademacher=True):
    """The squares of J instead of those of its symmetric part."""
    squares = jacobian**2
    if rademacher:
        squares = squares * (1.0 - np.eye(jacobian.shape[-1]))
    return 2.0 * squares.sum(axis=(1, 2))


def hutchinson_variance__signs_like_normal_probes(jacobian, rademacher=True):
    """The diagonal also counts for signs."""
    squares = (0.5 * (jacobian + np.swapaxes(jacobian, 1, 2))) ** 2
    return 2.0 * squares.sum(axis=(1, 2))


def score_from_eps__not_reshaped(eps, alpha_bar):
    """alpha_bar of shape (n,) is multiplied along the last axis."""
    return -eps / np.sqrt(1.0 - alpha_bar)


def probability_flow__not_reshaped(sde, score):
    """g of shape (n,) is multiplied along the last axis."""

    def velocity(x, t):
        return sde.drift(x, t) - 0.5 * sde.diffusion(t) ** 2 * score(x, t)

    return velocity
