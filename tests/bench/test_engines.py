"""The peers ONNX Runtime and OpenVINO: the graph of the U-Net, read from a file."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import compare, engines, peers
from benchmarks.cases import CASES, BenchmarkCase, resized
from benchmarks.compare import relative_error
from benchmarks.machine import LIBRARIES, installed_versions
from benchmarks.work import WorkInputs
from ldmref.errors import BackendUnavailable, VerifyError
from ldmref.models.params import flatten

CASE = resized(CASES["unet-numpy-32-onnx"], quick=True)


def require(case: BenchmarkCase) -> None:
    for library in engines.ENGINES[case.peer]:
        pytest.importorskip(library)


@pytest.mark.parametrize("peer", engines.ENGINES)
@pytest.mark.parametrize("backend", ["numpy", "torch", "openvino"])
def test_an_engine_computes_what_ldmref_computes(peer, backend):
    case = replace(CASE, peer=peer, backend=backend)
    require(case)
    pytest.importorskip(backend)
    model = case.make_model()
    inputs = case.make_inputs(model)
    engine = peers.peer_workload(case, model, inputs)
    got = engine.output()
    want = case.make_workload(model, inputs).output()
    assert relative_error(want, got) < 1e-4 and got.dtype == np.float32
    assert np.array_equal(got, engine.output())
    changed = WorkInputs(
        inputs.latents, inputs.timesteps / 2, inputs.context[::-1].copy(), inputs.token_ids
    )
    other = case.make_workload(model, changed).output()
    assert relative_error(other, got) > 1e-3  # time and text do matter


@pytest.mark.parametrize("peer", engines.ENGINES)
def test_the_embedded_models_graph_reads_the_last_token(peer):
    case = replace(CASE, peer=peer, model="emoji", size=32)
    require(case)
    model = case.make_model()
    inputs = case.make_inputs(model)
    want = case.make_workload(model, inputs).output()
    assert relative_error(want, peers.peer_workload(case, model, inputs).output()) < 1e-4


def test_the_engine_has_ldmrefs_threads_and_the_files_are_gone(monkeypatch, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    sessions = []
    real = onnxruntime.InferenceSession

    def session(file, options, providers):
        files = {path.name: path.stat().st_size for path in Path(file).parent.iterdir()}
        sessions.append((options, files))
        return real(file, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(engines.threads, "count", lambda: 3)
    model = CASE.make_model()
    peers.peer_workload(CASE, model, CASE.make_inputs(model)).run()
    ((options, files),) = sessions
    assert options.intra_op_num_threads == 3 and not list(tmp_path.iterdir())
    weights = sum(array.nbytes for array in flatten(model.params.unet).values())
    assert files["unet.onnx.weights"] >= weights  # next to the graph, which has a limit of 2 GB


def test_openvino_computes_in_float32_on_ldmrefs_threads(monkeypatch):
    openvino = pytest.importorskip("openvino")
    given = []
    real = openvino.Core

    class Core:
        def compile_model(self, file, device, options):
            given.append((device, options))
            return real().compile_model(file, device, options)

    monkeypatch.setattr(openvino, "Core", Core)
    monkeypatch.setattr(engines.threads, "count", lambda: 3)
    case = replace(CASE, peer="openvino")
    model = case.make_model()
    peers.peer_workload(case, model, case.make_inputs(model))
    assert given == [("CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 3})]


def test_threads_are_those_of_the_backend(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    monkeypatch.setattr(engines.threads, "count", lambda: 3)
    assert engines.thread_count("numpy") == engines.thread_count("openvino") == 3
    assert engines.thread_count("torch") == 5


def test_a_case_is_measured_or_refused(monkeypatch):
    require(CASE)
    monkeypatch.setattr("benchmarks.work.MIN_SECONDS", 0.0)
    result = compare.run_case(CASE, 2, (64,))
    assert result["target"] is None and result["aim"] == 1
    assert result["peer_title"] == "ONNX Runtime"
    assert result["theirs"]["gflops"] > 0 and len(result["theirs"]["values"]) == 2
    real = engines.engine_workload

    def wrong(*args):
        workload = real(*args)
        return replace(workload, run=lambda: 1.01 * workload.run())

    monkeypatch.setattr(peers, "engine_workload", wrong)
    with pytest.raises(VerifyError, match=r"unet-numpy-32-onnx: the two sides differ by 0\.0099"):
        compare.run_case(CASE, 2, (64,))


def test_the_peer_torch_is_ldmref_on_torch():
    torch = pytest.importorskip("torch")
    case = resized(CASES["embedded-step-torch"], quick=True)
    peers.require_peer(case)
    model = case.make_model()
    inputs = case.make_inputs(model)
    theirs = peers.peer_workload(case, model, inputs)
    assert isinstance(theirs.run(), torch.Tensor)
    ours = case.make_workload(model, inputs)
    assert relative_error(ours.output(), theirs.output()) < 1e-4


@pytest.mark.parametrize("peer", engines.ENGINES)
@pytest.mark.parametrize("missing", [0, 1])
def test_a_missing_package_is_named_before_anything_is_computed(peer, missing, monkeypatch):
    packages = engines.ENGINES[peer]
    for package in packages:
        monkeypatch.setitem(sys.modules, package, sys)
    monkeypatch.setitem(sys.modules, packages[missing], None)
    monkeypatch.setitem(sys.modules, "torch", None)  # is not needed
    monkeypatch.setattr(BenchmarkCase, "make_model", None)  # would fail if it were called
    with pytest.raises(BackendUnavailable, match=f"needs {packages[missing]}, which") as caught:
        compare.run_case(replace(CASE, peer=peer), 1, (64,))
    assert caught.value.hint == f"pip install {' '.join(packages)}"


def test_insufficient_disk_space_is_refused(monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(9, 9, 2 * 10**9))
    engines.require_disk_space(tmp_path, 10**9)
    with pytest.raises(BackendUnavailable, match=r"takes 3.4 GB, and .* has 2.0 GB") as caught:
        engines.require_disk_space(tmp_path, 3_440_000_000)
    assert "TMPDIR" in caught.value.hint and "\n" not in str(caught.value)


def test_versions_are_recorded():
    pytest.importorskip("onnxruntime")
    assert set(installed_versions(LIBRARIES)) >= {"onnx", "onnxruntime"}
