"""Calls of functions that a function under test returns, such as the step of a sampler.

`ancestral(eta=1.0)` returns a step, and a counterexample needs the state and the noise levels that
the step got, and what the denoiser returned to it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FunctionType, MethodType
from typing import Any

import numpy as np

from ldmref.check.calls import Call, RecordedFunctions, named_arguments, value_text
from ldmref.check.comparison import to_host

STEP = ("denoise", "x", "interval", "history", "noise")
STEP_RESULT = ("x_next", "x0", "history")
SHOWN = 4  # calls of the arguments


@dataclass
class ArgumentCall:
    """One call of a function among the arguments: its name, arguments and result."""

    name: str
    arguments: dict[str, Any]
    returned: Any

    def __str__(self) -> str:
        values = ", ".join(f"{name}={value_text(value)}" for name, value in self.arguments.items())
        return f"{self.name}({values}) returned {value_text(self.returned)}"


@dataclass
class MadeCall(Call):
    """One call of the function that a function under test made; `factory` is the call of that."""

    factory: Call = field(kw_only=True)
    evaluations: list[ArgumentCall] = field(default_factory=list, kw_only=True)

    def __str__(self) -> str:
        plain = {name: value for name, value in self.arguments.items() if not callable(value)}
        values = (f"{name}={_text(value)}" for name, value in plain.items())
        shown = [f"  {evaluation}" for evaluation in self.evaluations[:SHOWN]]
        more = ["  ..."] if len(self.evaluations) > SHOWN else []
        return "\n      ".join([f"{self.factory}({', '.join(values)})", *shown, *more])

    def parts(self) -> dict[str, Any]:
        """Return the values of the result by name."""
        if isinstance(self.returned, tuple | list) and len(self.returned) == len(STEP_RESULT):
            return dict(zip(STEP_RESULT, self.returned, strict=True))
        return {"returned": self.returned}

    def inputs(self) -> dict[str, Any]:
        """Return all that decides the result: also what the functions among the arguments gave."""
        values = dict(self.factory.arguments)
        values |= {name: value for name, value in self.arguments.items() if not callable(value)}
        for number, evaluation in enumerate(self.evaluations, 1):
            results = {**evaluation.arguments, "returned": evaluation.returned}
            values |= {f"{evaluation.name}.{number}.{name}": v for name, v in results.items()}
        return values


class RecordedMakers(RecordedFunctions):
    """Functions under test that record also how the functions that they return are called."""

    def __init__(self, functions: Any, names: list[str]):
        super().__init__(functions, names)
        self._running: list[MadeCall] = []

    def __getattr__(self, name: str) -> Any:
        function = super().__getattr__(name)
        if name not in self._names or isinstance(function, type):
            return function

        @functools.wraps(function)
        def make(*args: object, **kwargs: object) -> Any:
            before = len(self.calls)
            named = named_arguments(name, args, {})
            watched = [self._watched(value, argument) for argument, value in named.items()]
            made = function(*watched, **kwargs)
            if isinstance(made, tuple) and made and all(map(_is_function, made)):
                return tuple(self._recorded(one, self.calls[before]) for one in made)
            if callable(made) and _is_function(made):
                return self._recorded(made, self.calls[before])
            return made

        return make

    def _recorded(self, made: Callable[..., Any], factory: Call) -> Callable[..., Any]:
        """Return the made function, which adds a call to `calls` in place of its factory's."""

        @functools.wraps(made)
        def call_and_record(*args: object) -> Any:
            arguments = _arguments(made, args)
            call = MadeCall(factory.function, arguments, factory=factory)
            self.calls[:] = [other for other in self.calls if other is not factory]
            self.calls.append(call)
            self._running.append(call)
            names = STEP if len(args) == len(STEP) else ("",) * len(args)
            try:
                watched = zip(args, names, strict=True)
                call.returned = made(*(self._watched(value, name) for value, name in watched))
            finally:
                self._running.pop()
            call.finished = True
            return call.returned

        return call_and_record

    def _watched(self, value: Any, name: str) -> Any:
        """Return a function that notes its calls in the call that is running."""
        if not _is_function(value):
            return value

        @functools.wraps(value)
        def call_and_note(*args: Any, **kwargs: Any) -> Any:
            returned = value(*args, **kwargs)
            if self._running and not any(map(callable, args)):
                named = {**_names_of(value, args), **kwargs}
                self._running[-1].evaluations.append(ArgumentCall(name, named, returned))
            return returned

        return call_and_note


def differs_only_in_last_steps(theirs: list[Call], ours: list[Call]) -> bool:
    """Return whether steps to sigma_next = 0 return something else, and all other steps the same.

    Args:
        theirs: Calls of steps under test.
        ours: Calls of ldmref's steps in the same cases.
    """
    agree = {True: 0, False: 0}
    for one, other in zip(theirs, ours, strict=False):
        if not isinstance(one, MadeCall) or "sigma_next" not in one.arguments:
            return False
        if not (one.finished and other.finished):
            return False
        x_next, own = (to_host(call.parts()["x_next"]) for call in (one, other))
        same = x_next.shape == own.shape and np.allclose(x_next, own)
        is_last = one.arguments["sigma_next"] == 0
        if same == is_last:
            return False
        agree[is_last] += 1
    return min(agree.values()) > 0


def _is_function(value: object) -> bool:
    return isinstance(value, FunctionType | MethodType)


def _arguments(made: Callable[..., Any], args: tuple[Any, ...]) -> dict[str, Any]:
    """Name the arguments; of a step's interval, those that a formula needs."""
    if len(args) != len(STEP):
        return _names_of(made, args)
    denoise, x, interval, history, noise = args
    levels = {"sigma": interval.sigma, "sigma_next": interval.sigma_next}
    return {"denoise": denoise, "x": x, **levels, "history": history, "noise": noise}


def _names_of(function: Callable[..., Any], args: tuple[Any, ...]) -> dict[str, Any]:
    """Name arguments by position; those of a function that takes any are x and t."""
    parameters = inspect.signature(function).parameters.values()
    names = [p.name for p in parameters if p.kind is not p.VAR_POSITIONAL]
    return dict(zip(names if len(names) >= len(args) else ("x", "t"), args, strict=False))


def _text(value: object) -> str:
    """Return a value's text; a history is only empty or not."""
    if isinstance(value, tuple):
        return "of the step before" if value else "()"
    return value_text(value)
