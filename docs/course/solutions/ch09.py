"""Answers to the exercises of chapter 9, written from its formulas."""

import math


def ancestral(eta):
    """DDIM for eta = 0, DDPM for eta = 1: a step down to sigma_down plus noise of sigma_up."""

    def step(denoise, x, interval, history, noise):
        sigma = interval.sigma
        sigma_next = interval.sigma_next
        x0 = denoise(x, sigma)
        up = eta * sigma_next * math.sqrt(1.0 - (sigma_next / sigma) ** 2)
        down = math.sqrt(sigma_next**2 - up**2)
        x_next = x0 + (down / sigma) * (x - x0)
        if up > 0:
            x_next = x_next + up * noise()
        return x_next, x0, ()

    return step


def heun():
    """The mean of the slopes at both ends; the second one is measured at sigma_next."""

    def step(denoise, x, interval, history, noise):
        sigma = interval.sigma
        sigma_next = interval.sigma_next
        x0 = denoise(x, sigma)
        if sigma_next == 0:
            return x0, x0, ()
        slope = (x - x0) / sigma
        guess = x + (sigma_next - sigma) * slope
        slope_next = (guess - denoise(guess, sigma_next)) / sigma_next
        return x + (sigma_next - sigma) * (slope + slope_next) / 2, x0, ()

    return step


def dpmpp_2m(eta=0.0, solver="midpoint"):
    """A line through two predictions, integrated over the step in log sigma."""

    def step(denoise, x, interval, history, noise):
        x0 = denoise(x, interval.sigma)
        if interval.sigma_next == 0:
            return x0, x0, ()
        h = math.log(interval.sigma / interval.sigma_next)
        k = (1 + eta) * h
        x_next = x0 + math.exp(-k) * (x - x0)
        if history:
            x0_last, h_last = history
            weight = -math.expm1(-k) / 2
            if solver == "heun":
                weight = 1 + math.expm1(-k) / k
            x_next = x_next + weight * (h / h_last) * (x0 - x0_last)
        if eta > 0:
            x_next = x_next + interval.sigma_next * math.sqrt(-math.expm1(-2 * eta * h)) * noise()
        return x_next, x0, (x0, h)

    return step
