"""Traced training steps of flow models: noising, target, losses and gradients are judged."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref.locate import diff_traces
from ldmref.trace import build_trace, read_trace

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
import flux_networks  # noqa: E402
import sd3_networks  # noqa: E402

from ldmref.training.finetune.finetuning_run import fine_tune  # noqa: E402
from ldmref.training.finetune.recipe import FineTuneRecipe  # noqa: E402
from ldmref.training.recipes.file import recipe_from_dict  # noqa: E402
from ldmref.training.step_trace import TrainingTrace  # noqa: E402

PIPELINES = {
    "flux": lambda: flux_networks.make_pipeline(True),
    "sd3": lambda: sd3_networks.make_pipeline("3.5 medium"),
}


@pytest.fixture(scope="module", params=PIPELINES)
def made(request, tmp_path_factory):
    """(the trace of the first step of a full fine-tuning, the base, its recipe)."""
    folder = tmp_path_factory.mktemp(request.param)
    PIPELINES[request.param]().save_pretrained(folder / "model")
    (folder / "images").mkdir()
    for colour in ("red", "blue"):
        Image.new("RGB", (16, 16), colour).save(folder / "images" / f"{colour}.png")
    stage = {"optimizer": {"batch_size": 2, "warmup": 1}, "budget": {"steps": 1}}
    tables = {
        "base": str(folder / "model"),
        "method": "full",
        "data": {"source": str(folder / "images"), "size": 16},
        "diffusion": stage,
        "progress": {"seconds": 0},
    }
    recipe = recipe_from_dict(tables)
    assert isinstance(recipe, FineTuneRecipe)
    model = ldmref.load(folder / "model")
    config = ldmref.load(folder / "model").config  # equal to that of the model that is trained
    with TrainingTrace(folder / "trace", config, (0,), params=recipe.to_dict()) as watch:
        fine_tune(recipe, folder / "run", observer=watch)
    return read_trace(folder / "trace"), model


def changed(trace, name, change):
    """Return the trace with another tensor."""
    tensors = {key: np.asarray(x) for key, x in trace.tensors.items()}
    tensors[name] = change(tensors[name].copy())
    return build_trace(tensors, trace.manifest)


def test_a_right_step_is_right(made):
    """Each text encoder has calls of its own name."""
    trace, model = made
    names = {f"text_encoder{end}" for end in ("", "_2", "_3")[: len(model.config.text_encoders)]}
    assert names == {call.partition("~")[0] for call in trace.calls if call.startswith("text")}
    report = diff_traces(trace, model)
    assert report.counts()["differs"] == report.counts()["not judged"] == 0
    gradients = [row for row in report.rows if row.kind == "gradient"]
    parts = {row.layer.partition(".")[0] for row in gradients}
    assert len(gradients) > 100 and parts == {"transformer", *names}
    kinds = {row.kind for row in report.rows if row.call == "train.000"}
    assert {"noising", "target", "losses", "loss", "grad_norm"} <= kinds


@pytest.mark.parametrize(
    ("name", "change", "cause"),
    [
        ("target", lambda x: -x, "-flow instead of flow"),
        ("timesteps", lambda t: 1000.0 - t, "x0 and noise swapped: the time is 1 - s"),
        ("timesteps", lambda t: t / 1000.0, "the time is not divided by its number of steps"),
    ],
)
def test_faults_are_named(made, name, change, cause):
    trace, model = made
    report = diff_traces(changed(trace, f"train.000//input.{name}", change), model)
    assert cause in {row.cause for row in report.rows if row.verdict == "differs"}
