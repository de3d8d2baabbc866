"""The loop of a run: its events, what watches and stops it, and the check of every step.

All modes go through `run_sampler`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ldmref.backends.base import Backend
from ldmref.errors import Cancelled, UsageError, short_repr
from ldmref.io.images.pil import to_images
from ldmref.math.arrays import Array
from ldmref.models.model import LatentDiffusion
from ldmref.modes.nonfinite import decoder_error, step_error
from ldmref.modes.trajectory import SILENT, RunObserver, Trajectory
from ldmref.samplers import State


class CancelFlag(Protocol):
    """The interface of `cancel`, which a `threading.Event` has."""

    def is_set(self) -> bool: ...


class Decoder(Protocol):
    """A network that decodes latents: a `LatentDiffusion` or a `TinyAutoencoder`."""

    backend: Backend

    def decode(self, latents: Array, /, tile: int | None = None) -> Array: ...


@dataclass(frozen=True)
class Progress:
    """The state after a step, as a `callback` receives it.

    Args:
        model: The model that generates.
        step: Index of the step just taken, from 0.
        steps: Number of steps of the batch.
        first: Index of the batch's first image in the run.
        count: Number of images of the run.
        state: The sampler's `State`, with arrays on the backend; `latents` and `x0` are copies of
            them on the host.

    >>> import ldmref
    >>> sigmas = []
    >>> result = ldmref.modes.txt2img(
    ...     ldmref.random_model("tiny"), "a cat", seed=7, steps=3,
    ...     callback=lambda progress: sigmas.append(round(progress.sigma, 2)),
    ... )
    >>> sigmas
    [0.94, 0.04, 0.03]
    """

    model: LatentDiffusion = field(repr=False)
    step: int
    steps: int
    first: int
    count: int
    state: State = field(repr=False)

    @property
    def sigma(self) -> float:
        """The noise level reached."""
        return self.state.sigma

    @cached_property
    def latents(self) -> np.ndarray:
        """The noisy state, x0 + sigma eps on the path `ve`, (n, c, h, w) float32."""
        return np.array(self.model.backend.to_numpy(self.state.x), np.float32)

    @cached_property
    def x0(self) -> np.ndarray:
        """The predicted clean latents, (n, c, h, w) float32."""
        return np.array(self.model.backend.to_numpy(self.state.x0), np.float32)

    def preview(self, decoder: Decoder | None = None) -> list[Image.Image]:
        """Return the predicted images of the batch, decoded; this takes about as long as a step.

        Args:
            decoder: A faster decoder for the model's latents, such as TAESD
                (`ldmref.load_taesd`), which gives rougher images. None: the model's own.

        Raises:
            NumericError: The decoder's output holds NaN or infinity.
        """
        return decode_images(decoder or self.model, self.x0)


@dataclass(frozen=True)
class GeneratedImage:
    """A finished image, as the last events of `Run.generate` hold it.

    Args:
        index: Its index in the run, from 0.
        image: The image, 8-bit RGB.
        latents: Its latents (c, h, w) float32, in variance-preserving scale.

    >>> import ldmref
    >>> from ldmref.modes import GeneratedImage, plan
    >>> model = ldmref.random_model("tiny")
    >>> run = plan("txt2img", model, prompt="a cat", seed=7, steps=2).prepare(model)
    >>> events = [event for event in run.generate() if isinstance(event, GeneratedImage)]
    >>> events[0].index, events[0].image.size, events[0].latents.shape
    (0, (16, 16), (4, 8, 8))
    """

    index: int
    image: Image.Image
    latents: np.ndarray = field(repr=False)


Callback = Callable[[Progress], None]


def check_callbacks(callback: object, cancel: CancelFlag | None, *, name: str = "callback") -> None:
    """Check that `callback`, the argument `name`, can be called, and that `cancel` has `is_set`.

    Raises:
        UsageError: One of them is something else.
    """
    if callback is not None and not callable(callback):
        raise UsageError(
            f"{name} must be a function, not {short_repr(callback)}",
            code="E-CALLBACK",
            hint=f"{name}=lambda progress: print(progress)",
        )
    if cancel is not None and not callable(getattr(cancel, "is_set", None)):
        raise UsageError(
            f"cancel must be a threading.Event, not {short_repr(cancel)}", code="E-CANCEL"
        )


def notify(callback: Callback, progress: Progress) -> None:
    """Call the callback after a step; its own exceptions pass through.

    Raises:
        UsageError: It returned something, which would have no effect.
    """
    returned: Any = callback(progress)  # type: ignore[func-returns-value]
    if returned is not None:
        raise UsageError(
            f"the callback returned {short_repr(returned)}, which has no effect",
            code="E-CALLBACK",
            hint="a callback watches and returns None; cancel= stops a run",
        )


def on_backend(ops: Backend, x: np.ndarray) -> Array:
    """Return a host array as the sampler's state, which is float32 at least."""
    return ops.asarray(np.ascontiguousarray(x), ops.state_dtype)


def run_sampler(
    trajectory: Trajectory,
    cancel: CancelFlag | None = None,
    first: int = 0,
    count: int = 1,
    observer: RunObserver = SILENT,
) -> Generator[Progress, None, np.ndarray]:
    """Take all steps of a trajectory and return its latents, (n, c, h, w) float32.

    This is the only place where runs are cancelled, report their steps and are checked for NaN.

    Args:
        trajectory: The sampling of a batch.
        cancel: Stops the run between two steps.
        first, count: See `Progress`.
        observer: Sees the steps and may replace states and noise.

    Yields:
        A `Progress` after every step.

    Raises:
        Cancelled: `cancel` was set.
        NumericError: A step gave NaN or infinity; the message names the step and the layer.
    """
    model, x, history = trajectory.model, trajectory.x, trajectory.history
    ops = model.backend
    steps = trajectory.steps
    step = 0
    states = trajectory.states(observer)
    while True:
        if cancel is not None and cancel.is_set() and step < steps:
            raise Cancelled("stopped between two steps", code="E-CANCELLED")
        with ops.inference():
            state = next(states, None)
        if state is None:
            return np.array(ops.to_numpy(x / trajectory.scale), np.float32)
        if not ops.is_finite(state.x):
            again = replace(trajectory, x=x, visits=(state.i, state.i + 1), history=history)
            raise step_error(again, step, steps, state.sigma)
        yield Progress(model, step, steps, first, count, state)
        x = state.x
        history = state.history
        step = step + 1


def decode_images(
    decoder: Decoder, latents: np.ndarray, tile: int | None = None
) -> list[Image.Image]:
    """Return the images of host latents (n, c, h, w).

    Raises:
        NumericError: The decoder's output holds NaN or infinity.
    """
    tiling = {} if tile is None else {"tile": tile}
    backend = decoder.backend
    pixels = decoder.decode(backend.asarray(latents), **tiling)
    if not backend.is_finite(pixels):
        raise decoder_error(decoder, lambda d: d.decode(d.backend.asarray(latents), **tiling))
    return to_images(backend.to_numpy(pixels))
