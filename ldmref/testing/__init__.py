"""Does a backend compute what the reference computes? For tests of one's own backend:

    from ldmref.testing import assert_conforms
    def test_backend(): assert_conforms(MyBackend(dtype="float32"))

Every operation runs on seeded inputs, contiguous and not, and is compared with the float64 NumPy
backend on the same inputs (rounded to the backend's dtype first, so that this rounding does not
count). A result passes if it has the right shape and dtype, left its inputs alone, is finite, and

    max |y - reference| <= eps * (4 + sqrt(terms)) * condition * max |reference|

with `eps` the spacing of the dtype at 1 and `terms` the length of the longest sum (1 for
elementwise operations). One rounding errs by at most eps / 2; an operation makes a handful of them
in a row, and those of a sum add up like a random walk, to about sqrt(terms) * eps / 2. `condition`
is 1, but for norms of inputs whose mean exceeds their spread sqrt(variance + eps) it is that ratio.
Operations that only move numbers must be exact. A GPU that silently works in TF32 misses the
float32 bound by a factor of some hundred.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ldmref.backends.base import Backend
from ldmref.backends.numpy import NumpyBackend
from ldmref.errors import VerifyError

EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


@dataclass(frozen=True)
class Finding:
    """One comparison; `error` is relative to the largest reference value."""

    operation: str
    case: str
    error: float
    bound: float
    ok: bool
    note: str = ""  # what is wrong besides the values: an exception, shape, dtype, a changed input

    def __str__(self) -> str:
        verdict = "ok" if self.ok else "FAILED"
        text = f"{self.operation} ({self.case}): error {self.error:.2g}, bound {self.bound:.2g}"
        return f"{verdict}: {text}{'; ' if self.note else ''}{self.note}"


@dataclass(frozen=True)
class Case:
    """One call: `arrays` are converted to the backend's, `options` passed as they are."""

    operation: str
    name: str
    arrays: tuple[np.ndarray, ...]
    options: dict[str, Any] = field(default_factory=dict)
    terms: int = 1  # 0: the operation only moves numbers
    condition: float = 1.0


def check_backend(backend: Backend | Callable[[], Backend]) -> list[Finding]:
    """Compare every operation of a backend (or of what a factory makes) with the reference."""
    ops = backend if isinstance(backend, Backend) else backend()
    findings = list(_conversions(ops))
    for case in cases():
        for layout in ("contiguous", "strided"):
            findings.append(_check(ops, case, layout))
    return findings


def assert_conforms(backend: Backend | Callable[[], Backend]) -> None:
    """Raise a VerifyError that lists what `check_backend` finds wrong."""
    findings = check_backend(backend)
    failures = [str(finding) for finding in findings if not finding.ok]
    if failures:
        raise VerifyError(
            f"{len(failures)} of {len(findings)} comparisons with the NumPy reference failed:\n"
            + "\n".join(failures),
            code="E-CONFORMANCE",
        )


def _check(ops: Backend, case: Case, layout: str) -> Finding:
    name = f"{case.name}, {layout}"
    bound = EPS[ops.dtype] * (4 + math.sqrt(case.terms)) * case.condition if case.terms else 0.0
    try:
        args = [_place(ops, x, layout) for x in case.arrays]
        before = [np.array(ops.to_numpy(x)) for x in args]
        with ops.inference():
            y = getattr(ops, case.operation)(*args, **case.options)
        got, after = ops.to_numpy(y), [ops.to_numpy(x) for x in args]
        note = _complaint(str(y.dtype), ops.dtype)
        if not all(np.array_equal(x, x2) for x, x2 in zip(before, after, strict=True)):
            note += "changed its input; "
    except Exception as error:  # whatever a backend raises is a finding, not the end of the suite
        note = f"raised {type(error).__name__}: {error}"
        return Finding(case.operation, name, math.inf, bound, False, note)
    reference = NumpyBackend(dtype="float64")
    want = getattr(reference, case.operation)(*map(reference.asarray, before), **case.options)
    return _compare(case.operation, name, got, want, bound, note)


def _compare(
    operation: str, name: str, got: np.ndarray, want: np.ndarray, bound: float, note: str = ""
) -> Finding:
    if got.shape != want.shape:
        note += f"shape {got.shape}, expected {want.shape}; "
        return Finding(operation, name, math.inf, bound, False, note.rstrip("; "))
    with np.errstate(invalid="ignore"):
        scale = np.max(np.abs(want), initial=np.finfo(float).tiny)
        error = float(np.max(np.abs(got.astype(float) - want), initial=0.0) / scale)
    if not math.isfinite(error):
        note += "NaN or infinity; "
    ok = not note and error <= bound
    return Finding(operation, name, error, bound, ok, note.rstrip("; "))


