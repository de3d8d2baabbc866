"""Arrays that callers pass and get: tensors of torch if torch is in use, otherwise NumPy's.

Torch is in use if the pipeline runs on it, or if the program has imported it. Nothing here imports
torch by itself, except for `output_type="pt"`.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from ldmref.errors import BackendUnavailable, UsageError, short_repr
from ldmref.models.model import LatentDiffusion


def to_host(name: str, value: Any) -> np.ndarray:
    """Return a tensor or array as float32 NumPy.

    Raises:
        UsageError: The value is something else.
    """
    if hasattr(value, "detach"):  # torch: bfloat16 has no NumPy type
        value = value.detach().cpu().float().numpy()
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise UsageError(
            f"{name} must be an array of numbers, not {short_repr(value)}", code="E-LATENTS"
        )
    return np.array(array, np.float32)


def to_caller(model: LatentDiffusion, array: Any) -> Any:
    """Return an array of the backend, or NumPy's, as callers of diffusers expect it.

    A tensor has the pipeline's device and dtype if the backend is torch.
    """
    ops = model.backend
    if ops.name == "torch":
        return ops.asarray(array)
    array = np.array(ops.to_numpy(array), np.float32)
    torch = sys.modules.get("torch")
    return array if torch is None else torch.from_numpy(array)


def to_torch(array: np.ndarray) -> Any:
    """Return a NumPy array as a tensor of torch.

    Raises:
        BackendUnavailable: torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise BackendUnavailable(
            "output_type='pt' needs torch, which is not installed",
            code="E-BACKEND",
            hint="output_type='np' gives NumPy arrays (n, height, width, 3)",
        ) from error
    return torch.from_numpy(array)
