"""Cases of formulas: calls of the functions of `ldmref.math`, as their identities make them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np

import ldmref.math
from ldmref.backends.numpy import NumpyBackend
from ldmref.cases.values import NamedArrays, ValueCase
from ldmref.check.calls import Call, RecordedFunctions, named_parts
from ldmref.check.identity import Functions
from ldmref.check.runner import identities, random_inputs

CALLS = 2  # cases of a function at most
LARGEST = 600  # numbers of an input or output
FUNCTIONS = [
    name for name in ldmref.math.__all__ if not isinstance(getattr(ldmref.math, name), type)
]
PLAIN = (bool, int, float, str, type(None))


def formula_cases() -> Iterator[ValueCase]:
    """Yield calls of every function whose arguments are numbers, arrays and names."""
    backend = NumpyBackend(dtype="float64")
    counts: Counter[str] = Counter()
    seen: set[str] = set()
    for identity in identities():
        if identity.gradients:
            continue
        recorded = RecordedFunctions(Functions(), FUNCTIONS)
        with suppress(Exception):  # an identity of another array library
            identity.case(recorded, random_inputs(identity, backend, seed=0, case=0))
        for call in recorded.calls:
            name = call.function
            case = _case(call, counts[name], identity.ulps) if counts[name] < CALLS else None
            if case is None:
                continue
            key = json.dumps([name, case.attributes, shapes(case.inputs)], sort_keys=True)
            if key not in seen:
                seen.add(key)
                counts[name] += 1
                yield case


def shapes(arrays: NamedArrays) -> dict[str, list[int]]:
    """Return the shape of each array."""
    return {name: list(x.shape) for name, x in arrays.items()}


def _case(call: Call, number: int, ulps: float) -> ValueCase | None:
    """Return a call as a case; None if an argument or result is neither array nor number."""
    name = call.function
    function: Any = getattr(ldmref.math, name)
    if not call.finished or isinstance(function, type):
        return None
    inputs: dict[str, np.ndarray] = {}
    attributes: dict[str, Any] = {}
    for key, value in call.arguments.items():
        if isinstance(value, np.ndarray | np.floating) and np.asarray(value).dtype.kind in "fi":
            inputs[key] = np.array(value)
        elif isinstance(value, float):
            inputs[key] = np.asarray(value)
        elif isinstance(value, PLAIN):
            attributes[key] = value
        elif isinstance(value, tuple) and all(isinstance(v, PLAIN) for v in value):
            attributes[key] = list(value)
        else:
            return None
    scalars = {key for key, value in call.arguments.items() if isinstance(value, float)}
    plain = {key: value for key, value in call.arguments.items() if key in attributes}

    def compute(arrays: NamedArrays) -> NamedArrays:
        numbers = {key: float(x) if key in scalars else x for key, x in arrays.items()}
        parts = named_parts(name, function(**numbers, **plain))
        return {part: np.asarray(value) for part, value in parts.items()}

    try:
        outputs = compute(inputs)
    except TypeError:  # arguments that have a position only
        return None
    sizes = [x.size for x in (*inputs.values(), *outputs.values())]
    kinds = {x.dtype.kind for x in outputs.values()}
    if max(sizes) > LARGEST or not kinds <= set("fi") or (not inputs and not attributes):
        return None
    return ValueCase(
        f"formulas.{name}.{number}", "formulas", name, attributes, inputs, compute, 2.0 * ulps
    )
