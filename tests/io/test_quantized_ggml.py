"""The blocks of ggml on random bytes, bit for bit those of the package `gguf`."""

from __future__ import annotations

import numpy as np
import pytest

from ldmref.errors import BackendUnavailable
from ldmref.io.quantized import ggml
from ldmref.io.quantized.bits import spread, unpack
from ldmref.io.quantized.ggml import GGML_TYPES, read_ggml

gguf = pytest.importorskip("gguf")
BLOCKS = 600
NAMES = {kind.name: kind for kind in GGML_TYPES.values()}
QUANTISED = [name for name, kind in NAMES.items() if kind.dequantize]
THROUGH_PACKAGE = [name for name, kind in NAMES.items() if not kind.dequantize and not kind.dtype]
SCALES = {"Q6_K": (208,), "Q3_K": (108,), "Q2_K": (80, 82), "MXFP4": (), "NVFP4": (), "BF16": (0,)}


def random_blocks(name, finite=False):
    """Random bytes; with `finite` their scales in float16 are not infinite."""
    kind = NAMES[name]
    blocks = np.random.default_rng(7).integers(0, 256, (BLOCKS, kind.nbytes), np.uint8)
    if finite:
        for offset in SCALES.get(
            name, (0, 2) if name in ("Q4_1", "Q5_1", "Q4_K", "Q5_K") else (0,)
        ):
            blocks[:, offset + 1] &= 0xBF  # the highest bit of the exponent
    return blocks


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # infinities of random scales
@pytest.mark.parametrize("finite", [False, True])
@pytest.mark.parametrize("name", QUANTISED)
def test_random_bytes_are_those_of_gguf_bit_for_bit(name, finite):
    blocks = random_blocks(name, finite)
    want = gguf.dequantize(blocks, gguf.GGMLQuantizationType[name]).reshape(-1)
    got = read_ggml(blocks.reshape(-1), NAMES[name], name)
    assert got.dtype == want.dtype == np.float32
    assert np.array_equal(np.isnan(got), np.isnan(want))
    number = ~np.isnan(want)
    same = got[number].view(np.uint32) == want[number].view(np.uint32)
    if name in ("MXFP4", "NVFP4"):  # in which gguf has no negative zero
        same |= (got[number] == 0) & (want[number] == 0)
    assert same.all() and (number.all() or not finite) and got[number].size > BLOCKS / 2


@pytest.mark.parametrize("name", THROUGH_PACKAGE)
def test_other_types_are_read_through_the_package(name, monkeypatch):
    blocks = random_blocks(name)
    blocks[:, [1, -1]] &= 0x3F  # their scales are first or last
    want = gguf.dequantize(blocks, gguf.GGMLQuantizationType[name]).reshape(-1)
    assert np.array_equal(read_ggml(blocks.reshape(-1), NAMES[name], "w"), want, equal_nan=True)
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(BackendUnavailable, match=f"w is stored as {name}, which needs") as caught:
        read_ggml(blocks.reshape(-1), NAMES[name], "w")
    assert caught.value.hint == "pip install ldmref[gguf]"


@pytest.mark.parametrize("name", ["F32", "F16"])
def test_plain_types_are_those_of_gguf(name):
    blocks = random_blocks(name)
    want = gguf.dequantize(blocks, gguf.GGMLQuantizationType[name]).reshape(-1)
    got = read_ggml(blocks.reshape(-1), NAMES[name], name)
    assert np.array_equal(got.astype(np.float32), want, equal_nan=True)


def test_plain_numbers_are_read_as_their_names_say():
    """F and I with the number of bits, with the lowest byte first."""
    plain = {kind.name: kind.dtype for kind in GGML_TYPES.values() if kind.dtype}
    assert {*plain} == {"F16", "F32", "F64", "I8", "I16", "I32", "I64"}
    for name, dtype in plain.items():
        assert np.dtype(dtype) == np.dtype(f"<{name[0].lower()}{int(name[1:]) // 8}")


def test_every_size_is_that_of_gguf():
    for number, kind in GGML_TYPES.items():
        theirs = gguf.GGMLQuantizationType(number)
        assert (kind.name, kind.values, kind.nbytes) == (
            theirs.name,
            *gguf.GGML_QUANT_SIZES[theirs],
        )


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4"])
def test_quantised_weights_come_back_nearly(name):
    x = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    raw = gguf.quantize(x, gguf.GGMLQuantizationType[name]).reshape(-1)
    steps = {"Q8_0": 200, "Q5_0": 28, "Q5_1": 28, "MXFP4": 5}.get(name, 14)
    assert (
        np.abs(read_ggml(raw, NAMES[name], name) - x.reshape(-1)).max()
        < np.abs(x).max() / steps * 2
    )


def test_a_tensor_is_read_in_parts(monkeypatch):
    raw = random_blocks("Q4_K", finite=True).reshape(-1)
    whole = read_ggml(raw, NAMES["Q4_K"], "w")
    monkeypatch.setattr(ggml, "VALUES_AT_ONCE", 7 * 256)
    assert np.array_equal(read_ggml(raw, NAMES["Q4_K"], "w"), whole)
    assert read_ggml(raw[:0], NAMES["Q4_K"], "w").shape == (0,)


# -- three orders of nibbles ----------------------------------------------------------------------

PACKED = np.array([[0x21, 0x43], [0x65, 0x87]], np.uint8)


def test_the_low_half_may_come_first():
    assert unpack(PACKED, "low").tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]


def test_the_high_half_may_come_first():
    assert unpack(PACKED, "high").tolist() == [[2, 1, 4, 3], [6, 5, 8, 7]]


def test_the_low_halves_of_a_block_may_come_first():
    assert unpack(PACKED, "halves").tolist() == [[1, 3, 2, 4], [5, 7, 6, 8]]


def test_bits_are_spread_from_the_lowest():
    assert spread(np.array([0b1010_0001], np.uint8), 1).tolist() == [1, 0, 0, 0, 0, 1, 0, 1]
