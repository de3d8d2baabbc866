"""Recorded training steps: what is compared of each, and the causes of wrong ones."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from host_units import context_of, entry_of, normal

from ldmref.locate.parts.scheduler_faults import config_faults
from ldmref.locate.pipeline import training
from ldmref.math.forward import q_sample
from ldmref.samplers.schedule import training_alphas_cumprod

T = np.array([10, 700])
IMAGES, NOISE = normal(0, 2, 4, 4, 4), normal(1, 2, 4, 4, 4)
FOLDED = "latents without the scaling factor"


def with_scale(context, factor):
    """Return the context of a run whose model multiplies its latents by a factor."""
    model = copy.copy(context.model)
    vae = replace(model.config.vae, scaling_factor=factor)
    model.config = replace(model.config, vae=vae)
    return replace(context, model=model)


def step_of(model="tiny", dtype="float32", params=None, scale=None, **arrays):
    """Return the rows of a training step, and the names of what was compared of it."""
    given = {"input.timesteps": T, "input.x0": IMAGES, "input.noise": NOISE}
    given |= arrays
    given = {name: x for name, x in given.items() if x is not None}
    context = context_of({"train.000": given}, model, dtype, params=params or {})
    if scale is not None:
        context = with_scale(context, scale)
    entry = entry_of(context, "train.000")
    rows = [*training.judge_training(context)]
    marked = {
        key
        for key in given
        if context.coverage.has(entry, key.partition(".")[2], key.partition(".")[0])
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
    every -= {"output.grad_norm"}  # of which `judge_gradients` says more
    assert marked() == every
    assert marked("input.x0") == every - {"input.x0", "input.x_t", "input.target"}
    assert marked("input.noise") == every - {"input.noise", "input.x_t", "input.target"}
    left = {"input.target", "input.prediction", "output.losses"}
    assert marked("input.target") == every - left
    assert marked("input.prediction") == every - {"input.prediction", "output.losses"}
    assert marked("output.losses") == every - {*left, "output.loss"} | {"input.target"}
    assert marked("input.timesteps") == {"input.x0", "input.noise"}  # which are given


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


LAST = len(training_alphas_cumprod(context_of({}).config)) - 1
DIFFUSION, FLOW = "tiny", "flux-tiny"
SCALE = 0.25  # of the diffusion: that of its model is 1


def mixtures_of_a_diffusion(t):
    """Return the noised latents of known faults by their words, "" for the right ones."""
    table = training_alphas_cumprod(context_of({}, DIFFUSION).config)
    column = table[t].reshape(2, 1, 1, 1)
    latents = IMAGES / SCALE
    return {
        "": np.sqrt(column) * IMAGES + np.sqrt(1.0 - column) * NOISE,
        "x0 and noise swapped": np.sqrt(column) * NOISE + np.sqrt(1.0 - column) * IMAGES,
        "alpha_bar instead of its square root": column * IMAGES + (1.0 - column) * NOISE,
        "alpha_bar of timestep t +1": q_sample(IMAGES, table[np.minimum(t + 1, LAST)], NOISE),
        "alpha_bar of timestep t -1": q_sample(IMAGES, table[np.maximum(t - 1, 0)], NOISE),
        FOLDED: np.sqrt(column) * latents + np.sqrt(1.0 - column) * NOISE,
    }


def mixtures_of_a_flow(t, model=FLOW, x=IMAGES, noise=NOISE):
    context = context_of({}, model)
    latents = context.latent_scale.fold(context.denormalize(x))
    s = (t / 1000.0).reshape(2, 1, 1, 1)
    late = t.reshape(2, 1, 1, 1)
    return {
        "": (1.0 - s) * x + s * noise,
        "x0 and noise swapped: the time is 1 - s": s * x + (1.0 - s) * noise,
        "the time is not divided by its number of steps": (1.0 - late) * x + late * noise,
        FOLDED: (1.0 - s) * latents + s * noise,
    }


def assert_noising(words, rows):
    (row,) = rows
    verdict = "differs" if words else "equal"
    assert (row.kind, row.verdict, row.cause) == ("noising", verdict, words)
    assert not words or row.explained < 1e-12


@pytest.mark.parametrize("t", [T, np.array([0, LAST])], ids=["between", "ends"])
def test_causes_of_noised_latents(t):
    for model, scale, mixtures in (
        (DIFFUSION, SCALE, mixtures_of_a_diffusion(t)),
        (FLOW, None, mixtures_of_a_flow(t)),
    ):
        for words, x_t in mixtures.items():
            given = {"input.timesteps": t, "input.x_t": x_t}
            assert_noising(words, step_of(model, scale=scale, **given)[0])


def test_latents_in_patches_without_their_scale():
    """More than two numbers scale latents whose channels are those of the autoencoder alone."""
    flux2 = context_of({}, "flux2-tiny")
    x = normal(3, 2, flux2.latent_scale.config.latent_channels, 4, 4)
    for words, x_t in mixtures_of_a_flow(T, "flux2-tiny", x, x + 1.0).items():
        given = {"input.x0": x, "input.noise": x + 1.0, "input.x_t": x_t}
        assert_noising(words, step_of("flux2-tiny", **given)[0])
    assert_noising("", step_of("flux2-tiny", **{"input.x_t": mixtures_of_a_flow(T)[""]})[0])


def test_schedules_of_other_models_are_tried():
    for words, changed in config_faults(context_of({}).config):
        x_t = q_sample(IMAGES, training_alphas_cumprod(changed)[T], NOISE)
        (row,) = step_of(**{"input.x_t": x_t})[0]
        assert (row.verdict, row.cause) == ("equal", "") or row.explained < 1e-12, words


@pytest.mark.parametrize("part", [0.0, 0.5])
def test_causes_of_targets(part):
    """Of times that are no whole numbers, the part is cut."""
    column = training_alphas_cumprod(context_of({}).config)[T].reshape(2, 1, 1, 1)
    v = np.sqrt(column) * NOISE - np.sqrt(1.0 - column) * IMAGES
    for model, kind, targets in (
        (DIFFUSION, "eps", {"eps": NOISE, "x0": IMAGES, "v": v}),
        (FLOW, "flow", {"flow": NOISE - IMAGES, "x0": IMAGES, "eps": NOISE}),
    ):
        for name, target in targets.items():
            for sign, factor in (("", 1.0), ("-", -1.0)):
                given = {"input.timesteps": T + part, "input.target": factor * target}
                (row,) = step_of(model, **given)[0]
                cause = "" if sign + name == kind else f"{sign}{name} instead of {kind}"
                verdict = "differs" if cause else "equal"
                assert (row.kind, row.verdict, row.cause) == ("target", verdict, cause)
    assert_noising("", step_of(**{"input.timesteps": T + part, "input.x_t": noised()})[0])


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
    given |= dict.fromkeys(("input.x0", "input.noise", *missing))
    rows, *_ = step_of(params={"diffusion": {"objective": recipe or {}}}, **given)
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
    usual = np.minimum(ratio, 5.0) / ratio * squares
    assert losses_of(usual, {"loss": "min_snr"}) == [("losses", "equal", "")]
    assert losses_of(usual) == [("losses", "differs", "min-SNR with gamma 5")]
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
