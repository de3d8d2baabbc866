"""Plan, then run: everything is checked without weights, then drawn by whoever has the model.

Python and the command line go this way.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ldmref.errors import Cancelled, UsageError, did_you_mean, short_repr
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes import validation
from ldmref.modes.advice import advice
from ldmref.modes.control import ActiveControl, load_control
from ldmref.modes.cost import Cost, check_limits, cost, is_out_of_memory, out_of_memory
from ldmref.modes.declaration import Parameter, document, keys_of, parameters_of
from ldmref.modes.draw import Callback, CancelFlag, Picture, Progress, check_callbacks, draw, notify
from ldmref.modes.embeddings import with_embeddings
from ldmref.modes.parameters import Txt2ImgParameters
from ldmref.modes.request import Request
from ldmref.modes.result import Result, params_of_picture
from ldmref.modes.start import Start
from ldmref.modes.text import TextConditioning, encode_texts
from ldmref.version import __version__

RECORDED = keys_of(Txt2ImgParameters)  # by pictures of every mode


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
        """The resolved request: JSON-able values that make the same pictures again."""
        return self.params_of_first(len(self.request.seeds))

    def params_of_first(self, n: int) -> dict[str, Any]:
        """The same for the first n pictures alone."""
        r = self.request
        params: dict[str, Any] = {"mode": r.mode}
        for name, parameter in (RECORDED | MODES[r.mode].parameters).items():
            value = r.values.get(name)
            if parameter.recorded and value is not None:
                params[name] = list(value) if isinstance(value, tuple) else value
        prompts, negatives = list(r.prompts[:n]), list(r.negative_prompts[:n])
        alike = len({*prompts}) == 1 == len({*negatives})
        params |= {
            "prompt": prompts[0] if alike else prompts,
            "negative_prompt": negatives[0] if len({*negatives}) == 1 else negatives,
            "sampler": r.sampler.name,
            "seed": r.seeds[0] if n == 1 else list(r.seeds[:n]),
            "count": n if alike else 1,
        }
        return params | dict(self.recorded)

    def estimate(self, model: LatentDiffusion) -> Cost:
        """What the request takes of memory and time, without drawing it."""
        return cost(model, self.request)

    def prepare(self, model: LatentDiffusion) -> Run:
        """Everything up to the first step: prompts and pictures encoded, ControlNets loaded.

        Raises:
            ResourceError: the pictures take more memory or time than the model may use.
            UsageError: a ControlNet is on another backend than the model.
        """
        r = self.request
        if model.max_memory is not None or model.max_seconds is not None:
            check_limits(model, r)
        start, size = self.start(model), (r.width, r.height)
        text = encode_texts(
            model, r.prompts, r.negative_prompts, size, r.clip_skip, r.options, start.interpolation
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
        """Draw all pictures.

        Raises:
            Cancelled: `cancel` was set; its `partial` is the `Result` of the finished pictures.
            UsageError: `callback` or `cancel` is not what it must be.
            NumericError, ResourceError: see `ldmref.errors`.
        """
        check_callbacks(callback, cancel)
        run, pictures = self.prepare(model), []
        try:
            for event in run.draw(cancel):
                if isinstance(event, Picture):
                    pictures.append(event)
                else:
                    notify(callback, event)
        except Cancelled as stop:
            stop.partial = run.result(pictures)
            raise
        return run.result(pictures)


class Run(NamedTuple):
    """A plan prepared with a model."""

    plan: Plan
    model: LatentDiffusion
    start: Start
    text: TextConditioning
    controls: Sequence[ActiveControl]

    def draw(self, cancel: CancelFlag | None = None) -> Iterator[Progress | Picture]:
        """Draw, one event at a time: a `Progress` after every step, every `Picture` once done.

        Raises:
            Cancelled: `cancel` was set.
            NumericError: latents or pictures hold NaN or infinity.
            ResourceError: out of memory.
        """
        request = self.plan.request
        try:
            yield from draw(self.model, request, self.start, self.text, self.controls, cancel)
        except (MemoryError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise out_of_memory(self.model, request) from error
            raise

    def result(self, pictures: Sequence[Picture]) -> Result:
        """The pictures so far, with all that makes them again."""
        model, seeds = self.model, self.plan.request.seeds[: len(pictures)]
        shape = model.latent_shape(self.plan.request.width, self.plan.request.height)
        latents = np.zeros((len(pictures), *shape), np.float32)
        for i, picture in enumerate(pictures):
            latents[i] = picture.latents
        images = [picture.image for picture in pictures]
        return Result(images, latents, list(seeds), self.params(len(pictures)), self.warnings)

    @property
    def warnings(self) -> list[str]:
        """About the model's files, the inputs, the prompts and the controls, one line each."""
        controls = [control.warning for control in self.controls if control.warning]
        advised = advice(self.model.config, self.plan.request, self.model.backend)
        texts = dict.fromkeys(self.text.warnings)
        return [*self.model.warnings, *self.plan.warnings, *advised, *texts, *controls]

    def params_of(self, i: int) -> dict[str, Any]:
        """The parameters that make picture `i` alone."""
        seeds = self.plan.request.seeds
        return params_of_picture(self.params(len(seeds)), seeds[i], i)

    def params(self, n: int) -> dict[str, Any]:
        """The parameters of the first n pictures, with the model, backend and version."""
        model, params = self.model, self.plan.params_of_first(n or len(self.plan.request.seeds))
        params["model"] = {"name": model.config.name, "sha256": model.sha256}
        params["model"] |= model.modifications
        arrays = {"latents": self.plan.request.latents} | dict(self.plan.request.embeddings or {})
        params |= {name: digests(x) for name, x in arrays.items() if x is not None}
        if truncated := self.text.truncated(n):
            params["truncated"] = truncated
        if self.controls:
            params["control"] = [control.record for control in self.controls]
        params["backend"] = model.backend.describe()
        return params | {"ldmref": __version__}


