"""The safetensors reader accepts and refuses what the safetensors library does."""

from __future__ import annotations

import copy
import json
import resource
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

from ldmref.errors import CorruptModelError, LdmrefError
from ldmref.io.tensors.safetensors import TensorFile

HEADER = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "F16", "shape": [4], "data_offsets": [24, 32]},
    "c": {"dtype": "U8", "shape": [], "data_offsets": [32, 33]},
}
DATA = bytes(range(33))
TEXT = json.dumps(HEADER).encode()


def changed(name, **fields):
    header = copy.deepcopy(HEADER)
    header[name].update(fields)
    return json.dumps(header).encode()


def without(name):
    return json.dumps({key: entry for key, entry in HEADER.items() if key != name}).encode()


def with_metadata(value):
    return TEXT[:-1] + b', "__metadata__": ' + value + b"}"


# name -> header, number of bytes of tensors
CASES = {
    "unchanged": (TEXT, 33),
    "padded with spaces": (TEXT + b"    ", 33),
    "a space before": (b" " + TEXT, 33),
    "metadata": (with_metadata(b'{"a": "b"}'), 33),
    "metadata null": (with_metadata(b"null"), 33),
    "an unknown field": (changed("c", more=1), 33),
    "an empty tensor": (changed("c", shape=[0], data_offsets=[32, 32]), 32),
    "an empty tensor before all": (changed("c", shape=[0], data_offsets=[0, 0]), 32),
    "no tensors": (b"{}", 0),
    # -- refused --
    "trailing byte": (TEXT, 34),
    "a byte short": (TEXT, 32),
    "trailing byte without tensors": (b"{}", 1),
    "hole": (without("b"), 33),
    "hole at the start": (without("a"), 33),
    "overlapping": (changed("b", data_offsets=[20, 28]), 33),
    "identical": (changed("b", dtype="F32", shape=[2, 3], data_offsets=[0, 24]), 33),
    "reversed": (changed("a", data_offsets=[24, 0]), 33),
    "beyond the end": (changed("c", data_offsets=[33, 34]), 33),
    "three offsets": (changed("a", data_offsets=[0, 24, 24]), 33),
    "float offsets": (changed("a", data_offsets=[0.0, 24.0]), 33),
    "float shape": (changed("a", shape=[2.0, 3.0]), 33),
    "boolean shape": (changed("c", shape=[True]), 33),
    "text offsets": (changed("a", data_offsets=["0", "24"]), 33),
    "exponent": (TEXT.replace(b"[0, 24]", b"[0, 24e0]"), 33),
    "minus zero": (TEXT.replace(b"[0, 24]", b"[-0, 24]"), 33),
    "negative shape": (changed("a", shape=[-2, -3]), 33),
    "null shape": (changed("a", shape=None), 33),
    "overflow": (changed("c", shape=[2**62, 4, 0], data_offsets=[32, 32]), 32),
    "a shape of 2^64": (changed("c", shape=[0, 2**64], data_offsets=[32, 32]), 32),
    "wrong size": (changed("a", shape=[2, 2]), 33),
    "lower-case type": (changed("a", dtype="f32"), 33),
    "a list as type": (changed("a", dtype=["F32"]), 33),
    "no type": (TEXT.replace(b'"dtype": "F32", ', b""), 33),
    "null entry": (TEXT[:-1] + b', "d": null}', 33),
    "metadata of numbers": (with_metadata(b'{"a": 1}'), 33),
    "metadata list": (with_metadata(b"[]"), 33),
    "metadata false": (with_metadata(b"false"), 33),
    "metadata NaN": (with_metadata(b"NaN"), 33),
    "a field twice": (TEXT.replace(b'"dtype": "U8"', b'"dtype": "U8", "dtype": "U8"'), 33),
    "lone surrogate": (TEXT.replace(b'"c"', rb'"\ud800"'), 33),
    "no UTF-8": (TEXT.replace(b'"c"', b'"\xff"'), 33),
    "control character": (TEXT.replace(b'"c"', b'"c\x01"'), 33),
    "UTF-16": (TEXT.decode().encode("utf-16-le"), 33),
    "byte order mark": (b"\xef\xbb\xbf" + TEXT, 33),
    "padded with NUL": (TEXT + b"\0\0", 33),
    "two objects": (TEXT + b"{}", 33),
    "a list": (b"[1]", 0),
    "trailing comma": (TEXT[:-1] + b",}", 33),
    "nested 100,000 deep": (with_metadata(b"[" * 100_000 + b"]" * 100_000), 33),
}
STRICTER = {  # refused here, accepted by the library -> why
    "a name twice": (TEXT[:-1] + b', "c":' + json.dumps(HEADER["c"]).encode() + b"}", 33),
    "a type without NumPy": (changed("c", dtype="F8_E4M3FNUZ"), 33),
    "more axes than NumPy has": (changed("c", shape=[1] * 65), 33),
    "a size beyond int64": (changed("c", shape=[0, 2**63], data_offsets=[32, 32]), 32),
}


def write(path, header, data):
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


def library_accepts(path):
    try:
        with safe_open(str(path), "np") as file:
            file.keys()
    except (SafetensorError, ValueError, OSError):
        return False
    return True


