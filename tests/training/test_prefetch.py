"""Batches that other processes prefetch: the same batches, and no process that stays."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from ldmref.training import read_recipe, train
from ldmref.training.prefetch import Prefetched

pytestmark = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="processes are forks"
)


def draw(step):
    return {"step": step, "noise": np.random.default_rng(step).random(3), "text": [f"step {step}"]}


def test_processes_compute_what_this_process_would():
    squares = Prefetched(draw, steps=8, processes=2)
    for step in (0, 1, 2, 2, 5, 6, 3, 7):  # in order, again, and from elsewhere
        found, expected = squares(step), draw(step)
        assert found["step"] == step and found["text"] == expected["text"]
        assert np.array_equal(found["noise"], expected["noise"])
    before = len(multiprocessing.active_children())
    squares.close()
    assert len(multiprocessing.active_children()) <= before - 1


def test_an_error_of_a_process_is_raised_here():
    def broken(step):
        raise ValueError("no such image")

    with pytest.raises(ValueError, match="no such image"):
        Prefetched(broken, steps=2, processes=1)(0)


def weights(folder: Path, processes: int) -> bytes:
    changes = {
        "data": {"source": "small-emoji", "size": 16, "processes": processes},
        "autoencoder": {"budget": {"steps": 2}},
        "diffusion": {"budget": {"steps": 3}, "optimizer": {"batch_size": 4}},
        "progress": {"seconds": 0},
    }
    model = train(read_recipe("tiny", changes), folder, log=lambda line: None)
    return (model / "model.safetensors").read_bytes()


def test_a_training_does_not_depend_on_the_processes(tmp_path):
    trained = weights(tmp_path / "prefetched", processes=2)
    assert trained == weights(tmp_path / "here", processes=0)
    assert not multiprocessing.active_children()
