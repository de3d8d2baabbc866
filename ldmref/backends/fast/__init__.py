"""NumPy's two backends: the reference, and the same operations at full speed."""

from __future__ import annotations

from ldmref.backends.numpy import NumpyBackend


def numpy_backend(
    device: str | None = None, dtype: str | None = None, speed: str | None = None
) -> NumpyBackend:
    """The reference (`exact`) in float64 and float16; in float32, if not told otherwise, `fast`."""
    if dtype not in (None, "float32") or speed == "exact":
        return NumpyBackend(device, dtype, speed)
    from ldmref.backends.fast.backend import FastNumpyBackend

    return FastNumpyBackend(device, dtype, speed)
