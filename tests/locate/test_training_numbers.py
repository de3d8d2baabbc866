"""Recorded training steps: what is compared of each, and the causes of wrong ones."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from host_units import context_of, entry_of, normal

from ldmref.locate.pipeline import training
from ldmref.math.forward import q_sample
from ldmref.samplers.schedule import training_alphas_cumprod

T = np.array([10, 700])
IMAGES, NOISE = normal(0, 2, 4, 4, 4), normal(1, 2, 4, 4, 4)
FOLDED = "latents without the scaling factor"


def step_of(model="tiny", dtype="float32", params=None, **arrays):
    """Return the rows of a training step, and the names of what was compared of it."""
    given = {"input.timesteps": T, "input.x0": IMAGES, "input.noise": NOISE}
    given |= arrays
    given = {name: x for name, x in given.items() if x is not None}
    context = context_of({"train.000": given}, model, dtype, params=params or {})
    entry = entry_of(context, "train.000")
    rows = [*training.judge_training(context)]
    marked = {
        key
        for key in given
        if context.ledger.has(entry, key.partition(".")[2], key.partition(".")[0])
    }
    return rows, marked, context


def noised(context=None):
    alphas = training_alphas_cumprod((context or context_of({})).config)
    return q_sample(IMAGES, alphas[T], NOISE)


def test_what_is_compared_of_a_step():
    prediction, losses = normal(2, *IMAGES.shape), np.zeros(2)
    whole = {
        "input.x_t": noised(), "input.target": NOISE, "input.prediction": prediction,
        "output.losses": losses, "output.loss": losses[:1], "output.grad_norm": losses[:1],
    }  # fmt: skip
    sampled = {"input.timesteps", "input.x0", "input.noise"}

    def marked(*left):
        given = {name: x for name, x in whole.items() if name not in left}
        missing = {name: None for name in left if name in sampled}
        return step_of(**given | missing)[1]

    every = sampled | set(whole)
    assert marked() == every
    assert marked("input.x0") == every - {"input.x0", "input.x_t", "input.target"}
    assert marked("input.noise") == every - {"input.noise", "input.x_t", "input.target"}
    left = {"input.target", "input.prediction", "output.losses"}
    assert marked("input.target") == every - left
    assert marked("input.prediction") == every - {"input.prediction", "output.losses"}
    assert marked("output.losses") == every - {"output.losses", "output.loss"}
    assert marked("input.timesteps") == set()


def test_rows_of_a_step_and_what_they_allow():
    squares = np.square(IMAGES - NOISE).mean(axis=(1, 2, 3))
    arrays = {
        "input.x_t": noised(), "input.target": NOISE, "input.prediction": IMAGES,
        "output.losses": squares, "output.loss": squares.mean(),
    }  # fmt: skip
    rows, *_ = step_of(**arrays)
    found = [(row.call, row.kind, row.verdict, row.segment) for row in rows]
    assert found == [
        ("train.000", "noising", "equal", ""),
        ("train.000", "target", "equal", ""),
        ("train.000", "losses", "equal", ""),
        ("train.000", "loss", "equal", "the mean over the examples"),
    ]
    assert [row.allowed for row in rows] == pytest.approx([1e-5] * 4)
    for kind in ("input.x_t", "input.target", "output.losses", "output.loss"):
        verdicts = {row.verdict for row in step_of(**arrays | {kind: 1.1 * arrays[kind]})[0]}
        assert "differs" in verdicts


def test_causes_of_noised_latents():
    alphas = training_alphas_cumprod(context_of({}).config)[T]
    causes = {
        "x0 and noise swapped": q_sample(NOISE, alphas, IMAGES),
        "alpha_bar of timestep t +1": q_sample(
            IMAGES, training_alphas_cumprod(context_of({}).config)[T + 1], NOISE
        ),
    }
    for cause, x_t in causes.items():
        (row,) = step_of(**{"input.x_t": x_t})[0]
        assert (row.kind, row.verdict, row.cause) == ("noising", "differs", cause)


@pytest.mark.parametrize("kind", ["x0", "v", "-eps", "-x0", "-v"])
def test_causes_of_targets(kind):
    context = context_of({})
    other = training._targets(context, T, IMAGES, NOISE)[kind]
    (row,) = step_of(**{"input.target": other})[0]
    assert (row.kind, row.verdict, row.cause) == ("target", "differs", f"{kind} instead of eps")


def test_latents_without_their_scale():
    """Two numbers scale latents of any shape; of others, the channels must be those of latents."""
    for model in ("tiny", "flux-tiny"):
        context = context_of({}, model)
        found = dict(training._noisings(context, T, IMAGES, NOISE))
        z = context.denormalize(IMAGES)
        if model == "tiny":
            right = q_sample(z, training_alphas_cumprod(context.config)[T], NOISE)
        else:
            s = (T / 1000.0).reshape(2, 1, 1, 1)
            right = (1.0 - s) * z + s * NOISE
        np.testing.assert_allclose(found[FOLDED], right, rtol=1e-12)
    flux2 = context_of({}, "flux2-tiny")
    assert flux2.latent_scale.kind.scales is None
    assert FOLDED not in dict(training._noisings(flux2, T, IMAGES, NOISE))
    channels = flux2.latent_scale.config.latent_channels
    x = normal(3, 2, channels, 4, 4)
    found = dict(training._noisings(flux2, T, x, x + 1.0))
    z = flux2.latent_scale.fold(flux2.denormalize(x))
    s = (T / 1000.0).reshape(2, 1, 1, 1)
    np.testing.assert_allclose(found[FOLDED], (1.0 - s) * z + s * (x + 1.0), rtol=1e-12)
    times = found["the time is not divided by its number of steps"]
    s = T.reshape(2, 1, 1, 1)
    np.testing.assert_allclose(times, (1.0 - s) * x + s * (x + 1.0))


def test_times_that_are_no_whole_numbers_are_cut():
    context = context_of({})
    whole = dict(training._noisings(context, T, IMAGES, NOISE))
    parts = dict(training._noisings(context, T + 0.5, IMAGES, NOISE))
    assert whole.keys() == parts.keys()
    for words, x in whole.items():
        np.testing.assert_array_equal(parts[words], x)
    targets = training._targets(context, T + 0.5, IMAGES, NOISE)
    np.testing.assert_array_equal(targets["v"], training._targets(context, T, IMAGES, NOISE)["v"])


def test_schedules_of_other_models_are_tried():
    context = context_of({})
    found = dict(training._noisings(context, T, IMAGES, NOISE))
    others = dict(training.config_faults(context.config))
    assert others and others.keys() <= found.keys()
    for words, changed in others.items():
        right = q_sample(IMAGES, training_alphas_cumprod(changed)[T], NOISE)
        np.testing.assert_array_equal(found[words], right)


# -- losses ---------------------------------------------------------------------------------------


def test_the_loss_of_a_recipe():
    def read(**tables):
        return training.read_objective(SimpleNamespace(diffusion_stage=tables))

    assert read() == read(objective={}) == read(optimizer={"loss": "x"}) == ("simple", 5.0)
    assert read(objective={"loss": "min_snr"}) == ("min_snr", 5.0)
    assert read(objective={"snr_gamma": 3}) == ("simple", 3.0)
    assert isinstance(read(objective={"snr_gamma": 3})[1], float)


def test_weights_of_losses():
    context = context_of({})
    weights = training.loss_weights(context, T.reshape(2, 1) + 0.5, 2.0)
    alpha_bar = training_alphas_cumprod(context.config)[T]
    ratio = alpha_bar / (1.0 - alpha_bar)
    assert weights.keys() == {"simple", "min_snr"}
    assert weights["simple"].tolist() == [1.0, 1.0]
    np.testing.assert_allclose(weights["min_snr"], np.minimum(ratio, 2.0) / ratio)
    flow = training.loss_weights(context_of({}, "flux-tiny"), T, 2.0)
    assert flow.keys() == {"simple"} and flow["simple"].tolist() == [1.0, 1.0]


def losses_of(got, recipe=None, missing=(), **arrays):
    given = {"input.prediction": IMAGES, "input.target": NOISE, "output.losses": got} | arrays
    given = {name: x for name, x in given.items() if name not in missing}
    context = context_of({"train.000": given}, params={"diffusion": {"objective": recipe or {}}})
    rows = training._judge_losses(context, entry_of(context, "train.000"), T)
    return [(row.kind, row.verdict, row.cause or row.note) for row in rows]


def test_losses_by_another_rule():
    squares = np.square(IMAGES - NOISE).mean(axis=(1, 2, 3))
    alpha_bar = training_alphas_cumprod(context_of({}).config)[T]
    ratio = alpha_bar / (1.0 - alpha_bar)
    weighted = np.minimum(ratio, 0.25) / ratio * squares
    snr = {"loss": "min_snr", "snr_gamma": 0.25}
    assert losses_of(weighted, snr) == [("losses", "equal", "")]
    plain = {"snr_gamma": 0.25}
    assert losses_of(weighted, plain) == [("losses", "differs", "min-SNR with gamma 0.25")]
    assert losses_of(squares, snr) == [("losses", "differs", "the plain squared error")]
    ((kind, verdict, note),) = losses_of(squares, {"loss": "huber"})
    assert (kind, verdict) == ("losses", "not judged") and "huber" in note


@pytest.mark.parametrize("missing", ["input.prediction", "input.target", "output.losses"])
def test_losses_need_a_prediction_and_a_target(missing):
    assert losses_of(np.ones(2), missing=[missing]) == []


def test_the_loss_is_the_mean_of_those_of_the_examples():
    squares = np.square(IMAGES - NOISE).mean(axis=(1, 2, 3))

    def loss(x, missing=()):
        rows = losses_of(squares, missing=missing, **{"output.loss": np.asarray(x)})
        return [(verdict, cause) for kind, verdict, cause in rows if kind == "loss"]

    mean = float(squares.mean())
    assert loss(mean) == loss([mean]) == [("equal", "")]
    assert loss(2 * mean) == [("differs", "the sum instead of the mean")]
    assert loss(mean, missing=["output.losses"]) == []
    for apart, verdict in ((0.9e-5, "equal"), (1.1e-5, "differs")):
        assert loss(mean * (1.0 + apart))[0][0] == verdict


def test_a_variance_is_no_part_of_the_loss():
    """Networks may predict it in further channels."""
    wide = np.concatenate([IMAGES, 3.0 + IMAGES], axis=1)
    squares = np.square(IMAGES - NOISE).mean(axis=(1, 2, 3))
    rows = losses_of(squares, **{"input.prediction": wide})
    assert rows == [("losses", "equal", "")]
    size = math.prod(IMAGES.shape[1:])
    rows = losses_of(size * squares, **{"input.prediction": wide})
    assert rows == [("losses", "differs", "the sum instead of the mean")]
    absolute = np.abs(IMAGES - NOISE).mean(axis=(1, 2, 3))
    rows = losses_of(absolute, **{"input.prediction": wide})
    assert rows == [("losses", "differs", "the absolute error")]
