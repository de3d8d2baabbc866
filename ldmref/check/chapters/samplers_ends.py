"""The ends of a run: the first step has no history, the last one goes to sigma = 0."""

from __future__ import annotations

from ldmref.check.chapters.samplers import decreasing_sigmas, final_state
from ldmref.check.identity import Chapter, Comparison, Functions, RandomInputs

chapter = Chapter("samplers")


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

        def denoise(y: object, sigma: float) -> object:
            return x0 if sigma == sigmas[2] else (1.0 + sigma) * x0

        return final_state(getattr(f, function)(*settings), denoise, x, sigmas, noise), x0

    law = "last step returns the prediction" + (" without noise" if noises == 0 else "")
    chapter.add(function, law, "the prediction", 0, case)


last_step("ancestral", 0, 0.0)
last_step("ancestral", 2, 1.0)
last_step("heun", 0)
last_step("dpmpp_2m", 0)
last_step("dpmpp_2s", 0)
