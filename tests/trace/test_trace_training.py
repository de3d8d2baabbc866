"""Steps of a training as a trace."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from small_models import SMALL_MODEL

import ldmref
from ldmref.locate import diff_traces
from ldmref.trace import build_trace, read_trace

pytest.importorskip("torch")

from ldmref.math.objective import simple_loss
from ldmref.training import fine_tune, train
from ldmref.training.recipes.file import recipe_from_dict
from ldmref.training.step_trace import TrainingTrace


@pytest.fixture
def recipe(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for colour in ("red", "blue", "green"):
        Image.new("RGB", (20, 16), colour).save(folder / f"{colour}.png")
    optimizer = {"batch_size": 4, "warmup": 1, "accumulation": 2}
    stage = {"optimizer": optimizer, "budget": {"steps": 3}}
    tables = {"data": {"source": str(folder)}, "model": SMALL_MODEL, "progress": {"seconds": 0}}
    return recipe_from_dict(tables | {"autoencoder": stage, "diffusion": stage})


def test_steps_are_recorded_and_the_training_is_the_same(recipe, tmp_path):
    train(recipe, tmp_path / "plain")
    with TrainingTrace(tmp_path / "t", recipe.model, (0, 2)) as watch:
        train(recipe, tmp_path / "watched", observer=watch)
    plain, watched = (
        (tmp_path / name / "diffusion.safetensors").read_bytes() for name in ("plain", "watched")
    )
    assert plain == watched
    trace = read_trace(tmp_path / "t")
    assert trace.manifest["complete"] and trace.manifest["steps"] == [0, 2]
    assert [call for call in trace.calls if call.startswith("train")] == ["train.000", "train.002"]
    entry = trace.find("train.002")
    given = trace.read_inputs(entry)
    found = trace.read_outputs(entry)
    assert given["indices"].shape == given["timesteps"].shape == found["losses"].shape == (4,)
    assert np.allclose(simple_loss(given["prediction"], given["target"]), found["losses"])
    assert np.allclose(found["losses"].mean(), found["loss"], rtol=1e-6)
    norms = [
        float(trace.read_outputs(part)["grad_norm"])
        for part in trace.of_call("train.002")
        if part.layer
    ]
    assert np.isclose(np.sqrt(np.sum(np.square(norms))), found["grad_norm"], rtol=1e-5)
    steps = {name: x for name, x in trace.tensors.items() if name.startswith("train.")}
    model = ldmref.load(tmp_path / "watched" / "model")
    report = diff_traces(build_trace(steps), model)
    judged = {row.kind for row in report.rows if row.verdict == "equal"}
    assert not report.faults and {"noising", "target", "losses", "loss"} <= judged
    unjudged = {row.note for row in report.rows if row.verdict == "not judged"}
    assert all("of this step were not recorded" in note for note in unjudged)
    evaluations = entry.attributes["evaluations"]
    outputs = [trace.read_outputs(trace.find(call))["output"] for call in evaluations]
    assert np.array_equal(np.concatenate(outputs), given["prediction"])


def test_a_step_that_was_not_reached_is_missing(recipe, tmp_path):
    with TrainingTrace(tmp_path / "t", recipe.model, (1, 7)) as watch:
        train(recipe, tmp_path / "run", observer=watch)
    manifest = read_trace(tmp_path / "t").manifest
    assert manifest["complete"] is False and manifest["steps"] == [1]


@pytest.mark.parametrize(
    "method",
    [
        "lora",
        pytest.param("textual_inversion", marks=pytest.mark.slow),
        pytest.param("full", marks=pytest.mark.slow),
    ],
)
def test_fine_tuning_is_traced_and_is_the_same(recipe, tmp_path, method):
    train(replace(recipe, stages=("autoencoder", "diffusion")), tmp_path / "base")
    base = tmp_path / "base" / "model"
    settings = recipe_from_dict(
        {
            "base": str(base),
            "method": method,
            "data": {"source": recipe.data.source, "size": recipe.data.size},
            "textual_inversion": {"word": "<new>", "initial": "red"},
            "diffusion": {"optimizer": {"batch_size": 2}, "budget": {"steps": 2}},
            "progress": {"seconds": 0},
        }
    )
    plain = fine_tune(settings, tmp_path / "plain")
    with TrainingTrace(tmp_path / "t", ldmref.load(base).config, (1,)) as watch:
        watched = fine_tune(settings, tmp_path / "watched", observer=watch)
    files = [path if path.is_file() else path / "unet.safetensors" for path in (plain, watched)]
    if all(file.exists() for file in files):
        assert files[0].read_bytes() == files[1].read_bytes()
    trace = read_trace(tmp_path / "t")
    entry = trace.find("train.001")
    found = trace.read_outputs(entry)
    parts = [part for part in trace.of_call("train.001") if part.layer]
    norms = [float(trace.read_outputs(part)["grad_norm"]) for part in parts]
    assert np.isclose(np.sqrt(np.sum(np.square(norms))), found["grad_norm"], rtol=1e-5)
    layers = {part.layer for part in parts}
    expected = {
        "lora": "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q",
        "textual_inversion": "vectors",
        "full": "unet.conv_in",
    }
    assert expected[method] in layers
    evaluations = entry.attributes["evaluations"]
    outputs = [trace.read_outputs(trace.find(call))["output"] for call in evaluations]
    assert np.array_equal(np.concatenate(outputs), trace.read_inputs(entry)["prediction"])
