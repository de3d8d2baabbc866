"""The formulas of a training step, by which a recorded one is judged."""

from __future__ import annotations

import numpy as np
from host_units import context_of, entry_of, normal

from ldmref.locate.pipeline import training
from ldmref.math.forward import q_sample
from ldmref.samplers.schedule import training_alphas_cumprod

T = np.array([10, 700])
IMAGES, NOISE = normal(0, 2, 4, 3, 3), normal(1, 2, 4, 3, 3)


def test_noisings_of_training():
    context = context_of({})
    alphas = training_alphas_cumprod(context.config)
    found = dict(training._noisings(context, T, IMAGES, NOISE))
    column = alphas[T][:, None, None, None]
    expected = {
        "": np.sqrt(column) * IMAGES + np.sqrt(1 - column) * NOISE,
        "x0 and noise swapped": np.sqrt(column) * NOISE + np.sqrt(1 - column) * IMAGES,
        "alpha_bar instead of its square root": column * IMAGES + (1 - column) * NOISE,
        "alpha_bar of timestep t +1": q_sample(IMAGES, alphas[T + 1], NOISE),
        "alpha_bar of timestep t -1": q_sample(IMAGES, alphas[T - 1], NOISE),
    }
    for text, right in expected.items():
        np.testing.assert_allclose(found[text], right, rtol=1e-12, err_msg=text)
    ends = dict(training._noisings(context, np.array([0, 999]), IMAGES, NOISE))
    later = q_sample(IMAGES, alphas[[1, 999]], NOISE)
    np.testing.assert_allclose(ends["alpha_bar of timestep t +1"], later)
    earlier = q_sample(IMAGES, alphas[[0, 998]], NOISE)
    np.testing.assert_allclose(ends["alpha_bar of timestep t -1"], earlier)
    flow = context_of({}, "flux-tiny")
    found = dict(training._noisings(flow, np.array([250.0, 500.0]), IMAGES, NOISE))
    s = np.array([0.25, 0.5])[:, None, None, None]
    np.testing.assert_allclose(found[""], (1 - s) * IMAGES + s * NOISE)
    swapped = found["x0 and noise swapped: the time is 1 - s"]
    np.testing.assert_allclose(swapped, s * IMAGES + (1 - s) * NOISE)


def test_targets_of_training():
    context = context_of({})
    column = training_alphas_cumprod(context.config)[T][:, None, None, None]
    v = np.sqrt(column) * NOISE - np.sqrt(1 - column) * IMAGES
    found = training._targets(context, T, IMAGES, NOISE)
    right = {"eps": NOISE, "x0": IMAGES, "v": v, "-eps": -NOISE, "-x0": -IMAGES, "-v": -v}
    assert found.keys() == right.keys()
    for name, x in right.items():
        np.testing.assert_allclose(found[name], x, rtol=1e-12)
    flow = training._targets(context_of({}, "flux-tiny"), T, IMAGES, NOISE)
    np.testing.assert_allclose(flow["flow"], NOISE - IMAGES)


def losses_of(losses, loss=None, recipe=None):
    prediction = np.concatenate([IMAGES, 5 + IMAGES], axis=1)  # with a variance
    arrays = {"input.timesteps": T, "input.prediction": prediction, "input.target": NOISE}
    arrays["output.losses"] = losses
    arrays["output.loss"] = np.mean(losses) if loss is None else loss
    stage = {"diffusion": {"objective": recipe or {}}}
    context = context_of({"train.000": arrays}, params=stage)
    return [
        (row.kind, row.verdict, row.cause)
        for row in training._judge_losses(context, entry_of(context, "train.000"), T)
    ]


def test_losses_of_training():
    error = IMAGES - NOISE
    squares = np.square(error).mean(axis=(1, 2, 3))
    assert losses_of(squares) == [("losses", "equal", ""), ("loss", "equal", "")]
    sums = squares * 36
    assert losses_of(sums)[0][2] == "the sum instead of the mean"
    assert losses_of(np.abs(error).mean(axis=(1, 2, 3)))[0][2] == "the absolute error"
    assert losses_of(squares, squares.sum())[1][2] == "the sum instead of the mean"
    alpha_bar = training_alphas_cumprod(context_of({}).config)[T]
    weights = np.minimum(5.0 / (alpha_bar / (1 - alpha_bar)), 1.0)
    snr = {"loss": "min_snr"}
    assert losses_of(weights * squares, recipe=snr)[0][1] == "equal"
    assert losses_of(squares, recipe=snr)[0][2] == "the plain squared error"
    assert losses_of(weights * squares)[0][2] == "min-SNR with gamma 5"
    assert losses_of(squares, recipe={"loss": "other"})[0][1] == "not judged"


def test_each_training_step_is_judged_or_said_not_to_be():
    steps = {f"train.{i:03}": {"input.timesteps": T} for i in range(3)}
    steps["train.001"] = {"input.x0": IMAGES}
    rows = [*training.judge_training(context_of(steps))]
    assert [(row.call, row.verdict) for row in rows] == [("train.001", "not judged")]
    steps["train.002"] |= {"input.x0": IMAGES, "input.noise": NOISE, "input.x_t": IMAGES}
    rows = [*training.judge_training(context_of(steps))]
    assert [(row.call, row.verdict) for row in rows] == [
        ("train.001", "not judged"), ("train.002", "differs"),
    ]  # fmt: skip
