"""Rows of the fault table about files that announce more than they hold, counted in steps."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
from fault_cases import PYTHON, covers

from ldmref.errors import CorruptModelError, LdmrefError
from ldmref.families.flux import files as flux
from ldmref.families.sd3 import files as sd3
from ldmref.io.single_file import recognise_file
from ldmref.io.tensors import gguf
from ldmref.io.tensors.model_file import ModelFile
from ldmref.io.tensors.open_file import open_model_file
from ldmref.support.files import MAX_TABLE_VALUES, MAX_VALUES, count_values, parse_json

# -- 158: counts ----------------------------------------------------------------------------------

HEAD = struct.Struct("<4sIQQ")
MANY = 2**50


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def head(tensors, fields):
    return HEAD.pack(b"GGUF", 3, tensors, fields)


def array_of(kind, count):
    return text("tokens") + struct.pack("<IIQ", 9, kind, count)


def field(key):
    return text(key) + struct.pack("<IB", 0, 1)


def entry(name):
    return text(name) + struct.pack("<IQIQ", 1, 0, 0, 0)


SPARSE = {
    "array of 2^50 texts": head(0, 1) + array_of(8, MANY),
    "array of 2^33 texts": head(0, 1) + array_of(8, 2**33),
    "array of 2^50 numbers": head(0, 1) + array_of(12, MANY),
    "2^50 entries": head(MANY, 0),
    "2^31 entries without names": head(2**31, 0),
    "2^50 fields": head(0, MANY),
    "a million fields without names": head(0, 1_000_000),
    "many arrays of texts": head(0, 1000) + b"".join(array_of(8, 2**19) for _ in range(3)),
    "text of 2^40 bytes": head(0, 1) + text("a") + struct.pack("<IQ", 8, 2**40),
}
FULL = {
    "2 million entries": lambda: head(2_000_000, 0) + b"".join(map(entry, map(str, range(99)))),
    "70,000 fields of one name": lambda: head(0, 70_000) + field("a") * 70_000,
    "70,000 entries of one name": lambda: head(70_000, 0) + entry("a") * 70_000,
}


@pytest.fixture
def taken(monkeypatch):
    """Return the sizes of the pieces that were read of headers."""
    sizes = []
    take = gguf._Header._take

    def counting(self, size):
        sizes.append(size)
        return take(self, size)

    monkeypatch.setattr(gguf._Header, "_take", counting)
    return sizes


@covers(158, "GGUF of 64 GB, nine counts", PYTHON, code="E-GGUF")
def test_sparse_gguf_is_refused_after_few_steps(tmp_path, taken):
    for title, start in SPARSE.items():
        path = tmp_path / "a.gguf"
        with path.open("wb") as file:
            file.write(start)
            file.truncate(2**36)
        taken.clear()
        with pytest.raises(CorruptModelError) as caught:
            open_model_file(path)
        assert caught.value.code == "E-GGUF", title
        assert len(taken) < 20 and sum(taken) < 2**17, title


@covers(158, "GGUF with repeated names, and with more tensors than fit", PYTHON, code="E-GGUF")
def test_full_gguf_is_refused_after_few_steps(tmp_path, taken):
    for title, make in FULL.items():
        path = tmp_path / "a.gguf"
        path.write_bytes(make())
        taken.clear()
        with pytest.raises(CorruptModelError):
            open_model_file(path)
        assert len(taken) < 20, title


def test_a_vocabulary_of_a_quarter_of_a_million_tokens_is_still_skipped(tmp_path):
    count = 2**18
    path = tmp_path / "a.gguf"
    fields = array_of(8, count) + text("word") * count
    path.write_bytes(head(0, 1) + fields)
    assert len(open_model_file(path)) == 0


@covers(158, "JSON of more values than its kind of file has", PYTHON, code="E-CONFIG")
def test_json_is_counted_before_it_is_parsed(monkeypatch):
    def parsed(*arguments, **options):
        raise AssertionError("parsed")

    many = "[" + "[]," * MAX_TABLE_VALUES + "[]]"
    assert parse_json(f"[{'0,' * (MAX_VALUES - 4)}0]", "a.json") is not None
    monkeypatch.setattr("ldmref.support.files.json.loads", parsed)
    for value, most in ((many, MAX_TABLE_VALUES), (many[: 3 * MAX_VALUES], MAX_VALUES)):
        for data in (value, value.encode()):
            with pytest.raises(CorruptModelError) as caught:
                parse_json(data, "a.json", most=most)
            assert caught.value.code == "E-CONFIG"


def test_values_are_never_more_than_they_are_counted():
    for value, count in (("1", 1), ("[]", 1), ("[1, 2]", 3), ('{"a": [1], "b": {}}', 4)):
        assert count <= count_values(value) == count_values(value.encode())


# -- 159: shapes ----------------------------------------------------------------------------------


class Shapes(ModelFile):
    """A file of which nothing but names and shapes may be asked."""

    def __init__(self, shapes):
        self.path = Path("a.safetensors")
        self.kinds = dict.fromkeys(shapes, "F16")
        self.shapes = shapes
        self.metadata = {}
        self.identity = (0, 0, 0, 0)

    def __getitem__(self, name):
        raise AssertionError("read")

    def __iter__(self):
        return iter(self.shapes)

    def __len__(self):
        return len(self.shapes)

    def sha256(self):
        raise AssertionError("read")


SMALL = {
    "x_embedder.proj.weight": (64, 16, 2, 2),
    "pos_embed": (1, 192**2, 64),
    "context_embedder.weight": (64, 4096),
    "y_embedder.mlp.0.weight": (64, 2048),
    "final_layer.linear.weight": (64, 64),
    "joint_blocks.0.x_block.attn.ln_q.weight": (64,),
}
FLUX = {
    "img_in.weight": (64, 64),
    "txt_in.weight": (64, 4096),
    "vector_in.in_layer.weight": (64, 768),
    "final_layer.linear.weight": (64, 64),
    "double_blocks.0.img_attn.norm.query_norm.scale": (128,),
}
SHAPES = ((), (0,), (1,), (0, 0), (2, 3), (0, 0, 0, 0), (2**31, 2, 0, 0), (1, 2**50), (5, 5, 5, 5))
BLOCKS = ("x", "", "-1", "1e3", "²", "9" * 5000, "0 0", "999999")


def outcome(shapes):
    """Return the code of the refusal, "" for none."""
    try:
        recognise_file(Shapes(shapes))
    except LdmrefError as error:
        return error.code
    return ""


@covers(159, "each shape of SD3 and Flux.1 by nine others, and eight names of blocks", PYTHON)
def test_odd_shapes_of_single_files():
    for small in (SMALL, FLUX):
        for name in small:
            for shape in SHAPES:
                assert outcome(small | {name: shape}) in ("", "E-KEYS"), (name, shape)
            outcome({key: shape for key, shape in small.items() if key != name})
        for block in BLOCKS:
            kind = "joint_blocks" if small is SMALL else "double_blocks"
            for layer in ("x_block.attn2.ln_q.weight", ""):
                extra = {f"{kind}.{block}.{layer}": (64,)}
                assert outcome(small | extra) in ("", "E-KEYS"), (block, layer)


@covers(159, "30,000 blocks without tensors", PYTHON, code="E-KEYS")
def test_many_blocks_are_refused_before_a_table_is_made(monkeypatch):
    def made(*arguments, **options):
        raise AssertionError("made")

    for module, small, kind in (
        (sd3, SMALL, "joint"),
        (flux, FLUX, "double"),
        (flux, FLUX, "single"),
    ):
        monkeypatch.setattr(module, "flatten", made)
        many = {f"{kind}_blocks.{i}.x": (0,) for i in range(30_000)}
        assert outcome(small | many) == "E-KEYS"


def test_random_changes_of_names_and_shapes():
    source = random.Random(5)
    for _ in range(80):
        shapes = dict(source.choice((SMALL, FLUX)))
        for name in source.sample(sorted(shapes), source.randint(1, 3)):
            sizes = source.choices((0, 1, 2, 64, 2**20), k=source.randint(0, 5))
            shapes[name] = tuple(sizes)
        assert outcome(shapes) in ("", "E-KEYS"), shapes
