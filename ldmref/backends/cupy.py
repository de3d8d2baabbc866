"""The CuPy backend: the operations of the NumPy reference on an NVIDIA GPU.

CuPy's functions have NumPy's names, so `NumpyBackend` provides all operations through `self.lib`.
This module adds the device, conversions and the error function.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from ldmref.backends.numpy import NumpyBackend
from ldmref.errors import BackendUnavailable
from ldmref.math.arrays import Array

_NEEDS = "pip install 'ldmref[cupy]'; it needs an NVIDIA GPU, its driver and the CUDA libraries"


def _libraries() -> tuple[Any, Any, Any]:
    """Import CuPy, its array-API namespace and its error function."""
    import array_api_compat.cupy as xp
    import cupy
    from cupyx.scipy.special import erf

    return cupy, xp, erf


class CupyBackend(NumpyBackend):
    """CuPy on one CUDA device, which becomes the current device of the calling thread."""

    name = "cupy"
    default_device = "cuda:0"
    workspace = 256 * 2**20

    def set_up(self) -> None:
        match = re.fullmatch(r"cuda(?::(\d+))?", self.device)
        if not match:
            message = f"the cupy backend has no device {self.device!r}"
            hint = 'devices are "cuda:0", "cuda:1", ...; "cuda" is "cuda:0"'
            raise BackendUnavailable(message, code="E-DEVICE", hint=hint)
        self._index = int(match[1] or 0)
        self.device = f"cuda:{self._index}"
        self._dtype = np.dtype(self.dtype)
        try:
            self.lib, self.xp, self._cupy_erf = _libraries()
            self.lib.cuda.Device(self._index).use()
            probe = self.lib.ones((2, 2), dtype=self._dtype)
            self.to_numpy(probe @ probe)  # loads the driver, the compiler and cuBLAS, or raises
        except Exception as error:  # the CUDA libraries raise unrelated types
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            message = f"the cupy backend cannot use device {self.device!r}: {reason}"
            raise BackendUnavailable(message, code="E-BACKEND", hint=_NEEDS) from error

    def to_numpy(self, x: Array) -> np.ndarray:
        return self.lib.asnumpy(x)

    def inference(self) -> AbstractContextManager:
        """Select the device in the calling thread: CuPy's current device is per thread."""
        return self.lib.cuda.Device(self._index)

    def synchronize(self) -> None:
        self.lib.cuda.Device(self._index).synchronize()

    def _erf(self, x: Array) -> Array:
        return self._cupy_erf(x)
