"""Readers of traces: round trips of each format, name maps, and hostile files."""

import io
import json
import os
import struct
import zipfile

import numpy as np
import pytest
from gguf_files import gguf_bytes, patched, text

from ldmref.errors import (
    BackendUnavailable,
    CorruptModelError,
    InputError,
    LdmrefError,
    UnsafeFileError,
    UsageError,
)
from ldmref.io.tensors.writer import TensorSource, write_tensors
from ldmref.trace import load_trace
from ldmref.trace.name_maps import make_renamer
from ldmref.trace.readers.names import complete_name, read_names, suggest_names

X = np.linspace(-1, 1, 2 * 32, dtype=np.float32).reshape(1, 2, 32)
TENSORS = {
    "unet.000//input.timestep": np.array([981.0]),
    "unet.000/conv_in/input": X,
    "unet.000/conv_in/output": 2 * X,
    "unet.000//output": X.astype(np.float16),
}


def write_safetensors(path):
    sources = {
        name: TensorSource("F32", x.shape, lambda x=x: x.astype(np.float32))
        for name, x in TENSORS.items()
    }
    write_tensors(path, sources)
    return path


def write_npz(path):
    np.savez_compressed(path, **TENSORS)
    return path


def write_npy(path, separator="__"):
    for name, x in TENSORS.items():
        parts = name.replace("//", "/") if separator == "/" else name.replace("/", separator)
        file = path / f"{parts}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, np.asfortranarray(x))
    return path


def write_npy_folders(path):
    return write_npy(path, "/")


def write_gguf(path):
    codes = {"float32": 0, "float16": 1, "float64": 28}
    tensors = {name: (codes[x.dtype.name], x.shape, x.tobytes()) for name, x in TENSORS.items()}
    path.write_bytes(gguf_bytes(tensors))
    return path


WRITERS = (write_safetensors, write_npz, write_npy, write_npy_folders, write_gguf)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("suffix", ["", ".npz"])
def test_each_format_is_recognised_by_its_content(write, suffix, tmp_path):
    if suffix == "" and write is write_npz:
        path = write_npz(tmp_path / "a.npz").rename(tmp_path / "dump")
    else:
        path = write(tmp_path / f"dump{suffix}")
    trace = load_trace(str(path))
    assert {entry.name for entry in trace.entries} == {"unet.000/", "unet.000/conv_in"}
    for name, value in TENSORS.items():
        assert np.array_equal(trace.tensors[name], value.astype(trace.tensors[name].dtype)), name
    entry = trace.find("unet.000")
    assert set(entry.inputs) == {"timestep"} and set(entry.outputs) == {"output"}


def test_a_folder_of_safetensors_files(tmp_path):
    write_safetensors(tmp_path / "a.safetensors")
    assert load_trace(tmp_path).find("unet.000", "conv_in") is not None
    named = load_trace(tmp_path, {"unet.000/conv_in/*": "unet.001/conv_out/*"})
    assert named.find("unet.001", "conv_out") is not None
    assert named.find("unet.000", "conv_in") is None


def test_the_manifest_itself_names_its_folder(tmp_path):
    from ldmref.trace import TraceWriter

    writer = TraceWriter(tmp_path / "t", {"program": "a port"})
    writer.write_call("unet.000", [], TENSORS)
    path = writer.close()
    assert load_trace(path).manifest["program"] == "a port"


def test_bfloat16_in_each_format(tmp_path):
    bits = (X.view(np.uint32) >> 16).astype("<u2")
    expected = (bits.astype(np.uint32) << 16).view(np.float32)
    name = "unet.000/conv_in/output"
    write_tensors(tmp_path / "a", {name: TensorSource("BF16", bits.shape, lambda: bits)})
    np.savez(tmp_path / "b.npz", **{name: bits.view("V2")})
    (tmp_path / "c").mkdir()
    np.save(tmp_path / "c" / "unet.000__conv_in__output.npy", bits.view("V2"))
    (tmp_path / "d").write_bytes(gguf_bytes({name: (30, X.shape, bits.tobytes())}))
    for path in ("a", "b.npz", "c", "d"):
        trace = load_trace(tmp_path / path)
        assert trace.kinds[name] == "BF16"
        assert np.array_equal(trace.tensors[name], expected)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q6_K"])
