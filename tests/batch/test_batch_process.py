"""The executor `process`: equal to `serial`, and no worker's death loses a row."""

from __future__ import annotations

import os
import signal
import threading
from functools import partial
from pathlib import Path

import deadly
import numpy as np
import pytest
from batches import find_children, read_folder, read_jsonl
from PIL import Image
from small_models import save_controlnet, save_wordless

import ldmref
from ldmref.batch import run_batch
from ldmref.batch.keys import identify_model
from ldmref.batch.process import READY, ProcessExecutor
from ldmref.errors import Cancelled, InputError, ResourceError, UsageError

ROWS = [{"prompt": p, "steps": 1} for p in ("red cat", "red hat", "blue cat", "dog", "green face")]


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_write_the_files_that_serial_writes(requests, whole, tmp_path, workers):
    summary = run_batch(
        deadly.load_tiny, requests, tmp_path / "out", executor="process", workers=workers
    )
    assert (summary.generated, summary.failed) == (18, 2)
    assert read_folder(tmp_path / "out") == read_folder(whole)
    assert not find_children(os.getpid(), "spawn_main")


def test_a_model_itself_also_goes_to_the_workers(tiny, requests, whole, tmp_path):
    run_batch(tiny, requests, tmp_path / "out", executor="process", workers=2)
    assert read_folder(tmp_path / "out") == read_folder(whole)


def test_every_mode_gives_the_same_files_in_processes(tmp_path):
    Image.new("RGB", (16, 16), "teal").save(tmp_path / "given.png")
    Image.new("L", (16, 16), 255).save(tmp_path / "mask.png")
    np.save(tmp_path / "noise.npy", np.ones((1, 4, 8, 8), np.float32))
    save_controlnet(tmp_path / "net")
    control = [{"net": "net", "image": "given.png", "weight": 0.5}]
    given = {"prompt": "cat", "image": "given.png", "steps": 2, "strength": 1.0}
    rows = [
        {"prompt": "cat", "steps": 2, "control": control},
        {"prompt": "cat", "steps": 2, "control": [control[0] | {"weight": 0.6}]},
        {"prompt": "cat", "steps": 2, "latents": "noise.npy"},
        {"prompt": ["cat", "dog"], "steps": 2, "guidance": {"name": "rescale", "phi": 0.5}},
        given | {"mode": "img2img"},
        given | {"mode": "inpaint", "mask": "mask.png"},
        given | {"mode": "inpaint", "mask": "mask.png", "control": [{"net": "net"}]},
        {"mode": "interpolate", "prompt": "cat", "prompt_b": "dog", "positions": 3, "steps": 2},
    ]
    for executor in ("serial", "process"):
        out = tmp_path / executor
        summary = run_batch(deadly.load_tiny, rows, out, executor=executor, folder=tmp_path)
        assert summary.failed == 0 and summary.images == 11
    assert read_folder(tmp_path / "serial") == read_folder(tmp_path / "process")


@pytest.mark.parametrize(
    ("concat", "row"),
    [
        ("low_resolution", {"mode": "superres", "image": "given.png"}),
        ("segmentation", {"mode": "seg2img", "segmentation": "given.png"}),
    ],
)
def test_modes_of_other_models_have_rows(tmp_path, concat, row):
    Image.new("L", (8, 8), 1).save(tmp_path / "given.png")
    changes = {"segmentation_classes": 4} if concat == "segmentation" else {}
    model = ldmref.load(save_wordless(tmp_path / "model", concat, **changes), backend="numpy")
    summary = run_batch(model, [row | {"steps": 1}], tmp_path / "out", folder=tmp_path)
    assert summary.failed == 0, read_jsonl(summary.errors)
    assert len(list(tmp_path.glob("out/images/*.png"))) == 1


def test_the_row_of_a_worker_that_dies_is_tried_once_more(tmp_path):
    run_batch(deadly.load_tiny, ROWS, tmp_path / "calm")
    (tmp_path / "deaths").mkdir()
    source = partial(deadly.load_deadly, tmp_path / "deaths", 1)
    summary = run_batch(source, ROWS, tmp_path / "out", executor="process", workers=2)
    assert len(list(Path(tmp_path / "deaths").iterdir())) == 1
    assert (summary.generated, summary.failed) == (5, 0)
    assert read_folder(tmp_path / "out") == read_folder(tmp_path / "calm")


def test_a_row_that_kills_its_worker_again_has_failed(tmp_path):
    (tmp_path / "deaths").mkdir()
    source = partial(deadly.load_deadly, tmp_path / "deaths", 99)
    summary = run_batch(source, ROWS, tmp_path / "out", executor="process", workers=2)
    assert (summary.generated, summary.failed) == (4, 1)
    [error] = read_jsonl(summary.errors)
    assert (error["line"], error["code"]) == (2, "E-WORKER") and "2 times" in error["message"]
    assert len(list(Path(tmp_path / "deaths").iterdir())) == 2


@pytest.mark.parametrize(
    ("load", "error", "code"),
    [
        (deadly.load_in_parent_only, ResourceError, "E-WORKER"),
        (deadly.fail_in_workers, InputError, "E-MODEL"),
        (deadly.load_another_in_workers, UsageError, "E-WORKER"),
    ],
)
def test_workers_without_the_model_end_the_batch(tmp_path, load, error, code):
    source = partial(load, os.getpid())
    with pytest.raises(error) as caught:
        run_batch(source, ROWS, tmp_path / "out", executor="process", workers=2)
    assert caught.value.code == code
    assert not find_children(os.getpid(), "spawn_main")
    assert not (tmp_path / "out/errors.jsonl").exists()


def test_a_stop_ends_the_workers(requests, tmp_path):
    stop = threading.Event()
    with pytest.raises(Cancelled) as caught:
        run_batch(
            deadly.load_tiny,
            requests,
            tmp_path / "out",
            executor="process",
            workers=2,
            report=lambda event: stop.set() if event.done == 3 else None,
            cancel=stop,
        )
    assert 3 <= caught.value.partial.generated < 18
    assert not find_children(os.getpid(), "spawn_main")


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_ctrl_c_does_not_reach_a_worker_that_starts(capfd):
    model = deadly.load_tiny()
    executor = ProcessExecutor(deadly.load_tiny, identify_model(model), workers=1)
    worker = executor._start()
    try:
        while not worker.connection.poll(0.002):  # during the whole start
            assert worker.process.is_alive()
            os.kill(worker.process.pid, signal.SIGINT)
        assert worker.receive() == READY
    finally:
        worker.end()
    assert "Traceback" not in capfd.readouterr().err
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
