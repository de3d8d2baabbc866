"""Autoguidance: a model guided by a worse version of itself."""

from __future__ import annotations

from ldmref.math.arrays import Array
from ldmref.math.guidance import classifier_free_guidance
from ldmref.samplers.interfaces import Denoiser


def autoguidance(denoise: Denoiser, worse: Denoiser, scale: float) -> Denoiser:
    r"""Return a denoiser that is guided away from that of a worse model with the same prompt.

    .. math:: \hat x_0 = x_0' + w\,(x_0 - x_0')

    The worse model is smaller, or was trained for a shorter time, and makes the same errors more
    strongly. Both models have the same latents and are on the same path; they may differ in what
    they predict.

    Args:
        denoise: The denoiser of the better model; it may be guided already.
        worse: The denoiser of the worse model, with the same prompt and without guidance.
        scale: w; 1 is the better model alone.

    Returns:
        A denoiser for `sample`, which evaluates both.

    Source: Karras et al. 2024, arXiv:2406.02507, eq. 3 and section 3.

    >>> from ldmref.samplers import autoguidance
    >>> autoguidance(lambda x, sigma: 2.0, lambda x, sigma: 1.5, 3.0)(0.0, 1.0)
    3.0
    """

    def guided(x: Array, sigma: float) -> Array:
        x0 = denoise(x, sigma)
        return x0 if scale == 1.0 else classifier_free_guidance(worse(x, sigma), x0, scale)

    return guided
