"""Observers of any run: several at once, and one that shows what the run predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from ldmref.math.arrays import Array
from ldmref.models.model import LatentDiffusion
from ldmref.modes.generate import Decoder, decode_images
from ldmref.modes.trajectory import PreparedRun, RunObserver, TakenStep, Trajectory
from ldmref.samplers.denoiser import Evaluation
from ldmref.samplers.interfaces import Interval


class Observers(RunObserver):
    """Several observers of one run; each sees what those before it have replaced.

    Only one of them can watch the layers of the networks (`watch`).

    Args:
        observers: The observers, in their order.

    >>> import ldmref
    >>> from ldmref.modes import Observers, PreviewObserver
    >>> model = ldmref.random_model("tiny")
    >>> plan = ldmref.modes.plan("txt2img", model, prompt="a cat", seed=7, steps=2)
    >>> small, large = PreviewObserver(), PreviewObserver()
    >>> result = plan.run(model, observer=Observers(small, large))
    >>> bool((small.x0 == large.x0).all())
    True
    """

    def __init__(self, *observers: RunObserver):
        self.observers = observers

    def watch(self, model: LatentDiffusion) -> LatentDiffusion:
        """Return the model as the observers watch it."""
        for observer in self.observers:
            model = observer.watch(model)
        return model

    def watch_guide(self, guide: LatentDiffusion) -> LatentDiffusion:
        """Return the weaker model `guide` as the observers watch it."""
        for observer in self.observers:
            guide = observer.watch_guide(guide)
        return guide

    def prepared(self, run: PreparedRun) -> None:
        """Show the run to each observer."""
        for observer in self.observers:
            observer.prepared(run)

    def started(self, trajectory: Trajectory) -> Trajectory:
        """Return the sampling that the observers make of `trajectory`."""
        for observer in self.observers:
            trajectory = observer.started(trajectory)
        return trajectory

    def stepping(self, x: Array, interval: Interval) -> None:
        """Show the beginning of a step, at `x` (n, c, h, w) in an `interval`, to each observer."""
        for observer in self.observers:
            observer.stepping(x, interval)

    def evaluating(self, x: Array, sigma: float) -> Trajectory | None:
        """Return what the last observer replaces the trajectory by at `x` (n, c, h, w), `sigma`."""
        changes = [observer.evaluating(x, sigma) for observer in self.observers]
        return next((change for change in reversed(changes) if change is not None), None)

    def predicted(self, predictions: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return what the observers make of `predictions`, by name, each (n, c, h, w)."""
        for observer in self.observers:
            predictions = observer.predicted(predictions)
        return predictions

    def combined(self, guided: Array) -> Array:
        """Return the guided prediction, (n, c, h, w), that the observers make of `guided`."""
        for observer in self.observers:
            guided = observer.combined(guided)
        return guided

    def evaluated(self, evaluation: Evaluation) -> None:
        """Show an evaluation to each observer."""
        for observer in self.observers:
            observer.evaluated(evaluation)

    def noise_sampled(self, noise: Array) -> Array:
        """Return the noise, (n, c, h, w), that the observers make of `noise`."""
        for observer in self.observers:
            noise = observer.noise_sampled(noise)
        return noise

    def stepped(self, step: TakenStep) -> Array:
        """Return the state, (n, c, h, w), that the observers make of a `step`."""
        for observer in self.observers:
            step = replace(step, x_next=observer.stepped(step))
        return step.x_next

    def finished(self, latents: np.ndarray) -> None:
        """Show the final `latents`, (n, c, h, w), to each observer."""
        for observer in self.observers:
            observer.finished(latents)

    def decoded(self, images: Sequence[Image.Image]) -> None:
        """Show the `images` to each observer."""
        for observer in self.observers:
            observer.decoded(images)


class PreviewObserver(RunObserver):
    """Keeps the newest prediction of the clean latents of a run, and shows it when it is asked.

    Until then, nothing is decoded or copied from the backend.

    Attributes:
        model: The model of the run, which decodes.

    >>> import ldmref
    >>> from ldmref.modes import GeneratedImage, PreviewObserver
    >>> model = ldmref.random_model("tiny")
    >>> preview = PreviewObserver()
    >>> run = ldmref.modes.plan("txt2img", model, prompt="a cat", seed=7, steps=2).prepare(model)
    >>> for event in run.generate(observer=preview):
    ...     if not isinstance(event, GeneratedImage):
    ...         print(event.step, preview.images()[0].size)
    0 (16, 16)
    1 (16, 16)
    """

    model: LatentDiffusion
    _x0: Array

    def started(self, trajectory: Trajectory) -> Trajectory:
        """Return the `trajectory`, whose model is kept."""
        self.model = trajectory.model
        return trajectory

    def stepped(self, step: TakenStep) -> Array:
        """Return the state after a `step`, (n, c, h, w), whose prediction is kept."""
        self._x0 = step.x0
        return step.x_next

    @property
    def x0(self) -> np.ndarray:
        """The prediction after the last step, (n, c, h, w) float32, a copy on the host."""
        return np.array(self.model.backend.to_numpy(self._x0), np.float32)

    def images(self, most: int | None = None, decoder: Decoder | None = None) -> list[Image.Image]:
        """Return the predicted images of the batch, decoded; this takes about as long as a step.

        Args:
            most: The number of images to decode, the first ones. None: all.
            decoder: A faster decoder for the model's latents, such as TAESD
                (`ldmref.load_taesd`), which gives rougher images. None: the model's own.

        Raises:
            NumericError: The decoder's output holds NaN or infinity.
        """
        return decode_images(decoder or self.model, self.x0[:most])
