"""Opening, describing and planning read the header of a file, and no value of a weight."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest
from gguf_files import gguf_bytes

import ldmref
from ldmref import modes
from ldmref.apps.cli.main import main
from ldmref.families.sd3.files import original_table
from ldmref.io import open_checkpoint
from ldmref.io.checkpoint import read_model_config
from ldmref.io.key_table import list_stored_shapes
from ldmref.io.tensors.gguf import GGUFFile
from ldmref.io.tensors.safetensors import TensorFile, TensorView
from ldmref.io.tensors.writer import TensorSource, write_tensors
from ldmref.models import preset
from ldmref.models.lazy_params import LazyParams

PREFIX = "model.diffusion_model."
SHAPES = list_stored_shapes(original_table(preset("sd3-tiny"), PREFIX))
LAYERS = [n.removesuffix(".weight") for n, s in SHAPES.items() if n.endswith(".weight") and s[1:]]
MATRICES = [layer for layer in LAYERS if len(SHAPES[f"{layer}.weight"]) == 2]
SETTINGS = json.dumps({"format": "float8_e4m3fn"})
MOST = 200  # bytes of settings that opening may read of a tensor


def scaled(end, mark=None):
    """Every matrix as float8 with one scale beside it, and perhaps its settings as JSON."""
    tensors = {name: ("F16", np.zeros(shape, np.float16)) for name, shape in SHAPES.items()}
    for layer in MATRICES:
        shape = SHAPES[f"{layer}.weight"]
        tensors[f"{layer}.weight"] = "F8_E4M3", np.zeros(shape, np.uint8)
        tensors[layer + end] = "F32", np.ones(1, np.float32)
        if mark:
            tensors[layer + mark] = "U8", np.frombuffer(SETTINGS.encode(), np.uint8)
    return tensors


def named():
    layers = {m.removeprefix(PREFIX): {"format": "float8_e4m3fn"} for m in MATRICES}
    return {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}


def nf4():
    tensors = {name: ("F32", np.zeros(shape, np.float32)) for name, shape in SHAPES.items()}
    for layer in MATRICES:
        name = f"{layer}.weight"
        shape = SHAPES[name]
        count = shape[0] * shape[1]
        state = json.dumps({"shape": shape, "blocksize": 64}).encode()
        tensors[name] = "U8", np.zeros((-(-count // 2), 1), np.uint8)
        tensors[f"{name}.absmax"] = "F32", np.ones(-(-count // 64), np.float32)
        tensors[f"{name}.quant_map"] = "F32", np.zeros(16, np.float32)
        tensors[f"{name}.quant_state.bitsandbytes__nf4"] = "U8", np.frombuffer(state, np.uint8)
    return tensors


def plain():
    return {name: ("BF16", np.zeros(shape, np.uint16)) for name, shape in SHAPES.items()}


SAVED = {
    "bfloat16": (plain, None),
    "scale_weight": (lambda: scaled(".scale_weight"), None),
    "weight_scale": (lambda: scaled(".weight_scale"), None),
    "comfy_quant": (lambda: scaled(".weight_scale", ".comfy_quant"), None),
    "metadata": (lambda: scaled(".weight_scale"), named),
    "nf4": (nf4, None),
}


@pytest.fixture
def read_bytes(monkeypatch):
    """Bytes of the tensors whose values were asked for, by name."""
    read = {}

    def count(kind, method, size):
        original = getattr(kind, method)

        def counting(self, name):
            read[name] = read.get(name, 0) + size(original(self, name))
            return original(self, name)

        monkeypatch.setattr(kind, method, counting)

    count(TensorFile, "codes", lambda x: x.nbytes)
    count(GGUFFile, "__getitem__", lambda x: x.nbytes)
    return read


def use(path, read_bytes):
    """Open, describe and plan; return the bytes of the largest tensor that was read."""
    config = read_model_config(path)
    checkpoint = open_checkpoint(path)
    assert checkpoint.config == config
    assert main(["info", str(path)]) == 0
    modes.plan("txt2img", config, prompt="a cat", width=32, height=32)
    return max(read_bytes.values(), default=0)


@pytest.mark.parametrize("kind", SAVED)
def test_a_safetensors_file(kind, tmp_path, read_bytes):
    tensors, metadata = SAVED[kind]
    sources = {n: TensorSource(k, x.shape, lambda x=x: x) for n, (k, x) in tensors().items()}
    path = tmp_path / "a.safetensors"
    write_tensors(path, sources, metadata and metadata())
    assert use(path, read_bytes) <= MOST
    marked = sum("comfy_quant" in name or "quant_state" in name for name in sources)
    assert len(read_bytes) == marked


def test_a_gguf_file(tmp_path, read_bytes):
    tensors = {n: (0, s, bytes(4 * int(np.prod(s)))) for n, s in SHAPES.items()}
    (tmp_path / "a.gguf").write_bytes(gguf_bytes(tensors))
    assert use(tmp_path / "a.gguf", read_bytes) == 0


def test_the_count_notices_a_value(tmp_path, read_bytes):
    write_tensors(tmp_path / "a.st", {"a": TensorSource("F32", (2,), lambda: np.ones(2, "f4"))})
    file = TensorFile(tmp_path / "a.st")
    view = TensorView([file])
    assert "a" in file and "a" in view and "b" not in file and "b" not in view
    assert not read_bytes
    assert view["a"].sum() == 2 and read_bytes == {"a": 8}


def test_info_opens_a_file_once(tmp_path, monkeypatch):
    sources = {n: TensorSource(k, x.shape, lambda x=x: x) for n, (k, x) in plain().items()}
    write_tensors(tmp_path / "a.safetensors", sources)
    opened = []
    original = TensorFile.__init__
    monkeypatch.setattr(
        TensorFile, "__init__", lambda self, path: opened.append(path) or original(self, path)
    )
    assert main(["info", str(tmp_path / "a.safetensors")]) == 0
    assert len(opened) == 1


def test_a_network_is_not_brought_to_say_that_it_is_there(monkeypatch):
    params = ldmref.random_model("tiny").params
    monkeypatch.setattr(LazyParams, "__getitem__", lambda self, name: pytest.fail(name))
    assert "unet" in params and "transformer" not in params


def test_no_mapping_reads_a_value_to_answer_in():
    """`Mapping.__contains__` does: a class of ours says how it answers, or is a LazyMapping."""
    for path in Path(ldmref.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                bases = {ast.unparse(base).partition("[")[0] for base in node.bases}
                methods = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
                reads = bases & {"Mapping", "MutableMapping"} and "__contains__" not in methods
                assert not reads or node.name == "LazyMapping", f"{path}: {node.name}"
