"""Measured convergence on a mixture of Gaussians, by method, start and tolerance."""

import numpy as np

from ldmref.math import exponential_sigmas
from ldmref.samplers import SAMPLERS, ancestral, lms, rk45, sample, unipc
from ldmref.testing.mixture import three_modes

LOW = 0.1
HIGH = 1.0


def plot(figure) -> None:
    problem = three_modes()
    stream = np.random.default_rng(0)
    start = problem.sample(64, stream) + HIGH * stream.standard_normal((64, 2))

    def run(step, sigmas):
        calls = []

        def denoise(x, sigma):
            calls.append(sigma)
            return problem.denoise(x, sigma)

        return list(sample(denoise, start, sigmas, step))[-1].x, len(calls)

    exact, _ = run(rk45(1e-13, 1e-13), [HIGH, LOW])
    counts = [4, 8, 16, 32, 64, 128]

    def curve(axes, step, label, **style):
        points = []
        for n in counts:
            end, calls = run(step, exponential_sigmas(n + 1, LOW, HIGH))
            points.append((calls, abs(end - exact).max()))
        axes.loglog(*zip(*points, strict=True), ".-", label=label, lw=1.2, ms=5, **style)

    every, starts, few = figure.subplots(1, 3)
    for name in ("ddim", "heun", "dpmpp_2m", "dpm_solver_3", "unipc", "rk4", "lms"):
        curve(every, SAMPLERS[name].make(), f"{name}: {SAMPLERS[name].order}")
    every.set(title="method: declared order", ylabel="largest error at sigma = 0.1")

    for first, colour in (("euler", "tab:red"), ("runge_kutta", "tab:green")):
        curve(starts, lms(4, first), f"lms, {first} start", color=colour)
    curve(starts, unipc(2, corrector=False), "UniP alone", color="tab:blue")
    curve(starts, unipc(2), "UniPC", color="tab:purple")
    n = np.asarray([16.0, 128.0])
    for order, at in ((2, 3e-4), (4, 4e-6)):
        starts.loglog(n, at * (n / 16) ** -order, "k:", lw=1)
        starts.annotate(f"order {order}", (n[1], at * 8.0**-order), fontsize=8, va="top")
    starts.set(title="a start, and a corrector, decide the order")

    tolerances = [1e-2, 1e-4, 1e-6, 1e-8]
    points = [run(rk45(t, t), [HIGH, LOW]) for t in tolerances]
    errors = [abs(x - exact).max() for x, _ in points]
    few.loglog(tolerances, errors, "o-", label="rk45")
    for t, error, (_, calls) in zip(tolerances, errors, points, strict=True):
        few.annotate(
            f"{calls}", (t, error), fontsize=8, xytext=(4, -10), textcoords="offset points"
        )
    few.loglog(tolerances, tolerances, "k:", lw=1, label="error = tolerance")
    few.axhline(
        abs(run(ancestral(), exponential_sigmas(101, LOW, HIGH))[0] - exact).max(),
        color="0.6",
        lw=1,
        label="ddim, 100 evaluations",
    )
    few.set(title="rk45, with its evaluations", xlabel="tolerance", xlim=(3e-9, 8e-2))
    for axes in (every, starts):
        axes.set(xlabel="evaluations of the denoiser")
    for axes in (every, starts, few):
        axes.legend(frameon=False, fontsize=8)
