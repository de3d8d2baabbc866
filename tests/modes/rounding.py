"""The tolerance for two ways to compute the same latents with a float64 model."""

import numpy as np

ROUNDING = 1e-10  # float64 rounding stays far below it, and every fault far above


def same_latents(got, want, *terms):
    """Check float32 results: equal up to `ROUNDING`, and then to adjacent float32 numbers.

    `terms`: what noised latents are the sum of, if the mode computes them in float32. Each term is
    rounded at most four times: its coefficient, the array, their product, the sum.
    """
    unit = np.finfo(np.float32).eps / 2
    float32 = 4 * unit * sum(np.abs(term).max() for term in terms)
    np.testing.assert_allclose(got, want, rtol=2 * unit, atol=ROUNDING + float32)
