"""A linear autoencoder, importance-weighted bounds, and the variance of interpolated noise."""

import numpy as np

from ldmref import math as lm


def plot(figure) -> None:
    line, bounds, spread = figure.subplots(1, 3)
    rng = np.random.default_rng(0)

    u = rng.uniform(-1, 1, 150)
    x = np.stack([2 * u, u**2 + 0.8 * u], axis=1) + 0.08 * rng.standard_normal((150, 2))
    mean, components, variances = lm.principal_components(x, 1)
    nearest = lm.pca_reconstruct(lm.pca_project(x, mean, components), mean, components)
    for point, foot in zip(x, nearest, strict=True):
        line.plot(*zip(point, foot, strict=True), color="0.8", lw=0.7, zorder=1)
    line.plot(*nearest.T, ".", ms=3, color="tab:red", label="reconstruction")
    line.plot(*x.T, ".", ms=4, color="tab:blue", label="data")
    share = variances[0] / np.var(x, axis=0, ddof=1).sum()
    line.set(title=f"width 1: {share:.0%} of variance", aspect="equal")
    line.legend(frameon=False)

    # z ~ N(0, 1), x | z ~ N(1.5 z, 0.5^2); the encoder gives N(0.2, 0.6) for x = 1
    w = 1.5
    s = 0.5
    mean = np.asarray([[0.2]])
    logvar = np.log(np.asarray([[0.6]]))
    z = lm.reparameterize(mean, logvar, rng.standard_normal((512 * 400, 1, 1)))
    log_p = lm.gaussian_log_likelihood(np.ones_like(z[:, 0]), w * z[:, 0], s**2)[:, None]
    log_w = lm.log_importance_weight(log_p, z, mean, logvar).ravel()
    ks = 2 ** np.arange(10)
    rows = [lm.iwae_bound(log_w.reshape(k, -1)) for k in ks]
    means = [b.mean() for b in rows]
    errors = [3 * b.std() / np.sqrt(b.size) for b in rows]
    bounds.errorbar(ks, means, errors, fmt="o-", ms=4, label="mean of $L_k$, 3 standard errors")
    evidence = float(lm.normal_log_density(*map(np.asarray, (1.0, 0.0, np.log(w**2 + s**2)))))
    bounds.axhline(evidence, color="tab:red", ls="--", label="log p(x)")
    expected = lm.gaussian_log_likelihood(np.ones((1, 1)), w * mean, s**2)
    expected = expected - 0.5 * (w / s) ** 2 * np.exp(logvar)[:, 0]
    bound = float(lm.elbo(expected, mean, logvar)[0])
    bounds.axhline(bound, color="0.6", ls=":", label="ELBO")
    bounds.set(title="importance-weighted bounds", xlabel="samples k", ylabel="nats", xscale="log")
    bounds.legend(frameon=False)

    a, b = rng.standard_normal((2, 1, 16_384))
    t = np.linspace(0, 1, 41)
    for path, name in ((lm.slerp, "slerp"), (lm.lerp, "lerp")):
        spread.plot(t, [path(a, b, v).var() for v in t], label=name)
    spread.plot(t, t**2 + (1 - t) ** 2, "k:", lw=1, label="$t^2 + (1 - t)^2$")
    spread.set(title="between two noises", xlabel="t", ylabel="variance", ylim=(0, 1.2))
    spread.legend(frameon=False)
