"""The calls on which a backend is compared with the reference: every operation, several shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Case:
    """One call of an operation, with host arrays and keyword options."""

    operation: str
    name: str
    arrays: tuple[np.ndarray, ...]
    options: dict[str, Any] = field(default_factory=dict)
    terms: int = 1  # length of the longest sum; 0: the operation only moves numbers
    condition: float = 1.0


Normal = Callable[..., np.ndarray]  # normal(*shape): standard normal numbers


def cases(seed: int = 0) -> Iterator[Case]:
    """Every operation in several shapes, on seeded normal inputs."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape)

    yield from _linear(normal)
    yield from _conv2d(normal)
    yield from _group_norm(normal)
    yield from _layer_norm(normal)
    yield from _attention(normal)
    yield from _elementwise(normal)
    for shape in ((1, 1, 1, 1), (1, 3, 5, 7), (3, 4, 8, 3)):
        for operation in ("upsample2x", "pad_bottom_right"):
            yield Case(operation, f"{shape}", (normal(*shape),), terms=0)


def _linear(normal: Normal) -> Iterator[Case]:
    for shape in ((7,), (1, 7), (3, 5, 7), (2, 3, 1, 7)):
        x, w = normal(*shape), normal(6, 7)
        yield Case("linear", f"{shape}", (x, w), terms=7)
        yield Case("linear", f"{shape} with bias", (x, w, normal(6)), terms=7)

    x, w, b = normal(600, 20), normal(50, 20), normal(50)
    yield Case("linear", "(600, 20) with bias", (x, w, b), terms=20)
    yield Case("linear", "few rows, much work", (normal(40, 400), normal(600, 400)), terms=400)
    for shape in ((7,), (2, 5, 7), (2, 300, 7)):
        x, w, b = normal(*shape), normal(12, 7), normal(12)
        yield Case("geglu", f"{shape}", (x, w), terms=7, condition=8)
        yield Case("geglu", f"{shape} with bias", (x, w, b), terms=7, condition=8)


# (n, channels in, channels out, size): where libraries choose an algorithm with fewer products
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
        x, w, b = normal(n, c, *size), normal(out, c, 3, 3), normal(out)
        name, options = f"{x.shape}, 3x3 to {out} channels", {"stride": 1, "padding": 1}
        yield Case("conv2d", name, (x, w), options, terms=9 * c)
        yield Case("conv2d", f"{name}, bias", (x, w, b), options, terms=9 * c)
    x, w = normal(1, 4, 41, 33), normal(3, 4, 3, 3)
    yield Case("conv2d", "many pixels", (x, w), {"stride": 2, "padding": 1}, terms=36)

    for n, size in ((1, (7, 5)), (3, (8, 9)), (1, (3, 3))):
        for kernel, stride, padding in KERNEL_STRIDE_PADDING:
            name = f"{(n, 6, *size)}, {kernel}x{kernel}, stride {stride}, padding {padding}"
            options, terms = {"stride": stride, "padding": padding}, 6 * kernel**2
            x, w = normal(n, 6, *size), normal(4, 6, kernel, kernel)
            yield Case("conv2d", name, (x, w), options, terms)
            yield Case("conv2d", f"{name}, bias", (x, w, normal(4)), options, terms)


SHAPES_AND_GROUPS = (((1, 8, 7, 5), 1), ((3, 8, 3, 5), 4), ((1, 6, 4, 4), 6), ((3, 32, 1, 1), 8))


def _group_norm(normal: Normal) -> Iterator[Case]:
    for operation in ("group_norm", "group_norm_silu"):
        for shape, groups in SHAPES_AND_GROUPS:
            for eps in (1e-6, 0.5):
                name = f"{shape}, {groups} groups, eps {eps}"
                arrays = normal(*shape), normal(shape[1]), normal(shape[1])
                yield Case(operation, name, arrays, {"groups": groups, "eps": eps})
        options = {"groups": 2, "eps": 1e-3}
        x, w, b = normal(3, 8, 5, 5), normal(8), normal(8)
        yield Case(operation, "mean 8", (x + 8, w, b), options, condition=8)
        yield Case(operation, "constant input", (np.full_like(x, 2.0), w, b), options, condition=64)
        x, w, b = normal(2, 32, 50, 61), normal(32), normal(32)
        yield Case(operation, "many pixels", (x, w, b), {"groups": 8, "eps": 1e-5})
        yield Case(operation, "many pixels, mean 8", (x + 8, w, b), options, condition=8)


def _layer_norm(normal: Normal) -> Iterator[Case]:
    for shape in ((7,), (1, 5, 12), (3, 4, 12)):
        w, b = normal(shape[-1]), normal(shape[-1])
        for eps in (1e-5, 0.5):
            yield Case("layer_norm", f"{shape}, eps {eps}", (normal(*shape), w, b), {"eps": eps})
        arrays = normal(*shape) + 8, w, b
        yield Case("layer_norm", f"{shape}, mean 8", arrays, {"eps": 1e-5}, condition=8)
        arrays = np.ones(shape), w, b
        yield Case("layer_norm", f"{shape}, constant", arrays, {"eps": 1e-4}, condition=100)


# n, heads, queries, d, keys
ATTENTION_SIZES = ((1, 1, 5, 4, 5), (3, 2, 7, 8, 7), (1, 2, 3, 8, 11), (3, 1, 9, 4, 2),
                   (1, 1, 1, 4, 6))  # fmt: skip


def _attention(normal: Normal) -> Iterator[Case]:
    for n, heads, queries, d, keys in (*ATTENTION_SIZES, (2, 2, 300, 8, 520)):
        q = normal(n, heads, queries, d)
        k, v = normal(n, heads, keys, d), normal(n, heads, keys, d)
        for causal in (False, True):
            name = f"{q.shape}, {keys} keys{', causal' if causal else ''}"
            yield Case("attention", name, (q, k, v), {"causal": causal}, terms=d + keys)
    sharp = 100.0 * np.eye(8)[None, None]  # scores of 3536, whose exponentials overflow
    yield Case("attention", "huge scores", (sharp, sharp, normal(1, 1, 8, 8)), terms=16)

    table = normal(11, 6)
    for ids in ([[0, 10, 10]], [[3, 1], [4, 1], [5, 9]]):
        yield Case("embedding", f"ids {ids}", (table, np.array(ids)), terms=0)


def _elementwise(normal: Normal) -> Iterator[Case]:
    huge = np.array([-1e4, -300.0, -90.0, -20.0, 0.0, 20.0, 90.0, 300.0, 1e4])
    for operation in ("silu", "gelu", "quick_gelu"):
        for shape in ((7,), (1, 5, 3), (3, 4, 5, 3)):
            yield Case(operation, f"{shape}", (3.0 * normal(*shape),))
        yield Case(operation, "huge arguments", (huge,))
        yield Case(operation, "tiny arguments", (1e-3 * normal(9),))
