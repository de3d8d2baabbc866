"""Identities: laws that the functions of ldmref obey, each checked against an independent oracle.

An identity computes the same quantity twice on random input, once with the function under test and
once with an oracle that does not share its code. Formula and source are read from the function's
docstring.

The error allowed follows from the number of roundings, counted in function and oracle along the
longest path, and weighted by what each result contributes relative to `scale`. One rounding errs by
at most half a unit. An elementary function (exp, log, cos, a power) errs by up to one unit, and
counts as two roundings. If a published form takes more roundings than ours, those are counted,
since another implementation may compute it. Many roundings rarely err in one direction: each has a
standard deviation of 1 / sqrt(12) units, a sum of n of them sqrt(n / 12), and 2 sqrt(n) is seven
standard deviations of the sum. A rounding that is amplified a times counts as a roundings and has a
times the deviation: n such counts have at most sqrt(n a / 12).
"""

from __future__ import annotations

import functools
import inspect
import math
import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

import ldmref.math
import ldmref.samplers
from ldmref.check.comparison import Comparison, spread, to_host
from ldmref.check.gradients import complex_step
from ldmref.check.random_inputs import FormatLimits, RandomInputs

__all__ = [
    "Chapter",
    "Comparison",
    "Functions",
    "Identity",
    "KnownMistake",
    "RandomInputs",
    "spread",
    "to_host",
]

CaseFunction = Callable[["Functions", RandomInputs], Comparison]
EdgeFunction = Callable[["Functions", RandomInputs, Any], Comparison]
GradientFunction = Callable[["Functions", RandomInputs], tuple[Any, ...]]
Edges = Callable[[FormatLimits], Mapping[str, Any]]
Bounds = tuple[float, float]


@dataclass(frozen=True)
class Identity:
    """A law of one function.

    Args:
        function: Name in `ldmref.math` or `ldmref.samplers`.
        law: The law in words.
        oracle: How the expected value is computed.
        case: Function `case(f, rng)` that compares function and oracle on random input.
        roundings: Number of roundings of values of the size max(|expected|, scale) in function and
            oracle; scale is 1 unless the comparison gives one.
        uses: Further functions that the case calls.
        gradients: Whether it compares gradients, which needs a library that records them.
        amplified: Largest number as which a single rounding counts in `roundings`.
        edges: Of an identity of `ldmref check --hard`, the inputs at the ends of the function's
            range, by name; its cases visit them in turn. None: the inputs are random.
        by_itself: Whether it compares the function with itself, on a batch and on one example; a
            consistent mistake passes.
    """

    function: str
    law: str
    oracle: str
    case: CaseFunction
    roundings: float
    uses: tuple[str, ...] = ()
    gradients: bool = False
    amplified: float = 1.0
    edges: Edges | None = None
    by_itself: bool = False

    def edge(self, inputs: RandomInputs) -> str:
        """Return the name of the edge that a case visits, such as "alpha_bar = 1 - eps"."""
        names = [*self.edges(inputs.limits)] if self.edges else [""]
        return names[inputs.case % len(names)]

    @property
    def name(self) -> str:
        """The function and its law: "q_sample: ...", by which reports and seeds identify it."""
        return f"{self.function}: {self.law}"

    @property
    def ulps(self) -> float:
        """The error allowed, in units of eps * max(|expected|, scale)."""
        return allowed_error(self.roundings, self.amplified)

    @property
    def basis(self) -> str:
        """ "derived" if the error allowed is n / 2 units, otherwise "probable": 2 sqrt(n a)."""
        return "derived" if self.roundings <= 16.0 * self.amplified else "probable"


def allowed_error(roundings: float, amplified: float = 1.0) -> float:
    """Return the error allowed for a number of roundings, in units, rounded up to halves.

    >>> allowed_error(3), allowed_error(100), allowed_error(100, amplified=4)
    (1.5, 20.0, 40.0)
    """
    return math.ceil(min(roundings, 4.0 * math.sqrt(roundings * amplified))) / 2.0


class KnownMistake(NamedTuple):
    """A mistake that people make in one function, such as one that the course names.

    Args:
        function: Name of the function.
        text: What is wrong, in words that follow "this is the result if".
        wrong: The function with the mistake, which takes NumPy arrays. The mistake is named if it
            returns what the function under test returns, in all cases of the function's identities.
        probe: Further arguments, for a mistake that raises an exception in the identities' cases.
        raises: The exception with which it ends some cases, which is then all that tells it apart.
    """

    function: str
    text: str
    wrong: Callable[..., Any]
    probe: tuple[Any, ...] = ()
    raises: type[Exception] | None = None