def digests(noise: np.ndarray) -> list[str]:
    """SHA-256 of each picture's given initial noise, (n, c, h, w)."""
    return [hashlib.sha256(one.tobytes()).hexdigest() for one in noise]


class Mode(NamedTuple):
    """A mode: a sentence, its parameters by name with their defaults, and what plans it."""

    summary: str
    parameters: dict[str, Parameter]
    defaults: dict[str, Any]
    plan: Callable[[ModelConfig, dict[str, Any]], Any]


MODES: dict[str, Mode] = {}
Function = TypeVar("Function", bound=Callable)


def mode(planner: Callable[[ModelConfig, dict[str, Any]], Any]) -> Callable[[Function], Function]:
    """Register the decorated function as a mode, and document all its parameters."""

    def register(function: Function) -> Function:
        parameters = parameters_of(function)
        defaults = {
            name: validation.validate(parameter, parameter.default)
            for name, parameter in parameters.items()
            if not parameter.required
        }
        summary = (inspect.getdoc(function) or "").partition("\n\n")[0]
        document(function, parameters)
        MODES[function.__name__] = Mode(summary, parameters, defaults, planner)
        return function

    return register


def plan(mode: str, config: ModelConfig | LatentDiffusion, **parameters: Any) -> Plan:
    """Check all parameters of a mode without weights; `plan(...).run(model)` draws.

    Args:
        mode: `txt2img`, `img2img`, `inpaint`, `interpolate`, `invert`, `superres` or `seg2img`.
        config: the model's configuration, `model.config`; or the model.
        parameters: those of `modes.<mode>`, the positional ones by name, too.

    Raises:
        UsageError, ResourceError, ImageError, InputError: says what is wrong, and what to do.
    """
    if not isinstance(mode, str) or mode not in MODES:
        message, hint = f"unknown mode {short_repr(mode)}", did_you_mean(str(mode), MODES)
        raise UsageError(message, code="E-MODE", hint=hint)
    config = getattr(config, "config", config)
    if not isinstance(config, ModelConfig):
        message, hint = f"{mode} needs a model, not {short_repr(config)}", "model = ldmref.load()"
        raise UsageError(message, code="E-MODEL", hint=hint)
    _, known, values, planner = MODES[mode]
    for name in parameters:
        if name not in known:
            message = f"{mode} has no parameter {short_repr(name)}"
            raise UsageError(message, code="E-USAGE", hint=did_you_mean(name, known))
    missing = [name for name in known if name not in values | parameters]
    if missing:
        raise UsageError(f"{mode} needs {' and '.join(missing)}", code="E-USAGE")
    valid = {name: validation.validate(known[name], value) for name, value in parameters.items()}
    return planner(config, values | valid)


def schema(mode: str) -> dict[str, Any]:
    """The JSON schema of a mode's parameters."""
    parameters = MODES[mode].parameters
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": mode,
        "type": "object",
        "properties": {name: parameter.schema() for name, parameter in parameters.items()},
        "required": [name for name, parameter in parameters.items() if parameter.required],
        "additionalProperties": False,
    }
