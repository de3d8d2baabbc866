"""Calls on which a backend is compared with the reference: every operation in several shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Arrays = tuple[np.ndarray, ...]
Normal = Callable[..., np.ndarray]  # normal(*shape): standard normal numbers


@dataclass(frozen=True)
class Case:
    """One call of an operation, with host arrays and keyword options.

    Args:
        operation: Name of the method of `Backend`.
        name: Description of the input.
        arrays: Positional arguments, float64 NumPy arrays or arrays of integers.
        options: Keyword arguments that are no arrays.
        named: Keyword arguments that are arrays, in the backend's `state_dtype`.

    >>> from ldmref.testing import cases
    >>> next(iter(cases()))
    <Case linear ((7,))>
    """

    operation: str
    name: str
    arrays: Arrays
    options: dict[str, Any] = field(default_factory=dict)
    named: dict[str, np.ndarray] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Case {self.operation} ({self.name})>"


def cases(seed: int = 0) -> Iterator[Case]:
    """Yield calls of every operation in several shapes, on seeded normal inputs.

    Compositions come after their parts. The first failure of a report is then in the operation that
    is wrong.

    Args:
        seed: Seed of the inputs.

    Returns:
        An iterator of `Case`.

    >>> from ldmref.testing import cases
    >>> sorted({case.operation for case in cases()})[:3]
    ['attention', 'conv2d', 'embedding']
    """
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape)

    for operation in (_linear, _conv2d, _group_norm, _layer_norm, _attention, _elementwise):
        yield from operation(normal)
    for shape in ((1, 1, 1, 1), (1, 3, 5, 7), (3, 4, 8, 3)):
        for name in ("upsample2x", "pad_bottom_right"):
            yield Case(name, f"{shape}", (normal(*shape),))
    yield from _geglu(normal)
    yield from _group_norm(normal, "group_norm_silu")


def _with_and_without_bias(operation: str, name: str, arrays: Arrays, *rest: Any) -> Iterator[Case]:
    """Yield a case with (x, weight) and one with (x, weight, bias)."""
    yield Case(operation, name, arrays[:2], *rest)
    yield Case(operation, f"{name}, bias", arrays, *rest)


def _linear(normal: Normal) -> Iterator[Case]:
    for shape in ((7,), (1, 7), (3, 5, 7), (2, 3, 1, 7)):
        arrays = normal(*shape), normal(6, 7), normal(6)
        yield from _with_and_without_bias("linear", f"{shape}", arrays)

    arrays = normal(600, 20), normal(50, 20), normal(50)
    yield Case("linear", "(600, 20), bias", arrays)
    yield Case("linear", "few rows, much work", (normal(40, 400), normal(600, 400)))


def _geglu(normal: Normal) -> Iterator[Case]:
    for shape in ((7,), (2, 5, 7), (2, 300, 7)):
        arrays = normal(*shape), normal(12, 7), normal(12)
        yield from _with_and_without_bias("geglu", f"{shape}", arrays)


# (n, channels in, channels out, size) for which libraries choose an algorithm with fewer products
LARGE_CONVOLUTIONS = (
    (1, 64, 64, (17, 15)),
    (3, 64, 80, (16, 16)),
    (5, 96, 64, (7, 8)),
    (1, 64, 64, (40, 33)),
    (2, 64, 64, (3, 40)),
)
KERNEL_STRIDE_PADDING = ((1, 1, 0), (1, 2, 0), (3, 1, 1), (3, 1, 0), (3, 2, 1), (3, 2, 0))


def _conv2d(normal: Normal) -> Iterator[Case]:
    for n, c, out, size in LARGE_CONVOLUTIONS:
        arrays = normal(n, c, *size), normal(out, c, 3, 3), normal(out)
        name = f"{(n, c, *size)}, 3x3 to {out} channels"
        options = {"stride": 1, "padding": 1}
        yield from _with_and_without_bias("conv2d", name, arrays, options)
    x = normal(1, 4, 41, 33)
    w = normal(3, 4, 3, 3)
    yield Case("conv2d", "many pixels", (x, w), {"stride": 2, "padding": 1})

    for n, size in ((1, (7, 5)), (3, (8, 9)), (1, (3, 3))):
        for kernel, stride, padding in KERNEL_STRIDE_PADDING:
            name = f"{(n, 6, *size)}, {kernel}x{kernel}, stride {stride}, padding {padding}"
            arrays = normal(n, 6, *size), normal(4, 6, kernel, kernel), normal(4)
            options = {"stride": stride, "padding": padding}
            yield from _with_and_without_bias("conv2d", name, arrays, options)


SHAPES_AND_GROUPS = (((1, 8, 7, 5), 1), ((3, 8, 3, 5), 4), ((1, 6, 4, 4), 6), ((3, 32, 1, 1), 8))


def _group_norm(normal: Normal, operation: str = "group_norm") -> Iterator[Case]:
    for shape, groups in SHAPES_AND_GROUPS:
        for eps in (1e-6, 0.5):
            name = f"{shape}, {groups} groups, eps {eps}"
            arrays = normal(*shape), normal(shape[1]), normal(shape[1])
            yield Case(operation, name, arrays, {"groups": groups, "eps": eps})
    x = normal(3, 8, 5, 5)
    w = normal(8)
    b = normal(8)
    options = {"groups": 2, "eps": 1e-3}
    yield Case(operation, "mean 8", (x + 8, w, b), options)
    yield Case(operation, "constant input", (np.full_like(x, 2.0), w, b), options)
    x = normal(2, 32, 50, 61)
    w = normal(32)
    b = normal(32)
    yield Case(operation, "many pixels", (x, w, b), {"groups": 8, "eps": 1e-5})
    yield Case(operation, "many pixels, mean 8", (x + 8, w, b), options)


def _layer_norm(normal: Normal) -> Iterator[Case]:
    for shape in ((7,), (1, 5, 12), (3, 4, 12)):
        w = normal(shape[-1])
        b = normal(shape[-1])
        for eps in (1e-5, 0.5):
            yield Case("layer_norm", f"{shape}, eps {eps}", (normal(*shape), w, b), {"eps": eps})
        x = normal(*shape) + 8
        ones = np.ones(shape)
        yield Case("layer_norm", f"{shape}, mean 8", (x, w, b), {"eps": 1e-5})
        yield Case("layer_norm", f"{shape}, constant", (ones, w, b), {"eps": 1e-4})


HIDDEN = -1e9  # the bias of hidden keys, which overflows float16

# n, heads, queries, d, keys
ATTENTION_SIZES = (
    (1, 1, 5, 4, 5),
    (3, 2, 7, 8, 7),
    (1, 2, 3, 8, 11),
    (3, 1, 9, 4, 2),
    (1, 1, 1, 4, 6),
    (2, 2, 300, 8, 520),
)


def _attention(normal: Normal) -> Iterator[Case]:
    for n, heads, queries, d, keys in ATTENTION_SIZES:
        q = normal(n, heads, queries, d)
        k = normal(n, heads, keys, d)
        v = normal(n, heads, keys, d)
        for causal, suffix in ((False, ""), (True, ", causal")):
            name = f"{q.shape}, {keys} keys{suffix}"
            yield Case("attention", name, (q, k, v), {"causal": causal})
        yield from _biased(normal, (q, k, v))
    sharp = 100.0 * np.eye(8)[None, None]  # scores of 3536, whose exponentials overflow
    yield Case("attention", "huge scores", (sharp, sharp, normal(1, 1, 8, 8)))

    table = normal(11, 6)
    for ids in ([[0, 10, 10]], [[3, 1], [4, 1], [5, 9]]):
        yield Case("embedding", f"ids {ids}", (table, np.array(ids)))


def _biased(normal: Normal, arrays: Arrays) -> Iterator[Case]:
    """Yield attention with biases of every shape, masks among them, and with another scale."""
    (n, heads, queries, _), keys = arrays[0].shape, arrays[1].shape[2]
    name = f"{arrays[0].shape}, {keys} keys"
    whole = 3.0 * normal(n, heads, queries, keys)
    yield Case("attention", f"{name}, bias", arrays, {}, {"bias": whole})
    of_heads = normal(1, heads, queries, keys)
    options = {"causal": True, "scale": 1.0}
    yield Case("attention", f"{name}, causal, bias, scale 1", arrays, options, {"bias": of_heads})
    mask = np.zeros((n, 1, 1, keys))
    mask[:, ..., (keys + 1) // 2 :] = HIDDEN
    mask[-1] = np.where(np.arange(keys) % 2, HIDDEN, 0.0)
    for causal, suffix in ((False, ""), (True, ", causal")):
        text = f"{name}{suffix}, hidden keys"
        yield Case("attention", text, arrays, {"causal": causal}, {"bias": mask})
    none = np.zeros((1, 1, queries, keys))
    none[:, :, ::2] = HIDDEN
    yield Case("attention", f"{name}, queries without keys", arrays, {}, {"bias": none})
    minus_infinity = np.where(np.arange(keys) == keys - 1, 0.0, -np.inf)
    bias = {"bias": minus_infinity.reshape(1, 1, 1, keys)}
    yield Case("attention", f"{name}, bias -inf", arrays, {}, bias)


def _elementwise(normal: Normal) -> Iterator[Case]:
    huge = np.array([-1e4, -300.0, -90.0, -20.0, 0.0, 20.0, 90.0, 300.0, 1e4])
    for operation in ("silu", "gelu", "quick_gelu"):
        for shape in ((7,), (1, 5, 3), (3, 4, 5, 3)):
            yield Case(operation, f"{shape}", (3.0 * normal(*shape),))
        yield Case(operation, "huge arguments", (huge,))
        yield Case(operation, "tiny arguments", (1e-3 * normal(9),))
