"""`CudaStream` against values that others have published; no GPU is needed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from ldmref.errors import UsageError
from ldmref.samplers import rng_cuda
from ldmref.samplers.rng_cuda import CUDA_CARDS, CudaCard, CudaStream, philox4x32


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


# -- arrays of more than one wave -----------------------------------------------------------------


class Part(CudaStream):
    """Only the first and the last values of an array: 9 million take seconds."""

    def ends(self, count, many):
        where = np.asarray([*range(many), *range(count - many, count)], np.uint64)
        number, thread = np.divmod(where, np.uint64(self._card.wave))
        counter = np.zeros((4, len(where)), np.uint64)
        counter[0] = number // 4
        counter[2] = thread
        words = philox4x32(counter, (self._seed % 2**32, self._seed >> 32))
        return rng_cuda._normal(words, number % 4)


@pytest.mark.parametrize(
    ("card", "last"),
    [("A100", [0.1549, -0.6797, -0.1656]), ("H100 SXM", [-0.6970, -0.7780, 0.3267])],
)
def test_the_ends_of_nine_million_values_on_two_cards(card, last):
    """pytorch#143086: seed 1, torch.randn(1, 49 * 12 * 112 * 144), as both cards printed it."""
    want = [-0.2963, 2.6764, -0.1408, *last]
    got = Part(1, card).ends(49 * 12 * 112 * 144, 3)
    np.testing.assert_allclose(got, want, rtol=0, atol=5.1e-5)
    other = Part(1, "H100 PCIe").ends(49 * 12 * 112 * 144, 3)
    assert abs(other[3:] - want[3:]).min() > 0.05


def test_whole_arrays_have_these_ends():
    """`draw` and the ends that the other tests compare are the same numbers."""
    for card in ("T4", "A100"):
        whole = CudaStream(5, card).draw((1_000_000,))
        np.testing.assert_array_equal(np.r_[whole[:9], whole[-9:]], Part(5, card).ends(10**6, 9))


def test_an_array_of_rtx_a6000():
    """pytorch#62467: seed 43, (1, 3, 128, 128), the first value of each channel."""
    got = CudaStream(43, "RTX A6000").draw((1, 3, 128, 128))[0, :, 0, 0]
    np.testing.assert_allclose(got, [1.9983, 0.8704, 2.1127], rtol=0, atol=5.1e-5)


def test_an_array_of_rtx_a4000():
    """pytorch#97097: seed 14, (1000, 100), mean 5 and variance 5; it has more than one wave."""
    want = [
        [8.6297, 2.3137, 6.2596, 7.9358, 4.4697, 2.7475],
        [7.0551, 7.8583, 3.9990, 4.1139, 8.9315, 4.2042],
        [2.7337, 2.2106, 7.7815, 8.2207, 6.5395, 4.2604],
    ]
    rows = CudaStream(14, "RTX A4000").draw((1000, 100))[-3:, [0, 1, 2, -3, -2, -1]]
    np.testing.assert_allclose(5 + 5**0.5 * rows, want, rtol=0, atol=1e-4)
    alone = CudaStream(14).draw((1000, 100))[-3:, [0, 1, 2, -3, -2, -1]]
    assert abs(alone - rows).max() > 0.1


@pytest.mark.parametrize(
    ("card", "other", "boundary"),
    [("T4", "L4", 40_960), ("RTX 4090D", "H20", 159_744), ("A10G", "L40S", 122_880)],
)
def test_cards_agree_up_to_one_wave_of_the_smaller(card, other, boundary):
    """pytorch#194676 and #176584 measured these boundaries."""
    n = boundary + 500
    same = CudaStream(123, card).draw((n,)) == CudaStream(123, other).draw((n,))
    assert same[:boundary].all() and not same[boundary:].any()
    assert min(CUDA_CARDS[c].wave for c in (card, other)) == boundary


def test_one_wave_is_the_stream_without_a_card():
    for card in CUDA_CARDS:
        streams = CudaStream(7, card), CudaStream(7)
        for _ in range(2):
            a, b = (stream.draw((4, 64, 64)) for stream in streams)
            assert (a == b).all()


def test_a_call_advances_by_the_counters_that_a_thread_used():
    """Nine values of a thread are three counters: the next call begins at the fourth."""
    stream = CudaStream(3, CudaCard(1, 256))
    stream.draw((256 * 9,))
    fresh = CudaStream(3)
    for _ in range(3):
        fresh.draw((256,))
    assert (stream.draw((256,)) == fresh.draw((256,))).all()


def test_values_beyond_one_wave_are_normal():
    z = CudaStream(0, "T4").draw((4, 40_960)).astype(float)
    assert abs(z.mean(axis=1)).max() < 0.02 and abs(z.std(axis=1) - 1).max() < 0.02
    assert abs(np.corrcoef(z) - np.eye(4)).max() < 0.02


def test_an_unknown_card_is_refused():
    with pytest.raises(UsageError, match="unknown card 'T5'"):
        CudaStream(0, "T5")


def test_the_page_has_these_cards_and_numbers():
    page = (Path(__file__).parents[2] / "docs/random.md").read_text("utf-8")
    rows = re.findall(r"^\| ([^|]+) \| (\d+) x (\d+) \| ([\d,]+) \|$", page, re.M)
    listed = {name: row[1:] for row in rows for name in row[0].split(", ")}
    assert listed == {
        name: (str(card.multiprocessors), str(card.threads), f"{card.wave:,}")
        for name, card in CUDA_CARDS.items()
    }
    shape = (16, 128, 128)
    a100, h100 = (CudaStream(0, card).draw(shape) for card in ("A100", "H100 SXM"))
    same = int((a100 == h100).sum())
    assert f"\n{same} of {a100.size} values are the same\n" in page
