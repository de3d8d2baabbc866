"""Recorded arrays as tensors of PyTorch, and tensors as arrays that judges compare.

Floats are float64 and whole numbers int64. Complex numbers are judged as their two parts, in a last
axis of 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ldmref.trace.model import Trace
from ldmref.trace.torch_values import find_tensors

ArraysByRole = Mapping[str, np.ndarray]


def to_array(x: torch.Tensor) -> np.ndarray:
    """Return a copy of a tensor's values, which code may overwrite, as judges compare them.

    >>> to_array(torch.tensor([1.0 + 2.0j])).tolist()
    [[1.0, 2.0]]
    """
    x = x.detach().cpu().resolve_conj().resolve_neg()
    if x.is_complex():
        x = torch.view_as_real(x)
    return x.to(torch.float64 if x.is_floating_point() else torch.int64, copy=True).numpy()


def to_tensor(x: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    """Return an array that `to_array` made, or a recorded one, as a tensor of another's kind.

    Args:
        x: The array, of any shape; complex numbers have a last axis of 2.
        like: The tensor whose format and device it gets.
    """
    made = torch.tensor(np.ascontiguousarray(x).reshape(np.shape(x)))  # a copy
    if like.is_complex():
        made = torch.view_as_complex(made.to(torch.float64).contiguous())
    return made.to(device=like.device, dtype=like.dtype)


def read_recorded(port: Trace, name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Return a recorded array as judges compare it.

    Args:
        port: The trace.
        name: The name of the array.
        shape: The shape of the array that it is compared with; see `with_frame`. None: any.
    """
    x: Any = np.asarray(port.tensors[name])
    if x.dtype.kind == "c":
        x = np.stack([x.real, x.imag], axis=-1)
    x = np.asarray(x, np.float64 if x.dtype.kind == "f" else np.int64)
    return x if shape is None else with_frame(x, shape)


def with_frame(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return a recorded array in a shape that has one frame more, (n, c, 1, h, w); others as is.

    Recordings have the one frame of a decoder of videos as an image.

    >>> with_frame(np.zeros((2, 3, 8, 8)), (2, 3, 1, 8, 8)).shape
    (2, 3, 1, 8, 8)
    """
    alike = len(shape) == 5 and shape[2] == 1 and x.shape == (*shape[:2], *shape[3:])
    return x[:, :, None] if alike else x


def arrays_in(value: object, role: str) -> dict[str, np.ndarray]:
    """Return the tensors of an argument or a result by role, as arrays."""
    return {name: to_array(x) for name, x in find_tensors(value, role)}
