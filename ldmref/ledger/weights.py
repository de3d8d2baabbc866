"""The weights in which two models differ, and random perturbations of the same norm."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np

from ldmref.errors import UsageError


class ChangedWeights(Mapping[str, tuple[np.ndarray, np.ndarray]]):
    """The parameters of a denoiser that differ between two models: (W, V) by name.

    Both are read when they are asked for, as float64: two models need not be in memory.

    Args:
        first: The parameters of the first model.
        second: Those of the second one; parameters that it lacks are the first one's.

    Raises:
        UsageError: A parameter has another shape, or the first model lacks it.

    >>> changed = ChangedWeights({"a": np.ones(2), "b": np.ones(2)}, {"b": np.zeros(2)})
    >>> list(changed), changed["b"][1].tolist(), changed.equal
    (['b'], [0.0, 0.0], 1)
    """

    def __init__(self, first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]):
        for name, other in second.items():
            if name not in first:
                raise _misfit(f"only the second has {name!r}")
            if tuple(first[name].shape) != tuple(other.shape):
                shapes = f"{tuple(first[name].shape)} and {tuple(other.shape)}"
                raise _misfit(f"{name!r} is {shapes}")
        self._first = first
        self._second = second
        shared = [name for name in first if name in second]
        self._names = [n for n in shared if not np.array_equal(*self._read(n), equal_nan=True)]
        self.equal = len(first) - len(self._names)

    def _read(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(self._first[name]), np.asarray(self._second[name])

    def __getitem__(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        if name not in self._names:
            raise KeyError(name)
        first, second = self._read(name)
        return first.astype(np.float64), second.astype(np.float64)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def error(self, name: str) -> float:
        r"""Return :math:`\lVert V - W \rVert / \lVert W \rVert` of a parameter."""
        first, second = self[name]
        return relative(squared(second - first), squared(first))


def perturb(first: np.ndarray, second: np.ndarray, name: str, seed: int) -> np.ndarray:
    r"""Return random weights as far from W as V is: the control of a row.

    .. math:: W + \lVert V - W \rVert \, g / \lVert g \rVert, \quad g \sim N(0, 1)

    Args:
        first: W, of any shape.
        second: V.
        name: The name of the parameter, each of which has its stream.
        seed: The seed of the control.

    Returns:
        float64, shape of W.

    >>> w, v = np.zeros(3), np.array([3.0, 0.0, 4.0])
    >>> round(float(np.linalg.norm(perturb(w, v, "a", 0))), 12)
    5.0
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    stream = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
    noise = stream.standard_normal(first.shape)
    return first + noise * np.sqrt(squared(second - first) / squared(noise))


def squared(x: np.ndarray) -> float:
    """Return the sum of squares."""
    return float(np.sum(np.square(x, dtype=np.float64)))


def relative(error: float, size: float) -> float:
    """Return the root of a ratio of sums of squares; 0 if the first is 0."""
    if error == 0:
        return 0.0
    return float(np.sqrt(error / size)) if size > 0 else np.inf


def _misfit(problem: str) -> UsageError:
    return UsageError(
        f"the models cannot be compared: {problem}",
        code="E-LEDGER",
        hint="both must be the same model, in two types",
    )
