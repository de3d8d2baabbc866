"""The samplers of k-diffusion in the arithmetic of its code, as steps for `ldmref check --against`.

The order of operations is the published one: slopes are divided by sigma and multiplied by a step,
exponents are differences of logarithms. The formulas are those of k_diffusion/sampling.py; the
program around them is ldmref's.
"""

from __future__ import annotations

import math

import numpy as np

import ldmref.samplers


def to_d(x, sigma, denoised):
    return (x - denoised) / sigma


def get_ancestral_step(sigma_from, sigma_to, eta):
    if not eta:
        return sigma_to, 0.0
    variance = eta * (sigma_to**2 * (sigma_from**2 - sigma_to**2) / sigma_from**2) ** 0.5
    sigma_up = min(sigma_to, variance)
    return (sigma_to**2 - sigma_up**2) ** 0.5, sigma_up


def t_fn(sigma):
    return -math.log(sigma) if sigma else math.inf


def sigma_fn(t):
    return math.exp(-t)


def expm1(x):
    return math.expm1(x)


def churned(x, at, noise, s_churn, s_noise, s_tmin=0.0, s_tmax=math.inf):
    gamma = min(s_churn / at.n, 2**0.5 - 1) if s_tmin <= at.sigma <= s_tmax else 0.0
    sigma_hat = at.sigma * (gamma + 1)
    if gamma > 0:
        x = x + noise() * s_noise * (sigma_hat**2 - at.sigma**2) ** 0.5
    return x, sigma_hat


def euler_churn(s_churn=0.0, s_noise=1.0):
    def step(denoise, x, at, history, noise):
        x, sigma_hat = churned(x, at, noise, s_churn, s_noise)
        denoised = denoise(x, sigma_hat)
        return x + to_d(x, sigma_hat, denoised) * (at.sigma_next - sigma_hat), denoised, ()

    return step


def heun_churn(s_churn=0.0, s_noise=1.0):
    def step(denoise, x, at, history, noise):
        x, sigma_hat = churned(x, at, noise, s_churn, s_noise)
        denoised = denoise(x, sigma_hat)
        d = to_d(x, sigma_hat, denoised)
        dt = at.sigma_next - sigma_hat
        if at.sigma_next == 0:
            return x + d * dt, denoised, ()
        x_2 = x + d * dt
        d_2 = to_d(x_2, at.sigma_next, denoise(x_2, at.sigma_next))
        return x + (d + d_2) / 2 * dt, denoised, ()

    return step


def heun():
    return heun_churn()


def ancestral(eta=0.0):
    def step(denoise, x, at, history, noise):
        denoised = denoise(x, at.sigma)
        sigma_down, sigma_up = get_ancestral_step(at.sigma, at.sigma_next, eta)
        moved = x + to_d(x, at.sigma, denoised) * (sigma_down - at.sigma)
        if at.sigma_next > 0 and eta:
            moved = moved + noise() * sigma_up
        return moved, denoised, ()

    return step


def midpoint_of_logarithms(denoise, x, sigma, sigma_next):
    """The body of `sample_dpm_2`."""
    denoised = denoise(x, sigma)
    d = to_d(x, sigma, denoised)
    if sigma_next == 0:
        return x + d * (sigma_next - sigma), denoised
    sigma_mid = math.exp(0.5 * (math.log(sigma) + math.log(sigma_next)))
    x_2 = x + d * (sigma_mid - sigma)
    d_2 = to_d(x_2, sigma_mid, denoise(x_2, sigma_mid))
    return x + d_2 * (sigma_next - sigma), denoised


