"""An inversion, planned and run: from an image to the noise from which DDIM generates it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ldmref.errors import short_repr
from ldmref.math.arrays import Array
from ldmref.models.model import LatentDiffusion
from ldmref.modes.advice import advice
from ldmref.modes.callbacks import check_callbacks, run_to_end
from ldmref.modes.channels import encode_image, input_channels
from ldmref.modes.cost import Cost, check_limits, cost, explain_memory
from ldmref.modes.denoiser import model_denoiser
from ldmref.modes.draw import (
    Callback,
    CancelFlag,
    GeneratedImage,
    Progress,
    on_backend,
    run_sampler,
)
from ldmref.modes.guidance import guidance_record, may_need_empty_prompt
from ldmref.modes.record import request_params, run_params
from ldmref.modes.request import Request
from ldmref.modes.result import params_of_image
from ldmref.modes.text import TextConditioning, encode_texts
from ldmref.samplers import History, State, implicit, make_schedule, sample

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
    """`txt2img(model, prompt, latents=inversion.latents, **inversion.settings)` gives the image.

    latents: (1, c, h, w) float32, initial noise; settings: the arguments that belong to it;
    prompt: with which the image was inverted; warnings: one line each; params: of the inversion,
    fully resolved, JSON-able.
    """

    latents: np.ndarray
    settings: dict[str, Any]
    prompt: str
    warnings: list[str] = field(default_factory=list)
    params: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        shape = " x ".join(str(n) for n in self.latents.shape)
        return f"<Inversion with {short_repr(self.prompt)}: latents {shape}>"


@dataclass(frozen=True)
class InversionPlan:
    """A checked inversion: a plan whose result is an `Inversion`.

    It is used as a `Plan` is: at once by `run`, or event by event by `prepare`. The last event is
    a `GeneratedImage` of the inverted image and its noise.

    Args:
        request: resolved.
        image: the image to invert, at its size.
        warnings: about the image, one line each.
    """

    request: Request
    image: Image.Image
    warnings: tuple[str, ...] = ()

    @property
    def params(self) -> dict[str, Any]:
        """The resolved request: JSON-able values that give the same noise again."""
        return request_params(self.request, 1)

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments with which `txt2img` generates the image from its noise."""
        values = {name: self.request.values[name] for name in SETTINGS}
        more = guidance_record(self.request.guidance)
        return copy.deepcopy(values) | more | {"sampler": "ddim", "eta": 0.0}

    def estimate(self, model: LatentDiffusion) -> Cost:
        """Estimate what the inversion takes of memory and time."""
        return cost(model, self.request)

    def prepare(self, model: LatentDiffusion) -> InversionRun:
        """Do everything up to the first step: the prompt and the image encoded.

        Raises:
            ResourceError: it takes more memory or time than the model may use.
        """
        r = self.request
        check_limits(model, r)
        size = r.width, r.height
        text = encode_texts(
            model,
            r.prompts,
            r.negative_prompts,
            size,
            r.clip_skip,
            r.options,
            with_empty=may_need_empty_prompt(r.guidance),
        )
        clean = encode_image(model, self.image).mean
        channels = input_channels(model, size) if model.config.image_channels else None
        return InversionRun(self, model, text, clean, channels)

    def run(
        self,
        model: LatentDiffusion,
        callback: Callback | None = None,
        cancel: CancelFlag | None = None,
    ) -> Inversion:
        """Find the noise; arguments and errors are those of `Plan.run`."""
        check_callbacks(callback, cancel)
        return run_to_end(self.prepare(model), callback, cancel)

    def __repr__(self) -> str:
        return f"<InversionPlan of {self.request.summary}>"


class InversionRun(NamedTuple):
    """A planned inversion prepared with a model."""

    plan: InversionPlan
    model: LatentDiffusion
    text: TextConditioning
    clean: np.ndarray  # latents of the image, (1, c, h, w)
    channels: Array | None

    def draw(self, cancel: CancelFlag | None = None) -> Iterator[Progress | GeneratedImage]:
        """Invert, one event at a time: a `Progress` after every step, then the `GeneratedImage`.

        The `GeneratedImage` holds the inverted image and, as its latents, the noise.

        Raises:
            Cancelled, NumericError, ResourceError: see `Run.draw`.
        """
        yield from explain_memory(self._steps(cancel), self.model, self.plan.request)

    def _steps(self, cancel: CancelFlag | None) -> Iterator[Progress | GeneratedImage]:
        r = self.plan.request
        config = self.model.config.scheduler
        ops = self.model.backend
        iterations = r.values["iterations"]
        schedule = make_schedule(config, r.sampler, r.schedule, r.steps, r.sigmas)
        sigmas = schedule.sigmas[::-1].tolist()
        x = on_backend(ops, self.clean * np.float32(math.hypot(1.0, sigmas[0])))
        if sigmas[0] == 0.0 and not iterations:  # there is no slope at 0
            sigmas[0] = min(sigmas[1] / 2.0, float(schedule.training_sigmas[0]))

        def states_of(
            model: LatentDiffusion, x: Array, visits: Any = None, history: History = ()
        ) -> Iterator[State]:
            denoise = model_denoiser(
                model,
                schedule.timestep,
                self.text.conditionings(slice(0, 1)),
                r.cfg_scale,
                r.guidance,
                channels=self.channels,
            )
            step = implicit(iterations)
            return sample(denoise, x, sigmas, step, visits=visits, history=history)

        scale = schedule.init_noise_sigma
        latents = yield from run_sampler(self.model, x, states_of, r.steps, scale, cancel)
        yield GeneratedImage(0, self.plan.image, latents[0])

    def result(self, generated: Sequence[GeneratedImage]) -> Inversion:
        """The noise, with all that belongs to it; no row of latents if the run was stopped."""
        latents = np.zeros((len(generated), *self.clean.shape[1:]), np.float32)
        for i, image in enumerate(generated):
            latents[i] = image.latents
        prompt = self.plan.request.prompts[0]
        settings = self.plan.settings
        return Inversion(latents, settings, prompt, self.warnings, self.params(len(generated)))

    @property
    def warnings(self) -> list[str]:
        """About the model's files, the image and the prompt, one line each."""
        advised = advice(self.model.config, self.plan.request, self.model.backend)
        texts = dict.fromkeys(self.text.warnings)
        return [*self.model.warnings, *self.plan.warnings, *advised, *texts]

    def params_of(self, i: int) -> dict[str, Any]:
        """The parameters of image `i`, of which there is one."""
        return params_of_image(self.params(1), self.plan.request.seeds[i], i)

    def params(self, n: int) -> dict[str, Any]:
        """The parameters of the inversion, with the model, backend and version."""
        return run_params(self.model, self.plan.request, self.plan.params, self.text, (), n)

    def __repr__(self) -> str:
        return f"<InversionRun of {self.plan.request.summary} on {self.model!r}>"
