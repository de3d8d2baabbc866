"""Sizes of axes: integers, or open sizes that are known only when a graph runs.

An open size is a product: an integer coefficient times sizes of the inputs' axes and, where a
product does not describe it, sums and quotients. Products cancel (`(8 * h) // 8` is `h`), so
most reshapes of a network keep the sizes of its inputs. Equality compares the formulas.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias


class AxisSize(NamedTuple):
    """The size of an axis of an input."""

    input: str
    axis: int


class Combination(NamedTuple):
    """The sum or the quotient (rounded down) of two sizes; `operator` is "Add" or "Div"."""

    operator: str
    left: GraphSize
    right: GraphSize


Factor: TypeAlias = AxisSize | Combination


@dataclass(frozen=True)
class OpenSize:
    """A positive integer that is known when the graph runs: `coefficient` times all factors."""

    coefficient: int
    factors: tuple[Factor, ...]  # sorted by their representation

    @classmethod
    def of_axis(cls, name: str, axis: int) -> OpenSize:
        """Return the size of an axis of the input called `name`."""
        return cls(1, (AxisSize(name, axis),))

    def __mul__(self, other: GraphSize) -> OpenSize:
        coefficient, factors = _parts(other)
        return _product(self.coefficient * coefficient, (*self.factors, *factors))

    __rmul__ = __mul__

    def __add__(self, other: GraphSize) -> GraphSize:
        return self if other == 0 else _product(1, [Combination("Add", self, other)])

    __radd__ = __add__

    def __sub__(self, other: GraphSize) -> GraphSize:
        return self + -1 * other

    def __rsub__(self, other: int) -> GraphSize:
        return -1 * self + other

    def __floordiv__(self, other: GraphSize) -> GraphSize:
        coefficient, factors = _parts(other)
        remaining = list(self.factors)
        uncancelled = []
        for factor in factors:
            if factor in remaining:
                remaining.remove(factor)
            else:
                uncancelled.append(factor)
        if uncancelled or self.coefficient % coefficient:
            return _product(1, [Combination("Div", self, other)])
        quotient = self.coefficient // coefficient
        return _product(quotient, remaining) if remaining else quotient

    def __rfloordiv__(self, other: int) -> OpenSize:
        return _product(1, [Combination("Div", other, self)])


GraphSize: TypeAlias = int | OpenSize
GraphShape: TypeAlias = tuple[GraphSize, ...]


def _parts(size: GraphSize) -> tuple[int, tuple[Factor, ...]]:
    if isinstance(size, OpenSize):
        return size.coefficient, size.factors
    return int(size), ()


def _product(coefficient: int, factors: Iterable[Factor]) -> OpenSize:
    return OpenSize(coefficient, tuple(sorted(factors, key=repr)))


def is_known(shape: Iterable[GraphSize]) -> bool:
    """Return whether no size of a shape is open."""
    return not any(isinstance(size, OpenSize) for size in shape)


def multiply(sizes: Iterable[GraphSize]) -> GraphSize:
    """Return the product of sizes, 1 for none."""
    product: GraphSize = 1
    for size in sizes:
        product = product * size
    return product


def broadcast_shapes(*shapes: Sequence[GraphSize]) -> GraphShape:
    """Return the shape of an elementwise result; open sizes that meet are taken to be equal.

    Raises:
        ValueError: The shapes do not broadcast.
    """
    rank = max(len(shape) for shape in shapes)
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    result: list[GraphSize] = []
    for column in zip(*padded, strict=True):
        wide = [size for size in column if size != 1]
        known = [size for size in wide if not isinstance(size, OpenSize)]
        if any(size != known[0] for size in known):
            raise ValueError(f"the shapes {shapes} do not broadcast")
        result.append((known or wide or [1])[0])
    return tuple(result)
