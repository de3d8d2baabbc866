"""The tolerance between a network and its twin in diffusers or transformers."""

import numpy as np


def close(got, want, ops, bound=1e-10):
    want = want.detach().numpy()
    got = ops.to_numpy(got)
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= bound * np.abs(want).max()
