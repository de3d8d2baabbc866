"""A plan, which is checked without weights, and a run, which is a plan prepared with a model."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import numpy as np
from PIL import Image

from ldmref.errors import Cancelled, ResourceError
from ldmref.models.conditioning import Conditioning
from ldmref.models.model import LatentDiffusion
from ldmref.modes.active_control import ActiveControl, load_control
from ldmref.modes.active_guide import ActiveGuide, encode_guide, load_guide
from ldmref.modes.channels import encode_image
from ldmref.modes.cost import Cost
from ldmref.modes.editing import start_edit
from ldmref.modes.generate import (
    Callback,
    CancelFlag,
    GeneratedImage,
    Progress,
    check_callbacks,
    decode_images,
    notify,
    run_sampler,
)
from ldmref.modes.initial import InitialState
from ldmref.modes.job import Job
from ldmref.modes.record import record_job, record_run, select_image
from ldmref.modes.request_inputs import record_inputs
from ldmref.modes.requests import Request
from ldmref.modes.result import Result
from ldmref.modes.start import encode_job, start_trajectory
from ldmref.modes.text import TextConditioning
from ldmref.modes.trajectory import SILENT, RunObserver, Trajectory
from ldmref.support.free_memory import is_out_of_memory


class Adviser(Protocol):
    """What plans and runs ask about themselves, and no image depends on.

    `ldmref.advice` answers, which is built on plans and runs; `ldmref.modes.plan` gives it to them.
    """

    def estimate(self, plan: Plan, model: LatentDiffusion) -> Cost:
        """Return an estimate of what all passes of a plan take."""
        ...

    def check_limits(self, plan: Plan, model: LatentDiffusion) -> None:
        """Refuse a plan whose pass takes more memory or time than the model may use."""
        ...

    def out_of_memory(self, plan: Plan, model: LatentDiffusion) -> ResourceError:
        """Return the error of a plan that needs more memory than there is."""
        ...

    def list_warnings(self, run: Run) -> list[str]:
        """Return a line for what is unusual in a request, and for what changes nothing in it."""
        ...


@dataclass(frozen=True, eq=False)
class Plan:
    """A checked request, ready to be generated.

    Args:
        request: The parameters as they were given.
        job: The same with all defaults filled in.
        start: `start(model)` returns the initial state of the mode: latents, masks and images that
            the networks read.
        recorded: Values of `params` that differ from the request's; None leaves one out.
        warnings: Warnings about the inputs, one line each.
        calls: Calls of the denoiser per image; None: those of the sampler.
        more_evaluations: Evaluations per image with another guidance.

    >>> import ldmref
    >>> model = ldmref.random_model("tiny")
    >>> plan = ldmref.modes.plan("txt2img", model, prompt="a cat", seed=7, steps=2)
    >>> plan.params["sampler"], plan.run(model)
    ('ddim', <Result of txt2img: 1 image of 16 x 16, seed 7>)
    """

    adviser: ClassVar[Adviser]  # set by `ldmref.modes.plan`

    request: Request
    job: Job
    start: Callable[[LatentDiffusion], InitialState] = lambda model: InitialState()
    recorded: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    calls: int | None = None
    more_evaluations: int = 0

    @property
    def passes(self) -> tuple[Job, ...]:
        """The jobs that are run one after the other: one, or two with `upscale`."""
        return (self.job,)

    @property
    def steps(self) -> int:
        """The number of steps of each batch, of all passes."""
        return sum(job.steps - job.first_step for job in self.passes)

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        """The images and arrays of the request, which `params` leaves out, by parameter."""
        return record_inputs(self.job, self.request)

    @property
    def run_class(self) -> type[Run]:
        """The class of the runs that `prepare` returns."""
        return Run

    @property
    def params(self) -> dict[str, Any]:
        """The resolved parameters: JSON-able values that generate the same images again."""
        return record_job(self.job, self.request, self.recorded, len(self.job.seeds))

    def estimate(self, model: LatentDiffusion) -> Cost:
        """Return an estimate of what the request takes on `model`, without computing it."""
        return self.adviser.estimate(self, model)

    def prepare(self, model: LatentDiffusion, observer: RunObserver | None = None) -> Run:
        """Return a run: everything up to the first step, with prompts, images and ControlNets read.

        Args:
            model: A model with the configuration of the plan.
            observer: Sees the encoders of prompts and images, and the run. None: what records the
                model (`ldmref.recording`), if anything does.

        Raises:
            ResourceError: The images take more memory or time than the model may use.
            UsageError: A ControlNet or the guide is on another backend than the model.
        """
        job = self.job
        model = model.with_text_length(job.max_sequence_length)
        if model.has_limit or model.max_seconds is not None:
            self.adviser.check_limits(self, model)
        weaker = None if job.guide is None else load_guide(model, job.guide)
        watching: RunObserver = observer or model.observer or SILENT
        model = watching.watch(model)
        initial = self.start(model)
        if job.control_input is not None:
            initial = replace(initial, control=encode_image(model, job.control_input.image))
        text = encode_job(model, job, initial)
        controls = tuple(load_control(model, control, job.size) for control in job.control)
        guide = None
        if weaker is not None:
            guide = encode_guide(watching.watch_guide(weaker), job, initial, text)
        run = self.run_class(self, model, initial, text, controls, watching, guide)
        watching.prepared(run)
        return run

    def run(
        self,
        model: LatentDiffusion,
        callback: Callback | None = None,
        cancel: CancelFlag | None = None,
        observer: RunObserver | None = None,
    ) -> Result:
        """Generate all images.

        Args:
            model: A model with the configuration of the plan.
            callback: Called after every step with a `Progress`. None: nothing is called.
            cancel: A `threading.Event`; once it is set, `Cancelled` is raised before the next step.
                None: the run cannot be cancelled.
            observer: Sees the run and may replace its noise and states. None: as in `prepare`.

        Returns:
            The images, their latents and seeds, the resolved parameters, and warnings.

        Raises:
            Cancelled: `cancel` was set; its `partial` is the `Result` of the finished images.
            UsageError: `callback` or `cancel` has the wrong type, or `callback` returned something.
            NumericError, ResourceError: See `ldmref.errors`.
        """
        if callback is not None or cancel is not None:
            check_callbacks(callback, cancel)
        run = self.prepare(model, observer)
        images: list[GeneratedImage] = []
        try:
            for event in run.generate(cancel):
                if isinstance(event, GeneratedImage):
                    images.append(event)
                elif callback is not None:
                    notify(callback, event)
        except Cancelled as stop:
            stop.partial = run.result(images)
            raise
        return run.result(images)

    def __repr__(self) -> str:
        return f"<Plan of {self.job.summary}>"


@dataclass(frozen=True, eq=False)
class Run:
    """A plan prepared with a model: everything that the steps need.

    `plan.prepare(model)` returns it.

    Args:
        plan: The checked request.
        model: The model that generates.
        initial: The initial state of the mode.
        text: The encoded prompts.
        controls: The ControlNets with their encoded images.
        observer: What sees the run.
        guide: The weaker model of autoguidance, with the encoded prompts. None: the run has none.
        rest: The steps that a run still takes which was begun elsewhere, all images at once. None:
            it begins at its initial state.

    >>> import ldmref
    >>> model = ldmref.random_model("tiny")
    >>> run = ldmref.modes.plan("txt2img", model, prompt="a cat", seed=7, steps=2).prepare(model)
    >>> [type(event).__name__ for event in run.generate()]
    ['Progress', 'Progress', 'GeneratedImage']
    """

    plan: Plan
    model: LatentDiffusion
    initial: InitialState
    text: TextConditioning
    controls: tuple[ActiveControl, ...] = ()
    observer: RunObserver = field(default=SILENT, repr=False)
    guide: ActiveGuide | None = None
    rest: Trajectory | None = field(default=None, repr=False)

    @property
    def job(self) -> Job:
        """The resolved parameters."""
        return self.plan.job

    @property
    def inputs(self) -> Mapping[str, np.ndarray]:
        """The images and arrays of the request by parameter; see `Plan.inputs`."""
        return self.plan.inputs

    def generate(
        self, cancel: CancelFlag | None = None, observer: RunObserver | None = None
    ) -> Iterator[Progress | GeneratedImage]:
        """Generate the images, `batch_size` at a time.

        Args:
            cancel: A `threading.Event`; once it is set, `Cancelled` is raised before the next step.
                None: the run cannot be cancelled.
            observer: Sees the steps and may replace noise and states. None: the observer that
                prepared the run.

        Yields:
            A `Progress` after each step of a batch, then a `GeneratedImage` for each image of it.

        Raises:
            Cancelled: `cancel` was set.
            NumericError: Latents or images hold NaN or infinity.
            ResourceError: Out of memory.
        """
        watching = observer or self.observer
        with self.explaining_memory():
            for batch in self.text.batches(self.job.batch_size):
                latents = yield from self.sample_batch(batch, cancel, watching)
                for i, image in enumerate(self.show(latents, watching)):
                    yield GeneratedImage(batch.start + i, image, latents[i])

    def sample_batch(
        self, batch: slice, cancel: CancelFlag | None, observer: RunObserver
    ) -> Generator[Progress, None, np.ndarray]:
        """Take all steps of a batch and return its final latents, (n, c, h, w) float32.

        Args:
            batch: The images of the run, such as `slice(0, 4)`.
            cancel, observer: As in `generate`.
        """
        trajectory = observer.started(self.trajectory(batch))
        count = len(self.job.seeds)
        latents = yield from run_sampler(trajectory, cancel, batch.start, count, observer)
        observer.finished(latents)
        return latents

    def trajectory(self, batch: slice) -> Trajectory:
        """Return the sampling of a batch of images, prepared up to its first step.

        Args:
            batch: The images of the run, such as `slice(0, 4)`.
        """
        if self.rest is not None:
            return self.rest
        if self.initial.edit is not None:
            return start_edit(self.model, self.job, self.initial, self.text, batch)
        text = self.conditionings(batch)
        start = start_trajectory(self.model, self.job, self.initial, text, self.controls, batch)
        return start if self.guide is None else replace(start, guide=self.guide.model)

    def conditionings(self, batch: slice) -> dict[str, Conditioning]:
        """Return what the networks are conditioned on in a batch, by the name of the prediction."""
        found = self.text.conditionings(batch)
        return found if self.guide is None else found | self.guide.conditioning(batch)

    def show(self, latents: np.ndarray, observer: RunObserver) -> list[Image.Image]:
        """Return the images of the final `latents`, (n, c, h, w), which an observer also sees.

        Raises:
            NumericError: The decoder's output holds NaN or infinity.
        """
        images = self.decode(latents)
        observer.decoded(images)
        return images

    def decode(self, latents: np.ndarray) -> list[Image.Image]:
        """Return the images of the final `latents`, (n, c, h, w), finished as the mode does.

        Raises:
            NumericError: The decoder's output holds NaN or infinity.
        """
        images = decode_images(self.model, latents, self.job.tile)
        finish = self.initial.finish
        return images if finish is None else [finish(image) for image in images]

    def result(self, generated: Sequence[GeneratedImage]) -> Result:
        """Return the images so far as a `Result`, with everything that generates them again.

        Args:
            generated: The `GeneratedImage` events so far, in order.
        """
        n = len(generated)
        latents = np.zeros((n, *self.model.latent_shape(*self.plan.passes[-1].size)), np.float32)
        for i, image in enumerate(generated):
            latents[i] = image.latents
        images = [image.image for image in generated]
        return Result(images, latents, list(self.job.seeds[:n]), self.params(n), self.warnings)

    @property
    def warnings(self) -> list[str]:
        """Warnings about the model's files, the inputs, the prompts and the controls."""
        images = (*self.controls, self.job.control_input)
        controls = [image.warning for image in images if image is not None and image.warning]
        texts = dict.fromkeys(self.text.warnings)
        advised = self.plan.adviser.list_warnings(self)
        return [*self.model.warnings, *self.plan.warnings, *advised, *texts, *controls]

    @contextmanager
    def explaining_memory(self) -> Iterator[None]:
        """Return a context that raises a `ResourceError` if an array library lacks memory in it."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise self.plan.adviser.out_of_memory(self.plan, self.model) from error
            raise

    def params_of(self, i: int) -> dict[str, Any]:
        """Return the parameters that generate image `i` (from 0) alone."""
        seeds = self.job.seeds
        return select_image(self.params(len(seeds)), seeds[i], i)

    def params(self, n: int) -> dict[str, Any]:
        """Return the parameters of the first `n` images, with the model, backend and version."""
        plan = self.plan
        planned = record_job(plan.job, plan.request, plan.recorded, n or len(plan.job.seeds))
        guide = None if self.guide is None else self.guide.record
        return record_run(planned, self.model, self.job, self.text, self.controls, guide, n)

    def __repr__(self) -> str:
        return f"<Run of {self.job.summary} on {self.model!r}>"
