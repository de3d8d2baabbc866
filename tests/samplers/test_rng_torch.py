"""`TorchStream` against torch itself: many seeds, shapes and sequences of calls."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from ldmref.samplers.rng_torch import TorchBfloat16Stream, TorchStream

UNIT = 2.0**-21  # in the last place of a float32 from 4 on: of |z| as of the angle theta
LARGEST = np.sqrt(48 * np.log(2.0))  # of |z|, since 1 - u >= 2^-24
# torch's vectorised logarithm, sine and cosine are off by a unit of z. Its plain path rounds theta
# another way, to a neighbour in float32, which moves z by up to |z| units more.
TOLERANCES = {"vectorised": UNIT, "plain": UNIT + LARGEST * UNIT}


def tolerance():
    torch = pytest.importorskip("torch")
    vectorised = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    return TOLERANCES["vectorised" if vectorised else "plain"]


SEEDS = [0, 1, 42, 2**31, 2**32 - 1, 2**32, 123456789012, 2**63, 2**64 - 1, -1, -(2**63)]


def generator(seed):
    torch = pytest.importorskip("torch")
    return torch.Generator("cpu").manual_seed(seed)


def assert_draws_alike(seed, shapes):
    """The same calls on both: equal below 16 values, near from there on."""
    theirs = generator(seed)
    mine = TorchStream(seed)
    torch = pytest.importorskip("torch")
    for shape in shapes:
        want = torch.randn(shape, generator=theirs).numpy()
        got = mine.draw(shape)
        assert got.dtype == np.float32 and got.shape == want.shape
        atol = 0.0 if want.size < 16 else tolerance()
        np.testing.assert_allclose(got, want, rtol=0, atol=atol, err_msg=f"{seed} {shape}")


@pytest.mark.parametrize("seed", SEEDS)
def test_every_size_up_to_three_blocks(seed):
    for n in range(50):
        assert_draws_alike(seed, [(n,)])


@pytest.mark.parametrize("seed", SEEDS)
def test_sizes_of_images(seed):
    assert_draws_alike(seed, [(4, 64, 64), (1, 4, 64, 64), (4, 9, 13), (16, 8, 8), (3, 3, 511)])


@given(
    seed=st.integers(0, 2**64 - 1),
    shapes=st.lists(
        st.one_of(
            st.tuples(st.integers(0, 40)),
            st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)),
            st.just(()),
        ),
        max_size=12,
    ),
)
def test_sequences_of_calls(seed, shapes):
    assert_draws_alike(seed, shapes)


def test_the_second_value_of_a_pair_waits_for_the_next_small_call():
    """Also across calls of 16 values or more, which neither use nor lose it."""
    assert_draws_alike(3, [(1,), (16,), (17,), (0,), (2,), (4, 8, 8), (), (3,), (15,), (1,)])


def test_the_largest_values_are_reached():
    """A million values: far tails, and the float32 rounding of the angle."""
    torch = pytest.importorskip("torch")
    want = torch.randn(2**20, generator=generator(5)).numpy()
    got = TorchStream(5).draw((2**20,))
    assert np.abs(want).max() > 5
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance())


def test_the_plain_path_of_torch():
    """As on processors without AVX2; the numbers are those of docs/random.md."""
    pytest.importorskip("torch")
    code = (
        "import sys, torch; assert torch.backends.cpu.get_cpu_capability() == 'DEFAULT'; "
        "g = torch.Generator('cpu').manual_seed(5); "
        "sys.stdout.buffer.write(torch.randn(2**20, generator=g).numpy().tobytes())"
    )
    plain = dict(os.environ, ATEN_CPU_CAPABILITY="default")
    made = subprocess.run([sys.executable, "-c", code], env=plain, capture_output=True, check=True)
    off = np.abs(TorchStream(5).draw((2**20,)) - np.frombuffer(made.stdout, np.float32)).max()
    assert TOLERANCES["vectorised"] < off <= TOLERANCES["plain"] < 3.3e-6


def test_only_the_low_half_of_a_seed_counts():
    a, b = (TorchStream(seed).draw((40,)) for seed in (7, 7 + 5 * 2**32))
    assert (a == b).all() and (a != TorchStream(8).draw((40,))).all()


def test_half_precision_is_the_same_stream_rounded():
    """docs/random.md: below 4, float16 is within 0.001; half of its spacing is 0.00098 there."""
    torch = pytest.importorskip("torch")
    single, half = (
        torch.randn(100_000, generator=torch.Generator().manual_seed(5), dtype=dtype).numpy()
        for dtype in (torch.float32, torch.float16)
    )
    below = np.abs(single) < 4
    assert np.abs(half.astype(np.float32) - single)[below].max() < 0.001


def bfloat16(x):
    """Round to eight significant bits, ties to even, by the definition."""
    x = np.asarray(x, np.float32).astype(np.float64)
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.rint(mantissa * 256), exponent - 8)


@pytest.fixture(scope="module")
def law():
    """All 2^16 pairs (z_i, z_{i+8}) of eight-bit uniforms, of equal probability."""
    k = np.arange(256) / 256
    r = bfloat16(np.sqrt(-2 * bfloat16(np.log(1 - k))))
    theta = bfloat16(2 * np.pi * k)
    waves = (bfloat16(np.cos(theta)), bfloat16(np.sin(theta)))
    return np.stack([bfloat16(r[:, None] * wave) for wave in waves], axis=-1).reshape(-1, 2)


def test_eight_bits_are_the_enumerated_law(law):
    """2^20 values: every pair is one of the 65,536, and each moment within five deviations."""
    n = 2**20
    pairs = TorchBfloat16Stream(1).draw((n,)).reshape(-1, 2, 8).swapaxes(1, 2).reshape(-1, 2)
    known = np.unique(law @ np.array([1.0, 1j]))
    assert np.isin(pairs.astype(np.float64) @ np.array([1.0, 1j]), known).all()
    for power in (1, 2, 4):
        of_law = law**power
        off = (pairs.astype(np.float64) ** power).mean() - of_law.mean()
        assert abs(off) < 5 * of_law.std() / np.sqrt(n / 2)
    assert abs(pairs).max() == abs(law).max() == 3.328125


def test_the_page_tells_the_law_of_eight_bits(law, pytestconfig):
    """docs/random.md: variance, kurtosis, zeros and the largest value."""
    page = (pytestconfig.rootpath / "docs" / "random.md").read_text("utf-8")
    variance = (law**2).mean()
    for what in (
        f"variance {variance:.4f}",
        f"kurtosis {(law**4).mean() / variance**2:.2f}",
        f"zero with probability {(law == 0).mean():.4f}",
        f"largest value {abs(law).max():.3f}",
    ):
        assert what in page
    log_factorial = np.log(np.arange(1, 257)).sum()
    assert abs(variance - (np.log(256) - log_factorial / 256)) < 5e-4


def test_fewer_than_sixteen_values_are_only_rounded():
    few, single = (stream(3).draw((15,)) for stream in (TorchBfloat16Stream, TorchStream))
    assert np.array_equal(few, bfloat16(single))


@pytest.mark.parametrize(
    "seed, digest",
    [
        (0, "e32adc3da1082ee7a87ff51bf9f64c6d49cdf3942cc0b3f975abee6c7e89674d"),
        (42, "018db8368e9d0175f2ca0cd9737def3eabe3f6855189db366e9b7a84820c7387"),
    ],
)
def test_eight_bits_are_those_of_an_older_torch(seed, digest):
    """What torch 2.8.0 drew in bfloat16, in seven calls of one generator; float32, without -0."""
    stream = TorchBfloat16Stream(seed)
    shapes = [(20,), (4, 64, 64), (3,), (17,), (16, 128, 128), (16,), (100,)]
    values = np.concatenate([stream.draw(shape).ravel() for shape in shapes]) + np.float32(0)
    assert hashlib.sha256(values.tobytes()).hexdigest() == digest
    if seed == 0:
        assert values[:4].tolist() == [1.4609375, 0.291015625, 0.9609375, 1.5703125]


def test_noise_in_bfloat16_of_older_torch_has_no_tails(law, pytestconfig):
    """The row of docs/math/differences.md: what is missing of a normal law, and the newer noise."""
    page = (pytestconfig.rootpath / "docs" / "math" / "differences.md").read_text("utf-8")
    random_page = (pytestconfig.rootpath / "docs" / "random.md").read_text("utf-8")
    size = 16 * 128 * 128
    latent = TorchBfloat16Stream(7).draw((16, 128, 128))
    largest = abs(law).max()
    missing = 2 * size * norm.sf(largest)
    assert f"variance {(law**2).mean():.4f} instead of 1" in page
    told = re.search(r"of the ([\d,]+) numbers .* none is beyond ±([\d.]+), .* puts (\d+)", page)
    assert told and told.groups() == (f"{size:,}", f"{largest:.3f}", f"{missing:.0f}")
    told = re.search(r"a normal law puts (\d+) beyond that value of either sign", random_page)
    assert told and int(told[1]) == round(missing)
    assert abs(latent).max() <= largest
    newer = TorchStream(7).draw((16, 128, 128))
    assert abs((abs(newer) > largest).sum() - missing) < 5 * np.sqrt(missing)
    torch = pytest.importorskip("torch")
    repaired = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 12)
    ours = bfloat16(newer) if repaired else latent
    generator = torch.Generator().manual_seed(7)
    drawn = torch.randn(16, 128, 128, generator=generator, dtype=torch.bfloat16)
    off = np.abs(ours - drawn.float().numpy())
    assert (off > 0).mean() < 1e-3  # a last bit before the rounding
    assert np.all(off <= np.abs(ours) * 2.0**-7)


def test_noise_of_packed_latents_has_other_places():
    """docs/modes.md on FlowEdit: numbers are drawn in the order of the memory.

    Flux.1's published code draws packed latents, Stable Diffusion 3's draws like its latents.
    """
    torch = pytest.importorskip("torch")
    latents = torch.zeros(1, 16, 8, 12)
    ours = TorchStream(5).draw((1, 16, 8, 12))

    def drawn(like):
        torch.manual_seed(5)
        return torch.randn_like(like)

    assert np.abs(ours - drawn(latents).numpy()).max() < 1e-5
    other = drawn(latents.contiguous(memory_format=torch.channels_last)).numpy()
    assert np.abs(ours - other).max() > 1
    packed = latents.view(1, 16, 4, 2, 6, 2).permute(0, 2, 4, 1, 3, 5).reshape(1, 24, 64)
    noise = drawn(packed).view(1, 4, 6, 16, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(1, 16, 8, 12)
    assert np.abs(ours - noise.numpy()).max() > 1
    assert np.abs(np.sort(ours.ravel()) - np.sort(noise.numpy().ravel())).max() < 1e-5
