"""A kind of steering of somebody else's package: predicted, recorded, read back and compared."""

from __future__ import annotations

import pickle
import sys

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.errors import UsageError
from ldmref.locate import diff_traces
from ldmref.models import flatten
from ldmref.samplers import Prediction
from ldmref.samplers.predictions import read_prediction, read_steering
from ldmref.testing.packages import write_metadata
from ldmref.trace import read_trace, record_trace

MODULE = """
from dataclasses import dataclass
from ldmref.samplers import Guidance, Prediction, Steering


@dataclass(frozen=True)
class Halved(Steering):
    kind = "halved"
    layer: str
    factor: float = 0.5

    def find_problem(self, network):
        return "" if network.steerable_parts else "is no U-Net"

    def replace(self, call):
        y = call.compute()
        return self.factor * y if call.name.endswith(self.layer) else y


@dataclass(frozen=True)
class AwayFromHalved(Guidance):
    name = "away"
    by_level = False

    @property
    def perturbed(self):
        return (Prediction("cond", Halved("attn2")),)

    def needs(self, sigma, cfg_scale):
        return ("uncond", "cond", *self.perturbed)

    def __call__(self, predictions, sigma, cfg_scale, memory):
        uncond, cond, halved = (predictions[name] for name in self.needs(sigma, cfg_scale))
        return uncond + cfg_scale * (cond - uncond) + 2.0 * (cond - halved), ()
"""
NAME = "halved_attn2_0.5"


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """The module of a package that is installed."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "their_steering.py").write_text(MODULE)
    points = {
        "ldmref.steering": {"halved": "their_steering:Halved"},
        "ldmref.guidance": {"away": "their_steering:AwayFromHalved"},
    }
    write_metadata(site, "their-steering", "1.0", points)
    monkeypatch.syspath_prepend(str(site))
    import their_steering

    yield their_steering
    sys.modules.pop("their_steering", None)


def test_its_predictions_have_names_that_are_read_back(theirs):
    made = Prediction("cond", theirs.Halved("attn2"))
    assert made == NAME and read_prediction(NAME).steering == made.steering
    assert read_prediction(f"uncond_{NAME}").texts == ("uncond",)
    again = pickle.loads(pickle.dumps(made))
    assert again == made and again.steering == made.steering
    assert read_steering(made.steering.recorded) == [made.steering]
    assert read_prediction("halved") is None and read_prediction("halfed_attn2_0.5") is None


def test_a_run_is_recorded_and_compared(theirs, tmp_path):
    """The recorded network is computed as it was steered, for no other reason is it equal."""
    model = ldmref.random_model("tiny")
    asked = {"prompt": "a cat", "seed": 1, "steps": 2, "cfg_scale": 3.0}
    plan = modes.plan("txt2img", model.config, guidance="away", **asked)
    record_trace(plan, model, tmp_path / "trace")
    trace = read_trace(tmp_path / "trace")
    assert trace.find("unet.001").attributes["halved"] == ["attn2", 0.5]
    assert NAME in trace.find("guidance.000").inputs
    report = diff_traces(trace, model)
    assert report.equal and not report.gaps and not report.notes
    assert any(row.name.startswith("unet.001/mid_block") for row in report.rows)
    plain = modes.txt2img(model, **asked).latents
    assert not np.array_equal(modes.txt2img(model, guidance="away", **asked).latents, plain)


def test_its_layers_compute_what_it_says(theirs):
    """As a network does in which the last weights of these layers are half as large."""
    model = ldmref.random_model("tiny", backend="numpy")
    random = np.random.default_rng(0)
    x, context = random.standard_normal((1, 4, 8, 8)), random.standard_normal((1, 7, 32))
    inputs = np.float32(x), np.array([300.0], np.float32), np.float32(context)
    got = model.predict(*inputs, steering=[theirs.Halved("attn2")])
    named = model.predict(*inputs, halved=("attn2", 0.5))
    plain = model.predict(*inputs)
    for name, weights in flatten(model.params.unet).items():
        if ".attn2.to_out." in name:
            weights *= 0.5
    want = model.predict(*inputs)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(named, want)
    assert np.abs(got - plain).max() > 1e-3


def test_a_network_that_cannot_be_steered_like_this_is_refused(theirs):
    config = ldmref.random_model("sd3-tiny").config
    with pytest.raises(UsageError, match=f"needs the prediction '{NAME}', but 'sd3-tiny' is no U"):
        modes.plan("txt2img", config, prompt="a cat", guidance=theirs.AwayFromHalved())


def test_something_else_under_its_name_is_refused(theirs, monkeypatch):
    monkeypatch.setattr(theirs.Halved, "kind", "other")
    with pytest.raises(UsageError, match="is not a Steering of that kind"):
        read_prediction(NAME)
