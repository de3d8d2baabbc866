"""Plan, then run: everything is checked without weights, then run by whoever has the model.

Python and the command line go this way.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, overload

import numpy as np

from ldmref.errors import UsageError, did_you_mean, short_repr
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes import validation
from ldmref.modes.advice import advice
from ldmref.modes.aliases import unknown_parameter
from ldmref.modes.callbacks import check_callbacks, run_to_end
from ldmref.modes.control import ActiveControl, load_control
from ldmref.modes.cost import Cost, check_limits, cost, explain_memory
from ldmref.modes.draw import Callback, CancelFlag, GeneratedImage, Progress, draw
from ldmref.modes.embeddings import with_embeddings
from ldmref.modes.guidance import may_need_empty_prompt
from ldmref.modes.inversion import InversionPlan, InversionRun
from ldmref.modes.record import request_params, run_params
from ldmref.modes.registry import MODES, Mode, config_of
from ldmref.modes.request import Request
from ldmref.modes.result import Result, params_of_image
from ldmref.modes.start import Start
from ldmref.modes.text import TextConditioning, encode_texts


@dataclass(frozen=True)
class Plan:
    """A checked request, ready to be drawn.

    Args:
        request: resolved.
        start: from a model to what the mode starts from.
        recorded: what `params` holds besides the request.
        warnings: about the inputs, one line each.
    """

    request: Request
    start: Callable[[LatentDiffusion], Start] = lambda model: Start()
    recorded: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def params(self) -> dict[str, Any]:
        """The resolved request: JSON-able values that make the same images again."""
        return self.params_of_first(len(self.request.seeds))

    def params_of_first(self, n: int) -> dict[str, Any]:
        """The same for the first n images alone."""
        return request_params(self.request, n) | copy.deepcopy(dict(self.recorded))

    def estimate(self, model: LatentDiffusion) -> Cost:
        """What the request takes of memory and time, without drawing it."""
        return cost(model, self.request)

    def prepare(self, model: LatentDiffusion) -> Run:
        """Everything up to the first step: prompts and images encoded, ControlNets loaded.

        Raises:
            ResourceError: the images take more memory or time than the model may use.
            UsageError: a ControlNet is on another backend than the model.
        """
        r = self.request
        if model.max_memory is not None or model.max_seconds is not None:
            check_limits(model, r)
        start = self.start(model)
        size = (r.width, r.height)
        text = encode_texts(
            model,
            r.prompts,
            r.negative_prompts,
            size,
            r.clip_skip,
            r.options,
            start.interpolation,
            may_need_empty_prompt(r.guidance),
        )
        if r.embeddings:
            text = with_embeddings(text, r.embeddings)
        controls = [load_control(model, control, size) for control in r.control]
        return Run(self, model, start, text, controls)

    def run(
        self,
        model: LatentDiffusion,
        callback: Callback | None = None,
        cancel: CancelFlag | None = None,
    ) -> Result:
        """Draw all images.

        Raises:
            Cancelled: `cancel` was set; its `partial` is the `Result` of the finished images.
            UsageError: `callback` or `cancel` is not what it must be.
            NumericError, ResourceError: see `ldmref.errors`.
        """
        check_callbacks(callback, cancel)
        return run_to_end(self.prepare(model), callback, cancel)

    def __repr__(self) -> str:
        return f"<Plan of {self.request.summary}>"


class Run(NamedTuple):
    """A plan prepared with a model."""

    plan: Plan
    model: LatentDiffusion
    start: Start
    text: TextConditioning
    controls: Sequence[ActiveControl]

    def draw(self, cancel: CancelFlag | None = None) -> Iterator[Progress | GeneratedImage]:
        """Draw, one event at a time: a `Progress` after each step, then a `GeneratedImage`.

        Raises:
            Cancelled: `cancel` was set.
            NumericError: latents or images hold NaN or infinity.
            ResourceError: out of memory.
        """
        request = self.plan.request
        events = draw(self.model, request, self.start, self.text, self.controls, cancel)
        yield from explain_memory(events, self.model, request)

    def result(self, generated: Sequence[GeneratedImage]) -> Result:
        """The images so far, with all that makes them again."""
        model = self.model
        seeds = self.plan.request.seeds[: len(generated)]
        shape = model.latent_shape(self.plan.request.width, self.plan.request.height)
        latents = np.zeros((len(generated), *shape), np.float32)
        for i, image in enumerate(generated):
            latents[i] = image.latents
        images = [image.image for image in generated]
        return Result(images, latents, list(seeds), self.params(len(generated)), self.warnings)

    @property
    def warnings(self) -> list[str]:
        """About the model's files, the inputs, the prompts and the controls, one line each."""
        controls = [control.warning for control in self.controls if control.warning]
        advised = advice(self.model.config, self.plan.request, self.model.backend)
        texts = dict.fromkeys(self.text.warnings)
        return [*self.model.warnings, *self.plan.warnings, *advised, *texts, *controls]

    def params_of(self, i: int) -> dict[str, Any]:
        """The parameters that make image `i` alone."""
        seeds = self.plan.request.seeds
        return params_of_image(self.params(len(seeds)), seeds[i], i)

    def params(self, n: int) -> dict[str, Any]:
        """The parameters of the first n images, with the model, backend and version."""
        request = self.plan.request
        planned = self.plan.params_of_first(n or len(request.seeds))
        return run_params(self.model, request, planned, self.text, self.controls, n)

    def __repr__(self) -> str:
        return f"<Run of {self.plan.request.summary} on {self.model!r}>"


