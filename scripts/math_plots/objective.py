"""Weights of the bound, its gap to the entropy, and the range of the learned variance."""

import numpy as np

from ldmref import math as lm

# Gaussian data in one dimension
MEAN = 0.75
SPREAD = 0.5
ENTROPY = 0.5 * np.log(2 * np.pi * np.e * SPREAD**2)


def gap(steps: int, variance_type: str) -> float:
    """Return bound minus entropy in nats, for the exact denoiser and without Monte Carlo."""
    alpha_bar = lm.alpha_bar_from_log_snr(np.linspace(1, -1, steps) * np.log(1e6))
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    x0, eps = (a.reshape(9, 1) for a in np.meshgrid(MEAN + SPREAD * nodes, nodes))

    def predict(xt, t):
        own = np.sqrt(alpha_bar[t]) / (1 - alpha_bar[t])
        return (MEAN / SPREAD**2 + own * xt) / (1 / SPREAD**2 + lm.snr(alpha_bar[t]))

    bound = lm.variational_bound(
        x0, alpha_bar, predict, lambda: eps, variance_type, lm.normal_log_density
    )
    share = np.outer(weights, weights).ravel() / weights.sum() ** 2
    return float(share @ bound.total - ENTROPY)


def plot(figure) -> None:
    """Plot three panels on a matplotlib figure."""
    weights, bounds, variances = figure.subplots(1, 3)
    alpha_bar = lm.alphas_cumprod(lm.scaled_linear_betas(1000))
    now = alpha_bar[1:]
    before = alpha_bar[:-1]
    t = np.arange(1, 1000)

    weights.semilogy(t, lm.elbo_weight(now, before, "eps"), label="bound")
    weights.semilogy(t, np.ones(999), label="$L_{simple}$")
    weights.semilogy(t, lm.min_snr_weight(now, "eps"), label="min-SNR-5")
    weights.set(title="Weight of eps's squared error", xlabel="t (Stable Diffusion)")

    steps = np.asarray([4, 8, 16, 32, 64, 128, 256, 512])
    for variance_type, marker in (("fixed_large", "o"), ("fixed_small", "s")):
        bounds.loglog(
            steps, [gap(n, variance_type) for n in steps], marker=marker, label=variance_type
        )
    bounds.loglog(steps, 2 / steps, "k:", label="$2/T$")
    bounds.set(title="Bound minus entropy (nats)", xlabel="steps T, even in log-SNR")

    for n in (100, 1000):
        level = lm.alphas_cumprod(lm.linear_betas(n, 0.1 / n, 20 / n))
        small, large = (
            lm.posterior_variance(level[1:], level[:-1], variance_type)
            for variance_type in ("fixed_small", "fixed_large")
        )
        variances.semilogx(np.arange(1, n) / n, small / large, label=f"T = {n}")
    variances.set(title=r"$\tilde\beta_t\, /\, \beta_t$", xlabel="t / T (linear schedule)")
    for axes in (weights, bounds, variances):
        axes.legend()
        axes.grid(alpha=0.3)
