"""An inversion: the plan, the run and the result of a mode that goes from an image to noise."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from PIL import Image

from ldmref.errors import short_repr
from ldmref.models.model import LatentDiffusion
from ldmref.modes.channels import make_input_channels
from ldmref.modes.generate import Callback, CancelFlag, GeneratedImage, on_backend
from ldmref.modes.guidance_parameter import is_asked
from ldmref.modes.requests import Invert
from ldmref.modes.result import Result
from ldmref.modes.run import Plan, Run
from ldmref.modes.trajectory import RunObserver, Trajectory
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


@dataclass(frozen=True, repr=False)
class Inversion(Result):
    """The noise of an image, and the settings with which txt2img generates the image from it.

    `txt2img(model, prompt, latents=inversion.latents, **inversion.settings)` returns the image.

    Args:
        images: The given image, at the size at which it was inverted.
        latents: Initial noise of unit variance, (1, c, h, w) float32.
        seeds: [0], which has no effect: nothing is sampled.
        params: The resolved parameters of the inversion, JSON-able.
        warnings: Warnings, one line each.
        settings: The other arguments of txt2img.
        prompt: The prompt with which the image was inverted.

    >>> import ldmref
    >>> from ldmref import modes
    >>> model = ldmref.random_model("tiny")
    >>> image = modes.txt2img(model, "a cat", seed=7, steps=4)[0]
    >>> inversion = modes.invert(model, "a cat", image, steps=4)
    >>> again = modes.txt2img(model, "a cat", latents=inversion.latents, **inversion.settings)
    >>> inversion.latents.shape, again[0].size
    ((1, 4, 8, 8), (16, 16))
    """

    settings: dict[str, Any] = field(kw_only=True)
    prompt: str = field(kw_only=True)

    def __repr__(self) -> str:
        shape = " x ".join(str(n) for n in self.latents.shape)
        return f"<Inversion with {short_repr(self.prompt)}: latents {shape}>"


@dataclass(frozen=True, eq=False, repr=False)
class InversionPlan(Plan):
    """A checked inversion; its run gives the noise of an image.

    Args:
        request: The parameters, with the size of the image.
        job: The same with all defaults filled in, as for the image from its noise.
        start: `start(model)` returns the latents of the image.
        recorded: As in `Plan`; {}.
        warnings: Warnings about the image, one line each.
        calls: Calls of the denoiser: one a step, and one for each iteration of it. None: as in
            `Plan`.
        more_evaluations: 0.
        image: The image to invert, at its size.

    >>> import ldmref
    >>> import numpy as np
    >>> model = ldmref.random_model("tiny")
    >>> image = np.zeros((16, 16, 3), np.uint8)
    >>> plan = ldmref.modes.plan("invert", model, image=image, prompt="a cat", steps=3)
    >>> plan.calls, plan.run(model).latents.shape
    (18, (1, 4, 8, 8))
    """

    request: Invert
    image: Image.Image = field(kw_only=True)

    @property
    def run_class(self) -> type[Run]:
        """The class of the runs that `prepare` returns."""
        return InversionRun

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments with which `txt2img` generates the image from its noise."""
        values = {name: getattr(self.job, name) for name in SETTINGS}
        guidance = self.job.guidance
        more: dict[str, Any] = {"guidance": guidance.record} if is_asked(guidance) else {}
        if self.job.max_sequence_length is not None:
            more["max_sequence_length"] = self.job.max_sequence_length
        return copy.deepcopy(values) | more | {"sampler": "ddim", "eta": 0.0}

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
        return cast(Inversion, super().run(model, callback, cancel, observer))

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


@dataclass(frozen=True, eq=False, repr=False)
class InversionRun(Run):
    """A planned inversion prepared with a model.

    Its only `GeneratedImage` is the given image with the noise as its latents.
    """

    plan: InversionPlan

    def trajectory(self, batch: slice) -> InversionTrajectory:
        """Return the sampling from the latents of the image, prepared up to its first step."""
        job = self.job
        model = self.model
        image = self.initial.image
        assert image is not None
        iterations = self.plan.request.iterations
        schedule = job.make_schedule(model.config)
        path = schedule.path
        sigmas = schedule.sigmas[::-1].tolist()
        x = on_backend(model.backend, image.mean * np.float32(path.spread(sigmas[0])))
        if sigmas[0] == 0.0 and not iterations:  # there is no slope at 0
            sigmas[0] = min(sigmas[1] / 2.0, path.level(float(schedule.training_sigmas[0])))
        return InversionTrajectory(
            model=model,
            schedule=schedule,
            step=implicit(iterations),
            visits=range(len(sigmas)),
            x=x,
            noise=None,
            constrain=None,
            conditionings=self.conditionings(batch),
            cfg_scale=job.cfg_scale,
            guidance=job.guidance,
            channels=make_input_channels(model, job.size) if model.config.image_channels else None,
            rising=sigmas,
            iterations=iterations,
        )

    def show(self, latents: np.ndarray, observer: RunObserver) -> list[Image.Image]:
        """Return the given image: noise is not decoded."""
        return [self.plan.image]

    def result(self, generated: Sequence[GeneratedImage]) -> Inversion:
        """Return the noise and everything that belongs to it.

        The latents of a stopped run do not have a row.
        """
        made = super().result(generated)
        prompt = self.job.prompts[0]
        return Inversion(**vars(made), settings=self.plan.settings, prompt=prompt)

    def __repr__(self) -> str:
        return f"<InversionRun of {self.job.summary} on {self.model!r}>"