def _complaint(dtype: str, want: str) -> str:
    dtype = dtype.rsplit(".", 1)[-1]  # "torch.float32" -> "float32"
    return "" if dtype == want else f"dtype {dtype}, expected {want}; "


def _place(ops: Backend, x: np.ndarray, layout: str) -> Any:
    """`x` on the backend; "strided" is a view whose axes lie in memory in reverse order."""
    if layout == "contiguous" or x.ndim < 2:
        return ops.asarray(x)
    axes = tuple(range(x.ndim))[::-1]
    return ops.xp.permute_dims(ops.asarray(np.ascontiguousarray(x.transpose(axes))), axes)


def _conversions(ops: Backend) -> Iterator[Finding]:
    """asarray and to_numpy: values, shapes and dtypes survive, from every kind of host array."""
    x = np.random.default_rng(0).standard_normal((3, 4, 5))
    frozen = x.copy()
    frozen.flags.writeable = False
    floats = {"float64": x, "float32": x.astype("f4"), "float16": x.astype("f2"),
              "scalar": x[0, 0, 0], "transposed": x.T, "reversed": x[::-1], "read-only": frozen,
              "empty": x[:0], "list": x.tolist()}  # fmt: skip
    ids = np.arange(6).reshape(2, 3)
    integers = {name: ids.astype(name) for name in ("int64", "int32", "uint8")} | {
        "ids": [[1], [2]]
    }
    rows = [(name, value, None, ops.dtype, EPS[ops.dtype]) for name, value in floats.items()]
    rows += [(name, value, None, "int64", 0.0) for name, value in integers.items()]
    rows += [("as float32", x, "float32", "float32", EPS["float32"])]
    for name, value, dtype, want, bound in rows:
        try:
            y = ops.asarray(value) if dtype is None else ops.asarray(value, dtype)
            note, got = _complaint(str(y.dtype), want), ops.to_numpy(y)
            again = ops.to_numpy(ops.asarray(y, dtype or ops.dtype))
            if not isinstance(got, np.ndarray) or not np.array_equal(got, again):
                note += "a second conversion differs; "
            if want == ops.dtype:
                note += _complaint(str(ops.cast(y, "float32").dtype), "float32")
            yield _compare("asarray", name, got, np.asarray(value, float), bound, note)
        except Exception as error:  # as above
            note = f"raised {type(error).__name__}: {error}"
            yield Finding("asarray", name, math.inf, bound, False, note)


