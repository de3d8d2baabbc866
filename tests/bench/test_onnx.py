"""The peer ONNX Runtime: diffusers' U-Net, exported, beside ldmref's."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from ldmref.bench import compare, machine, peers
from ldmref.bench.cases import CASES, BenchmarkCase, CaseInputs, ldmref_workload, resized
from ldmref.bench.compare import relative_error
from ldmref.bench.machine import LIBRARIES, installed_versions
from ldmref.errors import BackendUnavailable, VerifyError

CASE = resized(CASES["unet-numpy-32-onnx"], quick=True)
LIBRARIES_OF_THE_PEER = ("onnx", "onnxscript", "onnxruntime")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Model, inputs, the peer's workload, its sessions, and the folder of temporary files."""
    for library in ("torch", "diffusers", *LIBRARIES_OF_THE_PEER):
        pytest.importorskip(library)
    import onnxruntime

    folder = tmp_path_factory.mktemp("tmp")
    sessions = []
    real = onnxruntime.InferenceSession

    def session(file, options, providers):
        files = {path.name: path.stat().st_size for path in Path(file).parent.iterdir()}
        sessions.append((options, files))
        return real(file, options, providers=providers)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime, "InferenceSession", session)
        patch.setattr(tempfile, "tempdir", str(folder))
        patch.setattr(machine.threads, "count", lambda: 3)
        model = CASE.make_model()
        inputs = CASE.make_inputs(model)
        workload = peers.peer_workload(CASE, model, inputs)
    return model, inputs, workload, sessions, folder


def test_it_computes_what_ldmref_computes(exported):
    model, inputs, peer, _, _ = exported
    want = ldmref_workload(CASE, model, inputs).output()
    got = peer.output()
    assert 0 < relative_error(want, got) < 1e-4 and got.dtype == np.float32
    assert CASE.peer_title == "ONNX Runtime" and np.array_equal(got, peer.output())
    changed = CaseInputs(
        inputs.latents, inputs.timesteps / 2, inputs.context[::-1].copy(), inputs.token_ids
    )
    other = ldmref_workload(CASE, model, changed).output()
    assert relative_error(other, got) > 1e-3  # time and text do matter


def test_the_session_has_ldmrefs_threads_and_the_files_are_gone(exported):
    model, *_, sessions, folder = exported
    ((options, files),) = sessions
    assert options.intra_op_num_threads == 3 and not list(folder.iterdir())
    weights = sum(p.numel() * 4 for p in peers.peer_network("unet", model).parameters())
    assert files["unet.onnx.data"] > 0.95 * weights  # beside the graph, which has a limit of 2 GB


def test_threads_are_those_of_the_backend(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    monkeypatch.setattr(machine.threads, "count", lambda: 3)
    assert machine.thread_count("numpy") == 3
    assert machine.thread_count("torch") == 5


def test_a_case_is_measured_or_refused(exported, monkeypatch):
    """With the session that exists already."""
    model, _, peer, _, _ = exported
    monkeypatch.setattr("ldmref.bench.cases.MIN_SECONDS", 0.0)
    monkeypatch.setattr(BenchmarkCase, "make_model", lambda case: model)
    monkeypatch.setattr(peers, "onnx_unet", lambda *_: peer.run)
    result = compare.run_case(CASE, 2, (64,))
    assert result["target"] is None and result["aim"] == 1
    assert result["peer_title"] == "ONNX Runtime"
    assert result["theirs"]["gflops"] > 0 and len(result["theirs"]["values"]) == 2
    monkeypatch.setattr(peers, "onnx_unet", lambda *_: lambda: 1.01 * peer.run())
    with pytest.raises(VerifyError, match=r"unet-numpy-32-onnx: the two sides differ by 0\.0099"):
        compare.run_case(CASE, 2, (64,))


@pytest.mark.parametrize("library", LIBRARIES_OF_THE_PEER)
def test_a_missing_package_is_named_before_anything_is_computed(library, monkeypatch):
    for other in ("torch", "diffusers"):
        pytest.importorskip(other)
    for other in LIBRARIES_OF_THE_PEER:
        monkeypatch.setitem(sys.modules, other, None if other == library else sys)
    monkeypatch.setattr(BenchmarkCase, "make_model", None)  # would fail if it were called
    with pytest.raises(BackendUnavailable, match=f"needs {library}, which") as caught:
        compare.run_case(CASE, 1, (64,))
    assert caught.value.hint == "pip install onnx onnxscript onnxruntime"


def test_insufficient_disk_space_is_refused(monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(9, 9, 2 * 10**9))
    machine.require_disk_space(tmp_path, 10**9)
    with pytest.raises(BackendUnavailable, match=r"takes 3.4 GB, and .* has 2.0 GB") as caught:
        machine.require_disk_space(tmp_path, 3_440_000_000)
    assert "TMPDIR" in caught.value.hint and "\n" not in str(caught.value)


def test_versions_are_recorded():
    pytest.importorskip("onnxruntime")
    assert set(installed_versions(LIBRARIES)) >= {"onnx", "onnxscript", "onnxruntime"}
