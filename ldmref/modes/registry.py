"""The modes by name: `@mode(plan_txt2img, Txt2ImgArguments)` makes a public function of a mode."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar, get_type_hints

from ldmref.declare import (
    Field,
    Invalid,
    Range,
    arguments_section,
    describe,
    get_fields,
    read,
    read_hints,
)
from ldmref.errors import LdmrefError, UsageError, short_repr
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes import validation
from ldmref.modes.aliases import suggest_parameter
from ldmref.modes.generate import Callback, CancelFlag

P = ParamSpec("P")
Refused = TypeVar("Refused", bound=LdmrefError)
Made = TypeVar("Made")  # by a mode: a `Result` or an `Inversion`
Requested = TypeVar("Requested")  # the request of a mode, such as `Txt2Img`


class Mode(NamedTuple):
    """A mode: a sentence about it, the class of its requests, and the function that plans one."""

    summary: str
    request: type
    plan: Callable[[ModelConfig, Any], Any]

    @property
    def parameters(self) -> Mapping[str, Field]:
        """The parameters by name."""
        return get_fields(self.request)


@dataclass(frozen=True, kw_only=True, eq=False)
class Watched:
    """The arguments that every mode has in addition to its request."""

    callback: Callback | None = None
    cancel: CancelFlag | None = None


MODES: dict[str, Mode] = {}
MODEL = "From `ldmref.load` or `ldmref.random_model`."
WATCHED = {
    "callback": "Called after every step with a `Progress`. None: nothing is called.",
    "cancel": "A `threading.Event`; once it is set, `Cancelled` is raised before the next step. "
    "None: the call cannot be cancelled.",
}


def mode(
    plan: Callable[[ModelConfig, Requested], Any], arguments: Callable[P, Watched]
) -> Callable[
    [Callable[[LatentDiffusion, Requested, Watched], Made]],
    Callable[Concatenate[LatentDiffusion, P], Made],
]:
    """Return a decorator that registers a mode and spreads its request over keyword arguments.

    The decorated function receives the model, the request, whose fields are the mode's parameters,
    and what watches the run. The public function takes the model and these fields as arguments, and
    reads them as a request.

    Args:
        plan: `plan(config, request)` checks a request without weights.
        arguments: The request's class with the fields of `Watched`.
    """

    def decorate(
        run: Callable[[LatentDiffusion, Requested, Watched], Made],
    ) -> Callable[Concatenate[LatentDiffusion, P], Made]:
        _, request, *_ = arguments.__mro__[1:]  # type: ignore[attr-defined]
        positional = [field.name for field in fields(request) if not field.kw_only]
        summary = (inspect.getdoc(run) or "").partition("\n\n")[0]
        MODES[run.__name__] = Mode(summary, request, plan)
        public: Any = take_arguments(run, positional)
        signature = make_signature(arguments, get_type_hints(run)["return"])
        public.__doc__ = insert_arguments(inspect.getdoc(run) or "", get_fields(request))
        public.__signature__ = signature
        public.__annotations__ = {n: p.annotation for n, p in signature.parameters.items()}
        public.__annotations__["return"] = signature.return_annotation
        del public.__wrapped__
        return public

    return decorate


def take_arguments(
    run: Callable[[LatentDiffusion, Any, Watched], Made], positional: Sequence[str]
) -> Callable[..., Made]:
    """Return the function of a mode with the model and the fields of its request as arguments."""
    name = run.__name__

    @functools.wraps(run)
    def public(model: LatentDiffusion, /, *args: Any, **kwargs: Any) -> Made:
        values = name_arguments(name, positional, args, kwargs)
        watched = Watched(callback=values.pop("callback", None), cancel=values.pop("cancel", None))
        require_config(name, model)
        return run(model, read_request(name, values), watched)

    return public


def name_arguments(
    name: str, positional: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return positional and named arguments by name.

    Raises:
        TypeError: Too many positional arguments, or one that is also given by name.
    """
    if len(args) > len(positional):
        raise TypeError(
            f"{name}() takes {len(positional) + 1} positional arguments "
            f"but {len(args) + 1} were given"
        )
    values = dict(zip(positional, args, strict=False))
    for argument in values:
        if argument in kwargs:
            raise TypeError(f"{name}() got multiple values for argument {argument!r}")
    return {**values, **kwargs}


