"""Gradients of a training step that is built by hand are those of its loss."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from host_units import context_of, entry_of, model_of, normal

from ldmref.locate.pipeline import gradients, training
from ldmref.locate.replay.networks import open_network
from ldmref.models.params import flatten, tree_map
from ldmref.modes.text import encode_conditioning

torch = pytest.importorskip("torch")

from ldmref.backends import get_backend  # noqa: E402
from ldmref.locate.replay import autodiff  # noqa: E402

T = np.array([100, 700])
TEXTS = ["a red cat", "a house"]
TARGET = normal(1, 2, 4, 8, 8)
LAYERS = ("unet.conv_in", "unet.conv_out", "unet.down_blocks.0.resnets.0.conv1")
WEIGHT = 0.25  # of the second example: that of the first is 1


@cache
def hidden_states():
    return np.asarray(encode_conditioning(model_of("tiny"), TEXTS, (16, 16)).context, np.float64)


def unet_calls(sizes=(2,), context=None):
    """Return calls of the denoiser with `sizes` examples each."""
    x = normal(0, 2, 4, 8, 8)
    context = hidden_states() if context is None else context
    calls, first = {}, 0
    for number, size in enumerate(sizes):
        part = slice(first, first + size)
        calls[f"unet.{number:03}"] = {
            "input.sample": x[part],
            "input.timestep": T[part],
            "input.encoder_hidden_states": context[part],
        }
        first += size
    return calls


def step(norms=None, sizes=(2,), prompts=TEXTS, attributes=None, dtype="float32", **more):
    """Return the context of a training step, with the norms of its layers' gradients."""
    calls = unet_calls(sizes, more.pop("context", None))
    arrays = {"input.target": TARGET, "input.timesteps": T}
    calls["train.000"] = arrays
    for layer, norm in (norms or {}).items():
        calls[f"train.000/{layer}"] = {"output.grad_norm": np.array([norm])}
    of = {"train.000": {"evaluations": [*unet_calls(sizes)], "prompts": list(prompts)}}
    of["train.000"] |= attributes or {}
    return context_of({**calls, **more}, dtype=dtype, attributes=of)


@cache
def expected_norms(weight=1.0):
    """Return the norm of each parameter's gradient, of the whole batch at once."""
    model = model_of("tiny")
    ops = get_backend("torch", device="cpu", dtype="float64").differentiable()
    context = step()
    network = open_network(model, context.port, entry_of(context, "unet.000").call)
    params = tree_map(
        lambda x: torch.tensor(np.asarray(x, np.float64), requires_grad=True), model.params["unet"]
    )
    arguments = {
        name: ops.asarray(x) if isinstance(x, np.ndarray) else x
        for name, x in network.arguments.items()
    }
    arguments["context"].requires_grad_()
    output = network.function(ops, params, **arguments)
    squares = (output - torch.tensor(TARGET)).square().mean(dim=(1, 2, 3))
    loss = (squares * torch.tensor([1.0, weight])).sum() / 2
    loss.backward()
    found = {f"unet.{name}": float(x.grad.norm()) for name, x in flatten(params).items()}
    return found, arguments["context"].grad.numpy()


def norm_of(layer, weight=1.0):
    found, _ = expected_norms(weight)
    parts = [x for name, x in found.items() if name.rpartition(".")[0] == layer]
    assert len(parts) == 2
    return math.hypot(*parts)


def rows_of(context):
    return [*gradients.judge_gradients(context)]


