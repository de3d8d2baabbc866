"""Dumps of every tensor of an exported file, as ONNX Runtime and Polygraphy write them."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest

import ldmref
from ldmref.errors import CorruptModelError
from ldmref.export import export_onnx
from ldmref.locate import diff_traces
from ldmref.trace import load_trace

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
FAULTY = "mid_block.resnets.0.conv1"


@pytest.fixture(scope="module")
def model():
    return ldmref.random_model("tiny", seed=1)


@pytest.fixture(scope="module")
def tensors(model, tmp_path_factory):
    """Return the inputs and every tensor of a run of the exported U-Net, as docs/export.md does."""
    folder = tmp_path_factory.mktemp("dump") / "tiny"
    export_onnx(model, folder)
    marked = onnx.load(folder / "unet" / "model.onnx")
    known = {value.name for value in marked.graph.output}
    for node in marked.graph.node:
        if node.output[0].endswith("/output") and node.output[0] not in known:
            marked.graph.output.append(onnx.ValueInfoProto(name=node.output[0]))
    session = onnxruntime.InferenceSession(marked.SerializeToString())
    names = [value.name for value in session.get_outputs()]
    normal = np.random.default_rng(0).standard_normal
    width = model.config.unet.cross_attention_dim
    inputs = {
        "sample": normal((2, 4, 8, 8)).astype(np.float32),
        "timestep": np.full(2, 400.0, np.float32),
        "encoder_hidden_states": normal((2, 5, width)).astype(np.float32),
    }
    return inputs, dict(zip(names, session.run(names, inputs), strict=True))


def encode(x):
    data = io.BytesIO()
    np.save(data, x)
    text = base64.b64encode(data.getvalue()).decode()
    return {"array": text, "polygraphy_class": "ndarray"}


def write_polygraphy(folder, inputs, outputs):
    """Write files of the form of polygraphy 0.49: --save-outputs and --save-inputs."""
    lazy = {
        name: {"values": encode(x), "polygraphy_class": "LazyArray"} for name, x in outputs.items()
    }
    result = {"outputs": lazy, "runtime": 0.1, "runner_name": "onnxrt-runner-N0"}
    results = {"lst": [["onnxrt-runner-N0", [result]]], "polygraphy_class": "RunResults"}
    folder.mkdir()
    (folder / "outputs.json").write_text(json.dumps(results))
    (folder / "inputs.json").write_text(json.dumps([{n: encode(x) for n, x in inputs.items()}]))


def test_a_dump_of_onnx_runtime_agrees(model, tensors, tmp_path):
    inputs, outputs = tensors
    np.savez(tmp_path / "dump.npz", **inputs, **outputs)
    report = diff_traces(load_trace(tmp_path / "dump.npz"), model)
    assert report.equal and report.counts()["equal"] > 100, (report.gaps, report.faults)


def test_a_dump_of_polygraphy_names_the_faulty_layer(model, tensors, tmp_path):
    inputs, outputs = tensors
    write_polygraphy(tmp_path / "right", inputs, outputs | {"v12": np.ones(3)})
    right = diff_traces(load_trace(tmp_path / "right"), model)
    assert right.equal, (right.gaps, right.faults)
    wrong = {f"{FAULTY}/output": 1.01 * outputs[f"{FAULTY}/output"]}
    write_polygraphy(tmp_path / "wrong", inputs, outputs | wrong)
    report = diff_traces(load_trace(tmp_path / "wrong" / "outputs.json"), model)
    assert FAULTY in {row.layer for row in report.faults}
    causes = {row.cause for row in report.faults if row.layer == FAULTY}
    assert causes == {"scaled by 1.01"}


@pytest.mark.parametrize(
    "content",
    [
        '{"a": 1}',
        "[1]",
        '[{"sample": {"array": "!!"}}]',
        '[{"sample": {"array": "AAAA"}}]',
        '{"lst": []}',
    ],
)
def test_other_json_gets_one_line(content, tmp_path):
    path = tmp_path / "dump.json"
    path.write_text(content)
    with pytest.raises(CorruptModelError, match="dump"):
        load_trace(path)


def test_python_objects_are_refused(tmp_path):
    data = io.BytesIO()
    np.save(data, np.array([{}], dtype=object))
    text = base64.b64encode(data.getvalue()).decode()
    (tmp_path / "dump.json").write_text(json.dumps([{"sample": {"array": text}}]))
    with pytest.raises(CorruptModelError, match="is not an array"):
        load_trace(tmp_path / "dump.json")
