"""What is allowed of a step covers rounding in every sampler, and no fault of the last steps.

Each step is taken twice from the same arrays: in NumPy's float32 or float16, and in float64.
"""

from __future__ import annotations

import numpy as np

from ldmref.locate.recorded.layouts import relative_error


def test_errors_of_short_floats_do_not_overflow():
    """Twice the largest float16 is infinite in float16."""
    largest = np.full(3, 6e4, np.float16)
    assert relative_error(-largest, largest) == 2.0
