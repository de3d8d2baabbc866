"""Wrong answers to the exercises of chapter 9; the part after `__` says what is wrong."""

import math


def ancestral__noise_without_a_shorter_step(eta):
    """The step goes to sigma_next, and the noise comes on top."""

    def step(denoise, x, interval, history, noise):
        sigma, sigma_next = interval.sigma, interval.sigma_next
        x0 = denoise(x, sigma)
        up = eta * sigma_next * math.sqrt(1 - (sigma_next / sigma) ** 2)
        x_next = x0 + (sigma_next / sigma) * (x - x0)
        return (x_next + up * noise() if up > 0 else x_next), x0, ()

    return step


def ancestral__standard_deviations_are_added(eta):
    """sigma_down + sigma_up = sigma_next instead of the sum of squares."""

    def step(denoise, x, interval, history, noise):
        sigma, sigma_next = interval.sigma, interval.sigma_next
        x0 = denoise(x, sigma)
        up = eta * sigma_next * math.sqrt(1 - (sigma_next / sigma) ** 2)
        x_next = x0 + ((sigma_next - up) / sigma) * (x - x0)
        return (x_next + up * noise() if up > 0 else x_next), x0, ()

    return step


def heun__second_slope_at_the_wrong_index():
    """The page's exercise: the network is told the noise level of the first slope."""

    def step(denoise, x, interval, history, noise):
        sigma, sigma_next = interval.sigma, interval.sigma_next
        x0 = denoise(x, sigma)
        if sigma_next == 0:
            return x0, x0, ()
        slope = (x - x0) / sigma
        guess = x + (sigma_next - sigma) * slope
        slope_next = (guess - denoise(guess, sigma)) / sigma_next
        return x + (sigma_next - sigma) * (slope + slope_next) / 2, x0, ()

    return step


def heun__slope_over_the_wrong_sigma():
    """Both slopes are divided by sigma."""

    def step(denoise, x, interval, history, noise):
        sigma, sigma_next = interval.sigma, interval.sigma_next
        x0 = denoise(x, sigma)
        if sigma_next == 0:
            return x0, x0, ()
        slope = (x - x0) / sigma
        guess = x + (sigma_next - sigma) * slope
        slope_next = (guess - denoise(guess, sigma_next)) / sigma
        return x + (sigma_next - sigma) * (slope + slope_next) / 2, x0, ()

    return step


def dpmpp_2m__equal_steps(eta=0.0, solver="midpoint"):
    """The correction lacks h / h_last, as if all steps were equally long."""

    def step(denoise, x, interval, history, noise):
        x0 = denoise(x, interval.sigma)
        if interval.sigma_next == 0:
            return x0, x0, ()
        h = math.log(interval.sigma / interval.sigma_next)
        k = (1 + eta) * h
        x_next = x0 + math.exp(-k) * (x - x0)
        if history:
            weight = -math.expm1(-k) / 2 if solver == "midpoint" else 1 + math.expm1(-k) / k
            x_next = x_next + weight * (x0 - history[0])
        if eta > 0:
            x_next = x_next + interval.sigma_next * math.sqrt(-math.expm1(-2 * eta * h)) * noise()
        return x_next, x0, (x0,)

    return step


def ancestral__noise_is_always_called(eta):
    """noise() is called without need: at eta = 0, and in the step to sigma' = 0."""

    def step(denoise, x, interval, history, noise):
        sigma, sigma_next = interval.sigma, interval.sigma_next
        x0 = denoise(x, sigma)
        up = eta * sigma_next * math.sqrt(1 - (sigma_next / sigma) ** 2)
        down = math.sqrt(sigma_next**2 - up**2)
        return x0 + (down / sigma) * (x - x0) + up * noise(), x0, ()

    return step


def ancestral__last_step_keeps_noise(eta):
    """The step to sigma' = 0 returns x."""
    right = right_ancestral(eta)

    def step(denoise, x, interval, history, noise):
        if interval.sigma_next == 0:
            return x, denoise(x, interval.sigma), ()
        return right(denoise, x, interval, history, noise)

    return step


def right_ancestral(eta):
    def step(denoise, x, interval, history, noise):
        sigma, sigma_next = interval.sigma, interval.sigma_next
        x0 = denoise(x, sigma)
        up = eta * sigma_next * math.sqrt(1 - (sigma_next / sigma) ** 2)
        x_next = x0 + (math.sqrt(sigma_next**2 - up**2) / sigma) * (x - x0)
        return (x_next + up * noise() if up > 0 else x_next), x0, ()

    return step


def two_multistep(eta, solver, weight, to_zero=True):
    """Build the step with `weight(h, k, solver)` of the differences over h_last."""

    def step(denoise, x, interval, history, noise):
        x0 = denoise(x, interval.sigma)
        if interval.sigma_next == 0 and to_zero:
            return x0, x0, ()
        h = math.log(interval.sigma / max(interval.sigma_next, 1e-3))
        k = (1 + eta) * h
        x_next = x0 + math.exp(-k) * (x - x0)
        if history:
            x_next = x_next + weight(h, k, solver) * (x0 - history[0]) / history[1]
        if eta > 0:
            x_next = x_next + interval.sigma_next * math.sqrt(-math.expm1(-2 * eta * h)) * noise()
        return x_next, x0, (x0, h)

    return step


def exact_weight(h, k, solver):
    return -h * math.expm1(-k) / 2 if solver == "midpoint" else h / k * (k + math.expm1(-k))


def dpmpp_2m__h_for_k(eta=0.0, solver="midpoint"):
    """The correction as without noise."""
    return two_multistep(eta, solver, lambda h, k, solver: exact_weight(h, h, solver))


def dpmpp_2m__k_for_every_h(eta=0.0, solver="midpoint"):
    """Also the h of the line becomes k."""
    return two_multistep(eta, solver, lambda h, k, solver: exact_weight(k, k, solver))


def dpmpp_2m__no_special_last_step(eta=0.0, solver="midpoint"):
    """The step to 0 goes to a small sigma with a correction."""
    return two_multistep(eta, solver, exact_weight, to_zero=False)
