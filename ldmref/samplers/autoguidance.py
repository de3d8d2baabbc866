"""Autoguidance: a model guided by a worse version of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ldmref.declare import Doc, Range, document_fields
from ldmref.math.arrays import Array
from ldmref.math.guidance import classifier_free_guidance
from ldmref.samplers.guidance import Guidance
from ldmref.samplers.guidances import GuidanceResult, Predictions, classifier_free
from ldmref.samplers.interfaces import Denoiser
from ldmref.samplers.predictions import GUIDE


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


@document_fields
@dataclass(frozen=True)
class Autoguidance(Guidance):
    r"""Guidance away from a weaker model with the same prompt (autoguidance).

    .. math:: \hat f = f_{weak} + w\,(f - f_{weak}), \qquad
              f = f_\varnothing + s\,(f_c - f_\varnothing)

    with f_weak of the request's `guide` with the prompt, alone. The guidance scale s is 1 unless
    the request has one, and f the model with the prompt; others add classifier-free guidance.

    Raises:
        UsageError: A parameter is not as declared.

    Source: Karras et al. 2024, arXiv:2406.02507, eq. 3 and section 3.

    >>> from ldmref.samplers import Autoguidance
    >>> guidance = Autoguidance(weight=3.0)
    >>> guidance.needs(1.0, 1.0), guidance.needs(1.0, 7.5)
    (('cond', 'guide'), ('uncond', 'cond', 'guide'))
    >>> guidance({"cond": 2.0, "guide": 1.5}, 1.0, 1.0, ())
    (3.0, ())
    """

    name = "autoguidance"
    source = "arXiv:2406.02507, eq. 3"
    by_level = False
    by_guide = True
    guide_weight = "weight"
    usual_scale = 1.0
    weight: Annotated[
        float, Range(0.0, 1000.0), Doc("w; 1 is the model alone, 0 the weaker model alone.")
    ] = 2.0

    def embedded(self) -> Guidance:
        """Return the guidance by the weaker model alone."""
        return EmbeddedScaleAutoguidance(self.weight)

    def needs(self, sigma: float, cfg_scale: float) -> tuple[str, ...]:
        own = () if self.weight == 0.0 else super().needs(sigma, cfg_scale)
        return own if self.weight == 1.0 else (*own, GUIDE)

    def __call__(
        self, predictions: Predictions, sigma: float, cfg_scale: float, memory
    ) -> GuidanceResult:
        if self.weight == 0.0:
            return predictions[GUIDE], ()
        own = classifier_free(predictions, cfg_scale)
        if self.weight == 1.0:
            return own, ()
        return classifier_free_guidance(predictions[GUIDE], own, self.weight), ()


@dataclass(frozen=True)
class EmbeddedScaleAutoguidance(Autoguidance):
    """The same for a network that reads the guidance scale itself: its one prediction.

    >>> from ldmref.samplers.autoguidance import EmbeddedScaleAutoguidance
    >>> EmbeddedScaleAutoguidance().needs(1.0, 3.5)
    ('cond', 'guide')
    """

    usual_scale = None
    by_level = False
    embeds = True

    def needs(self, sigma: float, cfg_scale: float) -> tuple[str, ...]:
        return super().needs(sigma, 1.0)

    def __call__(
        self, predictions: Predictions, sigma: float, cfg_scale: float, memory
    ) -> GuidanceResult:
        return super().__call__(predictions, sigma, 1.0, memory)
