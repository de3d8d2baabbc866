"""Blocks of ggml as they are written: error bounds, the package `gguf`, and the way back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldmref.io.quantized.bits import pack, read_halves, split, spread, unpack, write_halves
from ldmref.io.quantized.encode import nearest_e4m3, ratio
from ldmref.io.quantized.encode_k import (
    SEARCHES,
    fit_affine,
    fit_scale,
    fit_three_bits,
    pack_scales,
)
from ldmref.io.quantized.float8 import E4M3FN
from ldmref.io.quantized.ggml import (
    GGML_TYPES,
    WRITABLE,
    read_ggml,
    unpack_scales,
    write_ggml,
)
from ldmref.io.quantized.rounding import (
    BITS_IN_MEMORY,
    BLOCK,
    IN_MEMORY,
    NF4,
    round_fp8,
    round_nf4,
)
from ldmref.io.tensors.safetensors import TensorFile

HALF = 2.0**-11  # relative rounding of a scale to float16
KINDS = {name: GGML_TYPES[number] for name, number in WRITABLE.items()}
EXACT_GRIDS = ("F32", "F16", "BF16")
BLOCKS = [name for name in KINDS if name not in EXACT_GRIDS]
K_QUANTS = [name for name in KINDS if name.endswith("_K")]
BY_GGUF = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4")


def weights(seed, kind, blocks=40):
    """Weights of several distributions, scales and signs, and blocks of zeros and of one number."""
    stream = np.random.default_rng(seed)
    shape = (blocks, kind.values)
    scale = 10.0 ** stream.uniform(-3, 1, (blocks, 1))
    rows = np.concatenate(
        [
            scale * stream.standard_normal(shape),
            scale * stream.standard_t(3, shape),
            scale * stream.random(shape),
            -scale * stream.random(shape),
            scale * stream.standard_normal(shape) * (stream.random(shape) < 0.1),
            np.zeros((1, kind.values)),
            np.full((1, kind.values), 0.25),
        ]
    )
    return rows.astype(np.float32)


def round_trip(x, kind):
    return read_ggml(write_ggml(x, kind), kind, "w").reshape(x.shape)


# -- bytes ----------------------------------------------------------------------------------------


@given(st.integers(0, 2**32), st.sampled_from([1, 2, 4]))
def test_packing_is_the_inverse_of_spreading(seed, bits):
    packed = np.random.default_rng(seed).integers(0, 256, (3, 8), np.uint8)
    assert np.array_equal(pack(spread(packed, bits), bits), packed)


@given(st.integers(0, 2**32))
def test_scales_of_six_bits_come_back(seed):
    s, t = np.random.default_rng(seed).integers(0, 64, (2, 5, 8), np.uint8)
    back = unpack_scales(pack_scales(s, t))
    assert np.array_equal(back[0], s) and np.array_equal(back[1], t)


def test_halves_come_back():
    x = np.float32([[1.5, -0.25]])
    assert np.array_equal(read_halves(write_halves(x)), x)


# -- bounds ---------------------------------------------------------------------------------------


def old_steps(kind, raw):
    """The step of each block of an older type, and the largest magnitude that its grid reaches."""
    blocks = raw.reshape(-1, kind.nbytes)
    return np.abs(read_halves(blocks[:, :2]))


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32))
def test_an_error_is_at_most_half_a_step_of_its_block(name, seed):
    """Only the end of a grid with fewer numbers above zero may be missed by a whole step.

    The rounding of d and m to float16 shifts all of the grid: by its share of the numbers that it
    reaches, which are at most n d + m.
    """
    kind = KINDS[name]
    x = weights(seed, kind)
    raw = write_ggml(x, kind)
    step = old_steps(kind, raw)
    error = np.abs(read_ggml(raw, kind, "w").reshape(x.shape) - x)
    reach = np.abs(x).max(axis=1, keepdims=True) + np.ptp(x, axis=1, keepdims=True)
    tiny = 2.0**-24  # the spacing of the smallest float16, times the largest q
    rounding = 2 * HALF * reach + 128 * tiny
    whole = 1.0 if name in ("Q4_0", "Q5_0") else 0.5
    assert (error <= whole * step * (1 + HALF) + rounding).all()
    if whole == 1.0:  # the grid ends one step short of the weights opposite to the largest one
        largest = np.take_along_axis(x, np.abs(x).argmax(axis=1)[:, None], axis=1)
        inner = np.abs(x - largest) < 2 * np.abs(largest) - step
        assert (error <= 0.5 * step * (1 + HALF) + rounding)[inner].all()


@pytest.mark.parametrize("name", K_QUANTS)
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32))
def test_the_numbers_of_a_k_quant_are_the_nearest_of_their_grid(name, seed):
    """Whatever the search finds: with the stored scales, no other q is nearer."""
    kind = KINDS[name]
    x = weights(seed, kind, blocks=6)
    raw = write_ggml(x, kind).reshape(-1, kind.nbytes)
    error = np.abs(kind.dequantize(raw) - x)
    for other in grids(name, raw):
        nearer = np.abs(other - x) < error * (1 - 1e-5) - 1e-12
        assert not nearer.any()


def grids(name, raw):
    """The numbers of all blocks with each q in turn: the bytes of q filled with one number."""
    fields = {
        "Q2_K": ((16, 80), 2, None),
        "Q3_K": ((32, 96), 2, (0, 32)),
        "Q4_K": ((16, 144), 4, None),
        "Q5_K": ((48, 176), 4, (16, 48)),
        "Q6_K": ((0, 128), 4, (128, 192)),
    }
    (begin, end), bits, high = fields[name]
    high_bits = {"Q3_K": 1, "Q5_K": 1, "Q6_K": 2}.get(name, 0)
    repeat = {1: 0xFF, 2: 0x55, 4: 0x11}
    for upper in range(2**high_bits):
        for lower in range(2**bits):
            filled = raw.copy()
            filled[:, begin:end] = lower * repeat[bits]
            if high is not None:
                filled[:, high[0] : high[1]] = upper * repeat[high_bits]
            yield KINDS[name].dequantize(filled)


@pytest.mark.parametrize(("name", "bits"), [("Q2_K", 2), ("Q4_K", 4), ("Q5_K", 5), ("Q6_K", 6)])
def test_a_k_quant_of_normal_weights_is_as_good_as_its_bits(name, bits):
    """A uniform grid of n numbers over +-3 deviations has errors of 6 / n / 12^.5.

    The search must do no worse than such a grid over the range of a group, about +-3.
    """
    kind = KINDS[name]
    x = np.random.default_rng(0).standard_normal((60, 256)).astype(np.float32)
    error = np.sqrt(np.mean((round_trip(x, kind) - x) ** 2))
    assert error < 6 / (2**bits - 1) / np.sqrt(12)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32))
def test_fp4_is_the_nearest_code(seed):
    """Between 4 and 6 steps the codes are 2 steps apart; beyond, MXFP4 holds the largest only."""
    for name, group in (("MXFP4", 32), ("NVFP4", 16)):
        kind = KINDS[name]
        x = weights(seed, kind, blocks=5)
        got = round_trip(x, kind).reshape(-1, group)
        groups = x.reshape(-1, group)
        largest = np.abs(groups).max(axis=1, keepdims=True)
        error = np.abs(got - groups)
        # MXFP4: step <= largest / 4 and errors of at most 2 steps; NVFP4: the largest is 6 steps
        bound = largest / 2 if name == "MXFP4" else largest * (1 / 6 + 1 / 16) + 6 * 2.0**-9
        assert (error <= bound + 1e-12).all()


def test_e4m3_is_the_nearest_number_and_the_even_of_two():
    x = np.abs(np.random.default_rng(3).standard_normal(2000).astype(np.float32)) * 200
    x = np.minimum(x, 448)
    got = E4M3FN[nearest_e4m3(x)]
    every = E4M3FN[:127]
    assert np.array_equal(np.abs(got - x), np.abs(every[None] - x[:, None]).min(axis=1))
    middle = (every[:-1].astype(np.float64) + every[1:]) / 2
    ties = nearest_e4m3(middle)
    assert not (ties % 2).any()
    assert np.array_equal(np.abs(every[ties] - middle), np.diff(every) / 2)
    assert np.array_equal(nearest_e4m3(every), np.arange(127))


def test_fp8_and_nf4_in_memory_are_the_nearest_numbers():
    x = np.random.default_rng(5).standard_normal(1000).astype(np.float32)
    step = np.abs(x).max() / np.float32(448)
    want = np.abs((np.concatenate([E4M3FN[:127], -E4M3FN[:127]]) * step)[None] - x[:, None])
    assert np.allclose(np.abs(round_fp8(x) - x), want.min(axis=1), atol=1e-6)
    scale = np.repeat([np.abs(part).max() for part in np.split(x[:960], 15)], BLOCK)
    want = np.abs(NF4[None] * scale[:, None] - x[:960, None]).min(axis=1)
    assert np.allclose(np.abs(round_nf4(x) - x)[:960], want, atol=1e-6)
    assert not round_fp8(np.zeros(3)).any() and not round_nf4(np.zeros((2, 3))).any()


@pytest.mark.parametrize("name", IN_MEMORY)
def test_formats_in_memory_follow_the_scale_of_weights(name):
    x = np.random.default_rng(6).standard_normal((3, 50)).astype(np.float32)
    for scale in (2.0**-20, 2.0**20):  # which changes no digit
        assert np.array_equal(IN_MEMORY[name](scale * x), scale * IN_MEMORY[name](x))
    assert IN_MEMORY[name](x[:0]).shape == (0, 50)


def test_bits_of_formats_in_memory():
    """NF4 has a float32 for 64 numbers; FP8's one float32 does not count."""
    assert BITS_IN_MEMORY == {"FP8": 8.0, "NF4": 4.5}
    assert {*IN_MEMORY} == {*BITS_IN_MEMORY}