def accepts(path):
    try:
        TensorFile(path)
    except LdmrefError as error:
        assert error.exit_code == 3 and "\n" not in str(error) and len(str(error)) < 500
        return False
    return True


@pytest.mark.parametrize("case", CASES)
def test_same_verdict_as_the_library(tmp_path, case):
    header, size = CASES[case]
    path = write(tmp_path / "x.safetensors", header, bytes(size))
    assert accepts(path) == library_accepts(path)


@pytest.mark.parametrize("case", STRICTER)
def test_what_only_the_library_accepts(tmp_path, case):
    header, size = STRICTER[case]
    path = write(tmp_path / "x.safetensors", header, bytes(size))
    assert library_accepts(path)
    with pytest.raises(CorruptModelError) as caught:
        TensorFile(path)
    assert caught.value.code == "E-SAFETENSORS"


def test_a_header_padded_with_nul_has_a_hint(tmp_path):
    with pytest.raises(CorruptModelError, match="NUL") as caught:
        TensorFile(write(tmp_path / "x.safetensors", TEXT + b"\0\0", DATA))
    assert caught.value.hint


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("mutants") / "x.safetensors"


EDITS = st.lists(
    st.tuples(
        st.sampled_from(["replace", "insert", "delete"]),
        st.integers(0, len(TEXT) - 1),
        st.sampled_from(list(b'0123456789{}[],:".-eE tfn\xff')),
    ),
    min_size=1,
    max_size=3,
)


@given(edits=EDITS, size=st.sampled_from([33, 33, 33, 32, 34]))
def test_same_verdict_on_mutated_headers(scratch, edits, size):
    header = bytearray(TEXT)
    for edit, at, byte in edits:
        at = min(at, len(header) - 1)
        header[at : at + (edit != "insert")] = b"" if edit == "delete" else bytes([byte])
    path = write(scratch, bytes(header), bytes(size))
    ours = accepts(path)
    theirs = library_accepts(path)
    assert ours == theirs or (theirs and _names_twice_or_other_type(bytes(header)))


def _names_twice_or_other_type(header):
    pairs = json.loads(header, object_pairs_hook=lambda pairs: pairs)
    names = [name for name, _ in pairs]
    kinds = {value for _, entry in pairs for key, value in entry if key == "dtype"}
    return len({*names}) < len(names) or not kinds <= {"F32", "F16", "U8", "F64", "I8", "I16"}


@given(cut=st.integers(0, 8 + len(TEXT) + len(DATA) - 1))
def test_a_file_cut_anywhere_is_refused(scratch, cut):
    write(scratch, TEXT, DATA)
    scratch.write_bytes(scratch.read_bytes()[:cut])
    assert not accepts(scratch)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 200_000_000, 1000])
def test_a_false_length_of_the_header_costs_no_memory(tmp_path, length):
    path = tmp_path / "x.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}" + bytes(100))
    assert not accepts(path) and not library_accepts(path)


def test_tensors_are_read_as_the_library_reads_them(tmp_path):
    path = write(tmp_path / "x.safetensors", TEXT, DATA)
    with safe_open(str(path), "np") as file:
        for name, tensor in TensorFile(path).items():
            assert tensor.tobytes() == file.get_tensor(name).tobytes()


def test_bfloat16_keeps_nan_and_subnormals(tmp_path):
    bits = np.array([0x7FC0, 0xFF80, 0x0001, 0x8000, 0x3F80, 0x7F7F], np.uint16)
    header = {"a": {"dtype": "BF16", "shape": [6], "data_offsets": [0, 12]}}
    path = write(tmp_path / "x.safetensors", json.dumps(header).encode(), bits.tobytes())
    tensor = TensorFile(path)["a"]
    assert tensor.dtype == np.float32
    assert (tensor.view(np.uint32) == bits.astype(np.uint32) << 16).all()


def test_a_file_that_shrinks_is_an_error_and_not_the_end_of_the_process(tmp_path):
    header = {"a": {"dtype": "U8", "shape": [100_000], "data_offsets": [0, 100_000]}}
    path = write(tmp_path / "x.safetensors", json.dumps(header).encode(), bytes(100_000))
    code = (
        "import sys, os, pathlib\n"
        "from ldmref.io.tensors.safetensors import TensorFile\n"
        "from ldmref.errors import CorruptModelError\n"
        "file = TensorFile(pathlib.Path(sys.argv[1]))\n"
        "os.truncate(sys.argv[1], 100)\n"
        "for read in (lambda: file['a'].sum(), file.sha256):\n"
        "    try:\n"
        "        read()\n"
        "    except CorruptModelError as error:\n"
        "        assert error.code == 'E-FILE-CHANGED'\n"
        "    else:\n"
        "        sys.exit('nothing noticed')\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_a_hostile_length_in_little_memory(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes((90_000_000).to_bytes(8, "little") + b"{" + bytes(1000))

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))

    code = (
        "import sys\n"
        "from ldmref.io.tensors.safetensors import TensorFile\n"
        "from ldmref.errors import CorruptModelError\n"
        "try:\n"
        "    TensorFile(sys.argv[1])\n"
        "except CorruptModelError:\n"
        "    sys.exit(3)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], preexec_fn=limit)
    assert run.returncode == 3
