"""The second pass of txt2img at a larger size, which A1111 calls hires fix.

It is a composition: the first pass is txt2img, its latents (or its images) are enlarged, and the
second pass is img2img from there, with noise of the same seeds at the larger size. Both passes are
runs of the one loop.

Source: AUTOMATIC1111/stable-diffusion-webui 1.10, modules/processing.py (`sample_hr_pass`) and
modules/sd_samplers_common.py (`setup_img2img_steps`).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image

from ldmref.errors import UsageError
from ldmref.io.images.pil import to_array
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.active_guide import load_guide
from ldmref.modes.channels import encode_array
from ldmref.modes.generate import CancelFlag, Progress
from ldmref.modes.initial import InitialState
from ldmref.modes.job import Job, list_asked, takes_all_steps
from ldmref.modes.requests import Txt2Img
from ldmref.modes.resolve import check_schedule, check_size
from ldmref.modes.run import Plan, Run
from ldmref.modes.trajectory import RunObserver
from ldmref.modes.upscale_parameters import UpscaleParameters
from ldmref.samplers.schedule import default_spacing

CODE = "E-UPSCALE"
ENDLESS = 1_000_000_000  # steps, more than any schedule has
STRENGTH = 0.7


@dataclass(frozen=True, eq=False, repr=False)
class UpscaledPlan(Plan):
    """A plan of two passes.

    Args:
        second: The plan of the second pass, which starts from what the first one leaves.
        upscaler: What is enlarged: "latent" or "lanczos".
    """

    second: Plan = field(kw_only=True)
    upscaler: str = field(kw_only=True)

    @property
    def run_class(self) -> type[Run]:
        """The class of the runs that `prepare` returns."""
        return UpscaledRun

    @property
    def passes(self) -> tuple[Job, ...]:
        """The jobs of both passes."""
        return self.job, self.second.job

    def prepare(self, model: LatentDiffusion, observer: RunObserver | None = None) -> Run:
        """Return a run of two passes, both prepared; otherwise as `Plan.prepare`."""
        planned, second = self, self.second
        if self.job.guide is not None:  # loaded once, for both passes
            guide = replace(self.job.guide, source=load_guide(model, self.job.guide))
            planned = replace(self, job=replace(self.job, guide=guide))
            second = replace(second, job=replace(second.job, guide=guide))
        first = Plan.prepare(planned, model, observer)
        return replace(first, second=second.prepare(model, observer))


@dataclass(frozen=True, eq=False, repr=False)
class UpscaledRun(Run):
    """A run of two passes.

    Args:
        second: The run of the second pass, whose initial state is that of its batch. None: it is
            not prepared yet.
    """

    plan: UpscaledPlan
    second: Run | None = None

    def sample_batch(
        self, batch: slice, cancel: CancelFlag | None, observer: RunObserver
    ) -> Generator[Progress, None, np.ndarray]:
        """Take the steps of both passes and return the final latents, (n, c, h, w) float32."""
        steps = self.plan.steps
        taken = self.job.steps - self.job.first_step
        first = super().sample_batch(batch, cancel, observer)
        latents = yield from number_steps(first, 0, steps)
        assert self.second is not None
        enlarged = self.enlarge(latents, self.second)
        if steps == taken:
            known = enlarged.latents if enlarged.image is None else enlarged.image.mean
            assert known is not None
            return known
        second = replace(self.second, initial=enlarged).sample_batch(batch, cancel, observer)
        return (yield from number_steps(second, taken, steps))

    def enlarge(self, latents: np.ndarray, second: Run) -> InitialState:
        """Return the start of the `second` pass from the latents (n, c, h, w) of the first one."""
        start = replace(second.initial, from_noise=False)
        width, height = second.job.size
        if self.plan.upscaler == "latent":
            _, h, w = self.model.latent_shape(width, height)
            return replace(start, latents=enlarge_latents(latents, h, w))
        images = self.decode(latents)
        large = [image.resize((width, height), Image.Resampling.LANCZOS) for image in images]
        parts = [encode_array(self.model, to_array([image])) for image in large]
        mean, std = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        return replace(start, image=parts[0]._replace(mean=mean, std=std))


def plan_second_pass(config: ModelConfig, request: Txt2Img, first: Plan) -> Plan:
    """Return the plan of both passes of a request with some of `UpscaleParameters`.

    Args:
        config: The configuration of the model.
        request: The request.
        first: The plan of the first pass.

    Raises:
        UsageError: The model knows one size, or a number is wrong.
        ResourceError: The result is larger than the model can sensibly generate.
    """
    check_given(config, request)
    recorded: dict[str, Any] = {"upscaler": request.upscaler or "latent"}
    if request.upscale_sigmas is None:
        recorded["upscale_steps"] = request.upscale_steps or first.job.steps
        recorded["upscale_strength"] = choose_strength(request)
    return UpscaledPlan(
        request,
        first.job,
        first.start,
        recorded,
        first.warnings,
        second=Plan(request, resolve_second(config, request, first.job)),
        upscaler=recorded["upscaler"],
    )


def check_given(config: ModelConfig, request: Txt2Img) -> None:
    """Refuse parts of a second pass that are missing or exclude each other, or one for one size.

    Raises:
        UsageError: It is so.
    """
    names = list_asked(request, UpscaleParameters)
    if request.upscale is None:
        message = f"{names[0]} is that of a second pass, which the request does not have"
        raise UsageError(message, code=CODE, hint="give upscale=2 as well")
    others = [name for name in ("upscale_steps", "upscale_strength") if name in names]
    if request.upscale_sigmas is not None and others:
        message = f"upscale_sigmas and {others[0]} exclude each other"
        raise UsageError(message, code=CODE, hint="leave one of them out")
    defaults = config.defaults
    if defaults.one_size:
        raise UsageError(
            f"{config.name!r} generates images of {defaults.width} x {defaults.height} only, so it "
            "cannot enlarge them",
            code=CODE,
            hint="leave upscale out",
        )


def resolve_second(config: ModelConfig, request: Txt2Img, first: Job) -> Job:
    """Return the job of the second pass, checked.

    Its schedule has int(upscale_steps / upscale_strength) steps, of which the last `upscale_steps`
    are taken; none at strength 0. That of a flow map has `upscale_steps`, from the strength on. It
    is the first pass's schedule, or the model's if that has `sigmas`.

    Raises:
        UsageError, ResourceError: As for `plan_second_pass`.
    """
    assert request.upscale is not None
    multiple = config.size_multiple
    width, height = (int(side * request.upscale) // multiple * multiple for side in first.size)
    job = replace(first, width=width, height=height, latents=None)
    if job.control_input is not None:
        job = replace(job, control_input=job.control_input.at(job.size))
    check_size(config, job)
    if request.upscale_sigmas is not None:
        sigmas = request.upscale_sigmas
        job = replace(job, sigmas=sigmas, steps=len(sigmas) - 1, schedule=None)
        with naming("upscale_sigmas", "the second pass: ", "give other upscale_sigmas"):
            check_schedule(config, job)
        return job
    taken = request.upscale_steps or first.steps
    strength = choose_strength(request)
    if first.sigmas is not None:
        schedule = default_spacing(config.scheduler, first.sampler)
        job = replace(job, sigmas=None, schedule=schedule)
    if takes_all_steps(config, strength):
        job = replace(job, steps=taken, strength=strength)
    else:
        steps = steps_before(taken, strength) if strength else taken
        job = replace(job, steps=steps, first_step=steps - (taken if strength else 0))
    what = f"a second pass of {taken} steps at strength {strength:g}: "
    with naming("upscale_steps", what, "take other upscale_steps, or more upscale_strength"):
        check_schedule(config, job)
    return job


def steps_before(taken: int, strength: float) -> int:
    """Return the length of a schedule of whose steps a strength takes the last `taken`.

    It is int(taken / strength), or a number that no schedule has if that is larger: the smallest
    strengths overflow.

    >>> steps_before(20, 0.75), steps_before(20, 5e-324)
    (26, 1000000000)
    """
    return int(min(taken / strength, ENDLESS))


def choose_strength(request: Txt2Img) -> float:
    """Return the strength of the second pass."""
    return STRENGTH if request.upscale_strength is None else request.upscale_strength


@contextmanager
def naming(parameter: str, what: str, hint: str) -> Iterator[None]:
    """Say in a refusal that it is about the second pass."""
    try:
        yield
    except UsageError as error:
        refused = UsageError(f"{what}{error}", code=CODE, hint=hint)
        refused.parameter = parameter
        raise refused from None


def number_steps(
    sampled: Generator[Progress, None, np.ndarray], done: int, steps: int
) -> Generator[Progress, None, np.ndarray]:
    """Pass the events of a pass on, numbered from `done` on among `steps`; return its result."""
    while True:
        try:
            event = next(sampled)
        except StopIteration as end:
            return end.value
        yield replace(event, step=done + event.step, steps=steps)


def enlarge_latents(latents: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return latents (n, c, h, w) at another size, (n, c, height, width) float32.

    Output i of n is at (i + 1/2) h / n - 1/2 of the input, whose edges are repeated outside, and is
    interpolated linearly along both sides: PyTorch's `interpolate` with mode "bilinear",
    `align_corners=False` and no antialiasing.

    Args:
        latents: The latents.
        height, width: Sides in latent cells.

    >>> import numpy as np
    >>> enlarge_latents(np.array([[[[0.0, 1.0]]]]), 1, 4).ravel().tolist()
    [0.0, 0.25, 0.75, 1.0]
    """
    rows = interpolation_weights(latents.shape[2], height)
    columns = interpolation_weights(latents.shape[3], width)
    return (rows @ latents.astype(np.float64) @ columns.T).astype(np.float32)


def interpolation_weights(size: int, new_size: int) -> np.ndarray:
    """Return the weights (new_size, size) of linear interpolation; each row adds up to 1."""
    place = np.clip((np.arange(new_size) + 0.5) * size / new_size - 0.5, 0.0, size - 1.0)
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, size - 1)
    share = place - low
    weights = np.zeros((new_size, size))
    each = np.arange(new_size)
    np.add.at(weights, (each, low), 1.0 - share)
    np.add.at(weights, (each, high), share)
    return weights
