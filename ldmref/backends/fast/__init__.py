"""The backends that have a reference and the same operations at full speed: which one it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ldmref.backends.numpy import NumpyBackend

if TYPE_CHECKING:
    from ldmref.backends.cupy import CupyBackend
    from ldmref.backends.torch import TorchBackend


def numpy_backend(
    device: str | None = None, dtype: str | None = None, speed: str | None = None
) -> NumpyBackend:
    """The reference (`exact`) in float64 and float16; in float32, if not told otherwise, `fast`."""
    if dtype not in (None, "float32") or speed == "exact":
        return NumpyBackend(device, dtype, speed)
    from ldmref.backends.fast.numpy import FastNumpyBackend

    return FastNumpyBackend(device, dtype, speed)


def torch_backend(
    device: str | None = None, dtype: str | None = None, speed: str | None = None
) -> TorchBackend:
    """PyTorch as it comes (`exact`) in float64; in other types, if not told otherwise, `fast`."""
    from ldmref.backends.torch import TorchBackend

    if dtype == "float64" or speed == "exact":
        return TorchBackend(device, dtype, speed)
    from ldmref.backends.fast.torch import FastTorchBackend

    return FastTorchBackend(device, dtype, speed)


def cupy_backend(
    device: str | None = None, dtype: str | None = None, speed: str | None = None
) -> CupyBackend:
    """The reference's operations on a GPU (`exact`), unless told `fast`."""
    from ldmref.backends.cupy import CupyBackend

    if speed != "fast" or dtype == "float64":
        return CupyBackend(device, dtype, speed)
    from ldmref.backends.fast.cupy import FastCupyBackend

    return FastCupyBackend(device, dtype, speed)
