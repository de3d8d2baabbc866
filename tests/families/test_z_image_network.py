"""The transformer of Z-Image against diffusers' ZImageTransformer2DModel, in float64."""

from __future__ import annotations

import numpy as np
import pytest

from ldmref.backends import get_backend
from ldmref.families.z_image.config import ZImageConfig
from ldmref.families.z_image.network import transformer
from ldmref.models import unflatten

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import torch
from diffusers import ZImageTransformer2DModel
from family_tools import compile_network
from z_image_pipelines import transformer_in_double

SMALL = dict(
    in_channels=4, dim=36, n_layers=2, n_refiner_layers=2, n_heads=3, n_kv_heads=3,
    cap_feat_dim=20, axes_dims=[4, 4, 4], axes_lens=[256, 32, 32],
)  # fmt: skip
CONFIG = ZImageConfig(
    in_channels=4, out_channels=4, dim=36, n_layers=2, n_refiner_layers=2, n_heads=3,
    cap_feat_dim=20, axes_dims=(4, 4, 4),
)  # fmt: skip


@pytest.fixture(scope="module")
def theirs():
    """Return a small transformer in float64."""
    torch.manual_seed(0)
    model = ZImageTransformer2DModel(**SMALL).eval().double()
    for parameter in model.parameters():  # padding tokens are 0 at first, modulations small
        parameter.data += 0.3 * torch.randn_like(parameter)
    with transformer_in_double():
        yield model


def compute(theirs, x, t, captions, backend="numpy", length=None):
    """Compute our prediction in float64, with captions filled up to `length`."""
    ops = get_backend(backend, dtype="float64")
    state = {name: ops.asarray(value.numpy()) for name, value in theirs.state_dict().items()}
    length = length or max(len(caption) for caption in captions)
    context = np.full((len(captions), length, 20), 7.0)
    mask = np.zeros((len(captions), length), np.int64)
    for i, caption in enumerate(captions):
        context[i, : len(caption)] = caption
        mask[i, : len(caption)] = 1
    arrays = (ops.asarray(part) for part in (x, t, context, mask))
    return ops.to_numpy(transformer(ops, unflatten(state), CONFIG, *arrays))


def predict(theirs, x, t, captions):
    """Return what diffusers' network computes."""
    images = [torch.tensor(image)[:, None] for image in x]
    with torch.no_grad():
        found = theirs(images, torch.tensor(t), [torch.tensor(c) for c in captions]).sample
    return np.stack([image[:, 0].numpy() for image in found])


def draw(lengths, height, width):
    generator = np.random.default_rng(0)
    captions = [generator.standard_normal((length, 20)) for length in lengths]
    x = generator.standard_normal((len(lengths), 4, height, width))
    return x, generator.uniform(0, 1, len(lengths)), captions


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize(
    ("lengths", "height", "width"),
    [((5,), 8, 8), ((5, 40), 8, 8), ((32, 7, 70), 16, 8), ((64, 31), 6, 10)],
)
def test_the_transformer_is_that_of_diffusers(theirs, backend, lengths, height, width):
    """With captions of different lengths in one batch, and padding that no token reads."""
    x, t, captions = draw(lengths, height, width)
    want = predict(theirs, x, t, captions)
    for length in (None, 128):
        got = compute(theirs, x, t, captions, backend, length)
        assert np.abs(got - want).max() < 1e-10 * np.abs(want).max()


def test_each_caption_of_a_batch_is_as_alone(theirs):
    x, t, captions = draw((5, 40), 8, 8)
    together = compute(theirs, x, t, captions)
    for i in range(2):
        alone = compute(theirs, x[i : i + 1], t[i : i + 1], captions[i : i + 1])
        assert np.abs(alone - together[i : i + 1]).max() < 1e-12 * np.abs(alone).max()


def test_the_caption_is_read(theirs):
    x, t, captions = draw((5,), 8, 8)
    other = [captions[0][::-1]]
    first, second = (compute(theirs, x, t, caption) for caption in (captions, other))
    assert np.abs(first - second).max() > 1e-3 * np.abs(first).max()


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_a_graph_takes_every_size(theirs, name):
    """Also where the numbers of tokens are no multiples of 32."""

    def network(ops, p, x, t, context, mask):
        return transformer(ops, p, CONFIG, x, t, context, mask)

    ops, compiled = compile_network(name, theirs, network)
    for lengths, height, width in (((5, 40), 8, 8), ((32, 31), 16, 8), ((64, 31), 6, 10)):
        x, t, captions = draw(lengths, height, width)
        want = compute(theirs, x, t, captions)
        length = max(len(caption) for caption in captions)
        context = np.zeros((2, length, 20), np.float32)
        mask = np.zeros((2, length), np.int64)
        for i, caption in enumerate(captions):
            context[i, : len(caption)] = caption
            mask[i, : len(caption)] = 1
        arrays = (x.astype(np.float32), t.astype(np.float32), context, mask)
        got = ops.to_numpy(compiled(*arrays))
        assert np.abs(got - want).max() < 1e-4 * np.abs(want).max()
