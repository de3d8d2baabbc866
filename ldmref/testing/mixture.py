"""An exact problem: a Gaussian mixture with density, score and denoiser in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Mixture:
    """p(x0) = sum_k w_k N(m_k, s_k^2 I), and the distribution of x = x0 + sigma eps.

    At sigma = 0, x is x0 itself. In the methods' formulas, N_k = N(x; m_k, v_k I) with
    v_k = s_k^2 + sigma^2, r_k is the posterior probability of component k,
    u_k = -(x - m_k) / v_k its own score, and g = sum_k r_k u_k the score of the mixture.

    Args:
        weights: Probability w_k of each component, (k,), of sum 1.
        means: Mean m_k of each component, (k, d).
        stds: Standard deviation s_k of each component, (k,), > 0.

    >>> import numpy as np
    >>> from ldmref.testing import Mixture
    >>> p = Mixture(np.asarray([0.5, 0.5]), np.asarray([[-1.0], [1.0]]), np.asarray([0.1, 0.1]))
    >>> p.denoise(np.asarray([[0.0], [2.0]]), 1.0).round(2)  # halfway, and near the right mode
    array([[0.  ],
           [0.97]])
    """

    weights: np.ndarray
    means: np.ndarray
    stds: np.ndarray

    def __repr__(self) -> str:
        return f"<Mixture of {len(self.weights)} Gaussians in {self.means.shape[1]} dimensions>"

    def denoise(self, x: np.ndarray, sigma: float) -> np.ndarray:
        r"""Return E[x0 | x], the optimal denoiser, (n, d), at points `x`, (n, d), of level `sigma`.

        .. math:: \sum_k r_k(x)\left(m_k + \frac{s_k^2}{s_k^2 + \sigma^2}(x - m_k)\right), \quad
                  r_k \propto w_k N(x; m_k, s_k^2 + \sigma^2)
        """
        gain = self.stds**2 / (self.stds**2 + sigma**2)
        denoised = self.means + gain[:, None] * (x[:, None, :] - self.means)
        return (self.posterior(x, sigma)[..., None] * denoised).sum(axis=1)

    def mean(self) -> np.ndarray:
        """Return E[x0], (d,)."""
        return self.weights @ self.means

    def covariance(self) -> np.ndarray:
        """Return Cov[x0], (d, d)."""
        centred = self.means - self.mean()
        spread = (self.weights[:, None] * centred).T @ centred
        return spread + np.sum(self.weights * self.stds**2) * np.eye(self.means.shape[1])

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Return `n` samples of x0, (n, d), from the generator `rng`."""
        k = rng.choice(len(self.weights), size=n, p=self.weights)
        return self.means[k] + self.stds[k, None] * rng.standard_normal((n, self.means.shape[1]))

    def scaled(self, scale: float) -> Mixture:
        """Return the mixture of `scale` * x0.

        The marginal p(x(t)) of a diffusion is `scaled(m(t))` at sigma = s(t).
        """
        return Mixture(self.weights, scale * self.means, abs(scale) * self.stds)

    def log_density(self, x: np.ndarray, sigma: float = 0.0) -> np.ndarray:
        """Return log sum_k w_k N_k, (n,), at points `x`, (n, d), of noise level `sigma`."""
        log = self._log_terms(x, sigma)
        top = log.max(axis=1)
        return top + np.log(np.exp(log - top[:, None]).sum(axis=1))

    def density(self, x: np.ndarray, sigma: float = 0.0) -> np.ndarray:
        """Return the density of x0 + sigma eps, (n,), at points `x`, (n, d), of level `sigma`."""
        return np.exp(self.log_density(x, sigma))

    def posterior(self, x: np.ndarray, sigma: float = 0.0) -> np.ndarray:
        """Return r_k = P(component k | x), (n, k), at points `x`, (n, d), of level `sigma`."""
        return np.exp(self._log_terms(x, sigma) - self.log_density(x, sigma)[:, None])

    def posterior_gradient(self, x: np.ndarray, sigma: float = 0.0) -> np.ndarray:
        """Return the gradients r_k (u_k - g) of the posteriors, (n, k, d).

        Args:
            x: Points, (n, d).
            sigma: Their noise level, >= 0.
        """
        posterior = self.posterior(x, sigma)[..., None]
        return posterior * (self._scores(x, sigma) - self.score(x, sigma)[:, None, :])

    def score(self, x: np.ndarray, sigma: float = 0.0) -> np.ndarray:
        """Return g, the gradient of the log-density, (n, d), at `x`, (n, d), of level `sigma`."""
        return (self.posterior(x, sigma)[..., None] * self._scores(x, sigma)).sum(axis=1)

    def score_jacobian(self, x: np.ndarray, sigma: float = 0.0) -> np.ndarray:
        """Return the Jacobian of the score, sum_k r_k (u_k u_k^T - I / v_k) - g g^T, (n, d, d).

        Args:
            x: Points, (n, d).
            sigma: Their noise level, >= 0.
        """
        r = self.posterior(x, sigma)
        u = self._scores(x, sigma)
        g = self.score(x, sigma)
        outer = np.einsum("nk,nki,nkj->nij", r, u, u) - g[:, :, None] * g[:, None, :]
        precision = (r / (self.stds**2 + sigma**2)).sum(axis=1)
        return outer - precision[:, None, None] * np.eye(x.shape[1])

    def score_divergence(self, x: np.ndarray, sigma: float = 0.0) -> np.ndarray:
        """Return the Laplacian of the log-density, (n,), at `x`, (n, d), of level `sigma`."""
        return np.trace(self.score_jacobian(x, sigma), axis1=1, axis2=2)

    def denoise_jacobian(self, x: np.ndarray, sigma: float) -> np.ndarray:
        """Return the Jacobian of the denoiser, I + sigma^2 score_jacobian = Cov[x0 | x] / sigma^2.

        Args:
            x: Points, (n, d).
            sigma: Their noise level, > 0.

        Returns:
            (n, d, d).
        """
        return np.eye(x.shape[1]) + sigma**2 * self.score_jacobian(x, sigma)

    def denoise_divergence(self, x: np.ndarray, sigma: float) -> np.ndarray:
        """Return the trace of `denoise_jacobian`, (n,), at `x`, (n, d), of level `sigma`."""
        return x.shape[1] + sigma**2 * self.score_divergence(x, sigma)

    def flow(self, x: np.ndarray, sigma: float, sigma_next: float) -> np.ndarray:
        r"""Return points moved along the exact probability flow of a single Gaussian.

        .. math:: x' = m + (x - m)\sqrt{\frac{s^2 + \sigma'^2}{s^2 + \sigma^2}}

        Args:
            x: Points, (n, d).
            sigma: Their noise level, >= 0.
            sigma_next: The noise level to go to, >= 0.

        Returns:
            (n, d).

        Raises:
            ValueError: The mixture has several components, whose flow has no closed form.
        """
        if len(self.weights) != 1:
            raise ValueError(f"a closed form needs 1 component, not {len(self.weights)}")
        ratio = (self.stds[0] ** 2 + sigma_next**2) / (self.stds[0] ** 2 + sigma**2)
        return self.means[0] + (x - self.means[0]) * np.sqrt(ratio)

    def _log_terms(self, x: np.ndarray, sigma: float) -> np.ndarray:
        """Return log(w_k N_k), (n, k)."""
        variance = self.stds**2 + sigma**2
        square = ((x[:, None, :] - self.means) ** 2).sum(axis=-1) / variance
        norm = 0.5 * x.shape[1] * np.log(2.0 * np.pi * variance)
        return np.log(self.weights) - 0.5 * square - norm

    def _scores(self, x: np.ndarray, sigma: float) -> np.ndarray:
        """Return u_k, (n, k, d)."""
        return (self.means - x[:, None, :]) / (self.stds**2 + sigma**2)[:, None]


def three_modes() -> Mixture:
    r"""Return three modes in the plane, smooth enough to measure orders of convergence.

    .. math:: p(x_0) = 0.5\, N\left((1, 0.5), 0.4^2 I\right)
                     + 0.3\, N\left((-1.2, 0.3), 0.5^2 I\right)
                     + 0.2\, N\left((0.2, -1), 0.6^2 I\right)

    Returns:
        A `Mixture` in d = 2 dimensions. Its `denoise(x, sigma) -> x0`, with x and x0 (n, 2), is
        the exact denoiser, ready for `samplers.sample`.

    >>> import numpy as np
    >>> from ldmref.testing import three_modes
    >>> problem = three_modes()
    >>> problem.denoise(np.zeros((1, 2)), 1.0).shape
    (1, 2)
    >>> problem.denoise(np.zeros((1, 2)), 1e6).round(2)  # far away: the mean of all data
    array([[0.18, 0.14]])
    """
    weights = np.asarray([0.5, 0.3, 0.2])
    stds = np.asarray([0.4, 0.5, 0.6])
    return Mixture(weights, np.asarray([[1.0, 0.5], [-1.2, 0.3], [0.2, -1.0]]), stds)