def test_norms_of_layers_are_those_of_the_batch():
    norms = {layer: norm_of(layer) for layer in LAYERS}
    for sizes in ((2,), (1, 1)):
        rows = rows_of(step(norms, sizes))
        assert [(row.layer, row.kind, row.verdict) for row in rows] == [
            (layer, "gradient", "equal") for layer in LAYERS
        ]
        assert max(row.error for row in rows) < 1e-6  # of float32
    doubled = {layer: 2.0 * norm for layer, norm in norms.items()}
    assert {row.cause for row in rows_of(step(doubled, (1, 1)))} == {
        "the sum over the 2 examples instead of the mean"
    }
    rough = rows_of(step({layer: 1.001 * norm for layer, norm in norms.items()}))
    assert [row.verdict for row in rough] == ["differs"] * 3


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_floors_are_those_of_the_format(dtype):
    rows = rows_of(step({layer: norm_of(layer) for layer in LAYERS}, dtype=dtype))
    assert [row.verdict for row in rows] == ["equal"] * 3
    for row in rows:  # weights of the model are stored in float32
        assert (row.error < 1e-12) if dtype == "float64" else (1e-10 < row.floor < 1e-4)


def test_calls_of_a_single_step_are_found():
    norms = {LAYERS[0]: norm_of(LAYERS[0])}
    (row,) = rows_of(step(norms, attributes={"evaluations": None}))
    assert row.verdict == "equal"
    other = {"train.001": {"input.target": TARGET, "input.timesteps": T}}
    (row,) = rows_of(step(norms, attributes={"evaluations": None}, **other))
    assert row.note == "the denoiser's calls of this step were not recorded"
    (row,) = rows_of(step(norms, attributes={"evaluations": ["unet.007"]}))
    assert row.note == "the inputs of unet.007 were not recorded"
    bare = {"unet.000": {"input.sample": normal(0, 2, 4, 8, 8)}}
    (row,) = rows_of(step(norms, **bare))
    assert row.note == "the inputs of unet.000 were not recorded"
    (row,) = rows_of(step(norms, sizes=(1,)))
    assert row.note == "the denoiser's calls of this step were not recorded"


def test_gradients_beside_a_controlnet_are_not_recomputed():
    """Its residuals, "down" and "mid", would be parts of the function that is differentiated."""
    recorded = unet_calls()["unet.000"]
    residual = {"input.control.down.0": np.zeros((2, 4)), "input.control.mid": np.zeros((2, 4))}
    for more, reason in (
        (residual, "gradients of a run with ControlNets are not recomputed"),
        ({}, ""),
    ):
        context = step(**{"unet.000": recorded | more})
        found = gradients._evaluations(context, entry_of(context, "train.000"))
        assert (found if isinstance(found, str) else "") == reason


def test_layers_of_other_networks_are_not_judged():
    norms = {LAYERS[0]: norm_of(LAYERS[0]), "vae.x": 1.0, "vae.y": 2.0, "unet.z": 3.0}
    first, second = rows_of(step(norms))
    assert (first.verdict, second.verdict) == ("equal", "not judged")
    assert second.note == f"vae.x and 2 more: {gradients.UNKNOWN_PARAMETERS}"
    assert rows_of(step({})) == []
    only = rows_of(step({"vae.x": 1.0}))
    assert [row.note for row in only] == [f"vae.x: {gradients.UNKNOWN_PARAMETERS}"]


def test_weights_of_examples_are_those_of_the_loss():
    context = step()
    network = open_network(context.model, context.port, entry_of(context, "unet.000").call)
    part = autodiff.DenoiserEvaluation(network, TARGET, np.array([1.0, WEIGHT]) / 2, TEXTS)
    found = autodiff.StepGradients(context.model, [part], "float64", "float64")
    expected, conditions = expected_norms(WEIGHT)
    assert found.denoiser.keys() == expected.keys()
    for name, norm in expected.items():
        assert float(found.denoiser[name].norm()) == pytest.approx(norm, rel=1e-9, abs=1e-12)
        assert found.denoiser[name].dtype == torch.float64
    ((own),) = found._own_and_conditions[1]
    assert own.keys() == {"context"}
    np.testing.assert_allclose(own["context"].numpy(), conditions, rtol=1e-8, atol=1e-14)


