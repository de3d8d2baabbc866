"""An inversion, planned and run: from an image to the noise from which DDIM generates it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from ldmref.errors import short_repr
from ldmref.math.arrays import Array
from ldmref.models.model import LatentDiffusion
from ldmref.modes.advice import advise
from ldmref.modes.callbacks import check_callbacks, run_to_end
from ldmref.modes.channels import encode_image, make_input_channels
from ldmref.modes.cost import Cost, check_limits, estimate_cost
from ldmref.modes.generate import (
    Callback,
    CancelFlag,
    GeneratedImage,
    Progress,
    explaining_memory,
    on_backend,
    run_sampler,
)
from ldmref.modes.guidance_parameter import is_asked
from ldmref.modes.initial import InitialState
from ldmref.modes.job import Job
from ldmref.modes.record import record_job, record_run, select_image
from ldmref.modes.requests import Invert
from ldmref.modes.start import encode_job
from ldmref.modes.text import TextConditioning
from ldmref.modes.trajectory import SILENT, RunObserver, Trajectory
from ldmref.samplers import Interval, implicit

SETTINGS = (
    "steps",
    "cfg_scale",
    "schedule",
    "sigmas",
    "width",
    "height",
    "clip_skip",
    "negative_prompt",
    "long_prompts",
    "prompt_weights",
)


@dataclass(frozen=True)
class Inversion:
    """The noise of an image, and the settings with which txt2img generates the image from it.

    `txt2img(model, prompt, latents=inversion.latents, **inversion.settings)` returns the image.

    Args:
        latents: Initial noise of unit variance, (1, c, h, w) float32.
        settings: The other arguments of txt2img.
        prompt: The prompt with which the image was inverted.
        warnings: Warnings, one line each.
        params: The resolved parameters of the inversion, JSON-able.

    >>> import ldmref
    >>> from ldmref import modes
    >>> model = ldmref.random_model("tiny")
    >>> image = modes.txt2img(model, "a cat", seed=7, steps=4)[0]
    >>> inversion = modes.invert(model, "a cat", image, steps=4)
    >>> again = modes.txt2img(model, "a cat", latents=inversion.latents, **inversion.settings)
    >>> inversion.latents.shape, again[0].size
    ((1, 4, 8, 8), (16, 16))
    """

    latents: np.ndarray
    settings: dict[str, Any]
    prompt: str
    warnings: list[str] = field(default_factory=list)
    params: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        shape = " x ".join(str(n) for n in self.latents.shape)
        return f"<Inversion with {short_repr(self.prompt)}: latents {shape}>"


@dataclass(frozen=True, eq=False)
class InversionPlan:
    """A checked inversion, which gives an `Inversion` instead of images.

    It is used like a `Plan`: at once by `run`, or event by event by `prepare`. The last event is
    a `GeneratedImage` with the given image and its noise.

    Args:
        request: The parameters, with the size of the image.
        job: The same with all defaults filled in, as for the image from its noise.
        image: The image to invert, at its size.
        warnings: Warnings about the image, one line each.

    >>> import ldmref
    >>> import numpy as np
    >>> model = ldmref.random_model("tiny")
    >>> image = np.zeros((16, 16, 3), np.uint8)
    >>> plan = ldmref.modes.plan_inversion(model, image=image, prompt="a cat", steps=3)
    >>> plan.calls, plan.run(model).latents.shape
    (18, (1, 4, 8, 8))
    """

    request: Invert
    job: Job
    image: Image.Image
    warnings: tuple[str, ...] = ()

    @property
    def params(self) -> dict[str, Any]:
        """The resolved parameters: JSON-able values that give the same noise again."""
        return record_job(self.job, self.request, {}, 1)

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments with which `txt2img` generates the image from its noise."""
        values = {name: getattr(self.job, name) for name in SETTINGS}
        guidance = self.job.guidance
        more: dict[str, Any] = {"guidance": guidance.record} if is_asked(guidance) else {}
        if self.job.max_sequence_length is not None:
            more["max_sequence_length"] = self.job.max_sequence_length
        return copy.deepcopy(values) | more | {"sampler": "ddim", "eta": 0.0}

    @property
    def calls(self) -> int:
        """The number of calls of the denoiser."""
        return (self.job.steps - self.job.first_step) * (1 + self.request.iterations)

    def estimate(self, model: LatentDiffusion) -> Cost:
        """Return an estimate of what the inversion takes on `model`, without computing it."""
        model = model.with_text_length(self.job.max_sequence_length)
        return estimate_cost(model, self.job, self.calls)

    def prepare(self, model: LatentDiffusion, observer: RunObserver | None = None) -> InversionRun:
        """Return a run: everything up to the first step, with the prompt and the image encoded.

        Args:
            model: A model with the configuration of the plan.
            observer: Sees the encoders of the prompt and of the image, and the run. None: what
                records the model (`ldmref.recording`), if anything does.

        Raises:
            ResourceError: It takes more memory or time than the model may use.
        """
        job = self.job
        model = model.with_text_length(job.max_sequence_length)
        check_limits(model, job, self.calls)
        watching: RunObserver = observer or model.observer or SILENT
        model = watching.watch(model)
        text = encode_job(model, job, InitialState())
        clean = encode_image(model, self.image).mean
        channels = make_input_channels(model, job.size) if model.config.image_channels else None
        run = InversionRun(self, model, text, clean, channels, watching)
        watching.prepared(run)
        return run

    def run(
        self,
        model: LatentDiffusion,
        callback: Callback | None = None,
        cancel: CancelFlag | None = None,
        observer: RunObserver | None = None,
    ) -> Inversion:
        """Return the noise of the image.

        Args:
            model: A model with the configuration of the plan.
            callback: Called after every step with a `Progress`. None: nothing is called.
            cancel: A `threading.Event`; once it is set, `Cancelled` is raised before the next step.
                None: the run cannot be cancelled.
            observer: Sees the run and may replace its states. None: as in `prepare`.

        Raises:
            Cancelled: `cancel` was set.
            UsageError: `callback` or `cancel` has the wrong type.
            NumericError, ResourceError: See `ldmref.errors`.
        """
        check_callbacks(callback, cancel)
        return run_to_end(self.prepare(model, observer), callback, cancel)

    def __repr__(self) -> str:
        return f"<InversionPlan of {self.job.summary}>"


