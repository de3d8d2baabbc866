"""The pieces of the capstone, and how a module's pieces are found and marked."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ldmref.backends import Backend
from ldmref.check.results import CheckResult


class Piece(NamedTuple):
    """A function that a student writes: its parameters, and how it is marked."""

    parameters: tuple[str, ...]
    mark: Callable[[Any], Iterator[CheckResult]]


def _questions(module: str, name: str) -> Callable[[Any], Iterator[CheckResult]]:
    """Return a function that asks the questions of a module, which is imported only then."""

    def mark(student: Any) -> Iterator[CheckResult]:
        from importlib import import_module

        from ldmref.check.capstone.questions import ask

        asked = getattr(import_module(f"ldmref.check.capstone.{module}"), name)(student)
        for question in asked:
            yield question if isinstance(question, CheckResult) else ask(student, question)

    return mark


PIECES = {
    "read_weights": Piece(("path",), _questions("reading", "readings")),
    "residual_block": Piece(
        ("p", "x", "emb", "groups", "eps"), _questions("blocks", "residual_blocks")
    ),
    "attention_block": Piece(
        ("p", "x", "context", "heads", "groups"), _questions("blocks", "attention_blocks")
    ),
    "unet": Piece(("p", "config", "x", "t", "context"), _questions("unet", "unets")),
    "encode": Piece(("p", "config", "image"), _questions("autoencoder", "encoders")),
    "decode": Piece(("p", "config", "z"), _questions("autoencoder", "decoders")),
    "train": Piece(
        ("draw", "features", "alpha_bar", "steps", "rng"), _questions("training", "trainings")
    ),
    "generate": Piece(
        ("weights", "config", "states", "first", "sigmas", "scale"),
        _questions("sampling", "images"),
    ),
}


def piece_names(module: ModuleType) -> list[str]:
    """Return the pieces that a module defines itself, with the arguments of the page."""
    return [name for name in PIECES if _share_of_parameters(module, name) == 1.0]


def nearly_pieces(module: ModuleType) -> dict[str, str]:
    """Return functions with a piece's name and some of its arguments: "(p, x, emb, ...)"."""
    near = [name for name in PIECES if 0.5 <= _share_of_parameters(module, name) < 1.0]
    return {name: f"({', '.join(PIECES[name].parameters)})" for name in near}


def _share_of_parameters(module: ModuleType, name: str) -> float:
    """Return which share of a piece's parameters a function of the module has; 0 without one."""
    function = getattr(module, name, None)
    if not inspect.isfunction(function) or function.__module__ != module.__name__:
        return 0.0
    own = [*inspect.signature(function).parameters.values()]
    wanted = PIECES[name].parameters
    names = [p.name for p in own]
    more = [p for p in own[len(wanted) :] if p.default is p.empty]
    if tuple(names[: len(wanted)]) == wanted and not more:
        return 1.0
    return min(len({*names} & {*wanted}) / len(wanted), math.nextafter(1.0, 0.0))


def mark_pieces(
    module: ModuleType, names: list[str], backend: Backend, seed: int = 0
) -> Iterator[CheckResult]:
    """Mark the pieces with these names; the arguments are arrays of the backend's library.

    Args:
        module: The student's module.
        names: Names of `PIECES`.
        backend: Its library is that of the arguments: NumPy arrays, tensors, ...
        seed: Seed of the random inputs.
    """
    from ldmref.check.capstone.questions import Student

    student = Student(module, backend, seed)
    for name in names:
        with np.errstate(all="ignore"):
            yield from PIECES[name].mark(student)