def test_parameters_are_rounded_to_the_format_of_the_port():
    context = step()
    whole = autodiff.StepGradients(context.model, [], "float64", "float64")
    rounded = autodiff.StepGradients(context.model, [], "float64", "bfloat16")
    leaf = {"w": np.array([1.0 + 2.0**-10, 3.0], np.float32)}
    assert whole.leaves(leaf)["w"].tolist() == [1.0 + 2.0**-10, 3.0]
    assert rounded.leaves(leaf)["w"].tolist() == [1.0, 3.0]
    assert rounded.leaves(leaf)["w"].requires_grad and rounded.ops.dtype == "float64"


def text_gradients(prompts, context=None):
    run = step(context=context)
    network = open_network(run.model, run.port, entry_of(run, "unet.000").call)
    part = autodiff.DenoiserEvaluation(network, TARGET, np.array([0.5, 0.5]), prompts)
    return autodiff.StepGradients(run.model, [part], "float64", "float32").text


def test_gradients_of_encoders_follow_by_the_chain_rule():
    found = text_gradients(TEXTS)
    model = model_of("tiny")
    ops = get_backend("torch", device="cpu", dtype="float64").differentiable()
    key = next(k for k in found if k.endswith("position_embedding.weight"))
    assert key.startswith("text_encoder.")

    # along a direction of the parameters, dL is the gradient of the context times its change
    flat = flatten(model.params["text_encoder"])
    changed = key.removeprefix("text_encoder.")
    direction = normal(5, *np.shape(flat[changed]))
    h = 1e-4

    def moved(sign):
        def leaf(x):
            step = sign * h * direction if x is flat[changed] else 0.0
            return ops.asarray(np.asarray(x, np.float64) + step)

        params = {"text_encoder": tree_map(leaf, model.params["text_encoder"])}
        run = model.with_params(params, ops)
        return encode_conditioning(run, TEXTS, (16, 16)).context.detach().numpy()

    slope = (moved(1.0) - moved(-1.0)) / (2.0 * h)
    _, conditions = expected_norms()
    right = float(np.sum(conditions * slope))
    assert float((found[key].numpy() * direction).sum()) == pytest.approx(right, rel=1e-4)


def test_gradients_of_encoders_need_the_prompts_of_the_context():
    assert text_gradients([]) is None
    assert text_gradients(["a house", "a red cat"]) is None
    states = hidden_states()
    near = states * (1.0 + 0.9 * autodiff.SAME_CONTEXT * np.sign(normal(3, *states.shape)))
    far = states * (1.0 + 1.1 * autodiff.SAME_CONTEXT * np.sign(normal(3, *states.shape)))
    assert text_gradients(TEXTS, near) is not None and text_gradients(TEXTS, far) is None


def test_gradients_of_encoders_are_judged():
    found = text_gradients(TEXTS)
    layer = "text_encoder." + next(
        k.removeprefix("text_encoder.").rpartition(".")[0]
        for k in found
        if k.endswith("position_embedding.weight")
    )
    names = [name for name in found if name.rpartition(".")[0] == layer]
    norm = math.hypot(*(float(found[name].norm()) for name in names))
    (row,) = rows_of(step({layer: norm}))
    assert (row.layer, row.verdict) == (layer, "equal")
    (row,) = rows_of(step({layer: norm}, prompts=TEXTS[:1]))  # not as many as examples
    assert row.note == f"{layer}: the recorded context is not that of recorded prompts"


def test_the_norm_of_a_step_is_that_of_its_layers():
    norms = {layer: norm_of(layer) for layer in LAYERS}
    total = math.hypot(*norms.values())

    def judged(value, **manifest):
        calls = {"train.000": {"output.grad_norm": np.array([value])}}
        calls |= {
            f"train.000/{layer}": {"output.grad_norm": np.array([x])} for layer, x in norms.items()
        }
        rows = [*gradients.judge_gradients(context_of(calls, **manifest))]
        return [(row.verdict, row.segment) for row in rows if row.kind == "grad_norm"]

    assert judged(total, selection={}) == [("equal", "the norm over the layers")]
    assert judged(2.0 * total, selection={}) == [("differs", "the norm over the layers")]
    assert judged(total) == judged(total, selection={"layers": ["x"]}) == []


