"""The origin of NaN or infinity: the failing computation is repeated under an observer.

Nothing here runs as long as images are healthy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ldmref.backends.finite import NonFinite, check_layers, find_origin
from ldmref.errors import NumericError
from ldmref.math.arrays import Array
from ldmref.models.model import LatentDiffusion
from ldmref.modes.trajectory import RunObserver, TakenStep, Trajectory
from ldmref.samplers.denoiser import Evaluation
from ldmref.samplers.predictions import GUIDE


class OriginObserver(RunObserver):
    """Stops at the first value that is not finite: in a layer, in the guidance or in what is kept.

    Args:
        network: The network of the model whose layers are named; "": its denoiser.
    """

    def __init__(self, network: str = ""):
        self.network = network

    def watch(self, model: LatentDiffusion) -> LatentDiffusion:
        """Return a copy of the model whose backend checks every operation."""
        network = self.network or model.denoiser.params
        return check_model(model, network, network)

    def watch_guide(self, guide: LatentDiffusion) -> LatentDiffusion:
        """Return a copy of the weaker model whose backend checks every operation."""
        network = guide.denoiser.params
        return check_model(guide, network, f"{GUIDE}.{network}")

    def started(self, trajectory: Trajectory) -> Trajectory:
        """Return the sampling with networks whose layers are checked."""
        self._is_finite = trajectory.model.backend.is_finite
        self._guidance = trajectory.guidance.name
        guide = None if trajectory.guide is None else self.watch_guide(trajectory.guide)
        return replace(trajectory, model=self.watch(trajectory.model), guide=guide)

    def evaluated(self, evaluation: Evaluation) -> None:
        """Check what the networks predict, whose layers were checked, and the guidance."""
        for name, output in evaluation.outputs.items():
            if not self._is_finite(output):
                raise NonFinite(f"the prediction {name!r}: every layer of the network is finite")
        if not self._is_finite(evaluation.guided):
            raise NonFinite(f"guidance {self._guidance!r}: the predictions are finite")

    def stepped(self, step: TakenStep) -> Array:
        """Check what replaces a part of the state, unless the step itself failed."""
        if self._is_finite(step.sampled) and not self._is_finite(step.x_next):
            raise NonFinite("what is put back after the step: so the given image was encoded")
        return step.x_next


def check_model(model: LatentDiffusion, network: str, name: str) -> LatentDiffusion:
    """Return a copy of a model whose backend checks the layers of a network, under a name."""
    return model.with_backend(check_layers(model.backend, {name: model.params[network]}))


def step_error(again: Trajectory, step: int, steps: int, sigma: float) -> NumericError:
    """Return the error of a step whose result is NaN or infinite.

    Args:
        again: The step, to be taken again from its initial state.
        step, steps: Its index, and the number of steps of the run.
        sigma: The noise level at which it ended.
    """
    model = again.model
    if not model.backend.is_finite(again.x):
        return _error(model, "the initial latents are NaN or infinite: so the image was encoded")
    observer = OriginObserver()
    origin = find_origin(lambda: [*observer.started(again).states(observer)])
    cause = f"first in {origin}" if origin else "in the step itself: the network's output is finite"
    where = f"in step {step + 1} of {steps}, to sigma {sigma:.4g}"
    return _error(model, f"the latents became NaN or infinite {where}, {cause}")


def decoder_error(decoder: object, decode: Callable[[Any], Any]) -> NumericError:
    """Return the error of a decoder, a `LatentDiffusion` or TAESD, whose output is not finite."""
    origin = ""
    if isinstance(decoder, LatentDiffusion):
        watched = OriginObserver("vae").watch(decoder)
        origin = find_origin(lambda: decode(watched))
    cause = f", first in {origin}" if origin else ""
    return _error(decoder, f"the decoder gave NaN or infinity{cause}")


def _error(model: Any, message: str) -> NumericError:
    narrow = model.backend.dtype in ("float16", "bfloat16")
    hint = "try dtype float32 (--dtype float32)" if narrow else ""
    return NumericError(f"{message} ({model.backend!r})", code="E-NAN", hint=hint)
