"""The backends with an exact and a fast implementation, and the choice between the two."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ldmref.backends.numpy import NumpyBackend

if TYPE_CHECKING:
    from ldmref.backends.cupy import CupyBackend
    from ldmref.backends.torch import TorchBackend


def numpy_backend(
    device: str | None = None, dtype: str | None = None, speed: str | None = None
) -> NumpyBackend:
    """Make a NumPy backend: `fast` by default in float32; other dtypes have only `exact`."""
    if dtype not in (None, "float32") or speed == "exact":
        return NumpyBackend(device, dtype, speed)
    from ldmref.backends.fast.numpy import FastNumpyBackend

    return FastNumpyBackend(device, dtype, speed)


def torch_backend(
    device: str | None = None, dtype: str | None = None, speed: str | None = None
) -> TorchBackend:
    """Make a PyTorch backend: `fast` by default; float64 has only `exact`."""
    from ldmref.backends.torch import TorchBackend

    if dtype == "float64" or speed == "exact":
        return TorchBackend(device, dtype, speed)
    from ldmref.backends.fast.torch import FastTorchBackend

    return FastTorchBackend(device, dtype, speed)


def cupy_backend(
    device: str | None = None, dtype: str | None = None, speed: str | None = None
) -> CupyBackend:
    """Make a CuPy backend: `exact` by default; `fast` on request, in float32 and float16."""
    from ldmref.backends.cupy import CupyBackend

    if speed != "fast" or dtype == "float64":
        return CupyBackend(device, dtype, speed)
    from ldmref.backends.fast.cupy import FastCupyBackend

    return FastCupyBackend(device, dtype, speed)
