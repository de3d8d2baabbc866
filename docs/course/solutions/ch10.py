"""Answers to the exercises of chapter 10, written from its formulas."""

import numpy as np


def score_from_eps(eps, alpha_bar):
    """The noise of x_t has the size sqrt(1 - alpha_bar), and the score points against it."""
    alpha_bar = np.reshape(alpha_bar, (-1, *[1] * (eps.ndim - 1)))
    return -eps / np.sqrt(1.0 - alpha_bar)


def probability_flow(sde, score):
    """Half of g^2, because the noise that is removed also spreads the density by one half of it."""

    def velocity(x, t):
        g = np.reshape(sde.diffusion(t), (-1, *[1] * (x.ndim - 1)))
        return sde.drift(x, t) - 0.5 * g**2 * score(x, t)

    return velocity


def hutchinson_variance(jacobian, rademacher=True):
    """Twice the squares of the symmetric part; without its diagonal if the probes are signs."""
    squares = (0.5 * (jacobian + np.swapaxes(jacobian, 1, 2))) ** 2
    if rademacher:
        squares = squares * (1.0 - np.eye(jacobian.shape[-1]))
    return 2.0 * squares.sum(axis=(1, 2))