@dataclass(frozen=True, eq=False, kw_only=True)
class InversionTrajectory(Trajectory):
    """The sampling of an inversion: from the latents of an image to noise.

    Args:
        rising: The noise levels, those of the schedule in reverse.
        iterations: Iterations of each step, as in `implicit`.
    """

    rising: list[float]
    iterations: int

    @property
    def settings(self) -> Mapping[str, Any]:
        """The iterations, which distinguish these steps from those of DDIM."""
        return {"iterations": self.iterations}

    @property
    def levels(self) -> list[float]:
        """The noise levels, into which `visits` are indices."""
        return self.rising

    @property
    def scale(self) -> float:
        """The divisor of the last state, which is noise."""
        return self.schedule.init_noise_sigma

    def timestep(self, sigma: float, interval: Interval | None = None) -> float:
        """Return the timestep of a level within a step, which the schedule knows in reverse."""
        return self.schedule.timestep(sigma, interval.reversed() if interval else None)


@dataclass(frozen=True, eq=False)
class InversionRun:
    """A planned inversion prepared with a model."""

    plan: InversionPlan
    model: LatentDiffusion
    text: TextConditioning
    clean: np.ndarray  # latents of the image, (1, c, h, w)
    channels: Array | None
    observer: RunObserver = field(default=SILENT, repr=False)

    @property
    def job(self) -> Job:
        """The resolved parameters."""
        return self.plan.job

    def generate(
        self, cancel: CancelFlag | None = None, observer: RunObserver | None = None
    ) -> Iterator[Progress | GeneratedImage]:
        """Invert the image.

        Args:
            cancel: As in `Run.generate`.
            observer: Sees the steps and may replace states. None: the observer that prepared the
                run.

        Yields:
            A `Progress` after every step, then a `GeneratedImage` with the given image and, as its
            latents, the noise.

        Raises:
            Cancelled, NumericError, ResourceError: See `Run.generate`.
        """
        with explaining_memory(self.model, self.job):
            watching = observer or self.observer
            trajectory = watching.started(self.trajectory())
            latents = yield from run_sampler(trajectory, cancel, observer=watching)
            watching.finished(latents)
            yield GeneratedImage(0, self.plan.image, latents[0])

    def trajectory(self) -> Trajectory:
        """Return the sampling, prepared up to its first step."""
        job = self.job
        ops = self.model.backend
        iterations = self.plan.request.iterations
        schedule = job.make_schedule(self.model.config)
        path = schedule.path
        sigmas = schedule.sigmas[::-1].tolist()
        x = on_backend(ops, self.clean * np.float32(path.spread(sigmas[0])))
        if sigmas[0] == 0.0 and not iterations:  # there is no slope at 0
            sigmas[0] = min(sigmas[1] / 2.0, path.level(float(schedule.training_sigmas[0])))
        return InversionTrajectory(
            model=self.model,
            schedule=schedule,
            step=implicit(iterations),
            visits=range(len(sigmas)),
            x=x,
            noise=None,
            constrain=None,
            conditionings=self.text.conditionings(slice(0, 1)),
            cfg_scale=job.cfg_scale,
            guidance=job.guidance,
            channels=self.channels,
            rising=sigmas,
            iterations=iterations,
        )

    def result(self, generated: Sequence[GeneratedImage]) -> Inversion:
        """Return the noise and everything that belongs to it.

        The latents of a stopped run do not have a row.
        """
        latents = np.zeros((len(generated), *self.clean.shape[1:]), np.float32)
        for i, image in enumerate(generated):
            latents[i] = image.latents
        prompt = self.job.prompts[0]
        params = self.params(len(generated))
        return Inversion(latents, self.plan.settings, prompt, self.warnings, params)

    @property
    def warnings(self) -> list[str]:
        """Warnings about the model's files, the image and the prompt, one line each."""
        advised = advise(self.model.config, self.job, self.model.backend)
        texts = dict.fromkeys(self.text.warnings)
        return [*self.model.warnings, *self.plan.warnings, *advised, *texts]

    def params_of(self, i: int) -> dict[str, Any]:
        """Return the parameters of the image, whose index is 0."""
        return select_image(self.params(1), self.job.seeds[i], i)

    def params(self, n: int) -> dict[str, Any]:
        """Return the parameters of the inversion, with the model, backend and version."""
        return record_run(self.plan.params, self.model, self.job, self.text, (), None, n)

    def __repr__(self) -> str:
        return f"<InversionRun of {self.job.summary} on {self.model!r}>"
