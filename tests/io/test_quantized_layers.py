"""Quantised safetensors files: each format against another program's arithmetic, and damage."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ldmref.errors import CorruptModelError, InputError
from ldmref.io.quantized.float4 import E2M1
from ldmref.io.quantized.float8 import E4M3FN, E5M2, E8M0, count_in_tiles, read_tiles
from ldmref.io.tensors.open_file import open_model_file
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.io.tensors.writer import TensorSource, write_tensors

NF4_FILE = Path(__file__).parent / "bitsandbytes-nf4.safetensors"
RNG = np.random.default_rng(3)


def codes(*shape):
    """Random bytes without the two NaN of e4m3fn."""
    x = RNG.integers(0, 256, shape, np.uint8)
    x[(x & 127) == 127] = 1
    return x


def of_text(value):
    return "U8", np.frombuffer(json.dumps(value).encode(), np.uint8)


def write(path, tensors, metadata=None):
    """Write tensors: arrays, or (type in safetensors, codes)."""
    names = {"float32": "F32", "uint8": "U8", "int8": "I8", "float16": "F16"}
    pairs = {k: x if isinstance(x, tuple) else (names[x.dtype.name], x) for k, x in tensors.items()}
    sources = {k: TensorSource(kind, x.shape, lambda x=x: x) for k, (kind, x) in pairs.items()}
    write_tensors(path, sources, metadata, overwrite=True)
    return path


def read(path):
    file = open_model_file(path)
    return {name: np.asarray(x) for name, x in file.items()}


# -- float8 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["e4m3fn", "e5m2", "e8m0fnu"])
def test_every_code_is_that_of_torch(kind, tmp_path):
    torch = pytest.importorskip("torch")
    every = np.arange(256, dtype=np.uint8)
    want = torch.tensor(every).view(getattr(torch, f"float8_{kind}")).float().numpy()
    name = {"e4m3fn": "F8_E4M3", "e5m2": "F8_E5M2", "e8m0fnu": "F8_E8M0"}[kind]
    path = write(tmp_path / "a.safetensors", {"a": (name, every)})
    for file in (TensorFile(path), open_model_file(path)):
        got = np.asarray(file["a"])
        assert got.dtype == np.float32 and file.kinds["a"] == name
        assert np.array_equal(got, want, equal_nan=True)


WEIGHT = codes(6, 32)
VALUES = E4M3FN[WEIGHT]
SCALE = np.float32(0.25)
ROWS = RNG.uniform(0.5, 2.0, 6).astype(np.float32)
NAMED = {"format_version": "1.0", "layers": {"blocks.0.a": {"format": "float8_e4m3fn"}}}
LAYER = "model.diffusion_model.blocks.0.a"
PLAIN = {"b.weight": np.float32([[1, 2]])}
BY_METADATA = {"_quantization_metadata": json.dumps(NAMED)}
SCALED = {
    "older": ({".weight": ("F8_E4M3", WEIGHT), ".scale_weight": SCALE.reshape(1),
               ".scale_input": SCALE.reshape(1)}, None),
    "metadata": ({".weight": ("U8", WEIGHT), ".weight_scale": SCALE.reshape(()),
                  ".input_scale": SCALE.reshape(())}, BY_METADATA),
    "comfy_quant": ({".weight": ("F8_E4M3", WEIGHT), ".weight_scale": SCALE.reshape(()),
                     ".comfy_quant": of_text({"format": "float8_e4m3fn"})}, None),
    "plain": ({".weight": ("F8_E4M3", WEIGHT)}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", SCALED)
def test_one_scale_for_a_tensor(name, tmp_path):
    torch = pytest.importorskip("torch")
    ends, metadata = SCALED[name]
    tensors = {LAYER + end: x for end, x in ends.items()} | PLAIN
    if name == "older":
        tensors["model.diffusion_model.scaled_fp8"] = np.zeros(2, np.uint8)
    got = read(write(tmp_path / "a.safetensors", tensors, metadata))
    assert got.keys() == {f"{LAYER}.weight", "b.weight"}
    want = torch.tensor(WEIGHT).view(torch.float8_e4m3fn).float()
    want = want if name == "plain" else want * float(SCALE)
    assert np.array_equal(got[f"{LAYER}.weight"], want.numpy())
    assert np.array_equal(got["b.weight"], PLAIN["b.weight"])


@pytest.mark.parametrize("shape", [(6,), (6, 1)])
def test_one_scale_for_each_row_is_diffusers(shape, tmp_path):
    theirs = pytest.importorskip("diffusers.quantizers.bfl.utils")
    torch = pytest.importorskip("torch")
    tensors = {"a.weight": ("F8_E4M3", WEIGHT), "a.weight_scale": ROWS.reshape(shape)}
    got = read(write(tmp_path / "a.safetensors", tensors))["a.weight"]
    weight = torch.tensor(WEIGHT).view(torch.float8_e4m3fn)
    assert np.array_equal(got, theirs.dequantize_fp8r(weight, torch.tensor(ROWS)).numpy())


def test_e5m2_with_a_scale_and_int8(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = {
        "a.weight": ("F8_E5M2", WEIGHT & 0x7B),
        "a.weight_scale": SCALE.reshape(1),
        "b.weight": WEIGHT.view(np.int8),
        "b.weight_scale": ROWS[:, None],
        "b.comfy_quant": of_text({"format": "int8_tensorwise"}),
    }
    got = read(write(tmp_path / "a.safetensors", tensors))
    want = torch.tensor(WEIGHT & 0x7B).view(torch.float8_e5m2).float() * 0.25
    assert np.array_equal(got["a.weight"], want.numpy())
    assert np.array_equal(got["b.weight"], WEIGHT.view(np.int8) * ROWS[:, None])


# -- NVFP4 and MXFP8 ------------------------------------------------------------------------------


def test_tables_have_a_number_for_each_byte():
    for table in (E4M3FN, E5M2, E8M0):
        assert table.shape == (256,) and table.dtype == np.float32


def test_the_first_bit_is_the_sign_of_zero_too():
    assert not np.signbit(E2M1[:8]).any() and np.signbit(E2M1[8:]).all()
    assert not np.signbit(E4M3FN[:127]).any() and np.signbit(E4M3FN[128:255]).all()


def tile(scale):
    """Order scales as cuBLAS says: tiles of 128 x 4, one byte after the other."""
    rows, columns = scale.shape
    tiles = np.zeros(count_in_tiles(rows, columns), np.uint8)
    across = -(-columns // 4)
    for r in range(rows):
        for c in range(columns):
            begin = 512 * (r // 128 * across + c // 4)
            tiles[begin + r % 32 * 16 + r % 128 // 32 * 4 + c % 4] = scale[r, c]
    return tiles


@pytest.mark.parametrize("shape", [(1, 1), (16, 2), (128, 4), (129, 4), (130, 5), (300, 9)])
def test_tiles(shape):
    scale = codes(*shape)
    assert np.array_equal(read_tiles(tile(scale), *shape), scale)


def nvfp4(order, rows=20, columns=80):
    """(tensors of Black Forest Labs or Comfy, the weights by plain loops)."""
    q = RNG.integers(0, 16, (rows, columns), np.uint8)
    scale = codes(rows, columns // 16) & 127
    second = np.float32(0.125)
    want = np.array(
        [
            [E2M1[q[r, c]] * (E4M3FN[scale[r, c // 16]] * second) for c in range(columns)]
            for r in range(rows)
        ]
    )
    even, odd = q[:, 0::2], q[:, 1::2]
    packed = odd << 4 | even if order == "low" else even << 4 | odd
    stored = scale if order == "low" else tile(scale).reshape(-1, 4)
    scales = {".weight_scale_2": second.reshape(()), ".input_scale": second.reshape(())}
    return {".weight": packed, ".weight_scale": ("F8_E4M3", stored)} | scales, want


def test_nvfp4_with_the_low_half_first_is_diffusers(tmp_path):
    theirs = pytest.importorskip("diffusers.quantizers.bfl.utils")
    torch = pytest.importorskip("torch")
    ends, want = nvfp4("low")
    path = write(tmp_path / "a.safetensors", {f"a{end}": x for end, x in ends.items()})
    got = read(path)["a.weight"]
    scale = torch.tensor(ends[".weight_scale"][1]).view(torch.float8_e4m3fn)
    packed = torch.tensor(ends[".weight"])
    dequantized = theirs.dequantize_nvfp4(packed, scale, torch.tensor(ends[".weight_scale_2"]))
    assert np.array_equal(got, dequantized.numpy()) and np.array_equal(got, want)


@pytest.mark.parametrize("kind", ["F8_E4M3", "U8"])
def test_nvfp4_of_comfy_has_the_high_half_first_and_tiles(kind, tmp_path):
    ends, want = nvfp4("high")
    ends[".weight_scale"] = (kind, ends[".weight_scale"][1])
    tensors = {f"a{end}": x for end, x in ends.items()}
    metadata = {"_quantization_metadata": json.dumps({"layers": {"a": "nvfp4"}})}
    assert np.array_equal(
        read(write(tmp_path / "a.safetensors", tensors, metadata))["a.weight"], want
    )
    tensors["a.comfy_quant"] = of_text({"format": "nvfp4"})
    assert np.array_equal(read(write(tmp_path / "b.safetensors", tensors))["a.weight"], want)


def test_mxfp8(tmp_path):
    powers = RNG.integers(100, 140, (6, 1), np.uint8)
    tensors = {
        "a.weight": ("F8_E4M3", WEIGHT),
        "a.weight_scale": tile(powers),
        "a.comfy_quant": of_text({"format": "mxfp8"}),
    }
    got = read(write(tmp_path / "a.safetensors", tensors))["a.weight"]
    assert np.array_equal(got, VALUES * 2.0 ** (powers.astype(np.float32) - 127))


# -- NF4 ------------------------------------------------------------------------------------------


def test_nf4_is_what_bitsandbytes_computes():
    """Weights of bitsandbytes 0.50.2, quantised once and twice, and what it makes of them."""
    file = open_model_file(NF4_FILE)
    names = [name for name in file if not name.startswith("want.")]
    assert names == ["fp4.weight", "once.weight", "twice.weight"]
    for name in names:
        got = np.asarray(file[name])
        assert got.dtype == np.float32
        assert np.array_equal(got, file[f"want.{name}"]), name
    assert [file.kinds[name] for name in names] == ["fp4", "nf4", "nf4"]
    assert file.shapes["twice.weight"] == (37, 65)  # an odd number of weights, and a short block


def nf4(double=True):
    """Tensors of one weight (3, 40), as bitsandbytes stores it."""
    shape = {"shape": [3, 40], "blocksize": 64, "quant_type": "nf4", "dtype": "float16"}
    once = {
        "": codes(60, 1),
        ".absmax": np.float32([1, 2]),
        ".quant_map": E2M1,
        ".quant_state.bitsandbytes__nf4": of_text(shape),
    }
    if not double:
        return once
    more = shape | {"nested_blocksize": 256, "nested_offset": 0.5, "nested_dtype": "float32"}
    table = np.linspace(-1, 1, 256).astype(np.float32)
    return once | {
        ".absmax": np.uint8([0, 255]),
        ".nested_absmax": np.float32([4]),
        ".nested_quant_map": table,
        ".quant_state.bitsandbytes__nf4": of_text(more),
    }


def in_file(path, tensors):
    return write(path, {f"a.weight{end}": x for end, x in tensors.items()})


@pytest.mark.parametrize("double", [False, True])
def test_nf4_by_its_definition(double, tmp_path):
    tensors = nf4(double)
    q = [half for byte in tensors[""].reshape(-1) for half in (byte >> 4, byte & 15)]
    absmax = [1, 2] if not double else [4 * -1 + 0.5, 4 * 1 + 0.5]
    want = np.array([E2M1[code] * absmax[i // 64] for i, code in enumerate(q)])
    got = read(in_file(tmp_path / "a.safetensors", tensors))
    assert list(got) == ["a.weight"] and np.array_equal(got["a.weight"], want.reshape(3, 40))


# -- damage and other formats ---------------------------------------------------------------------

STATE = ".quant_state.bitsandbytes__nf4"
FP8 = {".weight": ("F8_E4M3", WEIGHT)}
DAMAGED = {
    "no weight": ({".weight_scale": SCALE.reshape(1)}, "'a.weight' is missing"),
    "scales": (FP8 | {".weight_scale": ROWS[:3]}, "has 3 scales for"),
    "type": ({".weight": ROWS, ".weight_scale": SCALE.reshape(1),
              ".comfy_quant": of_text({"format": "float8_e4m3fn"})}, "is F32, and the file says"),
    "no format": (FP8 | {".comfy_quant": of_text({})}, "is not named"),
    "format": (FP8 | {".comfy_quant": of_text(3)}, "is not named"),
    "no JSON": (FP8 | {".comfy_quant": np.zeros(3, np.uint8)}, "is not JSON"),
    "another float8": (FP8 | {".weight_scale": SCALE.reshape(1),
                              ".comfy_quant": of_text({"format": "float8_e5m2"})},
                       "is F8_E4M3, and the file says float8_e5m2"),
    "bytes for float8": ({".weight": WEIGHT.view(np.int8), ".weight_scale": SCALE.reshape(1),
                          ".comfy_quant": of_text({"format": "float8_e4m3fn"})},
                         "is I8, and the file says float8_e4m3fn"),
    "float8 for bytes": (FP8 | {".weight_scale": SCALE.reshape(1),
                                ".comfy_quant": of_text({"format": "int8_tensorwise"})},
                         "is F8_E4M3, and the file says int8_tensorwise"),
    "no scale": (FP8 | {".comfy_quant": of_text("float8_e4m3fn")}, "scale' is missing"),
    "tiles": (nvfp4("low")[0] | {".comfy_quant": of_text({"format": "nvfp4"})}, "does not fit"),
    "rows": (nvfp4("high")[0], "does not fit"),
    "second": (nvfp4("low")[0] | {".weight_scale_2": ROWS}, "does not fit"),
    "not a matrix": (nvfp4("low")[0] | {".weight": codes(800)}, "not a matrix"),
    "not bytes": (nvfp4("low")[0] | {".weight": np.zeros((20, 40), np.float32)}, "is not NVFP4"),
    "mxfp8": (FP8 | {".weight_scale": ROWS, ".comfy_quant": of_text({"format": "mxfp8"})}, "MXFP8"),
}  # fmt: skip
DAMAGED_NF4 = {
    "absmax": ({".absmax": np.uint8([1])}, "has 1 numbers, not 2"),
    "table": ({".quant_map": E2M1[:8]}, "has 8 numbers, not 16"),
    "nested": ({".nested_absmax": np.float32([1, 2])}, "has 2 numbers, not 1"),
    "codes": ({"": codes(59)}, "does not fit"),
    "float absmax": ({".absmax": np.float32([1, 2])}, "does not fit"),
    "shape": ({STATE: of_text({"shape": [3, -40], "blocksize": 64})}, "does not say shape"),
    "large": ({STATE: of_text({"shape": [2**30] * 9, "blocksize": 64})}, "does not say shape"),
    "larger": ({STATE: of_text({"shape": [2**30] * 4, "blocksize": 64})}, "numbers, not"),
    "block": ({STATE: of_text({"shape": [3, 40], "blocksize": 0})}, "does not say shape"),
    "offset": (
        {STATE: of_text({"shape": [3, 40], "blocksize": 64, "nested_offset": 10**400})},
        "does not say shape",
    ),
    "no state": ({STATE: of_text([])}, "does not say shape"),
}
REFUSED = {
    "SVDQuant": ({".qweight": codes(4, 4).view(np.int8), ".wscales": ROWS}, "SVDQuant"),
    "GPTQ": ({".qweight": codes(4, 4), ".qzeros": codes(4), ".scales": ROWS}, "GPTQ"),
    "LLM.int8": ({".weight": codes(6, 4).view(np.int8), ".SCB": ROWS}, "LLM.int8"),
    "ConvRot": (FP8 | {".comfy_quant": of_text({"format": "convrot_w4a4"})}, "ConvRot"),
    "rotated": (FP8 | {".comfy_quant": of_text({"format": "int8_tensorwise", "convrot": True})},
                "ConvRot"),
    "inner": (FP8 | {".comfy_quant": of_text({"format": "int8_tensorwise",
                                              "params": {"convrot": True}})}, "ConvRot"),
    "rotated, without a format": (
        {".weight": WEIGHT.view(np.int8), ".weight_scale": ROWS,
         ".comfy_quant": of_text({"convrot": True, "convrot_groupsize": 256})}, "ConvRot"),
    "rotated by 4": (
        {".weight": WEIGHT.view(np.int8), ".weight_scale": ROWS,
         ".comfy_quant": of_text({"per_row": True, "group": 4})}, "with the settings group"),
    "svdquant": (FP8 | {".comfy_quant": of_text({"format": "svdquant_w4a4"})}, "SVDQuant"),
    "awq": (FP8 | {".comfy_quant": of_text({"format": "awq_w4a16"})}, "AWQ"),
    "hybrid": (FP8 | {".comfy_quant": of_text({"format": "hybrid_mxfp8"})}, "'hybrid_mxfp8'"),
    "bytes": ({".weight": codes(6, 4), ".weight_scale": ROWS}, "in no known format"),
}  # fmt: skip


def check_refused(path, kind, message):
    with pytest.raises(kind, match=message) as caught:
        read(path)
    assert caught.value.code == "E-QUANTIZED" and len(str(caught.value).splitlines()) == 1
    return caught.value


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_one_clear_line(name, tmp_path):
    tensors, message = DAMAGED[name]
    path = write(tmp_path / "a.safetensors", {f"a{end}": x for end, x in tensors.items()})
    check_refused(path, CorruptModelError, message)


@pytest.mark.parametrize("name", DAMAGED_NF4)
def test_damaged_nf4_is_one_clear_line(name, tmp_path):
    changes, message = DAMAGED_NF4[name]
    path = in_file(tmp_path / "a.safetensors", nf4() | changes)
    check_refused(path, CorruptModelError, message)
    missing = {end: x for end, x in nf4().items() if end != ".quant_map"}
    check_refused(in_file(path, missing), CorruptModelError, "'a.weight.quant_map' is missing")


@pytest.mark.parametrize("text", ["[]", '{"layers": 3}', "{"])
def test_damaged_metadata(text, tmp_path):
    path = write(tmp_path / "a.safetensors", PLAIN, {"_quantization_metadata": text})
    check_refused(path, CorruptModelError, "lists no layers|is not JSON")


@pytest.mark.parametrize("name", REFUSED)
def test_other_formats_are_refused_with_a_reason(name, tmp_path):
    tensors, message = REFUSED[name]
    path = write(tmp_path / "a.safetensors", {f"a{end}": x for end, x in tensors.items()})
    error = check_refused(path, InputError, message)
    assert not isinstance(error, CorruptModelError) and "GGUF" in error.hint


# -- files that contradict themselves -------------------------------------------------------------


@pytest.mark.parametrize(
    ("mark", "scale"),
    [("F8_E5M2", "scale_weight"), ("F8_E4M3", "scale_weight"), (None, "weight_scale")],
)
def test_the_marker_of_older_files_must_name_the_type(tmp_path, mark, scale):
    tensors = {"net.a.weight": ("F8_E4M3", WEIGHT), f"net.a.{scale}": SCALE.reshape(1)}
    if mark:
        tensors["net.scaled_fp8"] = (mark, np.zeros(2, np.uint8))
    path = write(tmp_path / "a.safetensors", tensors)
    if mark == "F8_E5M2":
        check_refused(path, CorruptModelError, "marker 'scaled_fp8' says F8_E5M2")
    else:
        assert np.array_equal(read(path)["net.a.weight"], VALUES * SCALE)


@pytest.mark.parametrize("rows", [(), (6,), (6, 1)])
@pytest.mark.parametrize("kind", ["I8", "F8_E4M3"])
def test_a_format_that_is_not_named_is_that_of_the_type(tmp_path, rows, kind):
    scale = np.resize(ROWS, rows).astype(np.float32)
    settings = {"convrot": False, "per_row": bool(rows)}
    tensors = {
        "a.weight": (kind, WEIGHT.view(np.int8) if kind == "I8" else WEIGHT),
        "a.weight_scale": scale,
        "a.comfy_quant": of_text(settings),
    }
    got = read(write(tmp_path / "a.safetensors", tensors))["a.weight"]
    values = WEIGHT.view(np.int8).astype(np.float32) if kind == "I8" else VALUES
    assert np.array_equal(got, values * (scale.reshape(-1, 1) if rows else scale))


LAYOUTS = {
    "older": lambda name: {f"{name}.scale_weight": SCALE.reshape(1)},
    "comfy_quant": lambda name: {
        f"{name}.weight_scale": SCALE.reshape(()),
        f"{name}.comfy_quant": of_text({"format": "float8_e4m3fn"}),
    },
    "rows": lambda name: {f"{name}.weight_scale": ROWS},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("lost", range(3))
def test_a_scale_that_is_missing_is_named(tmp_path, layout, prefix, lost):
    names = [f"{prefix}layers.{n}.attn.qkv" for n in range(3)]
    tensors = {f"{name}.weight": ("F8_E4M3", WEIGHT) for name in names} | PLAIN
    for name in names:
        tensors |= LAYOUTS[layout](name)
    path = write(tmp_path / "a.safetensors", tensors)
    assert not open_model_file(path).warnings
    for end in LAYOUTS[layout](names[lost]):
        del tensors[end]
    error = check_refused(write(path, tensors), CorruptModelError, "its scale is missing")
    assert f"'{names[lost]}.weight' is F8_E4M3" in str(error) and "2 other blocks" in str(error)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_may_mix_weights_with_and_without_a_scale(tmp_path, layout):
    names = [f"model.layers.{n}.attn.qkv" for n in range(2)]
    tensors = {f"{name}.weight": ("F8_E4M3", WEIGHT) for name in names} | PLAIN
    tensors |= {"norm.weight": ("F8_E4M3", WEIGHT[0])}  # a vector, which no program scales
    for name in names:
        tensors |= LAYOUTS[layout](name)
    path = write(tmp_path / "a.safetensors", tensors)
    assert not open_model_file(path).warnings
    path = write(path, tensors | {"text.embed.weight": ("F8_E4M3", WEIGHT)})
    file = open_model_file(path)
    (warning,) = file.warnings
    assert "'text.embed.weight' has no scale, as others have" in warning
    assert np.array_equal(np.asarray(file["text.embed.weight"]), VALUES)
