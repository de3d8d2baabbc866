"""The error of a training whose loss or gradient is not finite."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ldmref.errors import NumericError, abbreviated

MOST_NAMED = 64  # images of a batch


def nonfinite_error(
    step: int, loss: float, norms: Sequence[float], where: str, batch: np.ndarray
) -> NumericError:
    """Names the step, the operation or parameter, and the images."""
    norm = max(norms, key=lambda norm: (math.isnan(norm), norm))
    images = abbreviated([str(int(i)) for i in batch], MOST_NAMED)
    message = f"step {step}: the loss is {loss}, its gradient's norm {norm}, first in {where}; "
    message += f"the images of this batch: {images}"
    hint = "try a lower learning rate, or float32: with --accept-changes from the last checkpoint "
    hint += "on, which is kept, or anew in another folder (-o)"
    return NumericError(message, code="E-NAN", hint=hint)
