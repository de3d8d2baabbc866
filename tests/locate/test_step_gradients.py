"""Gradients of a training step, of functions whose derivatives are known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ldmref.locate.law import NOISE  # noqa: E402
from ldmref.locate.replay import autodiff  # noqa: E402

X = np.arange(12.0).reshape(3, 1, 2, 2) / 10.0
CONTEXT = np.array([[1.0, 2.0], [0.5, -1.0], [3.0, 0.25]])
POOLED = np.array([[0.5], [0.25], [-1.0]])
TARGET = np.sin(np.arange(12.0)).reshape(3, 1, 2, 2)
WEIGHTS = np.array([0.5, 0.25, 2.0])
W, V = 1.5, -0.5


def denoiser(ops, params, x, context, pooled=None, scale=1.0):
    """Return w x + v mean(c) + pooled, and a channel that is a variance and no prediction."""
    assert x.shape[0] == context.shape[0] == 1
    added = 0.0 if pooled is None else pooled[:, :, None, None]
    mean = params["w"] * x * scale + params["v"] * context.mean() + added
    return torch.cat([mean, 100.0 * params["w"] * mean], dim=1)


class Encoded(NamedTuple):
    context: object
    pooled: object = None


def model_of(**encoders):
    config = SimpleNamespace(denoiser=SimpleNamespace(network="net"), vae=SimpleNamespace(factor=8))
    params = {"net": {"w": np.array(W), "v": np.array(V), "other": {"unused": np.ones(3)}}}
    model = SimpleNamespace(
        backend=SimpleNamespace(to_numpy=np.asarray), config=config, params=params | encoders
    )
    model.with_params = lambda params, ops: SimpleNamespace(params=params, ops=ops)
    return model


def evaluation(part=slice(None), prompts=(), pooled=None):
    arguments = {"x": X[part], "context": CONTEXT[part], "scale": 2.0}
    if pooled is not None:
        arguments["pooled"] = pooled[part]
    network = SimpleNamespace(arguments=arguments, function=denoiser)
    return autodiff.DenoiserEvaluation(network, TARGET[part], WEIGHTS[part], prompts)


def expected(pooled=None):
    """Return dL/dw, dL/dv, dL/dc and dL/dp by the chain rule."""
    added = np.zeros((3, 1)) if pooled is None else pooled
    mean = W * X * 2.0 + V * CONTEXT.mean(1)[:, None, None, None] + added[:, :, None, None]
    slope = 2.0 * (mean - TARGET) * WEIGHTS[:, None, None, None] / 4.0
    each = slope.sum(axis=(1, 2, 3))
    by_context = np.repeat(each[:, None] * V / 2.0, 2, axis=1)
    return (slope * X * 2.0).sum(), (each * CONTEXT.mean(1)).sum(), by_context, each[:, None]


def step(model, *evaluations, dtype="float64", stored="float64"):
    return autodiff.StepGradients(model, evaluations, dtype, stored)


@pytest.mark.parametrize("pooled", [None, POOLED], ids=["context", "pooled"])
@pytest.mark.parametrize("parts", [(slice(None),), (slice(0, 1), slice(1, 3))], ids=["one", "two"])
def test_gradients_are_those_of_the_weighted_mean_squares(pooled, parts):
    found = step(model_of(), *(evaluation(part, pooled=pooled) for part in parts))
    by_w, by_v, by_context, by_pooled = expected(pooled)
    assert [*found.denoiser] == ["net.w", "net.v", "net.other.unused"]
    assert found.denoiser["net.w"].item() == pytest.approx(by_w, rel=1e-12)
    assert found.denoiser["net.v"].item() == pytest.approx(by_v, rel=1e-12)
    assert found.denoiser["net.other.unused"].tolist() == [0.0] * 3
    conditions = found._own_and_conditions[1]
    assert len(conditions) == len(parts)
    for part, own in zip(parts, conditions, strict=True):
        assert own.keys() == ({"context"} if pooled is None else {"context", "pooled"})
        np.testing.assert_allclose(own["context"].numpy(), by_context[part], rtol=1e-12)
        if pooled is not None:
            np.testing.assert_allclose(own["pooled"].numpy(), by_pooled[part], rtol=1e-12)


def test_a_condition_that_is_none_has_no_gradient():
    part = evaluation()
    part.network.arguments["pooled"] = None
    found = step(model_of(), part)
    (own,) = found._own_and_conditions[1]
    assert own.keys() == {"context"}


def test_gradients_are_computed_in_a_format_and_returned_in_float64():
    found = step(model_of(), evaluation(), dtype="float32", stored="float32")
    assert found.ops.dtype == "float32" and found.ops is found.ops
    assert {x.dtype for x in found.denoiser.values()} == {torch.float64}
    by_w = expected()[0]
    assert found.denoiser["net.w"].item() == pytest.approx(by_w, rel=1e-6)
    assert found.denoiser["net.w"].item() != pytest.approx(by_w, rel=1e-12)
    leaves = found.leaves({"a": {"b": np.array([1.0 + 2.0**-30])}})
    assert leaves["a"]["b"].tolist() == [1.0] and leaves["a"]["b"].dtype == torch.float32
    assert leaves["a"]["b"].requires_grad and leaves["a"]["b"].is_leaf


# -- text encoders --------------------------------------------------------------------------------

PROMPTS = ("a", "b", "c")
FIRST, SECOND = np.array([2.0, 0.5]), np.array([4.0])
BASES = {"a": CONTEXT[0], "b": CONTEXT[1], "c": CONTEXT[2]}


def encoder(asked, off=0.0):
    """Return what encodes prompts: each row of the context times an own factor, 1 in value."""

    def encode(model, prompts, size):
        asked.append((list(prompts), size, sorted(model.params)))
        factor = model.params["text_encoder"]["f"] / torch.tensor(FIRST)
        rows = torch.stack([torch.tensor(BASES[prompt]) for prompt in prompts])
        pooled = model.params["text_encoder_2"]["g"] / SECOND[0] * torch.ones(len(prompts), 1)
        return Encoded(rows * factor * (1.0 + off), pooled)

    return encode


def test_gradients_of_encoders_are_those_of_their_conditions(monkeypatch):
    asked = []
    monkeypatch.setattr(autodiff, "encode_conditioning", encoder(asked))
    encoders = {"text_encoder": {"f": FIRST}, "text_encoder_2": {"g": SECOND}}
    model = model_of(**encoders, other={"h": np.ones(2)})
    ones = np.ones((3, 1))
    parts = (slice(0, 1), slice(1, 3))
    found = step(model, *(evaluation(p, PROMPTS[p], pooled=ones) for p in parts))
    _, _, by_context, by_pooled = expected(ones)
    text = found.text
    assert text.keys() == {"text_encoder.f", "text_encoder_2.g"}
    right = (by_context * CONTEXT / FIRST).sum(axis=0)
    np.testing.assert_allclose(text["text_encoder.f"].numpy(), right, rtol=1e-12)
    right = by_pooled.sum() / SECOND
    np.testing.assert_allclose(text["text_encoder_2.g"].numpy(), right, rtol=1e-12)
    names = ["text_encoder", "text_encoder_2"]
    assert asked == [(["a"], (16, 16), names), (["b", "c"], (16, 16), names)]
    assert found.text is text  # computed once


def test_prompts_are_encoded_for_the_size_of_the_image(monkeypatch):
    asked = []
    monkeypatch.setattr(autodiff, "encode_conditioning", encoder(asked))
    encoders = {"text_encoder": {"f": FIRST}, "text_encoder_2": {"g": SECOND}}
    network = SimpleNamespace(
        arguments={"x": np.ones((1, 1, 2, 3)), "context": CONTEXT[:1]}, function=denoiser
    )
    part = autodiff.DenoiserEvaluation(network, np.ones((1, 1, 2, 3)), np.ones(1), ["a"])
    found = step(model_of(**encoders), part).text
    assert asked[0][1] == (24, 16)
    assert found["text_encoder_2.g"].tolist() == [0.0]  # nothing read its vectors


@pytest.mark.parametrize(
    ("stored", "allowed"), [("float32", 1e-3), ("float64", 1e-3), ("bfloat16", NOISE * 2.0**-7)]
)
def test_contexts_of_other_prompts_have_no_gradients(stored, allowed, monkeypatch):
    encoders = {"text_encoder": {"f": FIRST}, "text_encoder_2": {"g": SECOND}}
    for by, known in ((0.99, True), (1.01, False), (-0.99, True), (-1.01, False)):
        monkeypatch.setattr(autodiff, "encode_conditioning", encoder([], by * allowed))
        found = step(model_of(**encoders), evaluation(prompts=PROMPTS), stored=stored)
        assert (found.text is not None) == known
    some = step(model_of(**encoders), evaluation(slice(0, 1), "a"), evaluation(slice(1, 2)))
    assert some.text is None  # the prompts of one evaluation were not recorded
    assert autodiff.DenoiserEvaluation(None, TARGET, WEIGHTS).prompts == ()
