"""The peer ONNX Runtime: diffusers' U-Net, exported, beside ldmref's."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from ldmref.bench import onnx, peers, run
from ldmref.bench.machine import LIBRARIES, versions
from ldmref.bench.measure import difference
from ldmref.bench.rows import ROWS, quickly
from ldmref.bench.works import Inputs, inputs_of, model_of, ours
from ldmref.errors import BackendUnavailable, VerifyError

ROW = quickly(ROWS["unet-numpy-32-onnx"])
LIBRARIES_OF_THE_PEER = ("onnx", "onnxscript", "onnxruntime")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A row's sides, the sessions that were made for it, and the folder of temporary files."""
    for library in ("torch", "diffusers", *LIBRARIES_OF_THE_PEER):
        pytest.importorskip(library)
    import onnxruntime

    room, sessions, real = tmp_path_factory.mktemp("room"), [], onnxruntime.InferenceSession

    def session(file, options, providers):
        files = {path.name: path.stat().st_size for path in Path(file).parent.iterdir()}
        sessions.append((options, files))
        return real(file, options, providers=providers)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime, "InferenceSession", session)
        patch.setattr(tempfile, "tempdir", str(room))
        patch.setattr(onnx.threads, "count", lambda: 3)
        model = model_of(ROW)
        given = inputs_of(ROW, model)
        side = peers.theirs(ROW, model, given)
    return model, given, side, sessions, room


def test_it_computes_what_ldmref_computes(made):
    model, given, side, _, _ = made
    mine = ours(ROW, model, given)
    want, got = mine.host(mine.call()), side.host(side.call())
    assert 0 < difference(want, got) < 1e-4 and got.dtype == np.float32
    assert side.name == "ONNX Runtime" and np.array_equal(got, side.host(side.call()))
    changed = Inputs(given.latents, given.t / 2, given.context[::-1].copy(), given.ids)
    other = ours(ROW, model, changed)
    assert difference(other.host(other.call()), got) > 1e-3  # time and text do matter


def test_the_session_has_ldmrefs_threads_and_the_files_are_gone(made):
    model, *_, sessions, room = made
    ((options, files),) = sessions
    assert options.intra_op_num_threads == 3 and not list(room.iterdir())
    weights = sum(p.numel() * 4 for p in peers.network("unet", model).parameters())
    assert files["unet.onnx.data"] > 0.95 * weights  # beside the graph, which has a limit of 2 GB


def test_threads_are_those_of_the_rows_backend(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    monkeypatch.setattr(onnx.threads, "count", lambda: 3)
    assert onnx.threads_of(ROW) == 3
    assert onnx.threads_of(ROWS["unet-torch-32-onnx"]) == 5


def test_a_row_is_measured_or_refused(made, monkeypatch):
    """With the session that is there already."""
    model, _, side, _, _ = made
    monkeypatch.setattr("ldmref.bench.measure.LEAST", 0.0)
    monkeypatch.setattr(run, "model_of", lambda row: model)
    monkeypatch.setattr(onnx, "unet_call", lambda *_: side.call)
    record = run.run(ROW, 2, (64,))
    assert record["target"] is None and record["aim"] == 1 and record["peer_title"] == side.name
    assert record["theirs"]["gflops"] > 0 and len(record["theirs"]["values"]) == 2
    monkeypatch.setattr(onnx, "unet_call", lambda *_: lambda: 1.01 * side.call())
    with pytest.raises(VerifyError, match=r"unet-numpy-32-onnx: the two sides differ by 0\.0099"):
        run.run(ROW, 2, (64,))


@pytest.mark.parametrize("library", LIBRARIES_OF_THE_PEER)
def test_a_missing_package_is_named_before_anything_is_computed(library, monkeypatch):
    for other in ("torch", "diffusers"):
        pytest.importorskip(other)
    for other in LIBRARIES_OF_THE_PEER:
        monkeypatch.setitem(sys.modules, other, None if other == library else sys)
    monkeypatch.setattr(run, "model_of", None)  # would fail if it were called
    with pytest.raises(BackendUnavailable, match=f"needs {library}, which") as caught:
        run.run(ROW, 1, (64,))
    assert caught.value.hint == "pip install onnx onnxscript onnxruntime"


def test_no_room_for_the_file_is_told(monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(9, 9, 2 * 10**9))
    onnx.require_room(tmp_path, 10**9)
    with pytest.raises(BackendUnavailable, match=r"takes 3.4 GB, and .* has 2.0 GB") as caught:
        onnx.require_room(tmp_path, 3_440_000_000)
    assert "TMPDIR" in caught.value.hint and "\n" not in str(caught.value)


def test_versions_are_recorded():
    pytest.importorskip("onnxruntime")
    assert set(versions(LIBRARIES)) >= {"onnx", "onnxscript", "onnxruntime"}
