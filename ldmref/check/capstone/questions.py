"""A question to a student's function: arguments, the right result, and results of mistakes."""

from __future__ import annotations

import functools
import json
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ldmref.backends import Backend
from ldmref.check.calls import value_text
from ldmref.check.causes import Mistake, Parts, mean_difference, named, of_results
from ldmref.check.comparison import to_host
from ldmref.check.results import CheckResult
from ldmref.io.embedded import embedded_folder

ALLOWED = 1e-4  # of the largest number: several hundred roundings of float32
SAME = 0.02  # of the error: a mistake that explains the rest of it is the right one
NONE = (
    "this is the result of no likely mistake alone: correct what is marked before it first, then "
    "compare parts of it with `ldmref diff`"
)
FOLDER = embedded_folder("emoji")
WEIGHTS = FOLDER / "model.safetensors"


class WeightsAt(NamedTuple):
    """An argument: the student's weights below a name; "" means all of them."""

    name: str

    def __repr__(self) -> str:
        return f'weights.at("{self.name}")' if self.name else "weights"


class ConfigAt(NamedTuple):
    """An argument: a network's part of config.json; "" means the whole file."""

    name: str

    def __repr__(self) -> str:
        return f'config["{self.name}"]' if self.name else "config"


def config_of(network: str) -> dict[str, Any]:
    """Return the part "unet" or "vae" of config.json; with "" the whole file."""
    config = json.loads((FOLDER / "config.json").read_text("utf-8"))
    return config[network] if network else config


@dataclass(frozen=True)
class Question:
    """One call of a piece.

    Args:
        piece: The function's name.
        law: What is asked, in words.
        arguments: Arguments by the name that the page gives them, in their order.
        right: The right result: arrays by name, in the order in which the function returns them.
        mistakes: The likely mistakes.
        if_raised: A hint for a function that raises, or returns another shape.
        allowed: The largest difference allowed.
        absolute: Whether the difference is meant as it is, not as a share of the largest number.
    """

    piece: str
    law: str
    arguments: Mapping[str, Any]
    right: Parts
    mistakes: Sequence[Mistake]
    if_raised: str = ""
    allowed: float = ALLOWED
    absolute: bool = False


class Student:
    """A student's module, whose functions get arrays of a backend's library."""

    def __init__(self, module: ModuleType, backend: Backend, seed: int = 0, path: Path = WEIGHTS):
        self.path = path
        self.module = module
        self.backend = backend
        self.seed = seed

    def rng(self, name: str) -> np.random.Generator:
        """Return a source of random inputs for a piece."""
        return np.random.default_rng([self.seed, *name.encode()])

    def array(self, x: object) -> Any:
        """Return an argument as the function gets it; floats keep their type."""
        if isinstance(x, WeightsAt):
            return self.weights.at(x.name) if x.name else self.weights
        if isinstance(x, ConfigAt):
            return config_of(x.name)
        if not isinstance(x, np.ndarray):
            return x
        dtype = str(x.dtype) if x.dtype.kind == "f" else None
        return self.backend.asarray(x, dtype)

    @functools.cached_property
    def reader(self) -> Callable[[Path], Any] | None:
        """`read_weights`, of the module or of a module from which it imports functions."""
        modules = [self.module]
        for module in modules:
            if callable(reader := getattr(module, "read_weights", None)):
                return reader
            names = {getattr(value, "__module__", None) for value in vars(module).values()}
            found = [
                sys.modules[name] for name in sorted(filter(None, names)) if name in sys.modules
            ]
            modules += [m for m in found if m not in modules and _is_beside(m, self.module)]
        return None

    @functools.cached_property
    def weights(self) -> Any:
        """The embedded model's weights as the student's `read_weights` returns them."""
        if self.reader is None:
            raise NameError("read_weights, of piece 1, is neither here nor in an imported file")
        return self.reader(self.path)

    def where(self, error: BaseException) -> str:
        """Return the last line of the student's files that an error went through."""
        frames = traceback.extract_tb(error.__traceback__)
        folder = Path(self.module.__file__ or "").resolve().parent
        own = [f for f in frames if Path(f.filename).resolve().parent == folder]
        return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""

    def call(self, question: Question) -> dict[str, np.ndarray]:
        """Return the parts of the function's result, as NumPy arrays."""
        function = getattr(self.module, question.piece)
        returned = function(*(self.array(value) for value in question.arguments.values()))
        names = [*question.right]
        values = list(returned) if len(names) > 1 else [returned]
        if len(values) != len(names):
            raise ValueError(f"{len(values)} results instead of {len(names)}: {', '.join(names)}")
        return {name: to_host(value) for name, value in zip(names, values, strict=True)}