AnyPlan = Plan | InversionPlan
AnyRun = Run | InversionRun
Generating = Literal["txt2img", "img2img", "inpaint", "interpolate", "superres", "seg2img"]


@overload
def plan(
    mode: Literal["invert"], config: ModelConfig | LatentDiffusion, **parameters: Any
) -> InversionPlan: ...
@overload
def plan(mode: Generating, config: ModelConfig | LatentDiffusion, **parameters: Any) -> Plan: ...
@overload
def plan(mode: str, config: ModelConfig | LatentDiffusion, **parameters: Any) -> AnyPlan: ...


def plan(mode: str, config: ModelConfig | LatentDiffusion, **parameters: Any) -> AnyPlan:
    """Check all parameters of a mode without weights; `plan(...).run(model)` does it.

    Args:
        mode: `txt2img`, `img2img`, `inpaint`, `interpolate`, `invert`, `superres` or `seg2img`.
        config: the model's configuration, `model.config`; or the model.
        parameters: those of `modes.<mode>`, the positional ones by name, too.

    Raises:
        UsageError, ResourceError, ImageError, InputError: says what is wrong, and what to do.
    """
    _, known, values, planner = _mode_named(mode)
    if not isinstance(config, ModelConfig):
        config = config_of(mode, config)
    for name in parameters:
        if name not in known:
            message = f"{mode} has no parameter {short_repr(name)}"
            modes = {other: MODES[other].parameters for other in MODES}
            raise UsageError(message, code="E-USAGE", hint=unknown_parameter(name, mode, modes))
    missing = [name for name in known if name not in values | parameters]
    if missing:
        raise UsageError(f"{mode} needs {' and '.join(missing)}", code="E-USAGE")
    valid = {name: validation.validate(known[name], value) for name, value in parameters.items()}
    return planner(config, values | valid)


def schema(mode: str) -> dict[str, Any]:
    """Return the JSON schema of a mode's parameters.

    Raises:
        UsageError: there is no such mode.
    """
    parameters = _mode_named(mode).parameters
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": mode,
        "type": "object",
        "properties": {name: parameter.schema() for name, parameter in parameters.items()},
        "required": [name for name, parameter in parameters.items() if parameter.required],
        "additionalProperties": False,
    }


def _mode_named(mode: str) -> Mode:
    if not isinstance(mode, str) or mode not in MODES:
        message = f"unknown mode {short_repr(mode)}"
        hint = did_you_mean(str(mode), MODES)
        raise UsageError(message, code="E-MODE", hint=hint)
    return MODES[mode]
