"""Save one case of an identity as a file of arrays (.npz), to inspect it in a debugger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ldmref.backends import Backend
from ldmref.check.calls import Call, value_text
from ldmref.check.comparison import Comparison, as_numpy
from ldmref.check.identity import Functions, Identity
from ldmref.check.made_calls import MadeCall
from ldmref.check.runner import repeat_case
from ldmref.io.atomic import atomic_write


def case_arrays(
    identity: Identity, functions: Functions, backend: Backend, seed: int, case: int
) -> dict[str, np.ndarray]:
    """Return the arrays of one case, by name.

    `identity`, `case`, `seed`, `backend` and `dtype` identify the case. `got`, `expected` and
    `scale` are the values compared; of several items, each has its name or number: `got.variance`.
    The calls of the function under test are numbered: `1.q_posterior.alpha_bar` is an argument,
    `1.q_posterior.returned` or `1.q_posterior.returned.variance` a result. Of a step that the
    function made, `1.heun.x`, `1.heun.sigma` and `1.heun.sigma_next` are the arguments, and
    `1.heun.denoise.2.x` and `1.heun.denoise.2.returned` what the denoiser got and gave the second
    time.
    """
    calls, comparison = repeat_case(identity, functions, backend, seed, case)
    arrays = {
        "identity": np.asarray(identity.name),
        "case": np.asarray(case),
        "seed": np.asarray(seed),
        "backend": np.asarray(backend.name),
        "dtype": np.asarray(backend.dtype),
    }
    for name, value in _compared(comparison):
        arrays[name] = _plain(value)
    for number, call in enumerate(calls, 1):
        for name, value in _values(call):
            arrays[f"{number}.{call.function}.{name}"] = _plain(value)
    return arrays


def save_case(path: Path, arrays: dict[str, Any], overwrite: bool = False) -> None:
    """Write the arrays as .npz; `numpy.load` reads it.

    Raises:
        OutputError: The file exists (unless `overwrite`) or cannot be written.
    """
    with atomic_write(path, overwrite=overwrite) as file:
        np.savez(file, **arrays)


def _compared(comparison: Comparison | None) -> list[tuple[str, Any]]:
    if comparison is None:
        return []
    got, expected = comparison[:2]
    named = [("scale", comparison[2] if len(comparison) > 2 else 1.0)]
    if not isinstance(got, list | dict):
        return [("got", got), ("expected", expected), *named]
    names = got if isinstance(got, dict) else range(len(got))
    values = got.values() if isinstance(got, dict) else got
    for name, value, oracle in zip(names, values, expected, strict=False):
        named += [(f"got.{name}", value), (f"expected.{name}", oracle)]
    return named


def _values(call: Call) -> list[tuple[str, Any]]:
    """Return the arguments and results of a call by name; a call that raised has no results."""
    inputs = call.inputs() if isinstance(call, MadeCall) else call.arguments
    values = list(inputs.items())
    if call.finished:
        parts = call.parts()
        single = [*parts] == ["returned"]
        values += [(n if single else f"returned.{n}", v) for n, v in parts.items()]
    return values


def _plain(value: object) -> np.ndarray:
    """Convert numbers to an array, anything else (a function, None) to text."""
    try:
        array = as_numpy(value)
    except Exception:  # another library may raise anything
        return np.asarray(value_text(value))
    return array if array.dtype.kind in "biufcU" else np.asarray(value_text(value))
