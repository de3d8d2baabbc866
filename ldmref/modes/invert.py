"""From a picture to the noise that draws it, to draw it again with other words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Unpack

import numpy as np
from PIL import Image

from ldmref.math.arrays import Array
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.channels import encode_picture, input_channels
from ldmref.modes.cost import check_limits
from ldmref.modes.denoiser import model_denoiser
from ldmref.modes.draw import (
    Callback,
    CancelFlag,
    call_back,
    check_callbacks,
    on_backend,
    run_sampler,
)
from ldmref.modes.parameters import InvertParameters, Picture, SinglePrompt
from ldmref.modes.plan import Plan, mode, plan
from ldmref.modes.request import resolve
from ldmref.modes.result import Result
from ldmref.modes.sizing import sized_picture
from ldmref.modes.text import encode_texts
from ldmref.samplers import History, State, implicit, make_schedule, sample

SETTINGS = ("steps", "cfg_scale", "schedule", "sigmas", "width", "height", "clip_skip",
            "negative_prompt", "long_prompts", "prompt_weights")  # fmt: skip


@dataclass(frozen=True)
class Inversion:
    """`txt2img(model, prompt, latents=inversion.latents, **inversion.settings)` draws the picture.

    latents: (1, c, h, w) float32, initial noise; settings: the arguments that belong to it;
    prompt: with which the picture was inverted; warnings: one line each.
    """

    latents: np.ndarray
    settings: dict[str, Any]
    prompt: str
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class InversionPlan(Plan):
    """A plan that finds the noise of a picture, and whose run draws the picture again from it."""

    config: ModelConfig = field(default_factory=ModelConfig)
    picture: Image.Image = field(default_factory=Image.Image)

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments with which `txt2img` draws the picture from its noise."""
        values = {name: self.request.values[name] for name in SETTINGS}
        return values | {"sampler": "ddim", "eta": 0.0}

    def invert(
        self,
        model: LatentDiffusion,
        callback: Callback | None = None,
        cancel: CancelFlag | None = None,
    ) -> Inversion:
        """Find the noise; arguments and errors are those of `Plan.run`."""
        check_callbacks(callback, cancel)
        check_limits(model, self.request)
        r, ops, iterations = self.request, model.backend, self.request.values["iterations"]
        schedule = make_schedule(model.config.scheduler, r.sampler, r.schedule, r.steps, r.sigmas)
        text = encode_texts(
            model, r.prompts, r.negative_prompts, (r.width, r.height), r.clip_skip, r.options
        )
        channels = (
            input_channels(model, (r.width, r.height)) if model.config.image_channels else None
        )
        sigmas = schedule.sigmas[::-1].tolist()
        clean = encode_picture(model, self.picture).mean
        x = on_backend(ops, clean * np.float32(math.hypot(1.0, sigmas[0])))
        if sigmas[0] == 0.0 and not iterations:  # there is no slope at 0
            sigmas[0] = min(sigmas[1] / 2.0, float(schedule.training_sigmas[0]))

        def states_of(
            model: LatentDiffusion, x: Array, visits: Any = None, history: History = ()
        ) -> Iterator[State]:
            denoise = model_denoiser(
                model, schedule.timestep, *text.conditioning(slice(0, 1)), r.cfg_scale,
                channels=channels,
            )  # fmt: skip
            step = implicit(iterations)
            return sample(denoise, x, sigmas, step, visits=visits, history=history)

        scale = schedule.init_noise_sigma
        latents = call_back(run_sampler(model, x, states_of, r.steps, scale, cancel), callback)
        warnings = [*self.warnings, *text.warnings]
        return Inversion(latents, self.settings, r.prompts[0], warnings)

    def run(
        self,
        model: LatentDiffusion,
        callback: Callback | None = None,
        cancel: CancelFlag | None = None,
    ) -> Result:
        """Find the noise and draw the picture again from it, which shows what is lost."""
        inversion = self.invert(model, callback, cancel)
        redraw = plan(
            "txt2img", self.config, prompt=inversion.prompt, latents=inversion.latents, seed=0,
            **inversion.settings,
        )  # fmt: skip
        return redraw.run(model, callback, cancel)


def plan_invert(config: ModelConfig, values: dict[str, Any]) -> InversionPlan:
    size = values["width"], values["height"]
    picture, resize, warnings = sized_picture(config, values["image"], *size, values["resize"])
    cfg_scale = 1.0 if values["cfg_scale"] is None else values["cfg_scale"]
    decided = {
        "width": picture.width, "height": picture.height, "resize": resize,
        "cfg_scale": cfg_scale, "sampler": "ddim", "eta": 0.0, "seed": 0,
    }  # fmt: skip
    request = resolve(config, "invert", values | decided)
    return InversionPlan(request, warnings=tuple(warnings), config=config, picture=picture)


@mode(plan_invert)
def invert(
    model: LatentDiffusion,
    prompt: SinglePrompt,
    image: Picture,
    *,
    callback: Callback | None = None,
    cancel: CancelFlag | None = None,
    **parameters: Unpack[InvertParameters],
) -> Inversion:
    """Run DDIM upwards from a picture to its noise; the prompt says what it shows.

    `txt2img` from these latents with the same prompt gives the picture back, but for what the
    autoencoder loses and an error of the inversion; with another prompt it gives the picture as it
    would be with those words, as far as the noise holds the layout (Hertz et al. 2022,
    arXiv:2208.01626, section 4, without its attention maps). The empty prompt works, and edits less
    well.

    `cfg_scale` is 1 by default: no guidance inverts well (Mokady et al. 2022, arXiv:2211.09794,
    section 3). Edit with more: `settings | {"cfg_scale": 3.0}`.

    Raises:
        UsageError, ResourceError, ImageError: an argument or the picture is wrong; nothing was
            computed.
        Cancelled, NumericError: see `ldmref.errors`.
    """
    checked = plan("invert", model, prompt=prompt, image=image, **parameters)
    assert isinstance(checked, InversionPlan)
    return checked.invert(model, callback, cancel)
