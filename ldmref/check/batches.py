"""Batches of images: a function of (n, c, h, w) treats each example by itself.

Most identities use short arrays of two axes, for which every number is computed by another formula.
The laws of this module carry what holds there over to batches of images and to one number per
example: the function gets the whole batch, then every example alone, as one row and with plain
numbers, and both results must be equal. A missing reshape or a sum over the wrong axes has no
effect on a single row, and breaks this law.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ldmref.check.comparison import Comparison, to_host
from ldmref.check.identity import Chapter, Functions
from ldmref.check.random_inputs import RandomInputs

EXAMPLES = 3
IMAGE = (2, 2, 4)  # the last axis is no multiple of the number of examples
LAW = "a batch of images is its examples"


class Constant(NamedTuple):
    """The same value for the batch and for each example; numbers become an array."""

    value: object

    def draw(self, rng: RandomInputs) -> Any:
        """Return the value, or an array of its numbers."""
        return rng.array(self.value) if isinstance(self.value, list) else self.value

    def example(self, value: object, i: int) -> Any:
        """Return the value."""
        return value


class Images:
    """Images, one row of pixels for an example alone."""

    def example(self, value: Any, i: int) -> Any:
        """Return the pixels of one example, (1, c h w)."""
        return value[i : i + 1, ...].reshape((1, -1))


class NormalImages(Images):
    """Standard normal images, times `scale`."""

    def __init__(self, scale: float = 1.0):
        self.scale = scale

    def draw(self, rng: RandomInputs) -> Any:
        """Sample images (n, c, h, w)."""
        return self.scale * rng.normal(EXAMPLES, *IMAGE)


class UniformImages(Images):
    """Images whose pixels are uniform in [low, high)."""

    def __init__(self, low: float, high: float):
        self.bounds = low, high

    def draw(self, rng: RandomInputs) -> Any:
        """Sample images (n, c, h, w)."""
        return rng.uniform(*self.bounds, EXAMPLES, *IMAGE)


class PerExample(NamedTuple):
    """One number in [low, high) for each example, (n,).

    One example alone gets a plain number, or an array (1,) if the function takes arrays only.
    """

    low: float
    high: float
    plain: bool = True

    def draw(self, rng: RandomInputs) -> Any:
        """Sample numbers, (n,)."""
        return rng.uniform(self.low, self.high, EXAMPLES)

    def example(self, value: Any, i: int) -> Any:
        """Return the number of one example."""
        return float(value[i]) if self.plain else value[i : i + 1]


class Steps(NamedTuple):
    """One timestep below `total` for each example, integers (n,), and (1,) for one alone."""

    total: int

    def draw(self, rng: RandomInputs) -> Any:
        """Sample timesteps, (n,)."""
        steps = [rng.integer(0, self.total - 1) for _ in range(EXAMPLES)]
        return rng.xp.asarray(steps, dtype=rng.xp.int64, device=rng.device)

    def example(self, value: Any, i: int) -> Any:
        """Return the timestep of one example, (1,)."""
        return value[i : i + 1]


def batch_law(
    chapter: Chapter,
    function: str,
    roundings: float,
    *,
    size: float = 4.0,
    call: Callable[..., Any] | None = None,
    uses: tuple[str, ...] = (),
    **inputs: Any,
) -> None:
    """Add the identity: the result for a batch is that for every example alone.

    Args:
        chapter: The page of the function.
        function: Name of the function.
        roundings: Roundings of the function, twice: for the batch and for the example.
        size: Size of the values that are rounded, the scale of the errors.
        call: `call(f, ...)` with the inputs by position; None calls the function.
        uses: Further functions that `call` calls.
        inputs: Arguments by the function's names, in its order: `NormalImages`, `UniformImages`,
            `PerExample` and `Steps` draw them; anything else is a `Constant`.
    """

    sources = [v if hasattr(v, "draw") else Constant(v) for v in inputs.values()]

    def case(f: Functions, rng: RandomInputs) -> Comparison:
        batch = [source.draw(rng) for source in sources]
        compute = getattr(f, function) if call is None else functools.partial(call, f)
        together = _parts(compute(*batch))
        alone = []
        for i in range(EXAMPLES):
            one = [source.example(v, i) for source, v in zip(sources, batch, strict=True)]
            alone.append(_parts(compute(*one)))
        expected = [_in_batch(part) for part in zip(*alone, strict=True)]
        got = [_per_example(g, e) for g, e in zip(together, expected, strict=True)]
        return (got, expected, size) if len(together) > 1 else (got[0], expected[0], size)

    case.__module__ = f"ldmref.check.chapters.{chapter.page}_batches"
    chapter.add(function, LAW, "one example at a time", roundings, case, uses, True)


def _parts(result: object) -> list[Any]:
    return [*result] if isinstance(result, tuple | list) else [result]


def _in_batch(singles: tuple[Any, ...]) -> np.ndarray:
    """Put the results of all examples together: images, or a number for each."""
    rows = np.stack([to_host(single).ravel() for single in singles])
    size = int(np.prod(IMAGE))
    return rows.reshape(EXAMPLES, *(IMAGE if rows.shape[1] == size else ()))


def _per_example(got: object, expected: np.ndarray) -> Any:
    """Let a variance, one number per example, also be (n, 1, 1, 1), or that of every pixel."""
    host = to_host(got)
    if expected.ndim == 1 and host.ndim == 1 + len(IMAGE):
        rows = host.reshape(EXAMPLES, -1)
        return rows[:, 0] if (rows == rows[:, :1]).all() else got
    return got
