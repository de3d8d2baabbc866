"""What is known about a parameter, and how a mode's signature declares its parameters."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Parameter:
    """One parameter; `name`, `type`, `optional` and `required` are read
    off a mode's signature.

    Args:
        help: for `help()`, `--help` and the schema.
        default: None for the model's own, which `help` says.
        minimum, maximum: of numbers.
        choices: of names.
        check: (name, value) -> value, for what is more than a number, a name or a flag.
        parse: text -> value, where the type alone does not say how it is written.
        flags: on the command line, if not `--name`; () where a command has its own.
        metavar: on the command line; with one, choices are checked with the other values.
        multiple: whether the flag may be repeated.
        json: its type in the schema, where the type alone does not say it.
        recorded: whether it is a part of the JSON in an image.
    """

    help: str
    default: Any = None
    minimum: float | None = None
    maximum: float | None = None
    choices: Collection[str] = ()
    check: Callable[[str, Any], Any] | None = None
    parse: Callable[[str], Any] | None = None
    flags: tuple[str, ...] | None = None
    metavar: str | None = None
    multiple: bool = False
    json: Mapping[str, Any] | None = None
    recorded: bool = True
    name: str = ""
    type: type | None = None
    optional: bool = False
    required: bool = False

    @property
    def long_flag(self) -> str:
        """Its first long flag without the hyphens, "" where a command has its own."""
        flags = (f"--{self.name.replace('_', '-')}",) if self.flags is None else self.flags
        return next((flag[2:] for flag in flags if flag.startswith("--")), "")

    @property
    def description(self) -> str:
        """Help, range and default in one text."""
        text = self.help
        if self.minimum is not None:
            text += f" From {self.minimum:g} to {self.maximum:g}."
        if self.choices:
            text += f" One of {', '.join(self.choices)}."
        return text if self.default in (None, "", ()) else f"{text} Default: {self.default}."

    def schema(self) -> dict[str, Any]:
        """Its JSON schema."""
        types = {bool: "boolean", int: "integer", float: "number", str: "string"}
        schema: dict[str, Any] = {"description": self.help}
        if self.json is not None:
            schema |= self.json
        elif self.type in types:
            schema["type"] = types[self.type]
        if self.choices:
            schema["enum"] = list(self.choices)
        schema |= {
            key: value
            for key, value in (("minimum", self.minimum), ("maximum", self.maximum))
            if value is not None
        }
        return schema if self.default is None else schema | {"default": self.default}


def parameters_of(function: Callable) -> dict[str, Parameter]:
    """The parameters that a mode's signature declares, by name."""
    hints = get_type_hints(function, include_extras=True)
    parameters = {}
    for name, argument in inspect.signature(function).parameters.items():
        if argument.kind is inspect.Parameter.VAR_KEYWORD:
            parameters |= keys_of(*get_args(hints[name]))
        elif get_origin(hints[name]) is Annotated:
            required = argument.default is inspect.Parameter.empty
            default = None if required else argument.default
            declared = _declared(name, hints[name])
            parameters[name] = replace(declared, default=default, required=required)
    return parameters


def keys_of(typed_dict: type) -> dict[str, Parameter]:
    """The parameters that a TypedDict declares, by name."""
    hints = get_type_hints(typed_dict, include_extras=True)
    return {name: _declared(name, hint) for name, hint in hints.items()}


def _declared(name: str, hint: Any) -> Parameter:
    annotation, parameter = get_args(hint)
    union = get_origin(annotation) in (Union, UnionType)
    types = list(get_args(annotation)) if union else [annotation]
    optional = NoneType in types
    types = [t for t in types if t is not NoneType]
    kind = types[0] if len(types) == 1 else None
    return replace(parameter, name=name, type=kind, optional=optional)


def document(function: Callable, parameters: Mapping[str, Parameter]) -> None:
    """Give a mode's function the full signature, and an `Args:` section with every parameter.

    Its own docstring describes the mode; `model`, `callback` and `cancel` are the same everywhere.
    """
    hints = get_type_hints(function)
    signature = inspect.signature(function)
    arguments = [
        argument.replace(annotation=hints[name])
        for name, argument in signature.parameters.items()
        if argument.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    [keys] = get_args(hints["parameters"])
    arguments += [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=parameters[name].default,
            annotation=hint,
        )
        for name, hint in get_type_hints(keys).items()
    ]
    function.__signature__ = signature.replace(parameters=arguments)  # type: ignore[attr-defined]
    lines = [
        ("model", "From `ldmref.load` or `ldmref.random_model`."),
        *((name, parameter.description) for name, parameter in parameters.items()),
        ("callback", "Called after every step with a `Progress`."),
        ("cancel", "A `threading.Event`; once set, `Cancelled` is raised before the next step."),
    ]
    section = "\n".join(
        textwrap.fill(f"    {name}: {text}", 88, subsequent_indent=" " * 8) for name, text in lines
    )
    function.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\nArgs:\n{section}\n"
