"""What an identity is: a law that functions of ldmref obey, and how far they miss it.

An identity computes the same thing twice, once by the function in question and once by an oracle
that does not share its code, on random input. Formula and source are read from the function's own
docstring, so they stand in one place.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

import ldmref.math
import ldmref.samplers
from ldmref.math.arrays import Array

Case = Callable[["Functions", "Draw"], tuple[Any, ...]]


@dataclass(frozen=True)
class Identity:
    """One law. `case(f, draw)` returns (got, want) or (got, want, scale) on random input.

    `ulps` is the allowed error in units of eps * max(|want|, scale), scale being 1 if not given.
    """

    function: str
    oracle: str
    case: Case
    ulps: float
    uses: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.function}: {self.case.__name__.replace('_', ' ')}"

    def formula(self) -> str:
        """The function's formula, from its docstring, on one line of LaTeX."""
        found = re.search(r"\.\. math::(.*?)\n\s*\n", _docstring(self.function), re.DOTALL)
        return " ".join(found.group(1).split()) if found else ""

    def source(self) -> str:
        """The function's source, from its docstring."""
        text = _docstring(self.function)
        found = re.search(r"^(?:Source|Derived): (.*?)(?:\n\s*\n|\n>>>|\Z)", text, re.DOTALL | re.M)
        return " ".join(found.group(1).split()) if found else ""


def public(name: str) -> Any:
    """A function of `ldmref.math` or a step maker of `ldmref.samplers`, by its name."""
    found = getattr(ldmref.math, name, None)
    return getattr(ldmref.samplers, name) if found is None else found


def _docstring(function: str) -> str:
    return textwrap.dedent(inspect.getdoc(public(function)) or "") + "\n\n"


class Functions:
    """The functions under test: those of `implementation`, for the rest those of ldmref."""

    def __init__(self, implementation: ModuleType | None = None):
        self._implementation = implementation

    def __getattr__(self, name: str) -> Any:
        theirs = getattr(self._implementation, name, None)
        return public(name) if theirs is None else theirs

    def replaces(self, identity: Identity) -> bool:
        """Whether the implementation has a function of its own for this identity."""
        names = (identity.function, *identity.uses)
        return any(getattr(self._implementation, name, None) is not None for name in names)


@dataclass
class Draw:
    """Random input in one array library and dtype; made anew for every case."""

    xp: Any
    dtype: Any
    device: Any
    stream: np.random.Generator = field(repr=False)
    numbers: list[float] = field(default_factory=list)  # the scalars drawn so far

    def array(self, values: Any) -> Array:
        """A host array in the library under test."""
        wide = np.asarray(values, np.float64)
        return self.xp.asarray(wide.tolist(), dtype=self.dtype, device=self.device)

    def normal(self, *shape: int) -> Array:
        """Standard normal numbers."""
        return self.array(self.stream.standard_normal(shape))

    def uniform(self, low: float, high: float, *shape: int) -> Array:
        """Uniform numbers in [low, high)."""
        return self.array(self.stream.uniform(low, high, shape))

    def number(self, low: float, high: float) -> float:
        """One uniform number, a Python float."""
        self.numbers.append(float(self.stream.uniform(low, high)))
        return self.numbers[-1]

    def integer(self, low: int, high: int) -> int:
        """One whole number, both ends included."""
        self.numbers.append(int(self.stream.integers(low, high + 1)))
        return int(self.numbers[-1])

    def betas(self, n: int) -> np.ndarray:
        """Forward variances on the host, (n,) float64 in [0.01, 0.5)."""
        return self.stream.uniform(0.01, 0.5, n)


def to_host(x: Any) -> np.ndarray:
    """A number or an array of any library as float64 on the host."""
    if hasattr(x, "detach"):
        x = x.detach().cpu()
    elif hasattr(x, "get"):
        x = x.get()
    return np.asarray(x, np.float64)


class Miss(NamedTuple):
    """The worst element of a case: its error in units of rounding, its place, and both values."""

    ulps: float
    place: tuple[int, ...] = ()
    got: float = 0.0
    want: float = 0.0


def miss(result: tuple[Any, ...], eps: float) -> Miss:
    """The largest |got - want| in units of eps * max(|want|, scale); inf for NaN or another shape.

    >>> miss(([1.0, 2.5], [1.0, 2.0]), eps=0.25)
    Miss(ulps=1.0, place=(1,), got=2.5, want=2.0)
    """
    got, want = to_host(result[0]), to_host(result[1])
    scale = to_host(result[2]) if len(result) > 2 else 1.0
    if got.shape != want.shape:
        return Miss(float("inf"))
    if not got.size:
        return Miss(0.0)
    error = np.abs(got - want) / (eps * np.maximum(np.abs(want), scale))
    error = np.where(np.isfinite(error), error, np.inf)
    index = tuple(int(i) for i in np.unravel_index(np.argmax(error), error.shape))
    return Miss(float(error[index]), index, float(got[index]), float(want[index]))
