"""The functions of `ldmref.math`, with their arguments checked first.

The formulas compute with what they are passed: a number out of range becomes NaN, negative variance
or a plausible wrong number. Here each argument is compared with its line in the docstring (range,
real floating dtype, shape or dtype of another argument), and NaN is refused. That reads every
number, and is meant for tests, notebooks and debugging. Classes check themselves, and are the same.

>>> import numpy as np
>>> from ldmref.math import checked
>>> checked.q_sample(np.ones((1, 2)), 2.0, np.zeros((1, 2)))
Traceback (most recent call last):
ValueError: q_sample: alpha_bar is 2.0; need alpha_bar in [0, 1]
"""

from __future__ import annotations

import functools
import inspect
import operator
import re
from collections.abc import Callable, Iterator
from numbers import Real
from typing import Any, NamedTuple

import ldmref.math
from ldmref.math.arrays import Array, array_namespace

_COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_OPERAND = r"-?\d+(?:\.\d+)?|[a-z]\w*"


class Argument(NamedTuple):
    """The description of one argument in the docstring."""

    floating: bool  # an array of a real floating dtype
    scalar: bool  # a Python number is accepted
    shape_of: str  # the argument whose shape it has, or ""
    dtype_of: str
    bounds: tuple[tuple[str, str, str], ...]  # (argument, comparison, argument or number)
    range: str  # the bounds in the words of the docstring


def __getattr__(name: str) -> Callable[..., Any]:
    if name not in ldmref.math.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    function = getattr(ldmref.math, name)
    return function if isinstance(function, type) else _checked(function)


def __dir__() -> list[str]:
    return list(ldmref.math.__all__)


@functools.cache
def _checked(function: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(function)
    documented = documented_arguments(function)

    @functools.wraps(function)
    def check_and_call(*args: object, **kwargs: object) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        values = {name: v for name, v in bound.arguments.items() if _is_number(v)}
        for name, value in bound.arguments.items():
            for problem in _problems(name, value, documented[name], values):
                raise ValueError(f"{function.__name__}: {problem}")
        return function(*args, **kwargs)

    return check_and_call


def documented_arguments(function: Callable[..., Any]) -> dict[str, Argument]:
    """Argument -> what the section "Args" of the function's docstring says about it.

    Raises:
        RuntimeError: an argument has no line, as without docstrings (`python -OO`).
    """
    docstring = inspect.getdoc(function) or ""
    section = re.search(r"^Args:\n(.*?)(?:\n\n|\Z)", docstring, re.DOTALL | re.MULTILINE)
    entries = re.split(r"\n    (?=\S)", "\n" + section[1]) if section else []
    parameters = list(inspect.signature(function).parameters)
    documented = {}
    for entry in filter(None, entries):
        names, _, text = " ".join(entry.split()).partition(": ")
        for name in names.split(", "):
            documented[name] = _argument(name, re.split(r"[;:]|\. (?=[A-Z])", text)[0], parameters)
    missing = [name for name in parameters if name not in documented]
    if missing:
        raise RuntimeError(f"the docstring of {function.__name__} does not describe {missing}")
    return documented


def _argument(name: str, text: str, parameters: list[str]) -> Argument:
    bounds = []
    words = []
    for low, a, b, high in re.findall(rf"\bin ([\[(])({_OPERAND}), ({_OPERAND})([\])])", text):
        if _known(parameters, a, b):
            bounds += [
                (name, ">=" if low == "[" else ">", a),
                (name, "<=" if high == "]" else "<", b),
            ]
            words.append(f"{name} in {low}{a}, {b}{high}")
    for chain in re.findall(
        rf"(?:^|, )(?:all )?((?:{_OPERAND})?(?: ?[<>]=? (?:{_OPERAND}))+)", text
    ):
        operands = re.findall(_OPERAND, chain)
        signs = re.findall(r"[<>]=?", chain)
        operands = operands if len(operands) > len(signs) else [name, *operands]
        if _known(parameters, *operands):
            bounds += zip(operands, signs, operands[1:], strict=False)
            words.append(chain if chain[0] not in "<>" else f"{name} {chain}")
    shape = re.search(r"\bshape (?:and dtype )?of `(\w+)`", text)
    dtype = re.search(r"\bdtype of `(\w+)`", text)
    return Argument(
        "real floating" in text,
        "scalar" in text,
        shape[1] if shape else "",
        dtype[1] if dtype else "",
        tuple(bounds),
        " and ".join(words),
    )


def _known(parameters: list[str], *operands: str) -> bool:
    return all(x in parameters or not x[0].isalpha() for x in operands)


def _is_number(value: object) -> bool:
    return hasattr(value, "dtype") or (isinstance(value, Real) and not isinstance(value, bool))


def _problems(name: str, value: Any, says: Argument, values: dict[str, Array]) -> Iterator[str]:
    """Yield the violations of an argument's description."""
    if value is None or isinstance(value, str) or callable(value):
        return
    if says.floating and not (says.scalar and isinstance(value, Real)) and not _is_floating(value):
        kind = f"an array of {value.dtype}" if hasattr(value, "dtype") else type(value).__name__
        yield f"{name} must be an array of a real floating dtype, not {kind}"
    if name not in values:
        if says.bounds:
            yield f"{name} must be a number or an array, not {type(value).__name__}"
        return
    for left, sign, right in says.bounds:
        a, b = (values.get(x) if x.isidentifier() else float(x) for x in (left, right))
        if a is None or b is None:
            continue
        subject, number = (left, a) if left.isidentifier() else (right, b)
        for element, x in _first(number, _COMPARISONS[sign](a, b)):
            yield f"{subject}{element} is {x}; need {says.range}"
    if isinstance(value, Real) or _is_floating(value):
        for element, _ in _first(value, value == value):  # false for NaN
            yield f"{name}{element} is NaN"
    for attribute, other in (("shape", says.shape_of), ("dtype", says.dtype_of)):
        want, got = (getattr(x, attribute, None) for x in (values.get(other), value))
        if want is not None and got != want:
            yield f"{name} must have the {attribute} of {other}, {want}, not {got}"


def _is_floating(value: object) -> bool:
    dtype = getattr(value, "dtype", None)
    return dtype is not None and array_namespace(value).isdtype(dtype, "real floating")


def _first(value: Any, holds: Array) -> Iterator[tuple[str, float]]:
    """Yield index and value of the first element for which a condition fails, if any."""
    if isinstance(holds, bool):
        if not holds:
            yield "", float(value)
        return
    xp = array_namespace(holds)
    if bool(xp.all(holds)):
        return
    index = []
    flat = int(xp.argmin(xp.reshape(xp.astype(holds, xp.int8), (-1,))))
    for size in reversed(holds.shape):
        flat, i = divmod(flat, size)
        index.insert(0, i)
    element = value if isinstance(value, Real) else xp.broadcast_to(value, holds.shape)[*index]
    yield str(index) if index else "", float(element)