def test_quantised_types_are_those_of_gguf(kind, tmp_path):
    gguf = pytest.importorskip("gguf")
    number = getattr(gguf.GGMLQuantizationType, kind)
    rng = np.random.default_rng(0)
    if kind == "Q6_K":  # whose quantisation NumPy does not have
        raw = rng.integers(0, 200, (3, 210), dtype=np.uint8)
        raw[:, -1] = 0x30  # a finite scale
        shape = (3, 256)
    else:
        x = rng.normal(size=(3, 64)).astype(np.float32)
        raw = gguf.quantize(x, number)
        shape = x.shape
    name = "unet.000/a/output"
    (tmp_path / "q").write_bytes(gguf_bytes({name: (int(number), shape, raw.tobytes())}))
    trace = load_trace(tmp_path / "q")
    assert trace.kinds[name] == kind
    assert np.array_equal(trace.tensors[name], gguf.dequantize(raw, number).reshape(shape))


def test_files_of_the_gguf_package(tmp_path):
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "w.gguf", "ldm")
    writer.add_array("words", ["a", "red", "heart"])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_float32("scale", 0.5)
    writer.add_tensor("unet.000/conv_in/output", X)
    writer.add_tensor("unet.000/conv_out/output", X.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    trace = load_trace(tmp_path / "w.gguf")
    assert np.array_equal(trace.tensors["unet.000/conv_in/output"], X)
    assert trace.kinds["unet.000/conv_out/output"] == "F16"


def test_a_quantised_type_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    path = tmp_path / "q"
    path.write_bytes(gguf_bytes({"unet.000/a/output": (23, (1, 256), b"\0" * 136)}))
    trace = load_trace(path)
    with pytest.raises(BackendUnavailable, match="is stored as IQ4_XS, which needs") as caught:
        _ = trace.tensors["unet.000/a/output"]
    assert caught.value.hint == "pip install ldmref[gguf]"


# -- names -----------------------------------------------------------------------------------------


def test_names_of_eval_callback_by_a_toml_file(tmp_path):
    x = X.reshape(2, 32)
    dump = {
        f"{name}-{i}": (0, x.shape, (x + i).tobytes())
        for name in ("attn_norm", "ffn_inp")
        for i in range(2)
    }
    (tmp_path / "dump").write_bytes(gguf_bytes(dump | {"KQ_mask": (0, x.shape, x.tobytes())}))
    names = tmp_path / "names.toml"
    names.write_text(
        '"attn_norm-*" = "text_encoder/text_model.encoder.layers.*.layer_norm1/output"'
    )
    trace = load_trace(tmp_path / "dump", names)
    found = trace.tensors["text_encoder/text_model.encoder.layers.1.layer_norm1/output"]
    assert np.array_equal(found, x + 1)
    assert sorted(trace.manifest["unknown_names"]) == ["KQ_mask", "ffn_inp-0", "ffn_inp-1"]


def test_names_files(tmp_path):
    (tmp_path / "a.toml").write_text('conv_in.out = "unet.0/conv_in/output"\n[b]\n"c.d" = "e"')
    assert read_names(tmp_path / "a.toml") == {"conv_in.out": "unet.0/conv_in/output", "b.c.d": "e"}
    (tmp_path / "a.json").write_text(json.dumps({"x.*": "unet.0/*/output"}))
    assert read_names(tmp_path / "a.json") == {"x.*": "unet.0/*/output"}
    bad = {
        "b.toml": ("a = ", "not TOML"),
        "c.json": ("[]", "not a table"),
        "d.json": ('{"a": 1}', "not text"),
        "e.json": ('{"a": ', "not JSON"),
    }
    for name, (content, message) in bad.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(InputError, match=message):
            read_names(tmp_path / name)
    with pytest.raises(UsageError, match=r"\.json or \.toml"):
        read_names(tmp_path / "names.yaml")


@pytest.mark.parametrize(
    "names, message",
    [
        ({"a*": "b**"}, "has more `\\*`"),
        ({"a*": "b{2}"}, r"may use \{1\} to \{1\}"),
        ({"a*": "b{1}*"}, "uses both"),
        ({"a*": "b{"}, "brace"),
        ({"a": 3}, "map text to text"),
    ],
)
def test_wrong_patterns(names, message):
    with pytest.raises(UsageError, match=message):
        make_renamer(names)


def test_patterns():
    rename = make_renamer({"blk.*.b*.w": "x.{2}.{1}", "blk.0.b1.w": "exact", "*.bias": "b/*"})
    assert [rename(n) for n in ("blk.0.b1.w", "blk.3.b7.w", "a.b.bias", "other")] == [
        "exact",
        "x.7.3",
        "b/a.b",
        None,
    ]
    assert make_renamer(lambda name: name.upper())("a") == "A"


def test_names_are_completed():
    assert complete_name("unet.3/conv_in/input") == "unet.003/conv_in/input"
    assert complete_name("vae.decode/output") == "vae.decode//output"
    assert complete_name("unet.000/conv_in/out") is None


def test_unknown_names_have_suggestions(tmp_path):
    np.savez(tmp_path / "a.npz", **{"unet.000/conv_in/out": X, "mask": X})
    with pytest.raises(InputError, match="no tensor has a name of a trace") as caught:
        load_trace(tmp_path / "a.npz")
    assert "'unet.000/conv_in/out'" in str(caught.value)
    assert suggest_names(["unet.000/conv_in/out", "mask"], TENSORS) == {
        "unet.000/conv_in/out": "unet.000/conv_in/output",
        "mask": "",
    }


def test_two_tensors_of_one_name_and_a_name_that_is_not_a_traces(tmp_path):
    np.savez(tmp_path / "a.npz", a=X, b=X)
    with pytest.raises(InputError, match="'a' and 'b' are both"):
        load_trace(tmp_path / "a.npz", {"*": "unet.000/conv_in/output"})
    with pytest.raises(UsageError, match="'conv_in', is not a trace's"):
        load_trace(tmp_path / "a.npz", {"a": "conv_in"})


# -- hostile files ---------------------------------------------------------------------------------


def gguf(**changes):
    return gguf_bytes(
        {"unet.000/a/output": (0, (2, 32), b"\0" * 256)} | changes.pop("more", {}), **changes
    )


def npy(array=X, **changes):
    buffer = io.BytesIO()
    np.save(buffer, array, **changes)
    return buffer.getvalue()


def npy_header(header, version=b"\x01\x00"):
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text


def npz(members, compression=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s,), }"
OFFSET = 24 + 8 + len("unet.000/a/output") + 4 + 16 + 4  # of the first tensor's offset
HOSTILE = {
    "gguf-short": (gguf()[:20], "header ends in the middle"),
    "gguf-truncated": (gguf()[:-8], "8 bytes are missing"),
    "gguf-version": (gguf(version=1), "version 1 is not 2 or 3"),
    "gguf-big-endian": (gguf(version=3 << 24), "little-endian"),
    "gguf-many-tensors": (patched(gguf(), "<Q", 8, 2**60), "cannot follow"),
    "gguf-many-fields": (patched(gguf(), "<Q", 16, 2**60), "damaged"),
    "gguf-offset": (patched(gguf(), "<Q", OFFSET, 2**40), "missing at its end"),
    "gguf-offset-overflow": (patched(gguf(), "<Q", OFFSET, 2**64 - 32), "too large"),
    "gguf-not-aligned": (patched(gguf(), "<Q", OFFSET, 4), "not aligned"),
    "gguf-name-length": (patched(gguf(), "<Q", 24, 2**63), "a name has"),
    "gguf-axes": (patched(gguf(), "<I", OFFSET - 24, 2**31), "axes"),
    "gguf-shape": (patched(gguf(), "<Q", OFFSET - 20, 2**62), "too large|missing"),
    "gguf-type": (patched(gguf(), "<I", OFFSET - 4, 7777), "unknown type 7777"),
    "gguf-blocks": (gguf(more={"b": (8, (3,), b"\0" * 34)}), "whole blocks of Q8_0"),
    "gguf-alignment": (
        gguf(fields=text("general.alignment") + struct.pack("<II", 4, 3), field_count=1),
        "power of two",
    ),
    "gguf-array": (
        gguf(fields=text("a") + struct.pack("<IIQ", 9, 8, 2**62), field_count=1),
        "cannot follow",
    ),
    "gguf-nested": (
        gguf(fields=text("a") + struct.pack("<IIQIQ", 9, 9, 1, 9, 1), field_count=1),
        "value of type 9",
    ),
    "npz-pickle": (
        npz({"unet.000/a/output.npy": npy(np.array([{}], object), allow_pickle=True)}),
        "pickled",
    ),
    "npz-torch": (npz({"archive/data.pkl": b"x"}), r"torch\.save never does"),
    "npz-others": (npz({"other.pkl": b"x"}), "PyTorch"),
    "npz-no-arrays": (npz({"readme": b"x"}), "without arrays"),
    "npz-truncated": (npz({"a.npy": npy()})[:-30], "damaged"),
    "npz-short-array": (npz({"a.npy": npy()[:-4]}), "its shape needs"),
    "npz-shape": (npz({"a.npy": npy_header(HUGE % 10**15)}), "its shape needs"),
    "npz-not-npy": (npz({"a.npy": b"hello"}), "not an array"),
    "npz-text": (npz({"a.npy": npy(np.array(["a"]))}), "not real numbers"),
    "npz-header": (npz({"a.npy": npy_header("(" * 9000)}), "not an array"),
    "npy-alone": (npy(), "one array"),
    "safetensors": (b"\xff" * 8 + b"{}" * 10, "header|damaged|truncated"),
    "nothing": (b"", "header|empty|damaged"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_one_clear_line(name, tmp_path):
    pytest.importorskip("gguf")
    data, message = HOSTILE[name]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(LdmrefError, match=message) as caught:
        load_trace(path)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 400


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    shape = 2**31  # 8 GiB of zeros in a few kilobytes, if it were honest about them
    header = npy_header(HUGE % shape)
    data = npz({"unet.000/a/output.npy": header})
    entry = data.index(b"PK\x01\x02")  # the size that the directory declares
    (tmp_path / "b").write_bytes(patched(data, "<I", entry + 24, 2**32 - 1))
    with pytest.raises(CorruptModelError, match="its shape needs"):
        load_trace(tmp_path / "b")
    members = {f"{i}.npy": npy() for i in range(3)}
    data = npz(members, zipfile.ZIP_STORED)
    entry = data.index(b"PK\x01\x02")
    (tmp_path / "c").write_bytes(patched(data, "<I", entry + 20, 2**30))
    with pytest.raises(CorruptModelError, match="overlap"):
        load_trace(tmp_path / "c")


def test_a_pickled_npy_in_a_folder(tmp_path):
    np.save(tmp_path / "a__b__output.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(UnsafeFileError, match="pickled") as caught:
        load_trace(tmp_path)
    assert caught.value.code == "E-PICKLE"


def test_a_truncated_npy_in_a_folder(tmp_path):
    (tmp_path / "a__b__output.npy").write_bytes(npy()[:-1])
    with pytest.raises(CorruptModelError, match="its shape needs"):
        load_trace(tmp_path)


@pytest.mark.parametrize("kind", [".npy", ".safetensors"])
def test_links_out_of_the_folder(kind, tmp_path):
    outside = tmp_path / f"outside{kind}"
    if kind == ".npy":
        outside.write_bytes(npy())
    else:
        write_safetensors(outside)
    folder = tmp_path / "t"
    folder.mkdir()
    link = folder / f"unet.000__conv_in__output{kind}"
    try:
        os.symlink(outside, link)
    except OSError:
        pytest.skip("links are not allowed here")
    with pytest.raises(InputError, match="is a link out of the folder 't'"):
        load_trace(folder)
    link.unlink()
    inside = outside.rename(folder / f"unet.000__conv_out__output{kind}")
    os.symlink(inside, link)
    assert load_trace(folder).entries


def test_a_pipe_and_a_missing_path(tmp_path):
    with pytest.raises(InputError):
        load_trace(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorruptModelError, match="holds no trace") as caught:
        load_trace(tmp_path / "empty")
    assert ".npz" in caught.value.hint
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="named pipe"):
        load_trace(tmp_path / "pipe")
