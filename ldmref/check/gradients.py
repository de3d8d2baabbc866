"""Gradients of the functions under test, as their library records them, and of formulas.

Only PyTorch records gradients of the functions as they are written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ldmref.math.arrays import Array

STEP = 2.0**-100  # its square is below the rounding of any real part


def records_gradients(array: Array) -> bool:
    """Return whether the array's library records operations for gradients."""
    return hasattr(array, "requires_grad_")


def recorded_gradients(
    function: Callable[..., Array], weights: Array, *arrays: Array
) -> list[Array]:
    """Return the gradients of sum(weights * function(*arrays)), zeros for unused arrays."""
    leaves = [array.detach().clone().requires_grad_() for array in arrays]
    result = function(*leaves)
    if result.requires_grad:
        result.backward(weights)
    return [0.0 * leaf.detach() if leaf.grad is None else leaf.grad for leaf in leaves]


def complex_step(
    formula: Callable[..., Any], weights: np.ndarray, *arrays: np.ndarray
) -> list[np.ndarray]:
    """Return the gradients of a formula in NumPy, exact up to rounding: Im f(x + ih) / h.

    Nothing is subtracted, so a step of 2^-100 loses no digits. The formula must accept complex
    numbers: no abs, and comparisons only of real parts. Source: Squire and Trapp 1998, SIAM Review
    40:110.

    >>> complex_step(lambda x: x**3, np.asarray([1.0]), np.asarray([2.0]))
    [array([12.])]
    """
    gradients = []
    for i, array in enumerate(arrays):
        gradient = np.empty(array.shape)
        for index in np.ndindex(array.shape):
            moved = array.astype(complex)
            moved[index] += 1j * STEP
            value = formula(*arrays[:i], moved, *arrays[i + 1 :])
            gradient[index] = np.sum(weights * np.imag(value)) / STEP
        gradients.append(gradient)
    return gradients