def test_the_table_of_nf4_is_that_of_bitsandbytes():
    file = TensorFile(Path(__file__).with_name("bitsandbytes-nf4.safetensors"))
    tables = [file[name] for name in file if name.endswith(".quant_map")]
    assert any(np.array_equal(table, NF4) for table in tables)


# -- other programs -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BY_GGUF)
def test_bytes_are_those_of_gguf(name):
    gguf = pytest.importorskip("gguf")
    kind = KINDS[name]
    x = weights(11, kind)
    want = gguf.quantize(x, gguf.GGMLQuantizationType[name])
    assert np.array_equal(write_ggml(x, kind).reshape(want.shape), want)


@pytest.mark.parametrize("name", BLOCKS)
def test_gguf_reads_what_is_written(name):
    gguf = pytest.importorskip("gguf")
    kind = KINDS[name]
    x = weights(13, kind)
    raw = write_ggml(x, kind).reshape(-1, kind.nbytes)
    want = gguf.dequantize(raw, gguf.GGMLQuantizationType[name])
    assert np.array_equal(read_ggml(raw.reshape(-1), kind, "w").reshape(x.shape), want)


@pytest.mark.parametrize("name", EXACT_GRIDS)
def test_plain_numbers_are_rounded_to_nearest(name):
    x = np.float32([[1.0], [1 / 3], [-2.5]])
    bits = {"F32": 24, "F16": 11, "BF16": 8}[name]
    assert (np.abs(round_trip(x, KINDS[name]) - x) <= np.abs(x) * 2.0**-bits).all()