def dpm_solver(order=2):
    """DPM2; of order 3 the third order of `DPMSolver`, in its prediction of the noise."""

    def third(denoise, x, sigma, sigma_next):
        r1, r2 = 1 / 3, 2 / 3
        t, t_next = t_fn(sigma), t_fn(sigma_next)
        h = t_next - t
        denoised = denoise(x, sigma)
        eps = to_d(x, sigma, denoised)
        s1, s2 = t + r1 * h, t + r2 * h
        u1 = x - sigma_fn(s1) * expm1(r1 * h) * eps
        eps_r1 = to_d(u1, sigma_fn(s1), denoise(u1, sigma_fn(s1)))
        u2 = x - sigma_fn(s2) * expm1(r2 * h) * eps
        u2 = u2 - sigma_fn(s2) * (r2 / r1) * (expm1(r2 * h) / (r2 * h) - 1) * (eps_r1 - eps)
        eps_r2 = to_d(u2, sigma_fn(s2), denoise(u2, sigma_fn(s2)))
        x_3 = x - sigma_fn(t_next) * expm1(h) * eps
        x_3 = x_3 - sigma_fn(t_next) / r2 * (expm1(h) / h - 1) * (eps_r2 - eps)
        return x_3, denoised

    def step(denoise, x, at, history, noise):
        if order == 3 and at.sigma_next > 0:
            return *third(denoise, x, at.sigma, at.sigma_next), ()
        return *midpoint_of_logarithms(denoise, x, at.sigma, at.sigma_next), ()

    return step


def dpmpp_2s():
    def step(denoise, x, at, history, noise):
        denoised = denoise(x, at.sigma)
        if at.sigma_next == 0:
            return x + to_d(x, at.sigma, denoised) * (at.sigma_next - at.sigma), denoised, ()
        t, t_next = t_fn(at.sigma), t_fn(at.sigma_next)
        r = 1 / 2
        h = t_next - t
        s = t + r * h
        x_2 = (sigma_fn(s) / sigma_fn(t)) * x - expm1(-h * r) * denoised
        denoised_2 = denoise(x_2, sigma_fn(s))
        return (sigma_fn(t_next) / sigma_fn(t)) * x - expm1(-h) * denoised_2, denoised, ()

    return step


def dpmpp_sde(eta=1.0, r=0.5):
    def step(denoise, x, at, history, noise):
        denoised = denoise(x, at.sigma)
        if at.sigma_next == 0:
            return x + to_d(x, at.sigma, denoised) * (at.sigma_next - at.sigma), denoised, ()
        t, t_next = t_fn(at.sigma), t_fn(at.sigma_next)
        s = t + (t_next - t) * r
        fac = 1 / (2 * r)
        sd, su = get_ancestral_step(sigma_fn(t), sigma_fn(s), eta)
        x_2 = (sd / sigma_fn(t)) * x - expm1(t - t_fn(sd)) * denoised
        x_2 = x_2 + (noise() * su if eta else 0.0)
        denoised_2 = denoise(x_2, sigma_fn(s))
        sd, su = get_ancestral_step(sigma_fn(t), sigma_fn(t_next), eta)
        denoised_d = (1 - fac) * denoised + fac * denoised_2
        x_next = (sd / sigma_fn(t)) * x - expm1(t - t_fn(sd)) * denoised_d
        return x_next + (noise() * su if eta else 0.0), denoised, ()

    return step


def dpmpp_2m(eta=0.0, solver="midpoint"):
    """`sample_dpmpp_2m` without noise, `sample_dpmpp_2m_sde` with it or with `heun`."""

    def plain(x, at, denoised, history):
        t, t_next = t_fn(at.sigma), t_fn(at.sigma_next)
        h = t_next - t
        mixed = denoised
        if history and at.sigma_next > 0:
            old, h_last = history
            r = h_last / h
            mixed = (1 + 1 / (2 * r)) * denoised - (1 / (2 * r)) * old
        x_next = (sigma_fn(t_next) / sigma_fn(t)) * x - expm1(-h) * mixed
        return x_next, denoised, (denoised, h)

    def step(denoise, x, at, history, noise):
        denoised = denoise(x, at.sigma)
        if not eta and solver == "midpoint":
            return plain(x, at, denoised, history)
        if at.sigma_next == 0:
            return denoised, denoised, ()
        h = t_fn(at.sigma_next) - t_fn(at.sigma)
        eta_h = eta * h
        x = at.sigma_next / at.sigma * math.exp(-eta_h) * x + -expm1(-h - eta_h) * denoised
        if history:
            old, h_last = history
            r = h_last / h
            if solver == "heun":
                factor = -expm1(-h - eta_h) / (-h - eta_h) + 1
                x = x + factor * (1 / r) * (denoised - old)
            else:
                x = x + 0.5 * -expm1(-h - eta_h) * (1 / r) * (denoised - old)
        if eta:
            x = x + noise() * at.sigma_next * math.sqrt(-expm1(-2 * eta_h))
        return x, denoised, (denoised, h)

    return step


