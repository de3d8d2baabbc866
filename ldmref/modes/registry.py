"""The modes by name: `@mode(planner)` registers a function, and documents its parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from ldmref.errors import UsageError, short_repr
from ldmref.models.config import ModelConfig
from ldmref.modes import validation
from ldmref.modes.declaration import Parameter, document, parameters_of


class Mode(NamedTuple):
    """A mode: a sentence, its parameters by name with their defaults, and what plans it."""

    summary: str
    parameters: dict[str, Parameter]
    defaults: dict[str, Any]
    plan: Callable[[ModelConfig, dict[str, Any]], Any]


def config_of(what: str, model: Any) -> ModelConfig:
    """The configuration of a model.

    Args:
        what: needs the model, for the message.

    Raises:
        UsageError: it is not a model.
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