# -- the whole step -------------------------------------------------------------------------------


def judged_step(**arrays):
    x0, noise = normal(0, 2, 4, 8, 8), normal(1, 2, 4, 8, 8)
    alphas = training.training_alphas_cumprod(model_of("tiny").config.scheduler)[T]
    x_t = training.q_sample(x0, alphas, noise)
    prediction = normal(2, 2, 4, 8, 8)
    losses = np.square(prediction - noise).mean(axis=(1, 2, 3))
    known = {
        "input.timesteps": T, "input.x0": x0, "input.noise": noise, "input.x_t": x_t,
        "input.target": noise, "input.prediction": prediction, "input.indices": T,
        "output.losses": losses, "output.loss": losses.mean(), "output.grad_norm": np.ones(1),
    } | arrays  # fmt: skip
    kept = {name: x for name, x in known.items() if x is not None}
    context = context_of({"train.000": kept})
    rows = [*training.judge_training(context)]
    left = [role for _, roles, _ in context.coverage.rest([entry_of(context, "train.000")])
            for role in roles]  # fmt: skip
    return [(row.kind, row.verdict) for row in rows], left, rows


def test_every_part_of_a_training_step_is_judged():
    rows, left, _ = judged_step()
    assert rows == [(kind, "equal") for kind in ("noising", "target", "losses", "loss")]
    assert left == ["output.grad_norm"]  # by `gradients`


@pytest.mark.parametrize(
    ("missing", "kinds", "left"),
    [
        (["input.timesteps"], ["noising"], 6),
        (["input.x0"], ["losses", "loss"], ["input.x_t", "input.target"]),
        (["input.noise"], ["losses", "loss"], ["input.x_t", "input.target"]),
        (["input.x_t"], ["target", "losses", "loss"], []),
        (["input.target"], ["noising", "loss"], ["input.prediction", "output.losses"]),
        (["input.prediction"], ["noising", "target", "loss"], ["output.losses"]),
        (["output.losses"], ["noising", "target"], ["input.prediction", "output.loss"]),
        (["output.loss"], ["noising", "target", "losses"], []),
    ],
)
def test_parts_of_a_training_step_that_were_not_recorded(missing, kinds, left):
    rows, found, whole = judged_step(**dict.fromkeys(missing))
    assert [kind for kind, _ in rows] == kinds
    if missing == ["input.timesteps"]:
        assert whole[0].note == "the timesteps were not recorded" and len(found) == left
    else:
        assert found == [*left, "output.grad_norm"]  # the norm by `gradients`


def test_parts_of_a_training_step_that_are_wrong():
    changed = {
        "input.x_t": normal(7, 2, 4, 8, 8), "input.target": normal(8, 2, 4, 8, 8),
        "output.losses": np.ones(2), "output.loss": np.ones(1) * 9.0,
    }  # fmt: skip
    kinds = {"input.x_t": "noising", "input.target": "target", "output.losses": "losses",
             "output.loss": "loss"}  # fmt: skip
    for name, x in changed.items():
        rows, _, _ = judged_step(**{name: x})
        assert dict(rows)[kinds[name]] == "differs"
    _, _, rows = judged_step(**{"input.target": normal(0, 2, 4, 8, 8)})
    assert {row.cause for row in rows if row.kind == "target"} == {"x0 instead of eps"}
    _, _, rows = judged_step()
    assert [row.segment for row in rows] == ["", "", "", "the mean over the examples"]
    assert {row.allowed for row in rows} == {max(training.LEAST, 16 * 2.0**-23)}
    assert {row.note for row in rows} == {""}  # each array has the shape that was expected
