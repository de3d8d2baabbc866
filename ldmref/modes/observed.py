"""What an observer of a run sees: the run before its first step, and each step that was taken."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from ldmref.math.arrays import Array
from ldmref.models.model import LatentDiffusion
from ldmref.modes.job import Job
from ldmref.modes.text import TextConditioning
from ldmref.samplers.interfaces import Interval


@dataclass(frozen=True, eq=False)
class TakenStep:
    """A step of the sampler, after it was taken.

    Args:
        interval: Its noise levels.
        x: The state before, (n, c, h, w), an array of the backend.
        sampled: The state that the sampler returned, (n, c, h, w).
        x_next: The same after the constraint of the mode (inpainting), (n, c, h, w).
        x0: The prediction of the clean latents at the start of the step, (n, c, h, w).

    >>> import ldmref
    >>> class Largest(ldmref.modes.RunObserver):
    ...     def stepped(self, step):  # a `TakenStep`
    ...         self.interval = step.interval.sigma, step.interval.sigma_next
    ...         return step.x_next
    >>> observer = Largest()
    >>> model = ldmref.random_model("tiny")
    >>> plan = ldmref.modes.plan("txt2img", model, prompt="a cat", sigmas=[2.0, 1.0])
    >>> _ = plan.run(model, observer=observer)
    >>> observer.interval
    (2.0, 1.0)
    """

    interval: Interval
    x: Array = field(repr=False)
    sampled: Array = field(repr=False)
    x_next: Array = field(repr=False)
    x0: Array = field(repr=False)


class PreparedRun(Protocol):
    """What an observer sees of a `Run` before its first step."""

    @property
    def model(self) -> LatentDiffusion: ...
    @property
    def job(self) -> Job: ...
    @property
    def text(self) -> TextConditioning: ...

    def params(self, n: int) -> dict[str, Any]:
        """Return the parameters of the first `n` images, with the model, backend and version."""
        ...
