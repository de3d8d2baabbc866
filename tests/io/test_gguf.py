"""GGUF files of models: original shapes, metadata, damage."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from gguf_files import gguf_bytes, patched, text, write_model

from ldmref.errors import CorruptModelError, InputError
from ldmref.io.quantized.ggml import GGML_TYPES, UNREAD
from ldmref.io.tensors.gguf import GGUFFile
from ldmref.io.tensors.open_file import open_model_file

NAME = "double_blocks.0.img_attn.proj.weight"
RAW = np.arange(72, dtype=np.float32)


def field(name, *sizes, kind=5):
    """Metadata with the original shape of a tensor."""
    layout = f"<IIQ{len(sizes)}{'i' if kind == 5 else 'Q'}"
    return text(f"comfy.gguf.orig_shape.{name}") + struct.pack(layout, 9, kind, len(sizes), *sizes)


def file(*sizes, **changes):
    fields = field(NAME, *sizes, **changes)
    return gguf_bytes({NAME: (0, (9, 8), RAW.tobytes())}, fields=fields, field_count=1)


def test_the_original_shape_is_that_of_the_metadata(tmp_path):
    path = tmp_path / "a"
    for kind in (5, 10):
        path.write_bytes(file(8, 1, 3, 3, kind=kind))
        found = GGUFFile(path)
        assert found.shapes == {NAME: (8, 1, 3, 3)}
        assert np.array_equal(found[NAME], RAW.reshape(8, 1, 3, 3))
    assert found.metadata == {f"comfy.gguf.orig_shape.{NAME}": (8, 1, 3, 3)}


def test_files_of_the_package(tmp_path):
    pytest.importorskip("gguf")
    rng = np.random.default_rng(0)
    tensors = {
        "input_blocks.0.0.weight": rng.normal(size=(16, 4, 3, 3)).astype(np.float32),
        "input_blocks.0.0.bias": rng.normal(size=16).astype(np.float32),
        "time_embed.0.weight": rng.normal(size=(64, 96)).astype(np.float32),
    }
    want = write_model(tmp_path / "a.gguf", tensors, "Q5_1", "sd1")
    found = open_model_file(tmp_path / "a.gguf")
    assert found.metadata["general.architecture"] == "sd1"
    assert [*found.kinds.values()] == ["Q5_1", "F32", "Q5_1"]
    for name, x in want.items():
        assert found.shapes[name] == x.shape == tensors[name].shape
        assert np.array_equal(np.asarray(found[name]), x)
    assert len(found.sha256()) == 64


def test_long_metadata_is_left_out(tmp_path):
    words = b"".join(text(word) for word in ("a", "red", "heart"))
    fields = text("tokens") + struct.pack("<IIQ", 9, 8, 3) + words
    fields += text("scores") + struct.pack("<IIQ100f", 9, 6, 100, *range(100))
    fields += text("template") + struct.pack("<I", 8) + text("x" * 5000)
    fields += text("general.name") + struct.pack("<I", 8) + text("ä")
    fields += text("odd") + struct.pack("<IQ", 8, 1) + b"\xff"
    path = tmp_path / "a"
    path.write_bytes(gguf_bytes({}, fields=fields, field_count=5))
    assert GGUFFile(path).metadata == {"general.name": "ä", "odd": "\ufffd"}


WHOLE = file(8, 1, 3, 3)
DAMAGED = {
    "shape": (file(8, 3, 2), "does not fit its (9, 8)"),
    "negative": (file(-8, -9), "does not fit"),
    "floats": (patched(WHOLE, "<I", 24 + 8 + len("comfy.gguf.orig_shape." + NAME) + 4, 6),
               "does not fit"),
    "large": (file(2**62, 2**62, 0, kind=10), "does not fit"),
    "truncated": (WHOLE[:-9], "9 bytes are missing"),
    "header": (WHOLE[:60], "ends in the middle"),
    "counts": (patched(WHOLE, "<Q", 16, 2**63), "fields cannot follow"),
    "type": (WHOLE.replace(struct.pack("<QQI", 8, 9, 0), struct.pack("<QQI", 8, 9, 99)),
             "unknown type 99"),
    "blocks": (WHOLE.replace(struct.pack("<QQI", 8, 9, 0), struct.pack("<QQI", 8, 9, 12)),
               "not whole blocks of Q4_K"),
    "sizes": (WHOLE.replace(struct.pack("<QQI", 8, 9, 0), struct.pack("<QQI", 2**61, 0, 0)),
              "too large"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_one_clear_line(name, tmp_path):
    data, message = DAMAGED[name]
    path = tmp_path / "a.gguf"
    path.write_bytes(data)
    with pytest.raises(CorruptModelError) as caught:
        open_model_file(path)
    assert any(part in str(caught.value) for part in message.split("|"))
    assert caught.value.code == "E-GGUF" and len(str(caught.value).splitlines()) == 1


def test_a_file_that_becomes_shorter(tmp_path):
    path = tmp_path / "a.gguf"
    path.write_bytes(WHOLE)
    found = open_model_file(path)
    path.write_bytes(WHOLE[:-40])
    with pytest.raises(CorruptModelError, match="truncated while it was being read"):
        np.asarray(found[NAME])


@pytest.mark.parametrize(("number", "name"), UNREAD.items())
def test_a_type_that_is_not_read_is_named(tmp_path, number, name):
    """The package `gguf` knows some of these types, and reads none of them."""
    (tmp_path / "a.gguf").write_bytes(gguf_bytes({"a.weight": (number, (256,), bytes(512))}))
    with pytest.raises(InputError, match=f"holds 'a.weight' as {name}, which is not") as caught:
        open_model_file(tmp_path / "a.gguf")
    assert not isinstance(caught.value, CorruptModelError)
    gguf = pytest.importorskip("gguf")
    known = {kind.value: kind.name for kind in gguf.GGMLQuantizationType}
    assert known.get(number, name) == name
    if number in known:
        with pytest.raises(NotImplementedError):
            gguf.dequantize(np.zeros(512, np.uint8), gguf.GGMLQuantizationType(number))


def test_every_type_of_the_package_is_read_or_named():
    gguf = pytest.importorskip("gguf")
    assert {kind.value for kind in gguf.GGMLQuantizationType} <= {*GGML_TYPES, *UNREAD}
    assert not {*GGML_TYPES} & {*UNREAD}


def test_types_are_numbered_without_gaps():
    """As ggml counts them, those included that were removed."""
    numbers = sorted({*GGML_TYPES, *UNREAD})
    assert numbers == [*range(len(numbers))]
    removed = {4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8",
               36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8"}  # fmt: skip
    of_activations = {9: "Q8_1", 15: "Q8_K"}
    assert UNREAD == removed | of_activations | {41: "Q1_0"}
