"""Run an exported network in ONNX Runtime or OpenVINO."""

from __future__ import annotations

import pytest


def run_graph(folder, network, runtime="onnxruntime", **arrays):
    """Return the outputs of a network's file, by name."""
    path = folder / network / "model.onnx"
    if runtime == "onnxruntime":
        session = pytest.importorskip("onnxruntime").InferenceSession(path)
        names = [x.name for x in session.get_outputs()]
        return dict(zip(names, session.run(names, arrays), strict=True))
    core = pytest.importorskip("openvino").Core()
    compiled = core.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = compiled(arrays)
    return {name: results[x] for x in compiled.outputs for name in x.get_names()}
