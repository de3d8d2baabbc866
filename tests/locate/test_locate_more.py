"""ControlNets, the tiny autoencoder and steps of a training are judged."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.locate import diff_traces
from ldmref.models.control import ControlNet
from ldmref.models.controlnet import ControlNetConfig, controlnet_spec
from ldmref.models.params import init
from ldmref.models.taesd import TinyAutoencoder, TinyConfig, tiny_spec
from ldmref.samplers.schedule import training_alphas_cumprod
from ldmref.trace import build_trace, read_trace, record_trace

TEAL = Image.new("RGB", (16, 16), "teal")


@pytest.fixture(scope="module")
def controlled(tmp_path_factory):
    """Return a model with a ControlNet and a tiny autoencoder, and the trace of a run of both."""
    model = ldmref.random_model("tiny")
    config = ControlNetConfig(model.config.unet, conditioning_embedding_out_channels=(4, 8))
    params = init(controlnet_spec(config), 3)
    for name in ("controlnet_down_blocks", "controlnet_mid_block"):
        assert name in params
    net = ControlNet(model.backend, config, params, "edges")
    tiny = TinyConfig(
        encoder_channels=8, decoder_channels=8, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1)
    )
    model.tiny_autoencoder = TinyAutoencoder(model.backend, tiny, init(tiny_spec(tiny), 1))
    plan = modes.plan(
        "txt2img", model, prompt="a cat", seed=1, steps=2, control=[modes.Control(net, TEAL)]
    )
    folder = tmp_path_factory.mktemp("control") / "t"
    record_trace(plan, model, folder)
    return model, net, read_trace(folder)


def changed(trace, **arrays):
    entries = [
        {"call": e.call, "layer": e.layer, "kind": e.kind, "inputs": dict(e.inputs)}
        | {"outputs": dict(e.outputs), "attributes": dict(e.attributes)}
        for e in trace.entries
    ]
    manifest = dict(trace.manifest) | {"entries": entries}
    return build_trace({**trace.tensors, **arrays}, manifest, trace.kinds)


def test_a_right_run_has_no_fault(controlled):
    model, net, trace = controlled
    report = diff_traces(trace, model, controlnets=[net])
    assert report.equal, [(row.name, row.error) for row in report.faults]
    judged = {row.call for row in report.rows}
    assert {"controlnet.000", "controlnet.hint", "taesd.decode", "unet.001"} <= judged


def test_without_the_controlnet_its_calls_are_not_judged(controlled):
    model, _, trace = controlled
    report = diff_traces(trace, model)
    assert report.verdict == "incomplete"
    rows = [row for row in report.rows if row.call == "controlnet.000"]
    assert {row.verdict for row in rows if row.kind == "own"} == {"not judged"}


def test_forgotten_residuals_are_found_where_they_are_added(controlled):
    model, net, trace = controlled
    entry = trace.find("unet.000")
    names = {role: n for role, n in entry.inputs.items() if role.startswith("control.")}
    twice = {name: 2.0 * np.asarray(trace.tensors[name]) for name in names.values()}
    report = diff_traces(changed(trace, **twice), model, controlnets=[net])
    assert any(row.call == "unet.000" and row.kind == "wiring" for row in report.faults)


def test_a_wrong_layer_of_the_controlnet_is_named(controlled):
    model, net, trace = controlled
    entry = trace.find("controlnet.000", "conv_in")
    name = entry.outputs["output"]
    wrong = {name: 1.01 * np.asarray(trace.tensors[name])}
    report = diff_traces(changed(trace, **wrong), model, controlnets=[net])
    assert ("controlnet.000", "conv_in") in {(row.call, row.layer) for row in report.faults}


# -- training --------------------------------------------------------------------------------------


def step(model, **arrays):
    """Return the recorded step of a trainer, with some arrays changed."""
    rng = np.random.default_rng(0)
    t = np.array([3, 500, 990])
    alpha_bar = training_alphas_cumprod(model.config.scheduler)[t][:, None, None, None]
    x0, noise, prediction = rng.standard_normal((3, 3, 4, 8, 8))
    recorded = {
        "input.timesteps": t,
        "input.x0": x0,
        "input.noise": noise,
        "input.x_t": np.sqrt(alpha_bar) * x0 + np.sqrt(1.0 - alpha_bar) * noise,
        "input.prediction": prediction,
        "input.target": noise,
        "output.losses": np.mean((prediction - noise) ** 2, axis=(1, 2, 3)),
    }
    recorded["output.loss"] = np.mean(recorded["output.losses"])
    recorded |= arrays
    return build_trace({f"train.000//{name}": np.asarray(x) for name, x in recorded.items()})


def judge(model, **arrays):
    report = diff_traces(step(model, **arrays), model)
    return {row.kind: row.cause for row in report.faults}, report


def test_a_right_step_of_a_training():
    model = ldmref.random_model("tiny")
    faults, report = judge(model)
    assert not faults and {row.kind for row in report.rows} == {
        "noising",
        "target",
        "losses",
        "loss",
    }


@pytest.mark.parametrize(
    ("name", "make", "kind", "cause"),
    [
        (
            "input.x_t",
            lambda a, x0, noise: a * x0 + (1 - a) * noise,
            "noising",
            "alpha_bar instead of its square root",
        ),
        ("input.target", lambda a, x0, noise: -noise, "target", "-eps instead of eps"),
        (
            "input.target",
            lambda a, x0, noise: np.sqrt(a) * noise - np.sqrt(1 - a) * x0,
            "target",
            "v instead of eps",
        ),
    ],
)
def test_faults_of_a_training_are_named(name, make, kind, cause):
    model = ldmref.random_model("tiny")
    right = step(model)
    x0, noise = (np.asarray(right.tensors[f"train.000//input.{n}"]) for n in ("x0", "noise"))
    t = np.asarray(right.tensors["train.000//input.timesteps"])
    a = training_alphas_cumprod(model.config.scheduler)[t][:, None, None, None]
    faults, _ = judge(model, **{name: make(a, x0, noise)})
    assert faults[kind] == cause


def test_the_sum_instead_of_the_mean():
    model = ldmref.random_model("tiny")
    right = step(model)
    losses = np.asarray(right.tensors["train.000//output.losses"])
    faults, _ = judge(model, **{"output.losses": losses * 256})
    assert faults["losses"] == "the sum instead of the mean"
    faults, _ = judge(model, **{"output.loss": losses.sum()})
    assert faults == {"loss": "the sum instead of the mean"}
