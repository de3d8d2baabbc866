"""The transformer of Krea 2 against diffusers' Krea2Transformer2DModel, in float64."""

from __future__ import annotations

import numpy as np
import pytest

from ldmref.backends import get_backend
from ldmref.families.krea2.config import Krea2Config
from ldmref.families.krea2.network import transformer
from ldmref.models import unflatten

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import torch
from family_tools import compile_network
from krea2_pipelines import (
    TRANSFORMER,
    call_transformer,
    make_transformer,
    transformer_in_double,
)

CONFIG = Krea2Config(**TRANSFORMER | {"in_channels": 4}, out_channels=4)


@pytest.fixture(scope="module")
def theirs():
    """Return a small transformer in float64."""
    torch.manual_seed(0)
    model = make_transformer().double()
    with transformer_in_double():
        yield model


def draw(lengths, height, width):
    """Return latents, times, states of texts and their mask, with padding that is not 0."""
    generator = np.random.default_rng(0)
    n, longest = len(lengths), max(lengths)
    context = generator.standard_normal((n, longest, 60))
    mask = (np.arange(longest)[None, :] < np.asarray(lengths)[:, None]).astype(np.int64)
    x = generator.standard_normal((n, 4, height, width))
    return x, 1000.0 * generator.uniform(0, 1, n), context, mask


def compute(theirs, arrays, backend="numpy"):
    """Compute our prediction in float64."""
    ops = get_backend(backend, dtype="float64")
    state = {name: ops.asarray(value.numpy()) for name, value in theirs.state_dict().items()}
    arrays = (ops.asarray(part) for part in arrays)
    return ops.to_numpy(transformer(ops, unflatten(state), CONFIG, *arrays))


def predict(theirs, *arrays):
    """Return what diffusers' network computes."""
    with torch.no_grad():
        return call_transformer(theirs, *map(torch.tensor, arrays)).numpy()


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize(
    ("lengths", "height", "width"), [((5,), 8, 8), ((5, 40), 8, 12), ((32, 7, 9), 16, 6)]
)
def test_the_transformer_is_that_of_diffusers(theirs, backend, lengths, height, width):
    """With texts of different lengths in one batch, whose padding no token reads."""
    arrays = draw(lengths, height, width)
    want = predict(theirs, *arrays)
    got = compute(theirs, arrays, backend)
    assert np.abs(got - want).max() < 1e-10 * np.abs(want).max()


def test_without_a_mask_all_tokens_are_read(theirs):
    arrays = draw((7, 7), 8, 8)
    without = compute(theirs, arrays[:3])
    assert np.array_equal(without, compute(theirs, arrays))


def test_padding_may_stand_anywhere_and_be_cut(theirs):
    """As the makers put it in the middle: the tokens of a text have no positions."""
    x, t, context, mask = draw((5, 12), 8, 8)
    order = np.concatenate([np.arange(3), np.arange(5, 12), np.arange(3, 5)])
    want = compute(theirs, (x, t, context, mask))
    moved = compute(theirs, (x, t, context[:, order], mask[:, order]))
    assert np.abs(moved - want).max() < 1e-12 * np.abs(want).max()
    alone = compute(theirs, (x[:1], t[:1], context[:1, :5], mask[:1, :5]))
    assert np.abs(alone - want[:1]).max() < 1e-12 * np.abs(alone).max()


def test_the_text_is_read(theirs):
    x, t, context, mask = draw((5,), 8, 8)
    first, second = (compute(theirs, (x, t, c, mask)) for c in (context, context[..., ::-1]))
    assert np.abs(first - second).max() > 1e-3 * np.abs(first).max()


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_a_graph_takes_every_size(theirs, name):
    def network(ops, p, x, t, context, mask):
        return transformer(ops, p, CONFIG, x, t, context, mask)

    ops, compiled = compile_network(name, theirs, network)
    for lengths, height, width in (((5, 40), 8, 8), ((32, 31), 16, 8), ((6, 3), 6, 10)):
        x, t, context, mask = draw(lengths, height, width)
        want = compute(theirs, (x, t, context, mask))
        arrays = (part.astype(np.float32) for part in (x, t, context))
        got = ops.to_numpy(compiled(*arrays, mask))
        assert np.abs(got - want).max() < 1e-4 * np.abs(want).max()
