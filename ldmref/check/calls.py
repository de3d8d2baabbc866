"""Calls of a failing case: their text, their results and the differences from ldmref's results.

A call is shown as `q_sample(x0=[0.126, ...] (3, 4), alpha_bar=0.3, ...)`.
"""

from __future__ import annotations

import functools
import inspect
import re
import reprlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ldmref.check.comparison import Comparison, deviation, spread, to_host
from ldmref.check.identity import Functions, public

# names of the results of functions that return a plain tuple
PARTS = {
    "adaptive_projected_guidance": ("guided", "average"),
    "codebook_moving_average": ("counts", "sums", "codebook"),
    "conditional_scores": ("score of x", "score of y"),
    "flow_chain_moments": ("mean", "variance"),
    "flow_log_likelihood": ("log-density", "state"),
    "flow_renoise_transition": ("mean", "std"),
    "flow_sde_transition": ("mean", "std"),
    "interpolant_pair": ("x0", "eps"),
    "nearest_code": ("indices", "quantised"),
    "principal_components": ("mean", "components", "variances"),
    "q_posterior": ("mean", "variance"),
    "reverse_sde": ("drift", "diffusion"),
    "training_pair": ("x_t", "target"),
}


_SHORT = reprlib.Repr()
_SHORT.maxother = 100  # a process with all its numbers


@dataclass
class Call:
    """One call of a function under test."""

    function: str
    arguments: dict[str, Any]
    returned: Any = None
    finished: bool = field(default=False, compare=False)  # False: it raised

    def __str__(self) -> str:
        values = (f"{name}={value_text(value)}" for name, value in self.arguments.items())
        return f"{self.function}({', '.join(values)})"

    def parts(self) -> dict[str, Any]:
        """Return the values of the result by name; a single value is called "returned"."""
        return named_parts(self.function, self.returned)


class RecordedFunctions(Functions):
    """Functions under test that record in `calls` how the functions called `names` are called."""

    def __init__(self, functions: Functions, names: list[str]):
        super().__init__()
        self._functions = functions
        self._names = names
        self.calls: list[Call] = []

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._functions, name)
        if name not in self._names:
            return function

        def record(*args: object, **kwargs: object) -> Call:
            self.calls.append(Call(name, named_arguments(name, args, kwargs)))
            return self.calls[-1]

        if isinstance(function, type):
            return _recorded_class(function, record)

        @functools.wraps(function)
        def call_and_record(*args: object, **kwargs: object) -> Any:
            call = record(*args, **kwargs)
            call.returned = function(*args, **kwargs)
            call.finished = True
            return call.returned

        return call_and_record


def _recorded_class(kind: type, record: Callable[..., Call]) -> type:
    """Return a subclass that records its construction; cases can also derive from it."""

    def construct(self: object, *args: object, **kwargs: object) -> None:
        call = record(*args, **kwargs)
        kind.__init__(self, *args, **kwargs)
        call.returned = kind.__name__
        call.finished = True

    return type(kind.__name__, (kind,), {"__init__": construct})


def named_arguments(function: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by their names in ldmref's function."""
    names = list(inspect.signature(public(function)).parameters)
    return dict(zip(names, args, strict=False)) | kwargs


def named_parts(function: str, returned: object) -> dict[str, Any]:
    """Return the values of a function's result by name."""
    if not isinstance(returned, tuple | list):
        return {"returned": returned}
    fields = getattr(returned, "_fields", PARTS.get(function, ()))
    names = fields if len(fields) == len(returned) else range(len(returned))
    return {str(name): value for name, value in zip(names, returned, strict=True)}


def difference_from_ours(call: Call, eps: float, allowed: float) -> str:
    """Describe the part of a result that differs most from ldmref's; "" if all parts agree.

    Calls with functions among their arguments are not repeated, because these may have a state.
    """
    ours = public(call.function)
    if not call.finished or isinstance(ours, type):
        return ""
    if any(callable(value) for value in call.arguments.values()):
        return ""
    expected = named_parts(call.function, ours(**call.arguments))
    got = call.parts()
    if not all(_is_number(value) for value in expected.values()):
        return ""
    if len(got) != len(expected):
        names = ", ".join(expected)
        values = "1 value" if len(got) == 1 else f"{len(got)} values"
        return f"{call.function} returned {values}, ldmref's {len(expected)}: {names}"
    pairs = zip(expected, got.values(), expected.values(), strict=True)
    found = {name: deviation(_comparable(g, e), eps) for name, g, e in pairs}
    name, worst = max(found.items(), key=lambda item: item[1].ulps)
    if worst.ulps <= allowed:
        return ""
    part = f"{name} of {call.function}" if len(expected) > 1 else call.function
    return f"{part}: {str(worst).replace('the oracle has', 'ldmref has')}"


def _comparable(theirs: object, ours: object) -> Comparison:
    """Broadcast two results to one shape if possible; the scale is the largest value of ours."""
    got = spread(theirs, to_host(ours))
    expected = to_host(ours)
    return got, spread(expected, got), np.max(np.abs(expected), initial=0.0) or 1.0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) or hasattr(value, "shape")


def arguments_hint(call: Call, error: Exception | None) -> str:
    """Return a hint for a function that cannot take the arguments of ldmref's function."""
    if not isinstance(error, TypeError) or not re.search(rf"\b{call.function}\(\)", str(error)):
        return ""
    parameters = inspect.signature(public(call.function)).parameters.values()
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    return f"hint: its arguments are {call.function}{inspect.Signature(bare)}"


@functools.cache
def per_example(function: str) -> list[str]:
    """Return the arguments that the function's docstring calls a "scalar or (n,)".

    >>> per_example("q_sample"), per_example("euler_maruyama")
    (['alpha_bar'], ['t', 't_next'])
    """
    texts = argument_texts(function).items()
    return [name for name, text in texts if re.search(r"\bscalars?(,| or) \(n,\)", text)]


def argument_texts(function: str) -> dict[str, str]:
    """Return what the function's docstring says of each argument, in one line."""
    docstring = inspect.getdoc(public(function)) or ""
    section = re.search(r"^Args:\n(.*?)(?:\n\n|\Z)", docstring, re.DOTALL | re.MULTILINE)
    entries = re.split(r"\n    (?=\S)", "\n" + section[1]) if section else []
    texts = [" ".join(entry.split()).partition(": ") for entry in entries]
    return {name: text for names, _, text in texts for name in names.split(", ")}


def value_text(value: Any) -> str:
    """Return a number, the first numbers of an array with its shape, or a function's name.

    The only number of an array has all its digits: an alpha-bar of 0.999999999 is not 1.

    >>> import numpy as np
    >>> value_text(0.1), value_text(np.asarray([0.5, 2.0])), value_text(np.ones((2, 3)))
    ('0.1', '[0.5, 2]', '[1, 1, 1, 1, ...] (2, 3)')
    """
    if hasattr(value, "shape") and value.shape != ():
        flat = to_host(value).ravel()
        if flat.size == 1:
            shape = "" if value.shape == (1,) else f" {tuple(value.shape)}"
            return f"[{flat[0].item()!r}]{shape}"
        numbers = ", ".join(f"{x:.6g}" for x in flat[:4])
        if len(value.shape) == 1 and flat.size <= 4:
            return f"[{numbers}]"
        return f"[{numbers}{', ...' if flat.size > 4 else ''}] {tuple(value.shape)}"
    if isinstance(value, Callable):
        return getattr(value, "__name__", type(value).__name__)
    return repr(float(value)) if hasattr(value, "shape") else _SHORT.repr(value)