def test_large_tensors_are_written_in_parts(monkeypatch):
    from ldmref.io.quantized import ggml

    x = weights(17, KINDS["Q4_K"])
    whole = write_ggml(x, KINDS["Q4_K"])
    monkeypatch.setattr(ggml, "VALUES_IN_SEARCH", 512)
    assert np.array_equal(write_ggml(x, KINDS["Q4_K"]), whole)


def test_nibbles_are_where_the_reader_expects_them():
    """Hand-made: groups of equal numbers k / 8 give q of 15, and scales in proportion."""
    x = np.repeat(np.arange(8) / 8, 32).astype(np.float32)[None]
    raw = write_ggml(x, KINDS["Q4_K"]).reshape(1, -1)
    _, _, scales, q = split(raw, 2, 2, 12, 128)
    s, t = unpack_scales(scales)
    assert np.array_equal(s[0], np.rint(63 * np.arange(8) / 7)) and not t.any()
    assert (unpack(q.reshape(4, 32), "halves").reshape(8, 32)[1:] == 15).all()


GOLDEN = np.load(Path(__file__).with_name("golden_ggml_blocks.npz"))


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_those_of_ggml(name):
    """Made by `scripts/make_ggml_golden.py` with ggml's own C code, at the commit in the file.

    The last 23 blocks are those at which one grid more or less of a search, one pass more or less,
    or a tie decides. Of groups whose scale is 0, and so all weights are, ggml keeps what it tried.
    """
    kind = KINDS[name]
    got = write_ggml(GOLDEN["weights"], kind).reshape(-1, kind.nbytes)
    weights = kind.dequantize(GOLDEN[name])
    assert np.array_equal(kind.dequantize(got), weights)
    scaled = weights.reshape(len(got), -1, 16).any(axis=2).all(axis=1)
    assert scaled.sum() > 40
    assert np.array_equal(got[scaled], GOLDEN[name][scaled])