def dpmpp_3m(eta=1.0):
    def step(denoise, x, at, history, noise):
        denoised = denoise(x, at.sigma)
        if at.sigma_next == 0:
            return denoised, denoised, ()
        h = t_fn(at.sigma_next) - t_fn(at.sigma)
        h_eta = h * (eta + 1)
        x = math.exp(-h_eta) * x + -expm1(-h_eta) * denoised
        if len(history) > 1:
            (denoised_1, h_1), (denoised_2, h_2) = history
            r0, r1 = h_1 / h, h_2 / h
            d1_0 = (denoised - denoised_1) / r0
            d1_1 = (denoised_1 - denoised_2) / r1
            d1 = d1_0 + (d1_0 - d1_1) * r0 / (r0 + r1)
            d2 = (d1_0 - d1_1) / (r0 + r1)
            phi_2 = expm1(-h_eta) / h_eta + 1
            phi_3 = phi_2 / h_eta - 0.5
            x = x + phi_2 * d1 - phi_3 * d2
        elif history:
            ((denoised_1, h_1),) = history
            d = (denoised - denoised_1) / (h_1 / h)
            x = x + (expm1(-h_eta) / h_eta + 1) * d
        if eta:
            x = x + noise() * at.sigma_next * math.sqrt(-expm1(-2 * h * eta))
        return x, denoised, ((denoised, h), *history[:1])

    return step


def lms(order=4, start="runge_kutta"):
    """`sample_lms`, which starts with lower orders; ldmref's own for its other start."""
    if start != "euler":
        return ldmref.samplers.lms(order, start)

    def coefficient(order, sigmas, j):
        def basis(tau):
            others = [k for k in range(order) if k != j]
            return math.prod(
                (tau - sigmas[-1 - k]) / (sigmas[-1 - j] - sigmas[-1 - k]) for k in others
            )

        return basis

    def step(denoise, x, at, history, noise):
        denoised = denoise(x, at.sigma)
        known = (*history, (at.sigma, to_d(x, at.sigma, denoised)))[-order:]
        levels = [sigma for sigma, _ in known]
        nodes, weights = np.polynomial.legendre.leggauss(8)
        half, middle = (at.sigma_next - at.sigma) / 2, (at.sigma_next + at.sigma) / 2
        for j, (_, d) in enumerate(reversed(known)):
            basis = coefficient(len(known), levels, j)
            pairs = zip(nodes.tolist(), weights.tolist(), strict=True)
            x = x + half * sum(w * basis(half * node + middle) for node, w in pairs) * d
        return x, denoised, known

    return step


def lcm():
    def step(denoise, x, at, history, noise):
        denoised = denoise(x, at.sigma)
        return denoised + (noise() * at.sigma_next if at.sigma_next > 0 else 0.0), denoised, ()

    return step


SAMPLERS = {
    name: globals()[name]
    for name in (
        "ancestral", "dpm_solver", "dpmpp_2m", "dpmpp_2s", "dpmpp_3m", "dpmpp_sde", "euler_churn",
        "heun", "heun_churn", "lcm", "lms",
    )
}  # fmt: skip
