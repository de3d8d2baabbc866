"""Recorded arrays that do not fit each other: another number of axes, none, or numbers too large.

What computes with them fails in NumPy. That is no verdict on the port and no fault of ldmref, so
it becomes a row "not judged" with NumPy's reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from ldmref.errors import LdmrefError
from ldmref.locate.findings import UNKNOWN, Row

Item = TypeVar("Item")
UNFIT = (ValueError, IndexError, ArithmeticError, TypeError)  # `len` of an array without axes


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def while_it_fits(make: Callable[..., Iterable[Item]], *arguments: object) -> Iterator[Item]:
    """Yield what a function makes of arrays, up to the first that do not fit it.

    >>> import numpy as np
    >>> def split(x):
    ...     yield x[:1]
    ...     yield x.reshape(2, 2)
    >>> [found.tolist() for found in while_it_fits(split, np.arange(3))]
    [[0]]
    """
    try:
        yield from make(*arguments)
    except LdmrefError:
        raise
    except UNFIT:
        return


def try_judge(judge: Callable[[Any], Iterable[Row]], context: object) -> list[Row]:
    """Return the rows of a judge; where its arrays do not fit, those before, and one that says so.

    >>> def judge_steps(context):
    ...     yield Row("sampler.000", "")
    ...     raise ValueError("operands could not be broadcast together")
    >>> [(row.call, row.verdict) for row in try_judge(judge_steps, None)][1:]
    [('steps', 'not judged')]
    """
    rows: list[Row] = []
    try:
        for row in judge(context):
            rows.append(row)
    except LdmrefError:
        raise
    except UNFIT as error:
        name = judge.__name__.removeprefix("judge_")
        note = f"its arrays do not fit each other: {first_line(error)}"
        rows.append(Row(name, "", verdict=UNKNOWN, note=note))
    return rows