def test_the_types_that_are_written_are_those_of_the_reference_and_plain_numbers():
    assert {*BLOCKS} == {*GOLDEN} - {"weights", "commit"}
    assert {*KINDS} == {*BLOCKS, "F32", "F16", "BF16"}


def test_what_is_written_is_read_without_another_package():
    for kind in KINDS.values():
        assert bool(kind.dtype) == (kind.name in ("F32", "F16"))
        assert (kind.dequantize is None) == bool(kind.dtype)


@pytest.mark.parametrize("name", ["Q2_K", "Q4_K", "Q5_K", "MXFP4", "NVFP4"])
def test_zeros_are_bytes_of_zeros_where_q_is_not_shifted(name):
    kind = KINDS[name]
    assert not write_ggml(np.zeros((2, kind.values), np.float32), kind).any()


def test_the_smallest_step_of_mxfp4_is_that_of_its_first_code():
    """2^-127: the scale of a group with 2^-125 at most, and of one with less."""
    kind = KINDS["MXFP4"]
    for largest, code in ((2.0**-125, 6), (2.0**-126, 4), (2.0**-128, 1)):  # 4, 2 and 0.5 steps
        raw = write_ggml(np.full((1, 32), largest, np.float32), kind)
        assert raw.tolist() == [0] + [code * 17] * 16
        assert (round_trip(np.full((1, 32), largest, np.float32), kind) == largest).all()
    assert write_ggml(np.full((1, 32), 2.0**-124, np.float32), kind)[0] == 1


def test_of_two_scales_of_nvfp4_that_are_equally_near_ggml_takes_the_larger():
    """From 2^-6 on, where scales are normal numbers; the largest is 448."""
    codes = np.arange(8, 126)
    middle = (E4M3FN[codes].astype(np.float64) + E4M3FN[codes + 1]) / 2
    rows = np.zeros((len(codes), 64), np.float32)
    rows[:, ::16] = 6.0 * middle[:, None]  # the largest weight of each group of 16
    kind = KINDS["NVFP4"]
    scales = write_ggml(rows, kind).reshape(-1, kind.nbytes)[:, :4]
    assert np.array_equal(scales, np.repeat(codes[:, None] + 1, 4, axis=1))


def test_the_smallest_normal_scale_of_nvfp4_is_taken():
    """2^-6 has code 8; below it, ggml takes no normal scale."""
    kind = KINDS["NVFP4"]
    for largest, code in ((6 * 2.0**-6, 8), (6 * 2.0**-6 * (1 - 2.0**-23), 7)):
        rows = np.full((1, kind.values), largest, np.float32)
        assert write_ggml(rows, kind)[:4].tolist() == [code] * 4


# -- groups without a scale -----------------------------------------------------------------------


