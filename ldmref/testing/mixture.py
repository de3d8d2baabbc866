"""An analytic problem for samplers: a Gaussian mixture, whose denoiser is known exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Mixture:
    r"""p(x0) = sum_k w_k N(m_k, s_k^2 I), and with it everything about x = x0 + sigma eps.

    weights: (k,), sum 1; means: (k, d); stds: (k,), > 0.
    """

    weights: np.ndarray
    means: np.ndarray
    stds: np.ndarray

    def denoise(self, x: np.ndarray, sigma: float) -> np.ndarray:
        r"""E[x0 | x], the optimal denoiser; x: (n, d).

        .. math:: \sum_k r_k(x)\left(m_k + \frac{s_k^2}{s_k^2 + \sigma^2}(x - m_k)\right), \quad
                  r_k \propto w_k N(x; m_k, s_k^2 + \sigma^2)
        """
        variance = self.stds**2 + sigma**2
        offset = x[:, None, :] - self.means
        log = np.log(self.weights) - 0.5 * (offset**2).sum(-1) / variance
        log = log - 0.5 * x.shape[-1] * np.log(variance)
        share = np.exp(log - log.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        centre = self.means + (self.stds**2 / variance)[:, None] * offset
        return (share[..., None] * centre).sum(axis=1)

    def mean(self) -> np.ndarray:
        """E[x0], (d,)."""
        return self.weights @ self.means

    def covariance(self) -> np.ndarray:
        """Cov[x0], (d, d)."""
        centred = self.means - self.mean()
        spread = (self.weights[:, None] * centred).T @ centred
        return spread + np.sum(self.weights * self.stds**2) * np.eye(self.means.shape[1])


def three_modes() -> Mixture:
    """A mixture of three modes in the plane: smooth enough to measure orders of convergence."""
    return Mixture(
        np.asarray([0.5, 0.3, 0.2]),
        np.asarray([[1.0, 0.5], [-1.2, 0.3], [0.2, -1.0]]),
        np.asarray([0.4, 0.5, 0.6]),
    )
