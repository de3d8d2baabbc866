"""Number formats of a port: rounding to them in NumPy, and a backend that computes in them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ldmref.backends import get_backend
from ldmref.backends.base import DTYPES, Backend
from ldmref.backends.named import LayerCall, NamedBackend
from ldmref.errors import UsageError, did_you_mean
from ldmref.support.bfloat16 import round_to_bfloat16
from ldmref.trace.model import Trace, TraceEntry

EPSILONS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
UNITS = {"F16": 2.0**-10, "BF16": 2.0**-7, "F8_E4M3": 2.0**-3, "F8_E5M2": 2.0**-2}  # as stored
STORED = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def round_to(x: object, dtype: str) -> np.ndarray:
    """Return the nearest values of a number format, in the dtype that `x` has.

    >>> round_to(np.array([1.005, 1.006]), "bfloat16")
    array([1.0078125, 1.0078125])
    """
    x = np.asarray(x)
    if x.dtype.kind != "f" or dtype == "float64":
        return x
    if dtype == "bfloat16":
        return round_to_bfloat16(x).astype(x.dtype)
    with np.errstate(over="ignore"):
        return x.astype(dtype).astype(x.dtype)


class Rounding(NamedBackend):
    """float32 NumPy whose operations return values of a narrower format, as fused kernels do.

    Args:
        dtype: The format of every result; sums are accumulated in float32, or in float64 for
            float64.
    """

    def __init__(self, dtype: str):
        self.rounded = dtype
        super().__init__(get_backend("numpy", dtype="float64" if dtype == "float64" else "float32"))

    def visit(self, call: LayerCall) -> Any:
        return round_to(call.compute(call.inputs), self.rounded)


def exact_backend() -> Backend:
    """Return the backend of the recomputed layers: NumPy in float64."""
    return get_backend("numpy", dtype="float64", speed="exact")


def stored_unit(port: Trace, entry: TraceEntry) -> float:
    """Return the unit of rounding of the narrowest format in which a layer was stored."""
    names = (*entry.inputs.values(), *entry.outputs.values())
    return max([0.0, *(UNITS.get(port.kinds.get(name, ""), 0.0) for name in names)])


def port_dtype(port: Trace, dtype: str | None = None) -> str:
    """Return the number format in which a port computed.

    Args:
        port: The trace of the port.
        dtype: The user's own word; None: the manifest's `dtype`, otherwise the stored type of most
            tensors.

    Raises:
        UsageError: No such format.
    """
    named = dtype or port.manifest.get("dtype")
    if named is None:
        named = (port.manifest.get("backend") or {}).get("dtype")
    if named is not None:
        if named not in DTYPES:
            message = f"dtype {named!r} is not a number format"
            raise UsageError(message, code="E-DTYPE", hint=did_you_mean(str(named), DTYPES))
        return str(named)
    stored = [STORED.get(kind) for kind in port.kinds.values()]
    if not any(stored):
        names = (name for entry in port.entries for name in entry.outputs.values())
        stored = [str(np.asarray(port.tensors[name]).dtype) for name in list(names)[:50]]
    counts = {name: stored.count(name) for name in DTYPES}
    return max(counts, key=counts.__getitem__) if any(counts.values()) else "float32"
