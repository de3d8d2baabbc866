"""Random calls of the operations, easy and hard, on which the error bounds are tested.

Sizes and magnitudes are random. Hard inputs are offsets much larger than the spread, sums that
cancel, magnitudes over many decades, mostly zeros, subnormal numbers, large logits, repeated keys
and groups of one element.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from ldmref.testing.cases import Case

SMALLEST_NORMAL = {
    "float64": 2.0**-1022,
    "float32": 2.0**-126,
    "float16": 2.0**-14,
    "bfloat16": 2.0**-126,
}
KINDS = ("normal", "normal", "offset", "cancelling", "wide", "sparse", "subnormal", "constant")


class RandomCases:
    """A generator of calls of the operations for one dtype.

    Args:
        dtype: The type in which the operations will run: float16 has a small range.
        rng: Source of the random numbers.
    """

    def __init__(self, dtype: str, rng: np.random.Generator):
        self.dtype = dtype
        self.rng = rng
        self.small = dtype == "float16"

    def cases(self, operation: str, count: int) -> Iterator[Case]:
        """Yield `count` calls of an operation."""
        make: Callable[[str], Case] = getattr(self, f"_{operation}")
        for _ in range(count):
            kind = str(self.rng.choice(KINDS))
            yield make(kind)

    # -- numbers ----------------------------------------------------------------------------------

    def _size(self, low: int, high: int) -> int:
        """Sample a size whose logarithm is uniform."""
        return int(np.exp(self.rng.uniform(np.log(low), np.log(high + 1))))

    def _scale(self) -> float:
        return float(10.0 ** (self.rng.uniform(-2, 0.5) if self.small else self.rng.uniform(-3, 3)))

    def _values(self, kind: str, *shape: int) -> np.ndarray:
        """Sample an array of a kind; an offset is up to 1000 times the spread."""
        x = self.rng.standard_normal(shape)
        if kind == "wide":
            return x * 10.0 ** self.rng.uniform(-3, 1 if self.small else 3, shape)
        if kind == "sparse":
            return self._scale() * x * (self.rng.random(shape) < 0.1)
        if kind == "subnormal":
            return x * SMALLEST_NORMAL[self.dtype]
        if kind == "constant":
            return np.full(shape, self._scale())
        if kind == "offset":
            ratio = 10.0 ** self.rng.uniform(0, 1.5 if self.small else 3)
            return self._scale() * (x + ratio) / (ratio if self.small else 1.0)
        return self._scale() * x

    def _factors(self, kind: str, x: tuple[int, ...], w: tuple[int, ...]) -> list[np.ndarray]:
        """Sample inputs and weights of a sum over the second axis of both."""
        weight_kind = "normal" if kind in ("subnormal", "cancelling") else kind
        values = self._values(kind, *x)
        weight = self._values(weight_kind, *w)
        if self.small:
            weight /= max(1.0, np.sqrt(w[1]))
        if kind == "cancelling" and w[1] > 1:
            half = w[1] // 2
            values[:, half : 2 * half] = values[:, :half]
            noise = 1.0 + 1e-3 * self.rng.standard_normal(weight[:, :half].shape)
            weight[:, half : 2 * half] = -weight[:, :half] * noise
        return [values, weight]

    def _with_bias(self, arrays: list[np.ndarray], outputs: int) -> tuple[np.ndarray, ...]:
        if self.rng.random() < 0.5:
            arrays.append(self._values("normal", outputs))
        return tuple(arrays)

    # -- operations -------------------------------------------------------------------------------

    def _linear(self, kind: str, operation: str = "linear") -> Case:
        terms = self._size(1, 2000)
        rows = self._size(1, 40)
        outputs = 2 * self._size(1, 20)
        arrays = self._factors(kind, (rows, terms), (outputs, terms))
        name = f"{kind}, ({rows}, {terms}) to {outputs}"
        return Case(operation, name, self._with_bias(arrays, outputs))

    def _geglu(self, kind: str) -> Case:
        return self._linear(kind, "geglu")

    def _conv2d(self, kind: str) -> Case:
        kernel, stride, padding = ((3, 1, 1), (3, 1, 1), (1, 1, 0), (3, 2, 1), (3, 1, 0))[
            self.rng.integers(5)
        ]
        large = (kernel, stride, padding) == (3, 1, 1) and self.rng.random() < 0.05
        if large:  # enough tiles and channels for Winograd
            n, c, out, h, w = 1, 64, 64, *self.rng.integers(16, 20, 2)
        else:
            n = self._size(1, 2)
            c = self._size(1, 40)
            out = self._size(1, 8)
            h, w = (self._size(3, 9) for _ in range(2))
        arrays = self._factors(kind, (n, c, int(h), int(w)), (out, c, kernel, kernel))
        name = f"{kind}, {arrays[0].shape}, {kernel}x{kernel} to {out}, stride {stride}"
        options = {"stride": stride, "padding": padding}
        return Case("conv2d", name, self._with_bias(arrays, out), options)

    def _group_norm(self, kind: str, operation: str = "group_norm") -> Case:
        groups = self._size(1, 8)
        channels = groups * self._size(1, 8)
        h, w = self._size(1, 16), self._size(1, 16)
        n = self._size(1, 2) if channels * h * w > groups else 2  # torch refuses a single number
        eps = float(self.rng.choice([1e-6, 1e-5, 0.5]))
        arrays = self._norm_arrays(kind, (n, channels, h, w), channels)
        name = f"{kind}, {(n, channels, h, w)}, {groups} groups, eps {eps}"
        return Case(operation, name, arrays, {"groups": groups, "eps": eps})

    def _group_norm_silu(self, kind: str) -> Case:
        return self._group_norm(kind, "group_norm_silu")

    def _layer_norm(self, kind: str) -> Case:
        rows = self._size(1, 20)
        d = self._size(1, 1500)
        eps = float(self.rng.choice([1e-6, 1e-5, 0.5]))
        arrays = self._norm_arrays(kind, (rows, d), d)
        return Case("layer_norm", f"{kind}, {(rows, d)}, eps {eps}", arrays, {"eps": eps})

    def _norm_arrays(self, kind: str, shape: tuple[int, ...], d: int) -> tuple[np.ndarray, ...]:
        weight, bias = (self._values("normal", d) for _ in range(2))
        return self._values(kind, *shape), weight, bias

    def _attention(self, kind: str) -> Case:
        n, heads = self._size(1, 2), self._size(1, 2)
        queries, keys = self._size(1, 40), self._size(1, 300)
        d = self._size(1, 64)
        logits = 10.0 ** self.rng.uniform(-1, 1 if self.small else 1.5)
        q = logits * self.rng.standard_normal((n, heads, queries, d))
        k = self.rng.standard_normal((n, heads, keys, d))
        v = self._values(kind, n, heads, keys, d)
        if kind == "cancelling":  # two clusters of equal keys
            k[:, :, : keys // 2] = k[:, :, :1]
            k[:, :, keys // 2 :] = k[:, :, -1:]
        causal = bool(self.rng.random() < 0.3)
        name = f"{kind}, {q.shape}, {keys} keys, logits {logits:.1f}{', causal' * causal}"
        return self._with_score_bias(Case("attention", name, (q, k, v), {"causal": causal}))

    def _with_score_bias(self, case: Case) -> Case:
        """Give half of the calls a bias of any shape, masks among them, and some of these a scale.

        The numbers have a source of their own, so other arrays do not depend on them.
        """
        (rng,) = self.rng.spawn(1)
        if rng.random() < 0.5:
            return case
        (n, heads, queries, d), keys = case.arrays[0].shape, case.arrays[1].shape[2]
        shape = [1 if rng.random() < 0.5 else size for size in (n, heads, queries)]
        bias = 10.0 ** rng.uniform(-2, 2) * rng.standard_normal((*shape, keys))
        kind = "bias"
        if rng.random() < 0.5:
            bias = np.where(rng.random(bias.shape) < 0.5, -1e9, bias * (rng.random() < 0.5))
            bias[..., 0] = 0.0  # every query sees a key
            kind = "mask"
        scale = {"scale": float(d**-0.5 * rng.uniform(0.5, 2.0))} if rng.random() < 0.3 else {}
        name = f"{case.name}, {kind} {bias.shape}{', other scale' * bool(scale)}"
        return replace(case, name=name, options=case.options | scale, named={"bias": bias})

    def _embedding(self, kind: str) -> Case:
        table = self._values(kind, self._size(1, 30), self._size(1, 30))
        ids = self.rng.integers(0, len(table), (self._size(1, 3), self._size(1, 10)))
        return Case("embedding", kind, (table, ids))

    def _moved(self, operation: str, kind: str) -> Case:
        shape = [self._size(1, 6) for _ in range(4)]
        return Case(operation, f"{kind}, {shape}", (self._values(kind, *shape),))

    def _upsample2x(self, kind: str) -> Case:
        return self._moved("upsample2x", kind)

    def _pad_bottom_right(self, kind: str) -> Case:
        return self._moved("pad_bottom_right", kind)

    def _activation(self, operation: str, kind: str) -> Case:
        shape = self._size(1, 9), self._size(1, 40)
        x = self._values(kind, *shape)
        if kind == "normal" and self.rng.random() < 0.5:  # the bend of the function
            x = 4.0 * self.rng.standard_normal(shape)
        return Case(operation, f"{kind}, {x.shape}", (x,))

    def _silu(self, kind: str) -> Case:
        return self._activation("silu", kind)

    def _gelu(self, kind: str) -> Case:
        return self._activation("gelu", kind)

    def _quick_gelu(self, kind: str) -> Case:
        return self._activation("quick_gelu", kind)

    def _asarray(self, kind: str) -> Case:
        return self._activation("asarray", kind)

    def _add(self, kind: str) -> Case:
        shape = self._size(1, 200)
        arrays = [self._values(kind, shape) for _ in range(self._size(2, 4))]
        if kind == "cancelling":
            arrays[1] = -arrays[0] * (1.0 + 1e-3 * self.rng.standard_normal(shape))
        return Case("add", f"{kind}, {len(arrays)} terms", tuple(arrays))

    def _mul(self, kind: str) -> Case:
        shape = self._size(1, 200)
        return Case("mul", kind, (self._values(kind, shape), self._values("normal", shape)))