def _is_beside(module: ModuleType, other: ModuleType) -> bool:
    """Return whether two modules are files of one folder."""
    paths = [getattr(m, "__file__", None) for m in (module, other)]
    return all(paths) and len({Path(path or "").resolve().parent for path in paths}) == 1


def ask(student: Student, question: Question) -> CheckResult:
    """Return the result of a question."""
    calls = (_call_text(question),)
    try:
        got = student.call(question)
    except Exception as error:  # a student's function may fail in any way
        message = (str(error).strip().splitlines() or [""])[0]
        verdict = f"ERROR: {type(error).__name__}: {message}"
        hints = _hint(_missing(question, error) or question.if_raised)
        return outcome(question, np.inf, verdict, f"raised{student.where(error)}", calls, hints)
    worst, detail = _difference(got, question.right, question.absolute)
    if worst <= question.allowed:
        return outcome(question, worst, "ok")
    hints = _hint(question.if_raised) if "instead of" in detail else _named(question, got)
    return outcome(question, worst, "FAILED", detail, calls, hints)


def outcome(
    question: Question,
    worst: float,
    verdict: str,
    detail: str = "",
    calls: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
) -> CheckResult:
    """Return a question's result in the form of an identity's."""
    return CheckResult(
        f"{question.piece}: {question.law}",
        question.piece,
        "",
        "the capstone of the course",
        "ldmref's own",
        1,
        worst,
        question.allowed,
        verdict,
        0,
        detail,
        calls,
        notes,
        "of 255" if question.absolute else "relative",
    )


def _hint(text: str) -> tuple[str, ...]:
    return (f"hint: {text}",) if text else ()


def _missing(question: Question, error: Exception) -> str:
    """Return a hint for a name that is neither in the weights nor in the configuration."""
    arguments = question.arguments.items()
    parts = {name: x for name, x in arguments if isinstance(x, WeightsAt | ConfigAt) and x.name}
    if not isinstance(error, KeyError) or not parts:
        return ""
    return f"here {' and '.join(f'{n} is {x}' for n, x in parts.items())}: names in it begin there"


def _named(question: Question, got: Parts) -> tuple[str, ...]:
    """Return a hint that names the mistake whose result is nearest to this one, if it is near.

    Where none of the question's own is near, those of any result are tried: a sign, a factor 2, ...
    """
    error = mean_difference(got, question.right)
    texts = {mean_difference(got, m.result()): m.text for m in reversed(question.mistakes)}
    nearest = min(texts, default=np.inf)
    if nearest < SAME * error:
        return _hint(f"this is the result if {texts[nearest]}")
    text = named(got, question.right, of_results(question.right), SAME)
    return _hint(f"this is the result if {text}" if text else NONE)


def _difference(got: Parts, right: Parts, absolute: bool) -> tuple[float, str]:
    """Return the largest difference, and where it is."""
    worst, text = 0.0, ""
    for name, expected in right.items():
        value = got[name]
        if value.shape != expected.shape:
            return np.inf, f"{name}: shape {value.shape} instead of {expected.shape}"
        error = np.abs(value.astype(float) - expected.astype(float))
        scale = 1.0 if absolute else float(np.max(np.abs(expected))) or 1.0
        error = np.where(np.isfinite(error), error, np.inf) / scale
        if error.max() > worst or not text:
            worst = max(worst, float(error.max()))
            index = np.unravel_index(np.argmax(error), error.shape)
            at = [int(i) for i in index]
            text = f"{name}: got {value[index]:.6g}, ldmref has {expected[index]:.6g}, at {at}"
    return worst, text


def _call_text(question: Question) -> str:
    texts = []
    for name, value in question.arguments.items():
        is_plain = isinstance(value, np.ndarray | int | float) and not isinstance(value, WeightsAt)
        texts.append(f"{name}={value_text(value) if is_plain else value}")
    return f"{question.piece}({', '.join(texts)})"
