"""Drawing: sample and decode. One generator serves all modes.

txt2img starts from noise, img2img further down the schedule from a noised image; inpaint puts the
known part back after every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import pairwise
from typing import Protocol

import numpy as np
from PIL import Image

from ldmref.backends.base import Backend
from ldmref.errors import Cancelled
from ldmref.io.images.pil import to_images
from ldmref.math.arrays import Array
from ldmref.models.model import LatentDiffusion
from ldmref.modes.channels import input_channels
from ldmref.modes.control import ActiveControl
from ldmref.modes.denoiser import model_denoiser
from ldmref.modes.nonfinite import decoder_error, step_error
from ldmref.modes.request import Request
from ldmref.modes.start import Start, initial_draws
from ldmref.modes.text import TextConditioning
from ldmref.samplers import State, configured_step, make_schedule, repaint_visits, sample
from ldmref.samplers.loop import Constraint, History
from ldmref.samplers.noise import Streams


class CancelFlag(Protocol):
    """What `cancel` must offer: a `threading.Event` does."""

    def is_set(self) -> bool: ...


class Decoder(Protocol):
    """What makes images of latents: a `LatentDiffusion`, a `TinyAutoencoder`."""

    backend: Backend

    def decode(self, latents: Array, /, tile: int | None = None) -> Array: ...


@dataclass(frozen=True)
class Progress:
    """The state after a step: where the sampler is, and what it expects to draw.

    Args:
        model: the model that draws.
        step, steps: index of the step just taken, and how many the batch takes.
        first, count: index of the batch's first image, and how many the run draws.
        state: of the sampler, its arrays on the backend; `latents` and `x0` are on the host.
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
        """The noisy state x = x0 + sigma eps, (n, c, h, w) float32."""
        return np.array(self.model.backend.to_numpy(self.state.x), np.float32)

    @cached_property
    def x0(self) -> np.ndarray:
        """The predicted clean latents, (n, c, h, w) float32."""
        return np.array(self.model.backend.to_numpy(self.state.x0), np.float32)

    def preview(self, decoder: Decoder | None = None) -> list[Image.Image]:
        """The predicted images, decoded (costs about as much as a step).

        With a `decoder` for the model's latents, such as TAESD (`ldmref.load_taesd`), a rougher
        image at a fraction of the cost.
        """
        return decode_images(decoder or self.model, self.x0)


@dataclass(frozen=True)
class GeneratedImage:
    """A finished image, its index in the run, and its latents (c, h, w) float32."""

    index: int
    image: Image.Image
    latents: np.ndarray = field(repr=False)


Callback = Callable[[Progress], None]
States = Callable[..., Iterator[State]]  # (model, x, visits, history), the last two optional


def draw(
    model: LatentDiffusion,
    request: Request,
    start: Start,
    text: TextConditioning,
    controls: Sequence[ActiveControl] = (),
    cancel: CancelFlag | None = None,
) -> Iterator[Progress | GeneratedImage]:
    """Draw the images of a request, `batch_size` at a time; each is yielded once it is done.

    Raises:
        Cancelled: `cancel` was set.
        NumericError: latents or images hold NaN or infinity.
    """
    for batch in text.batches(request.batch_size):
        latents = yield from sample_batch(model, request, start, text, controls, batch, cancel)
        images = decode_images(model, latents, request.tile)
        for i, image in enumerate(images):
            finished = image if start.finish is None else start.finish(image)
            yield GeneratedImage(batch.start + i, finished, latents[i])


