"""The ends of a run: the first step has no history, the last one goes to sigma = 0.

A published step to sigma = 0 follows the slope, x + (0 - sigma) (x - x0) / sigma. Difference,
quotient and product round |x - x0| once each, the sum rounds x0: 4 roundings of |x0| + |x - x0|.
"""

from __future__ import annotations

import numpy as np

from ldmref.check.chapters.samplers import decreasing_sigmas, final_state
from ldmref.check.identity import Chapter, Comparison, Functions, RandomInputs, to_host
from ldmref.math.arrays import Array

chapter = Chapter("samplers")
LAST = 4


def last_step(function: str, noises: int, *settings: object) -> None:
    """Add the identity: without noise left, a run to sigma = 0 ends in the last prediction.

    Args:
        function: Name of the factory of steps.
        noises: Number of noises before the last step, which needs none; a call for more fails.
        settings: Arguments of the factory.
    """

    def case(f: Functions, rng: RandomInputs) -> Comparison:
        sigmas = [*decreasing_sigmas(rng, 2), 0.0]
        x, x0, *noise = rng.normals(2 + noises, 3, 2, 1, 2)

        lengths = [0.0 * to_host(x0)]  # |x - x0| at the start of the last step

        def denoise(y: Array, sigma: float) -> Array:
            if sigma != sigmas[2]:
                return (1.0 + sigma) * x0
            lengths.append(np.abs(to_host(y) - to_host(x0)))
            return x0

        got = final_state(getattr(f, function)(*settings), denoise, x, sigmas, noise)
        return got, x0, np.abs(to_host(x0)) + lengths[-1]

    law = "last step returns the prediction" + (" without noise" if noises == 0 else "")
    chapter.add(function, law, "the prediction", LAST, case)


last_step("ancestral", 0, 0.0)
last_step("ancestral", 2, 1.0)
last_step("heun", 0)
last_step("dpmpp_2m", 0)
last_step("dpmpp_2s", 0)