class Chapter:
    """The identities of one page of docs/math, in order of definition, and known mistakes."""

    def __init__(self, page: str):
        self.page = page
        self.identities: list[Identity] = []
        self.mistakes: list[KnownMistake] = []

    def identity(
        self,
        function: str,
        oracle: str,
        roundings: float,
        uses: tuple[str, ...] = (),
        gradients: bool = False,
        amplified: float = 1.0,
    ) -> Callable[[CaseFunction], CaseFunction]:
        """Register the decorated case as an identity of `function`; its name is the law."""

        def register(case: CaseFunction) -> CaseFunction:
            law = case.__name__.replace("_", " ")
            identity = Identity(function, law, oracle, case, roundings, uses, gradients, amplified)
            self.identities.append(identity)
            return case

        return register

    def add(
        self,
        function: str,
        law: str,
        oracle: str,
        roundings: float,
        case: CaseFunction,
        uses: tuple[str, ...] = (),
        by_itself: bool = False,
    ) -> None:
        """Add the case as an identity of `function` with this law."""
        identity = Identity(function, law, oracle, case, roundings, uses, by_itself=by_itself)
        self.identities.append(identity)

    def known_mistakes(self, function: str, mistakes: Mapping[str, Callable[..., Any]]) -> None:
        """Declare mistakes in one function: by their text, the function with the mistake.

        Two mistakes at once come before one of them.
        """
        self.mistakes += [KnownMistake(function, text, wrong) for text, wrong in mistakes.items()]

    def elementwise(
        self,
        function: str,
        law: str,
        oracle: str,
        roundings: float,
        interval: Bounds,
        expected: Callable[[float], float],
    ) -> None:
        """Add the identity function(x)_i = expected(x_i), for x uniform in `interval`."""

        @functools.wraps(expected)
        def case(f: Functions, rng: RandomInputs) -> Comparison:
            x = rng.uniform(*interval, 2, 2, 2)
            values = [expected(v) for v in to_host(x).ravel().tolist()]
            return getattr(f, function)(x), np.reshape(values, (2, 2, 2))

        self.add(function, law, oracle, roundings, case)

    def hard(
        self,
        function: str,
        oracle: str,
        roundings: float,
        edges: Edges,
        uses: tuple[str, ...] = (),
    ) -> Callable[[EdgeFunction], EdgeFunction]:
        """Register an identity of `ldmref check --hard`: the decorated `at_edge(f, rng, edge)`.

        `edges(limits)` returns the inputs at the edges by name, for the number format with these
        limits; each case gets one of them as `edge`.
        """

        def register(at_edge: EdgeFunction) -> EdgeFunction:
            def case(f: Functions, rng: RandomInputs) -> Comparison:
                visited = [*edges(rng.limits).values()]
                return at_edge(f, rng, visited[rng.case % len(visited)])

            functools.update_wrapper(case, at_edge)
            law = at_edge.__name__.replace("_", " ")
            identity = Identity(function, law, oracle, case, roundings, uses, edges=edges)
            self.identities.append(identity)
            return at_edge

        return register

    def gradient(
        self, function: str, roundings: float, uses: tuple[str, ...] = ()
    ) -> Callable[[GradientFunction], GradientFunction]:
        """Register an identity: the gradient of `function` is the derivative of a formula.

        The decorated `trained(f, rng)` returns (call, inputs, formula) or (..., scale): `call`
        computes the function under test from the arrays `inputs`, a dict by name; `formula`
        computes the same from NumPy arrays, including complex ones.
        """

        def register(trained: GradientFunction) -> GradientFunction:
            def case(f: Functions, rng: RandomInputs) -> Comparison:
                call, inputs, formula, *scale = trained(f, rng)
                arrays = [*inputs.values()]
                weights = rng.normal(*np.shape(formula(*map(to_host, arrays))))
                got = rng.gradients(call, weights, *arrays)
                expected = complex_step(formula, to_host(weights), *map(to_host, arrays))
                return dict(zip(inputs, got, strict=True)), expected, *scale

            functools.update_wrapper(case, trained)
            law = "gradient of " + trained.__name__.replace("_", " ")
            oracle = "the derivative by a complex step"
            identity = Identity(function, law, oracle, case, roundings, uses, gradients=True)
            self.identities.append(identity)
            return trained

        return register


class Functions:
    """The functions under test: those of `implementation`, all others from ldmref."""

    def __init__(self, implementation: ModuleType | None = None):
        self._implementation = implementation
        self.file: str | None = getattr(implementation, "__file__", None)

    def __getattr__(self, name: str) -> Any:
        replacement = getattr(self._implementation, name, None)
        return public(name) if replacement is None else replacement

    def replaced(self, identity: Identity) -> list[str]:
        """Return the functions of this identity that the implementation has."""
        names = dict.fromkeys((identity.function, *identity.uses))
        return [n for n in names if getattr(self._implementation, n, None) is not None]


def public(name: str) -> Any:
    """Return a function of `ldmref.math` or a step factory of `ldmref.samplers` by name."""
    function = getattr(ldmref.math, name, None)
    return getattr(ldmref.samplers, name) if function is None else function


def formula_of(function: str) -> str:
    """Return the formula in the function's docstring as one line of LaTeX; "" without one."""
    return _search(r"\.\. math::(.*?)\n\s*\n", function)


def source_of(function: str) -> str:
    """Return the source (or derivation) in the function's docstring; "" without one."""
    return _search(r"^(?:Source|Derived): (.*?)(?:\n\s*\n|\n>>>|\Z)", function)


def _search(pattern: str, function: str) -> str:
    docstring = textwrap.dedent(inspect.getdoc(public(function)) or "") + "\n\n"
    match = re.search(pattern, docstring, re.DOTALL | re.MULTILINE)
    return " ".join(match.group(1).split()) if match else ""
