"""The two-step Adams-Bashforth method."""

from ldmref.samplers import Sampler


def adams_bashforth():
    def step(denoise, x, interval, history, noise):
        sigma, sigma_next = interval.sigma, interval.sigma_next
        x0 = denoise(x, sigma)
        if sigma_next == 0.0:
            return x0, x0, ()
        slope = (x - x0) * (1.0 / sigma)
        h = sigma_next - sigma
        x_next = x + h * slope
        if history:
            sigma_last, slope_last = history
            x_next = x_next + (0.5 * h**2 / (sigma - sigma_last)) * (slope - slope_last)
        return x_next, x0, (sigma, slope)

    return step


AB2 = Sampler(
    adams_bashforth,
    order=2,
    nfe=1,
    stochastic=False,
    source="Hairer et al. 1993, section III.1",
)
