"""Write a guidance: a frozen dataclass, checked on a mixture, then run on the embedded model.

python examples/own_guidance.py
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

import ldmref
from ldmref import modes
from ldmref.declare import Doc, Range
from ldmref.math import classifier_free_guidance
from ldmref.samplers import Guidance, guided_denoiser
from ldmref.testing import Mixture, three_modes


@dataclass(frozen=True)
class Fading(Guidance):
    """Classifier-free guidance whose scale goes to 1 with the noise."""

    name = "fading"
    knee: Annotated[float, Range(0.0, above=True), Doc("Noise level of half the effect.")] = 1.0

    def __call__(self, predictions, sigma, cfg_scale, memory):
        scale = 1.0 + (cfg_scale - 1.0) * sigma / (sigma + self.knee)
        return classifier_free_guidance(predictions["uncond"], predictions["cond"], scale), ()


def largest_effect(sigma: float) -> float:
    """Return the largest change of x0 by guidance of scale 5, on a mixture and one class."""
    mixture = three_modes()
    one = Mixture(np.ones(1), mixture.means[:1], mixture.stds[:1])
    parts = {"uncond": mixture, "cond": one}

    def network(xt, sigma, names, interval):
        return [parts[name].denoise(xt * (1.0 + sigma**2) ** 0.5, sigma) for name in names]

    x = np.random.default_rng(0).standard_normal((64, 2))
    guided = guided_denoiser(network, "x0", Fading(), cfg_scale=5.0)
    return float(np.abs(guided(x, sigma) - one.denoise(x, sigma)).max())


def main() -> None:
    for sigma in (0.01, 1.0):
        print(f"sigma {sigma:g}: guidance moves x0 by up to {largest_effect(sigma):.3f}")
    model = ldmref.load()
    result = modes.txt2img(model, "red heart", seed=1, steps=12, guidance=Fading(knee=2.0))
    print("generated", result.images[0].size, "with", result.params["guidance"])


if __name__ == "__main__":
    main()