def cases(seed: int = 0) -> Iterator[Case]:
    """Every operation in several shapes, on seeded normal inputs."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape)

    for shape in ((7,), (1, 7), (3, 5, 7), (2, 3, 1, 7)):
        name, x, w = f"{shape}", draw(*shape), draw(6, 7)
        yield Case("linear", name, (x, w), terms=7)
        yield Case("linear", f"{name} with bias", (x, w, draw(6)), terms=7)

    rows, w, b = draw(600, 20), draw(50, 20), draw(50)
    yield Case("linear", "(600, 20) with bias", (rows, w, b), terms=20)
    yield Case("linear", "few rows, much work", (draw(40, 400), draw(600, 400)), terms=400)
    for shape in ((7,), (2, 5, 7), (2, 300, 7)):
        x, w, b = draw(*shape), draw(12, 7), draw(12)
        yield Case("geglu", f"{shape}", (x, w), terms=7, condition=8)
        yield Case("geglu", f"{shape} with bias", (x, w, b), terms=7, condition=8)

    for n, c, out, size in (
        (1, 64, 64, (17, 15)),
        (3, 64, 80, (16, 16)),
        (5, 96, 64, (7, 8)),
        (1, 64, 64, (40, 33)),
        (2, 64, 64, (3, 40)),
    ):  # where libraries choose an algorithm of fewer multiplications
        x, w, b = draw(n, c, *size), draw(out, c, 3, 3), draw(out)
        name, options = f"{x.shape}, 3x3 to {out} channels", {"stride": 1, "padding": 1}
        yield Case("conv2d", name, (x, w), options, terms=9 * c)
        yield Case("conv2d", f"{name}, bias", (x, w, b), options, terms=9 * c)
    x, w = draw(1, 4, 41, 33), draw(3, 4, 3, 3)
    yield Case("conv2d", "many pixels", (x, w), {"stride": 2, "padding": 1}, terms=36)

    for n, size in ((1, (7, 5)), (3, (8, 9)), (1, (3, 3))):
        for kernel, stride, padding in (
            (1, 1, 0),
            (1, 2, 0),
            (3, 1, 1),
            (3, 1, 0),
            (3, 2, 1),
            (3, 2, 0),
        ):
            name = f"{(n, 6, *size)}, {kernel}x{kernel}, stride {stride}, padding {padding}"
            options, terms = {"stride": stride, "padding": padding}, 6 * kernel**2
            x, w = draw(n, 6, *size), draw(4, 6, kernel, kernel)
            yield Case("conv2d", name, (x, w), options, terms)
            yield Case("conv2d", f"{name}, bias", (x, w, draw(4)), options, terms)

    for operation in ("group_norm", "group_norm_silu"):
        for shape, groups in (
            ((1, 8, 7, 5), 1),
            ((3, 8, 3, 5), 4),
            ((1, 6, 4, 4), 6),
            ((3, 32, 1, 1), 8),
        ):
            for eps in (1e-6, 0.5):
                name, options = (
                    f"{shape}, {groups} groups, eps {eps}",
                    {"groups": groups, "eps": eps},
                )
                yield Case(operation, name, (draw(*shape), draw(shape[1]), draw(shape[1])), options)
        options = {"groups": 2, "eps": 1e-3}
        x, w, b = draw(3, 8, 5, 5), draw(8), draw(8)
        yield Case(operation, "mean 8", (x + 8, w, b), options, condition=8)
        yield Case(operation, "constant input", (np.full_like(x, 2.0), w, b), options, condition=64)
        x, w, b = draw(2, 32, 50, 61), draw(32), draw(32)
        yield Case(operation, "many pixels", (x, w, b), {"groups": 8, "eps": 1e-5})
        yield Case(operation, "many pixels, mean 8", (x + 8, w, b), options, condition=8)

    for shape in ((7,), (1, 5, 12), (3, 4, 12)):
        w, b = draw(shape[-1]), draw(shape[-1])
        for eps in (1e-5, 0.5):
            yield Case("layer_norm", f"{shape}, eps {eps}", (draw(*shape), w, b), {"eps": eps})
        yield Case(
            "layer_norm", f"{shape}, mean 8", (draw(*shape) + 8, w, b), {"eps": 1e-5}, condition=8
        )
        yield Case(
            "layer_norm", f"{shape}, constant", (np.ones(shape), w, b), {"eps": 1e-4}, condition=100
        )

    for n, heads, length, d, keys in (
        (1, 1, 5, 4, 5),
        (3, 2, 7, 8, 7),
        (1, 2, 3, 8, 11),
        (3, 1, 9, 4, 2),
        (1, 1, 1, 4, 6),
    ):
        q, k, v = draw(n, heads, length, d), draw(n, heads, keys, d), draw(n, heads, keys, d)
        for causal in (False, True):
            name = f"{(n, heads, length, d)}, {keys} keys{', causal' if causal else ''}"
            yield Case("attention", name, (q, k, v), {"causal": causal}, terms=d + keys)
    many = draw(2, 2, 300, 8), draw(2, 2, 520, 8), draw(2, 2, 520, 8)
    for causal in (False, True):
        yield Case(
            "attention", f"many{', causal' if causal else ''}", many, {"causal": causal}, 528
        )
    sharp = 100.0 * np.eye(8)[None, None]  # scores of 3536, whose exponentials overflow
    yield Case("attention", "huge scores", (sharp, sharp, draw(1, 1, 8, 8)), terms=16)

    table = draw(11, 6)
    for ids in ([[0, 10, 10]], [[3, 1], [4, 1], [5, 9]]):
        yield Case("embedding", f"ids {ids}", (table, np.array(ids)), terms=0)

    huge = np.array([-1e4, -300.0, -90.0, -20.0, 0.0, 20.0, 90.0, 300.0, 1e4])
    for operation in ("silu", "gelu", "quick_gelu"):
        for shape in ((7,), (1, 5, 3), (3, 4, 5, 3)):
            yield Case(operation, f"{shape}", (3.0 * draw(*shape),))
        yield Case(operation, "huge arguments", (huge,))
        yield Case(operation, "tiny arguments", (1e-3 * draw(9),))

    for shape in ((1, 1, 1, 1), (1, 3, 5, 7), (3, 4, 8, 3)):
        yield Case("upsample2x", f"{shape}", (draw(*shape),), terms=0)
        yield Case("pad_bottom_right", f"{shape}", (draw(*shape),), terms=0)
