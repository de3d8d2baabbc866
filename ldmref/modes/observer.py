"""What sees a run while it is generated, and may replace its noise, its states and its prompts.

Traces, run records, branches, golden traces and the callbacks of `ldmref.compat` are observers. A
run without one computes the same: an observer that returns what it is given changes no bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ldmref.math.arrays import Array
from ldmref.models.model import LatentDiffusion
from ldmref.samplers.denoiser import Evaluation
from ldmref.samplers.interfaces import Interval

if TYPE_CHECKING:
    from PIL import Image

    from ldmref.modes.run import Run
    from ldmref.modes.trajectory import Trajectory


@dataclass(frozen=True, eq=False)
class TakenStep:
    """A step of the sampler, after it was taken.

    Args:
        interval: Its noise levels.
        x: The state before, (n, c, h, w), an array of the backend.
        sampled: The state that the sampler returned.
        x_next: The same after the constraint of the mode (inpainting); otherwise `sampled`.
        x0: The prediction of the clean latents at the start of the step.
    """

    interval: Interval
    x: Array = field(repr=False)
    sampled: Array = field(repr=False)
    x_next: Array = field(repr=False)
    x0: Array = field(repr=False)


class RunObserver:
    """An observer of a run. Every method has a default that changes nothing.

    `plan.prepare(model, observer)` calls `watch` before the first network runs, and `prepared`
    after prompts and images are encoded. `run.generate(cancel)` calls, for each batch, `started`;
    for each step `stepping`, `evaluating` and `evaluated` for each evaluation of the denoiser,
    `drawn` for each fresh noise, and `stepped`; then `sampled` and `decoded`. An observer that
    needs no encoders can be given to `generate` instead.

    >>> import ldmref
    >>> class Sigmas(ldmref.modes.RunObserver):
    ...     def __init__(self):
    ...         self.seen = []
    ...     def evaluated(self, evaluation):
    ...         self.seen.append(round(evaluation.sigma, 2))
    >>> model = ldmref.random_model("tiny")
    >>> plan = ldmref.modes.plan("txt2img", model, prompt="a cat", steps=2, sampler="heun")
    >>> observer = Sigmas()
    >>> _ = plan.run(model, observer=observer)
    >>> observer.seen
    [1.3, 0.04, 0.04, 0.03]
    """

    def watch(self, model: LatentDiffusion) -> LatentDiffusion:
        """Return the model that generates: itself, or a copy whose backend sees each layer."""
        return model

    def prepared(self, run: Run) -> None:
        """See the run, whose prompts, images and ControlNets are encoded."""

    def started(self, trajectory: Trajectory) -> Trajectory:
        """Return the sampling of a batch, whose schedule is known; or another one.

        `dataclasses.replace(trajectory, ...)` replaces its initial state, noise or model.
        """
        return trajectory

    def stepping(self, x: Array, interval: Interval) -> None:
        """See a step begin. Noise drawn since the last one took x back up (RePaint)."""

    def evaluating(self, x: Array, sigma: float) -> Trajectory | None:
        """Return None, or a trajectory with other prompts, guidance or scale from here on."""
        return None

    def evaluated(self, evaluation: Evaluation) -> None:
        """See an evaluation of the guided denoiser."""

    def drawn(self, noise: Array) -> Array:
        """Return fresh noise of unit variance, (n, c, h, w), or what replaces it."""
        return noise

    def stepped(self, step: TakenStep) -> Array:
        """Return the state after a step, (n, c, h, w), or what replaces it."""
        return step.x_next

    def sampled(self, latents: Array) -> None:
        """See the final latents of a batch, before they are decoded."""

    def decoded(self, images: Sequence[Image.Image]) -> None:
        """See the images of a batch."""


SILENT = RunObserver()  # observes nothing
