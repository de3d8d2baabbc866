"""Signal and signal-to-noise ratio of five schedules, and six spacings of noise levels."""

import numpy as np

from ldmref import math as lm


def plot(figure) -> None:
    signal, ratio, sigma_plot = figure.subplots(1, 3)
    n = 1000
    schedules = {
        "linear": lm.linear_betas(n),
        "scaled linear (SD)": lm.scaled_linear_betas(n),
        "scaled linear, zero SNR": lm.rescale_zero_terminal_snr(lm.scaled_linear_betas(n)),
        "cosine": lm.cosine_betas(n),
        "sigmoid": lm.sigmoid_betas(n),
    }
    u = (np.arange(n) + 1) / n
    for name, betas in schedules.items():
        alpha_bar = lm.alphas_cumprod(betas)
        signal.plot(u, alpha_bar, label=name)
        inside = alpha_bar > 0
        ratio.plot(u[inside], lm.log_snr(alpha_bar[inside]), label=name)
    signal.set(title="signal variance", xlabel="t / T", ylabel=r"$\bar\alpha_t$")
    signal.legend(fontsize=7)
    ratio.set(
        title="signal-to-noise ratio", xlabel="t / T", ylabel="log SNR (nats)", ylim=(-12, 10)
    )

    table = lm.sigma_from_alpha_bar(lm.alphas_cumprod(lm.scaled_linear_betas(n)))
    steps = 10
    low = table[0]
    high = table[-1]

    def at(t):
        return np.exp(np.interp(t, np.arange(n), np.log(table)))

    spacings = {
        "even in t": at(np.linspace(n - 1, 0, steps)),
        "Karras, rho = 7": lm.karras_sigmas(steps, low, high),
        "exponential": lm.exponential_sigmas(steps, low, high),
        "beta in t": at(lm.beta_timesteps(steps, n)),
        "beta in sigma": lm.beta_sigmas(steps, low, high),
        "align your steps": at(lm.align_your_steps_timesteps()),
    }
    for name, sigmas in spacings.items():
        sigma_plot.semilogy(np.arange(steps), sigmas, ".-", label=name)
    sigma_plot.set(title="10 sigmas by spacing (SD)", xlabel="step", ylabel=r"$\sigma$")
    sigma_plot.legend(fontsize=7)