def sample_batch(
    model: LatentDiffusion,
    request: Request,
    start: Start,
    text: TextConditioning,
    controls: Sequence[ActiveControl],
    batch: slice,
    cancel: CancelFlag | None,
) -> Generator[Progress, None, np.ndarray]:
    """Sample the latents of a batch, (n, c, h, w) float32."""
    ops = model.backend
    config = model.config.scheduler
    size = (request.width, request.height)
    schedule = make_schedule(
        config, request.sampler, request.schedule, request.steps, request.sigmas
    )
    sigmas = schedule.sigmas.tolist()
    shape = model.latent_shape(*size)
    streams = Streams(request.seeds[batch], shape, request.rng)
    noise, image, masked = initial_draws(request, start, streams, batch)

    constrain = None
    if start.keep is not None and image is not None:
        constrain = keep_known(ops, start.keep, image, noise, sigmas[-1])
    step, visits = configured_step(
        config,
        request.sampler,
        schedule,
        eta=request.eta,
        first_step=request.first_step,
        constrain=constrain,
        bug_compatible=request.rng == "torch" and request.resample is None,
    )
    if request.resample is not None:
        visits = repaint_visits(len(visits) - 1, *request.resample, first=request.first_step)

    if image is None or start.from_noise:
        x = noise * schedule.init_noise_sigma
    else:
        x = image + sigmas[visits[0]] * noise
    x = on_backend(ops, x)
    acting = [control.within([sigmas[i] for i in sorted(set(visits))]) for control in controls]
    channels = None
    if model.config.image_channels:
        channels = input_channels(model, size, start.channels, masked)

    def states_of(
        model: LatentDiffusion, x: Array, visits: Sequence[int] = visits, history: History = ()
    ) -> Iterator[State]:
        denoise = model_denoiser(
            model,
            schedule.timestep,
            text.conditionings(batch),
            request.cfg_scale,
            request.guidance,
            acting,
            channels,
        )
        return sample(
            denoise,
            x,
            sigmas,
            step,
            noise=lambda: on_backend(ops, streams()),
            constrain=constrain,
            visits=visits,
            history=history,
        )

    steps = sum(j > i for i, j in pairwise(visits))
    # a schedule that ends above 0 leaves noise: latents are in variance-preserving scale
    scale = math.hypot(1.0, sigmas[-1])
    count = len(request.seeds)
    return (yield from run_sampler(model, x, states_of, steps, scale, cancel, batch.start, count))


def keep_known(
    ops: Backend, keep: np.ndarray, image: np.ndarray, noise: np.ndarray, last_sigma: float
) -> Constraint:
    """Where `keep` is 1, the latents of `image` at the sampler's noise level, with one fixed noise.

    At the last level they are put back clean, whatever noise the schedule leaves.

    Source: Lugmayr et al. 2022, arXiv:2201.09865, eq. 8, with a fixed noise.
    """
    known, eps, kept = (on_backend(ops, x) for x in (image, noise, keep))

    def constrain(x: Array, sigma: float) -> Array:
        clean = sigma == last_sigma
        there = known * math.hypot(1.0, sigma) if clean else known + sigma * eps
        return (1.0 - kept) * x + kept * there

    return constrain


def on_backend(ops: Backend, x: np.ndarray) -> Array:
    """A host array as the sampler's state, which is float32 at least."""
    return ops.asarray(np.ascontiguousarray(x), ops.state_dtype)


def run_sampler(
    model: LatentDiffusion,
    x: Array,
    states_of: States,
    steps: int,
    scale: float,
    cancel: CancelFlag | None = None,
    first: int = 0,
    count: int = 1,
) -> Generator[Progress, None, np.ndarray]:
    """Run a sampler to its end and return its last x over `scale`, (n, c, h, w) float32.

    The one place where runs are cancelled, show their steps and are checked for NaN.

    Args:
        x: the initial state, the result of a run without steps.
        states_of: `samplers.sample` from x on; once more for the cause of NaN.
        steps: how many states there are.
        cancel, first, count: see `Progress`.

    Raises:
        Cancelled: `cancel` was set.
        NumericError: a step gave NaN or infinity; names the step, and the layer.
    """
    ops = model.backend
    step = 0
    history = ()
    states = states_of(model, x)
    while True:
        if cancel is not None and cancel.is_set() and step < steps:
            raise Cancelled("stopped between two steps", code="E-CANCELLED")
        with ops.inference():
            state = next(states, None)
        if state is None:
            return np.array(ops.to_numpy(x / scale), np.float32)
        if not ops.is_finite(state.x):
            again = partial(states_of, x=x, visits=(state.i, state.i + 1), history=history)
            raise step_error(model, x, step, steps, state.sigma, again)
        yield Progress(model, step, steps, first, count, state)
        x = state.x
        history = state.history
        step = step + 1


def decode_images(
    decoder: Decoder, latents: np.ndarray, tile: int | None = None
) -> list[Image.Image]:
    """Images of host latents (n, c, h, w).

    Raises:
        NumericError: the decoder's output holds NaN or infinity.
    """
    tiling = {} if tile is None else {"tile": tile}
    pixels = decoder.backend.to_numpy(decoder.decode(decoder.backend.asarray(latents), **tiling))
    if not np.isfinite(pixels).all():
        raise decoder_error(decoder, lambda d: d.decode(d.backend.asarray(latents), **tiling))
    return to_images(pixels)
