"""`CudaStream` against values that others have published; no GPU is needed."""

from __future__ import annotations

import numpy as np
import pytest

from ldmref.samplers import rng_cuda
from ldmref.samplers.rng_cuda import CudaStream, philox4x32


@pytest.mark.parametrize(
    ("counter", "key", "want"),
    [
        ((0,) * 4, (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (2**32 - 1,) * 4,
            (2**32 - 1,) * 2,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers_of_random123(counter, key, want):
    """The `kat_vectors` of the authors' own implementation, for philox4x32 with 10 rounds."""
    assert tuple(philox4x32(np.array(counter), key)) == want
    many = philox4x32(np.array(counter)[:, None].repeat(3, axis=1), key)
    assert (many == np.array(want, np.uint64)[:, None]).all()


def test_the_example_of_a1111():
    """The docstring of stable-diffusion-webui's modules/rng_philox.py.

    It was printed before the constants of cuRAND went in as float32: equal to 2.1e-7 only.
    """
    want = [
        [-0.92466259, -0.42534415, -2.6438457, 0.14518388],
        [-0.12086647, -0.57972564, -0.62285122, -0.32838709],
        [-1.07454231, -0.36314407, -1.67105067, 2.26550497],
    ]
    got = CudaStream(0).draw((3, 4))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=0, atol=3e-7)


def test_a_card_in_single_precision():
    """`torch.manual_seed(0); torch.randn(2, 2, 2, 2, device="cuda").cpu().numpy()`, as printed."""
    want = [
        -0.9246624,
        -0.42534423,
        -2.6438458,
        0.14518386,
        -0.1208664,
        -0.57972574,
        -0.622851,
        -0.3283869,
        -1.0745419,
        -0.36314395,
        -1.6710504,
        2.2655048,
        0.3116848,
        -0.1841891,
        1.2866427,
        1.1819527,
    ]
    np.testing.assert_allclose(CudaStream(0).draw((2, 2, 2, 2)).ravel(), want, rtol=0, atol=5e-7)


def test_a_card_call_after_call():
    """Six calls of `torch.randn(4, device="cuda")` after seed 42, as printed; the first ten values
    are also those of the example of flashinfer's `LogitsPipe`."""
    want = [
        [0.1940, 2.1614, -0.1721, 0.8491],
        [0.1391, -0.1082, -0.7174, 0.7566],
        [-0.5187, 1.2268, 0.6255, -0.9117],
        [-0.6974, -1.8688, -0.8832, -1.6627],
        [-1.2682, -0.0383, -0.1029, 1.4400],
        [1.4640, -0.3238, 0.7740, 1.5892],
    ]
    stream = CudaStream(42)
    np.testing.assert_allclose([stream.draw((4,)) for _ in want], want, rtol=0, atol=5.1e-5)
    ten = [0.1940, 2.1614, -0.1721, 0.8491, -1.9244, 0.6530, -0.6494, -0.8175, 0.5280, -1.2753]
    np.testing.assert_allclose(CudaStream(42).draw((2, 5)).ravel(), ten, rtol=0, atol=5.1e-5)


def test_far_into_a_large_array():
    """Ends of rows 7 to 9 of `torch.randn(1823, 781, device="cuda")`, seed 42, as printed."""
    want = [
        [1.9695, 0.5996, 0.5583, -0.0692, 2.9254, 0.9274],
        [-1.7301, 1.2562, -1.2144, -0.4262, -2.0327, -1.0277],
        [-0.2987, 0.1946, 1.1640, -0.2081, -1.0439, 0.7082],
    ]
    rows = CudaStream(42).draw((10, 781))[7:]
    np.testing.assert_allclose(rows[:, [0, 1, 2, -3, -2, -1]], want, rtol=0, atol=5.1e-5)


def test_both_halves_of_the_seed_are_the_key():
    counter = np.zeros((4, 5), np.uint64)
    counter[2] = np.arange(5)
    x, y, _, _ = philox4x32(counter, (3, 9)).astype(float)
    want = np.sqrt(-2 * np.log((x + 0.5) / 2**32)) * np.sin((y + 0.5) * (2 * np.pi / 2**32))
    np.testing.assert_allclose(CudaStream(3 + 9 * 2**32).draw((5,)), want, rtol=0, atol=2e-6)
    assert (CudaStream(2**64 - 1).draw((5,)) == CudaStream(-1).draw((5,))).all()


def test_the_smallest_and_the_largest_word(monkeypatch):
    """u is never 0 nor 1: the smallest is 2^-33."""
    words = np.array([[0, 2**32 - 1], [2**30, 2**30], [0, 0], [0, 0]], np.uint64)
    monkeypatch.setattr(rng_cuda, "philox4x32", lambda counter, key: words)
    largest, smallest = CudaStream(0).draw((2,)).tolist()
    assert largest == pytest.approx(np.sqrt(66.0 * np.log(2.0)), rel=1e-6)
    assert smallest == pytest.approx(2.0**-16, rel=1e-6)