def make_signature(arguments: Any, returned: object) -> inspect.Signature:
    """Return the signature of a mode: the model, then the constructor's arguments."""
    hints = strip_marks(read_hints(arguments))
    positional_only = inspect.Parameter.POSITIONAL_ONLY
    model = inspect.Parameter("model", positional_only, annotation=LatentDiffusion)
    named = [
        argument.replace(annotation=hints[name])
        for name, argument in inspect.signature(arguments).parameters.items()
    ]
    return inspect.Signature([model, *named], return_annotation=returned)


def strip_marks(hints: dict[str, Any]) -> dict[str, Any]:
    """Return types without the marks of their declarations."""

    def holder() -> None: ...

    holder.__annotations__ = hints
    return get_type_hints(holder)


def insert_arguments(text: str, parameters: Mapping[str, Field]) -> str:
    """Return a mode's docstring with the `Args:` section, which precedes `Returns:`."""
    described = {name: describe(field) for name, field in parameters.items()}
    section = arguments_section(({"model": MODEL} | described | WATCHED).items())
    before, returns, after = text.partition("Returns:\n")
    return f"{before.rstrip()}\n\n{section}\n\n{returns}{after}".rstrip() + "\n"


def read_request(mode: str, parameters: Mapping[str, Any]) -> Any:
    """Return a request of a mode; every value is checked, and None is replaced by the default.

    Raises:
        UsageError: A parameter that the mode does not have, that is missing, or that is wrong.
    """
    try:
        return read(MODES[mode].request, parameters)
    except Invalid as error:
        raise _refuse_request(mode, parameters, error) from None


def _refuse_request(mode: str, parameters: Mapping[str, Any], error: Invalid) -> UsageError:
    """Return the error of a request in the words of the modes."""
    fields = MODES[mode].parameters
    for name in parameters:
        if name not in fields:
            message = f"{mode} has no parameter {short_repr(name)}"
            known = {other: MODES[other].parameters for other in MODES}
            hint = suggest_parameter(name, mode, known)
            return name_parameter(UsageError(message, code="E-USAGE", hint=hint), str(name))
    missing = [name for name, field in fields.items() if field.required and name not in parameters]
    if missing:
        message = f"{mode} needs {' and '.join(missing)}"
        return name_parameter(UsageError(message, code="E-USAGE"), missing[0])
    refused = _refuse(error, fields[error.path], parameters[error.path])
    return name_parameter(refused, error.path)


def name_parameter(error: Refused, name: str) -> Refused:
    """Return an error with the name of the parameter that is wrong, unless it has one."""
    error.parameter = error.parameter or name
    return error


@contextmanager
def naming_parameters(fields: Mapping[str, Field]) -> Iterator[None]:
    """Name the parameter of an error by its code, which begins with that of the parameter."""
    try:
        yield
    except LdmrefError as error:
        codes = {validation.code_for(name) + "-": name for name in fields} | {"E-SIZE-": "width"}
        found = [code for code in codes if f"{error.code}-".startswith(code)]
        name_parameter(error, codes[max(found, key=len)] if found else "")
        raise


def _refuse(error: Invalid, field: Field, value: object) -> UsageError:
    """Return the error of a value in the words of the modes."""
    limits = field.get(Range)
    try:
        if field.kind is int and limits is not None:
            validation.check_integer(field.name, value, int(limits.low), int(limits.high))
        if field.kind is bool:
            validation.check_flag(field.name, value)
    except UsageError as worded:
        return worded
    return UsageError(str(error), code=validation.code_for(field.name), hint=error.hint)


def require_config(what: str, model: object) -> ModelConfig:
    """Return the configuration of a model.

    Args:
        what: What needs the model, for the message.
        model: The model.

    Raises:
        UsageError: `model` is something else.
    """
    config = getattr(model, "config", None)
    if not isinstance(config, ModelConfig):
        name = model if isinstance(model, str) and len(model) < 80 else ""
        raise UsageError(
            f"{what} needs a model, not {short_repr(model)}",
            code="E-MODEL",
            hint=f"model = ldmref.load({name!r})" if name else "model = ldmref.load()",
        )
    return config
