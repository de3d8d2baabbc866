"""Images that no stage trains on, and the denoiser's loss on them."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training runs on the torch backend")

from ldmref.datasets.config import DataConfig  # noqa: E402
from ldmref.datasets.loading import hold_out, load_dataset, summarize  # noqa: E402
from ldmref.errors import InputError  # noqa: E402
from ldmref.training.monitor.metrics import read_metrics  # noqa: E402
from ldmref.training.training_run import train  # noqa: E402


def test_held_out_images_have_no_weight(images):
    whole = load_dataset(DataConfig(str(images), 16))
    data = load_dataset(DataConfig(str(images), 16, held_out=2))
    assert len(data.held_out) == 2 and (data.weights[data.held_out] == 0).all()
    assert np.count_nonzero(data.weights) == len(data.images) - 2
    again = load_dataset(DataConfig(str(images), 16, held_out=2))
    np.testing.assert_array_equal(data.held_out, again.held_out)
    assert summarize(whole) != summarize(data) == summarize(again)
    with pytest.raises(InputError, match="none of"):
        hold_out(whole, len(whole.images))


def test_the_held_out_loss_is_recorded(recipe, images, tmp_path):
    out = tmp_path / "out"
    data = {"source": str(images), "held_out": 1}
    train(recipe(4, data=data), out)
    lines = [x for x in read_metrics(out / "metrics.jsonl") if x["stage"] == "diffusion"]
    losses = [line["held_out_loss"] for line in lines if "held_out_loss" in line]
    assert lines[-1]["held_out_loss"] == losses[-1] and all(loss > 0 for loss in losses)
    again = tmp_path / "again"
    train(recipe(4, data=data), again)
    other = [x for x in read_metrics(again / "metrics.jsonl") if x["stage"] == "diffusion"]
    assert [x["held_out_loss"] for x in other if "held_out_loss" in x] == losses


def test_a_raised_budget_names_the_jump_of_the_learning_rate(recipe, tmp_path):
    out = tmp_path / "out"
    train(recipe(8), out)
    lines = []
    train(recipe(16), out, log=lines.append, accept_changes=True)
    assert any("learning rate rises" in line and "not 8" in line for line in lines)
    lines.clear()
    train(recipe(16), out, log=lines.append)
    assert not any("learning rate rises" in line for line in lines)
