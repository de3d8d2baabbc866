"""Ends of ranges of quantised files: shapes, blocks, offsets, types, and what is not a weight."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_quantized_layers import codes, in_file, nf4, nvfp4, of_text, read, tile, write

from ldmref.errors import CorruptModelError
from ldmref.io.quantized.float8 import E4M3FN, E5M2, scale_blocks, scale_rows
from ldmref.io.quantized.layers import is_quantized, list_layers, list_unused
from ldmref.io.tensors.open_file import open_model_file
from ldmref.io.tensors.safetensors import TensorFile

STATE = ".quant_state.bitsandbytes__nf4"
ONE = np.ones(1, np.float32)


def state(**changes):
    """Settings of bitsandbytes; what is `...` is left out."""
    settings = {"shape": [3, 40], "blocksize": 64} | changes
    return of_text({name: value for name, value in settings.items() if value is not ...})


def refused(path):
    with pytest.raises(CorruptModelError) as caught:
        read(path)
    return caught.value.code == "E-QUANTIZED"


# -- NF4 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({"shape": [1, 1, 1, 1, 1, 1, 3, 40]}, True),
        ({"shape": [1, 1, 1, 1, 1, 1, 1, 3, 40]}, False),
        ({"shape": [120]}, True),
        ({"shape": 120}, False),
        ({"shape": [3, 40.0]}, False),
        ({"shape": [True, 120]}, False),
        ({"blocksize": 64.0}, False),
        ({"blocksize": None}, False),
        ({"blocksize": ...}, False),
        ({"shape": ...}, False),
        ({"shape": [2**31, 1]}, False),
        ({"shape": [0, 40]}, False),
    ],
)
def test_shapes_and_blocks_of_nf4(changes, fits, tmp_path):
    path = in_file(tmp_path / "a.safetensors", nf4(False) | {STATE: state(**changes)})
    if fits:
        got = read(path)["a.weight"]
        assert got.shape == tuple(changes["shape"])
    else:
        assert refused(path)


@pytest.mark.parametrize(
    ("offset", "fits"),
    [
        (0.999e30, True),
        (-0.999e30, True),
        (1e30, False),
        (-1e30, False),
        (2, True),
        ("1", False),
        (True, False),
    ],
)
def test_offsets_of_nf4_are_finite_in_single_precision(offset, fits, tmp_path):
    tensors = nf4() | {STATE: state(nested_blocksize=256, nested_offset=offset)}
    path = in_file(tmp_path / "a.safetensors", tensors)
    if fits:
        assert np.isfinite(read(path)["a.weight"]).all()
    else:
        assert refused(path)


def test_blocks_of_scales_have_256_by_default(tmp_path):
    tensors = nf4() | {STATE: state(nested_offset=0.5)}
    again = nf4() | {STATE: state(nested_offset=0.5, nested_blocksize=256), "": tensors[""]}
    one, other = (
        read(in_file(tmp_path / f"{i}.safetensors", x)) for i, x in enumerate((tensors, again))
    )
    assert np.array_equal(one["a.weight"], other["a.weight"])
    tensors[STATE] = state(nested_blocksize=1)
    assert refused(in_file(tmp_path / "a.safetensors", tensors))
    tensors |= {".nested_absmax": np.float32([4, 8]), STATE: state(nested_blocksize=1)}
    absmax = [-4.0, 8.0]
    q = [half for byte in tensors[""].reshape(-1) for half in (byte >> 4, byte & 15)]
    got = read(in_file(tmp_path / "a.safetensors", tensors))["a.weight"].reshape(-1)
    table = tensors[".quant_map"]
    assert np.array_equal(got, [table[code] * absmax[i // 64] for i, code in enumerate(q)])


def test_the_first_256_scales_have_one_scale_by_default(tmp_path):
    """Of 257 scales the last one has the second, so that 257 cannot have one."""
    half = 64 * 257 // 2
    packed = np.full((half, 1), 0x11, np.uint8)  # the second number of the table
    tensors = nf4() | {"": packed, ".absmax": np.zeros(257, np.uint8)}
    tensors |= {".nested_absmax": np.float32([4, 8]), STATE: state(shape=[2 * half])}
    tensors[".nested_quant_map"] = np.ones(256, np.float32)
    got = read(in_file(tmp_path / "a.safetensors", tensors))["a.weight"]
    value = tensors[".quant_map"][1]
    assert np.array_equal(got[::64], value * np.float32([4] * 256 + [8]))


def test_an_odd_number_of_weights_has_half_a_byte_more(tmp_path):
    for count, fits in ((119, True), (120, True), (121, False), (118, False)):
        tensors = nf4(False) | {STATE: state(shape=[count])}
        path = in_file(tmp_path / "a.safetensors", tensors)
        assert (read(path)["a.weight"].size == count) if fits else refused(path)


def test_blocks_are_shorter_than_2_to_the_31(tmp_path):
    for block, fits in ((2**31 - 1, True), (2**31, False), (2**32 - 1, False)):
        tensors = nf4(False) | {STATE: state(blocksize=block), ".absmax": ONE}
        path = in_file(tmp_path / "a.safetensors", tensors)
        assert (read(path)["a.weight"].shape == (3, 40)) if fits else refused(path)


def test_the_size_of_a_block_is_never_guessed(tmp_path):
    tensors = nf4(False) | {STATE: state(blocksize=...), ".absmax": np.ones(120, np.float32)}
    assert refused(in_file(tmp_path / "a.safetensors", tensors))


def test_packed_numbers_may_be_stored_as_any_type(tmp_path):
    """`bnb_4bit_quant_storage`, which sharded training sets."""
    tensors = nf4()
    want = read(in_file(tmp_path / "a.safetensors", tensors))["a.weight"]
    packed = tensors[""].reshape(-1)
    for dtype in (np.float32, np.float16):
        tensors[""] = packed.view(dtype)
        got = read(in_file(tmp_path / "b.safetensors", tensors))["a.weight"]
        assert np.array_equal(got, want)


@pytest.mark.parametrize("double", [False, True])
def test_scales_are_bytes_just_if_they_are_quantised(double, tmp_path):
    tensors = nf4(double)
    other = nf4(not double)[".absmax"]
    assert refused(in_file(tmp_path / "a.safetensors", tensors | {".absmax": other}))


# -- float8 and blocks ----------------------------------------------------------------------------


@pytest.mark.parametrize("stored", ["F8_E4M3", "F8_E5M2", "U8", "I8"])
@pytest.mark.parametrize("kind", ["float8_e4m3fn", "float8_e5m2", "int8_tensorwise"])
def test_the_format_says_what_bytes_are(stored, kind, tmp_path):
    weight = codes(4, 8) & 0x7B
    raw = weight.view(np.int8) if stored == "I8" else weight
    tensors = {
        "a.weight": (stored, raw),
        "a.weight_scale": np.float32([0.5]),
        "a.comfy_quant": of_text({"format": kind}),
    }
    path = write(tmp_path / "a.safetensors", tensors)
    tables = {"float8_e4m3fn": E4M3FN, "float8_e5m2": E5M2}
    own = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "I8": "int8_tensorwise"}
    if own.get(stored, kind) != kind:  # the type of a tensor is the second word on it
        with pytest.raises(CorruptModelError, match=f"'a.weight' is {stored}, and the file says"):
            read(path)
        return
    plain = tables[kind][weight] if kind in tables else weight.view(np.int8)
    assert np.array_equal(read(path)["a.weight"], plain * np.float32(0.5))
    assert is_quantized(TensorFile(path))


@pytest.mark.parametrize(
    ("scales", "fits"), [(1, True), (4, True), (3, False), (8, False), (0, False)]
)
def test_a_tensor_has_one_scale_or_one_for_each_row(scales, fits, tmp_path):
    tensors = {
        "a.weight": ("F8_E4M3", codes(4, 8)),
        "a.weight_scale": np.arange(1, scales + 1, dtype=np.float32),
    }
    path = write(tmp_path / "a.safetensors", tensors)
    assert refused(path) if not fits else read(path)["a.weight"].shape == (4, 8)


def test_rows_and_runs_are_scaled():
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    assert np.array_equal(scale_rows(values, np.float32([2])), 2 * values)
    assert np.array_equal(scale_rows(values, np.float32([2, 3])), values * [[[2]], [[3]]])
    flat = values.reshape(4, 6)
    runs = np.arange(8, dtype=np.float32).reshape(4, 2)
    want = [[flat[r, c] * runs[r, c // 3] for c in range(6)] for r in range(4)]
    assert np.array_equal(scale_blocks(flat, runs), want)


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        ({}, True),
        ({"a.weight": ("U8", codes(6, 32))}, True),
        ({"a.weight_scale": ("F8_E8M0", tile(codes(6, 1)))}, True),
        ({"a.weight": ("F8_E4M3", codes(6, 33))}, False),
        ({"a.weight": ("I8", codes(6, 32))}, False),
        ({"a.weight": ("F8_E4M3", codes(192))}, False),
        ({"a.weight_scale": ("F8_E4M3", tile(codes(6, 1)))}, False),
        ({"a.weight_scale": codes(6, 1)}, False),
        ({"a.weight": ("F8_E5M2", codes(6, 32))}, False),
        ({"a.weight": ("F8_E4M3", codes(0, 32)), "a.weight_scale": codes(0)}, False),
    ],
)
def test_mxfp8_is_e4m3_with_powers_in_tiles(change, fits, tmp_path):
    tensors = {
        "a.weight": ("F8_E4M3", codes(6, 32)),
        "a.weight_scale": tile(np.full((6, 1), 127, np.uint8)),
        "a.comfy_quant": of_text({"format": "mxfp8"}),
    }
    path = write(tmp_path / "a.safetensors", tensors | change)
    assert read(path)["a.weight"].shape == (6, 32) if fits else refused(path)


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        ({}, True),
        ({".weight_scale": ("U8", codes(20, 5) & 127)}, True),
        ({".weight_scale": ("F8_E5M2", codes(20, 5) & 127)}, False),
        ({".weight_scale": ("F8_E4M3", codes(20, 4) & 127)}, False),
        ({".weight": codes(20, 44)}, False),
        ({".weight": ("I8", codes(20, 40))}, False),
        ({".weight_scale_2": np.ones(2, np.float32)}, False),
        ({".weight_scale_2": ONE.reshape(1, 1)}, True),
    ],
)
def test_nvfp4_has_a_scale_for_16_weights_and_one_for_all(change, fits, tmp_path):
    tensors = {f"a{end}": x for end, x in (nvfp4("low")[0] | change).items()}
    path = write(tmp_path / "a.safetensors", tensors)
    assert read(path)["a.weight"].shape == (20, 80) if fits else refused(path)


# -- names ----------------------------------------------------------------------------------------


def comfy(kind, weight, scale, **more):
    """Tensors of a layer that Comfy wrote, by the ends of their names."""
    marked = {"comfy_quant": of_text({"format": kind})} if kind else {}
    return {"weight": weight, "weight_scale": scale, **marked, **more}


FORMATS = {  # what the file says -> its tensors, by the ends of their names
    "float8_e4m3fn": comfy("float8_e4m3fn", ("F8_E4M3", codes(4, 32)), ONE),
    "float8_e5m2": comfy("", ("F8_E5M2", codes(4, 32) & 0x7B), ONE),
    "int8_tensorwise": comfy("", codes(4, 32).view(np.int8), ONE),
    "mxfp8": comfy("mxfp8", ("F8_E4M3", codes(4, 32)), tile(codes(4, 1))),
    "nvfp4": {end[1:]: x for end, x in nvfp4("low")[0].items()},
    "nf4": {f"weight{end}": x for end, x in nf4().items()},
    "fp4": {f"weight{end}".replace("__nf4", "__fp4"): x for end, x in nf4(False).items()},
}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("stored", ["BF16", "F32"])
def test_a_tensor_has_the_name_of_its_format_and_hides_its_parts(kind, stored, tmp_path):
    """The other tensors keep their names and formats."""
    plain = np.arange(4, dtype=np.float32) if stored == "F32" else np.zeros(4, np.uint16)
    tensors = {f"a.{end}": x for end, x in FORMATS[kind].items()} | {"b.bias": (stored, plain)}
    file = open_model_file(write(tmp_path / "a.safetensors", tensors))
    assert dict(file.kinds) == {"a.weight": kind, "b.bias": stored}
    assert {name: np.asarray(file[name]).shape for name in file} == dict(file.shapes)
    layer = list_layers(TensorFile(file.path))["a.weight"]
    used = {name for name in tensors if not name.endswith((".comfy_quant", ".input_scale", "bias"))}
    assert {*layer.parts} == used and len(layer.parts) == len(used)
    assert layer.read().shape == layer.shape == file.shapes["a.weight"]
    assert layer.read().dtype == np.float32


def test_what_is_no_weight_is_left_out():
    ends = ("input_scale", "scale_input", "comfy_attention.config", "comfy_quant")
    names = [f"a.{end}" for end in ends] + ["scaled_fp8", "model.scaled_fp8"]
    assert list_unused([*names, "a.weight", "a.weight_scale", "a.scale_weight"]) == {*names}


@pytest.mark.parametrize(
    "name",
    ["a.scale_weight", "a.weight_scale", "a.comfy_quant", f"a.weight{STATE}",
     "a.weight.quant_state.bitsandbytes__fp4", "a.wscales", "a.qzeros", "a.SCB"],
)  # fmt: skip
def test_names_that_say_that_a_file_is_quantised(name, tmp_path):
    path = write(tmp_path / "a.safetensors", {name: codes(4)})
    assert is_quantized(TensorFile(path))
    plain = write(tmp_path / "b.safetensors", {"a.weight": ONE, f"{name}.b": ONE})
    assert not is_quantized(TensorFile(plain))
    about = {"_quantization_metadata": "{}"}
    assert is_quantized(TensorFile(write(plain, {"a.weight": ONE}, about)))


def test_metadata_may_leave_out_the_prefix_only_if_the_name_is_not_there(tmp_path):
    about = {"_quantization_metadata": json.dumps({"layers": {"a": "float8_e4m3fn"}})}
    long = "model.diffusion_model.a"
    tensors = {f"{long}.weight": ("F8_E4M3", codes(2, 4)), f"{long}.weight_scale": ONE}
    path = write(tmp_path / "a.safetensors", tensors, about)
    assert [*list_layers(TensorFile(path))] == [f"{long}.weight"]
    tensors |= {"a.weight": codes(2, 4), "a.weight_scale": ONE}  # bytes, which no format has
    layers = list_layers(TensorFile(write(path, tensors, about)))
    assert layers["a.weight"].parts == ("a.weight", "a.weight_scale")
    assert layers["a.weight"].kind == "float8_e4m3fn"


def test_what_comfy_says_counts_more_than_the_type(tmp_path):
    """A tensor that is marked is not opened a second time by the name of its scale."""
    tensors = {
        "a.weight": codes(2, 4),
        "a.weight_scale": ONE,
        "a.comfy_quant": of_text({"format": "float8_e5m2"}),
        "b.weight": ("F8_E5M2", codes(2, 4)),
        "b.scale_weight": ONE,
    }
    layers = list_layers(TensorFile(write(tmp_path / "a.safetensors", tensors)))
    assert {name: layer.kind for name, layer in layers.items()} == {
        "a.weight": "float8_e5m2",
        "b.weight": "float8_e5m2",
    }
    assert all(layer.shape == (2, 4) for layer in layers.values())
