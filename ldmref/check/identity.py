"""Identities: laws that the functions of ldmref obey, each checked against an independent oracle.

An identity computes the same quantity twice on random input, once with the function under test and
once with an oracle that does not share its code. Formula and source are read from the function's
docstring, so that they are written once.
"""

from __future__ import annotations

import functools
import inspect
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import ldmref.math
import ldmref.samplers
from ldmref.check.comparison import Comparison, to_host
from ldmref.check.random_inputs import RandomInputs

__all__ = ["Chapter", "Comparison", "Functions", "Identity", "RandomInputs", "to_host"]

Case = Callable[["Functions", RandomInputs], Comparison]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Identity:
    """A law of one function.

    Args:
        function: name in `ldmref.math` or `ldmref.samplers`.
        law: what holds, in words.
        oracle: how the expected value is computed.
        case: `case(f, rng)` compares function and oracle on random input.
        ulps: allowed error in units of eps * max(|expected|, scale); scale is 1 unless the
            comparison gives one.
        uses: further functions that the case calls.
    """

    function: str
    law: str
    oracle: str
    case: Case
    ulps: float
    uses: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.function}: {self.law}"


class Chapter:
    """The identities of one page of docs/math, in order of definition."""

    def __init__(self, page: str):
        self.page = page
        self.identities: list[Identity] = []

    def add(self, function: str, law: str, oracle: str, ulps: float, case: Case,
            uses: tuple[str, ...] = ()) -> None:  # fmt: skip
        """Add the identity `case`, named by its law."""
        self.identities.append(Identity(function, law, oracle, case, ulps, uses))

    def identity(
        self, function: str, oracle: str, ulps: float, uses: tuple[str, ...] = ()
    ) -> Callable[[Case], Case]:
        """Decorator: the case is an identity of `function`; its name is the law."""

        def register(case: Case) -> Case:
            self.add(function, case.__name__.replace("_", " "), oracle, ulps, case, uses)
            return case

        return register

    def elementwise(self, function: str, law: str, oracle: str, ulps: float, interval: Interval,
                    expected: Callable[[float], float]) -> None:  # fmt: skip
        """Add the identity function(x)_i = expected(x_i), for x uniform in `interval`."""

        @functools.wraps(expected)
        def case(f: Functions, rng: RandomInputs) -> Comparison:
            x = rng.uniform(*interval, 8)
            return getattr(f, function)(x), [expected(v) for v in to_host(x).tolist()]

        self.add(function, law, oracle, ulps, case)


class Functions:
    """The functions under test: those of `implementation`, all others from ldmref."""

    def __init__(self, implementation: ModuleType | None = None):
        self._implementation = implementation
        self.file: str | None = getattr(implementation, "__file__", None)

    def __getattr__(self, name: str) -> Any:
        replacement = getattr(self._implementation, name, None)
        return public(name) if replacement is None else replacement

    def replaced(self, identity: Identity) -> list[str]:
        """The functions of this identity that the implementation has."""
        names = dict.fromkeys((identity.function, *identity.uses))
        return [n for n in names if getattr(self._implementation, n, None) is not None]


def public(name: str) -> Any:
    """A function of `ldmref.math` or a step factory of `ldmref.samplers`, by name."""
    function = getattr(ldmref.math, name, None)
    return getattr(ldmref.samplers, name) if function is None else function


def formula_of(function: str) -> str:
    """The formula in the function's docstring, on one line of LaTeX; "" if it has none."""
    return _search(r"\.\. math::(.*?)\n\s*\n", function)


def source_of(function: str) -> str:
    """The source (or derivation) in the function's docstring; "" if it has none."""
    return _search(r"^(?:Source|Derived): (.*?)(?:\n\s*\n|\n>>>|\Z)", function)


def _search(pattern: str, function: str) -> str:
    docstring = textwrap.dedent(inspect.getdoc(public(function)) or "") + "\n\n"
    match = re.search(pattern, docstring, re.DOTALL | re.MULTILINE)
    return " ".join(match.group(1).split()) if match else ""
