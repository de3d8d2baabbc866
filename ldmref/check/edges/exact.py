"""Elementary functions with 60 digits, for oracles where float64 would lose its own."""

from __future__ import annotations

from decimal import Decimal, localcontext
from functools import cache

from ldmref.check.comparison import to_host

DIGITS = 60


def exact(value: object) -> Decimal:
    """Return a number, or the only number of an array, as it is stored, without rounding."""
    return Decimal(to_host(value).item())


def exacts(values: object) -> list[Decimal]:
    """Return the numbers of an array as they are stored, in one list."""
    return [Decimal(value) for value in to_host(values).ravel().tolist()]


@cache
def pi() -> Decimal:
    """Return pi by Machin's formula."""
    with localcontext(prec=DIGITS + 10):
        return 4 * (4 * _arctan_of_inverse(5) - _arctan_of_inverse(239))


def _arctan_of_inverse(n: int) -> Decimal:
    total = term = Decimal(1) / n
    k = 1
    while abs(term) > Decimal(10) ** -(DIGITS + 9):
        term = -term / (n * n)
        k += 2
        total += term / k
    return total


def cosine(x: Decimal) -> Decimal:
    """Return cos(x) by its series, for |x| up to a few."""
    with localcontext(prec=DIGITS + 10):
        total = term = Decimal(1)
        k = 0
        while abs(term) > Decimal(10) ** -(DIGITS + 9):
            k += 2
            term = -term * x * x / (k * (k - 1))
            total += term
        return total


def logistic(x: Decimal) -> Decimal:
    """Return 1 / (1 + exp(-x))."""
    with localcontext(prec=DIGITS):
        return 1 / (1 + (-x).exp())


def normal_tail(x: Decimal) -> Decimal:
    """Return the normal distribution function at x <= -4, by the continued fraction of its tail."""
    with localcontext(prec=DIGITS):
        fraction = Decimal(0)
        for k in range(400, 0, -1):
            fraction = k / (-x + fraction)
        density = (-x * x / 2).exp() / (2 * pi()).sqrt()
        return density / (-x + fraction)
