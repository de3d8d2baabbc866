"""bfloat16 in NumPy, against PyTorch's for every code and random numbers."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from ldmref.support.bfloat16 import bfloat16_bits, decode_bfloat16, round_to_bfloat16

CODES = np.arange(2**16, dtype=np.uint16)


def test_every_code():
    want = torch.from_numpy(CODES.view(np.int16)).view(torch.bfloat16).float().numpy()
    numbers = decode_bfloat16(CODES)
    np.testing.assert_array_equal(numbers, want)
    known = ~np.isnan(numbers)
    np.testing.assert_array_equal(bfloat16_bits(numbers)[known], CODES[known])
    np.testing.assert_array_equal(round_to_bfloat16(numbers), numbers)


@given(st.lists(st.floats(width=32), min_size=1, max_size=50))
def test_rounding(numbers):
    x = np.array(numbers, np.float32)
    want = torch.from_numpy(x).bfloat16().float().numpy()
    np.testing.assert_array_equal(round_to_bfloat16(x), want)


def test_ties_and_shapes():
    halfway = 1 + np.float32(2.0**-8) * np.arange(8, dtype=np.float32)
    want = torch.from_numpy(halfway).bfloat16().float().numpy()
    np.testing.assert_array_equal(round_to_bfloat16(halfway), want)
    assert round_to_bfloat16(1.006).shape == ()
    assert round_to_bfloat16(np.ones((2, 3), np.float64)).dtype == np.float32