def test_a_group_whose_scale_is_rounded_to_zero_has_the_q_of_zero():
    """The first group of each block is too small for its four, six or eight bits of scale."""
    x = np.random.default_rng(7).standard_normal((1, 256)).astype(np.float32)
    x[0, :32] = 1e-5 * np.abs(x[0, :32])
    q2 = split(write_ggml(x, KINDS["Q2_K"]).reshape(1, -1), 16, 64, 2, 2)[1][0]
    q4 = split(write_ggml(x, KINDS["Q4_K"]).reshape(1, -1), 16, 128)[1][0]
    q5 = split(write_ggml(x, KINDS["Q5_K"]).reshape(1, -1), 16, 32, 128)
    assert not (q2[:32] & 3).any() and not (q4[:32] & 15).any()
    assert not (q5[1] & 1).any() and not (q5[2][0, :32] & 15).any()
    high, low = split(write_ggml(x, KINDS["Q3_K"]).reshape(1, -1), 32, 64, 14)[:2]
    assert (high & 1).all() and not (low[0, :32] & 3).any()  # 4, in three bits
    low, high = split(write_ggml(x, KINDS["Q6_K"]).reshape(1, -1), 128, 64, 18)[:2]
    assert not (low[0, :32] & 15).any() and (high[0, :32] & 3 == 2).all()  # 32, in six bits


def test_negligible_groups_have_no_scale():
    """Below 1e-15, which ggml counts as zero."""
    for magnitude, empty in ((0.99e-15, True), (1e-15, False), (0.0, True)):
        x = np.full((16, 1), magnitude, np.float32)
        x[1::2] *= -0.5
        assert (fit_scale(x, 32)[0] == 0) == (fit_three_bits(x)[0] == 0) == empty


def test_where_the_equations_of_a_grid_are_singular_the_first_grid_stays():
    """With one weight beside zeros, s and m are not determined; s = x / n of the first grid is."""
    x = np.zeros((16, 1), np.float32)
    x[0] = 0.6654345989227295
    scale, minimum = fit_affine(x, np.abs(x), SEARCHES["Q5_K"])
    assert scale == np.float32(1) / (np.float32(31) / x[0]) and minimum == 0


def test_a_step_of_one_keeps_whole_numbers():
    x = np.tile(np.arange(-32, 32), 4).reshape(1, 256).astype(np.float32)
    x[0, ::16] = -32.0  # each group reaches the end of its grid
    assert np.array_equal(round_trip(x, KINDS["Q6_K"]), x)


@pytest.mark.parametrize("name", BLOCKS)
def test_zeros_and_weights_too_large_for_a_scale_warn_nobody(name):
    """d is infinite then, in float16, which `quantize` refuses."""
    kind = KINDS[name]
    rows = np.zeros((3, kind.values), np.float32)
    rows[1, ::2] = 1e9
    rows[2] = 0.25
    rows[2, :16] = 1e-9  # whose scale is rounded to 0
    squares = "ignore" if name in ("Q3_K", "Q6_K") else "raise"  # of sums, in their searches
    with np.errstate(divide="raise", invalid="raise", over=squares):
        read_ggml(write_ggml(rows, kind), kind, "w")


def test_a_ratio_is_zero_where_the_divisor_is():
    for _ in range(20):
        np.full(8, 7.0, np.float32)  # memory that a new array may get
        got = ratio(np.float32(2), np.float32([0, 4, 0, 0, 0, 0, 0, 0]))
        assert got.tolist() == [0.0, 0.5] + [0.0] * 6


def test_weights_beyond_float32_are_infinite_without_a_warning():
    """6 x 2^127, which a block of MXFP4 can say; 0 x infinity, of a scale that is infinite."""
    kind = KINDS["MXFP4"]
    infinite = np.array([0x00, 0x7C, *[1] * 32], np.uint8)
    with np.errstate(all="raise"):
        assert np.isinf(read_ggml(np.array([254, *[0x77] * 16], np.uint8), kind, "w")).all()
        assert np.isinf(read_ggml(infinite, KINDS["Q8_0"], "w")).all()
        infinite[2:] = 0
        assert np.isnan(read_ggml(infinite, KINDS["Q8_0"], "w")).all()
