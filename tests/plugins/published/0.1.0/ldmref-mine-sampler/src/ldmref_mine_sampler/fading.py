"""Classifier-free guidance whose scale goes to 1 with the noise."""

from dataclasses import dataclass
from typing import Annotated

from ldmref.declare import Doc, Range
from ldmref.math import classifier_free_guidance
from ldmref.samplers import Guidance


@dataclass(frozen=True)
class Fading(Guidance):
    """Classifier-free guidance whose scale goes to 1 with the noise."""

    name = "fading"
    knee: Annotated[float, Range(0.0, above=True), Doc("Noise level of half the effect.")] = 1.0

    def __call__(self, predictions, sigma, cfg_scale, memory):
        if cfg_scale in (0.0, 1.0):
            return predictions["cond" if cfg_scale else "uncond"], ()
        scale = 1.0 + (cfg_scale - 1.0) * sigma / (sigma + self.knee)
        return classifier_free_guidance(predictions["uncond"], predictions["cond"], scale), ()
