"""The transformer of FLUX.2 against diffusers' and the makers', in float64."""

from __future__ import annotations

import numpy as np
import pytest

from ldmref.backends import get_backend
from ldmref.families.flux2.config import Flux2Config
from ldmref.families.flux2.network import transformer, transformer_spec
from ldmref.models import flatten, unflatten

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import torch
from flux2_pipelines import SMALL, make_transformer, transformer_in_double

CONFIG = Flux2Config(out_channels=16, **SMALL)


@pytest.fixture(scope="module", params=[False, True])
def theirs(request):
    """Return a small transformer in float64, without and with the guidance scale."""
    return make_transformer(guidance_embeds=request.param).double()


def ids(*ranges):
    """Return the positions of tokens, (l, 4), of numbers on each axis."""
    return torch.cartesian_prod(*(torch.as_tensor(part) for part in ranges))


def predict(theirs, x, t, context, guidance=None, references=()):
    """Return what diffusers' network computes of latents, with tokens of references."""
    n, _, height, width = x.shape
    tokens = [torch.tensor(x).flatten(2).mT]
    positions = [ids([0], range(height), range(width), [0])]
    for number, image in enumerate(references, 1):
        tokens.append(torch.tensor(image).flatten(2).mT.expand(n, -1, -1))
        positions.append(ids([10 * number], range(image.shape[2]), range(image.shape[3]), [0]))
    with torch.no_grad(), transformer_in_double():
        found = theirs(
            hidden_states=torch.cat(tokens, dim=1),
            encoder_hidden_states=torch.tensor(context),
            timestep=torch.tensor(t) / 1000.0,
            img_ids=torch.cat(positions),
            txt_ids=ids([0], [0], [0], range(context.shape[1])),
            guidance=None if guidance is None else torch.tensor(guidance),
        ).sample
    return found[:, : height * width].mT.reshape(x.shape).numpy()


def compute(theirs, x, t, context, guidance=None, references=(), backend="numpy"):
    """Compute our prediction in float64."""
    ops = get_backend(backend, dtype="float64")
    state = {name: ops.asarray(value.numpy()) for name, value in theirs.state_dict().items()}
    tokens = positions = None
    if references:
        tokens = np.concatenate([i.reshape(*i.shape[:2], -1).swapaxes(1, 2) for i in references], 1)
        tokens = np.repeat(tokens, len(x), axis=0)
        of_each = [
            ids([10 * k], range(i.shape[2]), range(i.shape[3]), [0]).double().numpy()
            for k, i in enumerate(references, 1)
        ]
        positions = np.repeat(np.concatenate(of_each)[None], len(x), axis=0)
    arrays = (x, t, context, guidance, tokens, positions)
    arrays = [None if part is None else ops.asarray(part) for part in arrays]
    return ops.to_numpy(transformer(ops, unflatten(state), CONFIG, *arrays))


def draw(n, length, height, width):
    generator = np.random.default_rng(0)
    x = generator.standard_normal((n, 16, height, width))
    return x, generator.uniform(0, 1000, n), generator.standard_normal((n, length, 60))


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize(
    ("n", "length", "height", "width"), [(1, 5, 4, 4), (2, 7, 3, 5), (3, 1, 6, 2)]
)
@pytest.mark.parametrize("shapes", [(), ((4, 4),), ((2, 5), (3, 1))])
def test_the_transformer_is_that_of_diffusers(theirs, backend, n, length, height, width, shapes):
    """With no, one and two references, whose sizes differ."""
    x, t, context = draw(n, length, height, width)
    generator = np.random.default_rng(1)
    references = [generator.standard_normal((1, 16, *shape)) for shape in shapes]
    guidance = None
    if theirs.config.guidance_embeds:
        guidance = generator.uniform(1, 5, n)
    want = predict(theirs, x, t, context, guidance, references)
    got = compute(theirs, x, t, context, guidance, references, backend)
    assert np.abs(got - want).max() < 1e-10 * np.abs(want).max()


def test_a_network_without_guidance_ignores_the_scale():
    """As diffusers' does, which passes a scale to every model."""
    theirs = make_transformer(guidance_embeds=False).double()
    x, t, context = draw(1, 3, 2, 2)
    found = [compute(theirs, x, t, context, scale) for scale in (None, np.array([4.0]))]
    assert np.array_equal(*found)


def test_rotary_angles_of_the_makers_are_float32():
    """Their frequencies are computed in the type of the positions."""
    steps = torch.arange(0, 32, 2)
    exact = 511.0 / 2000.0 ** (steps.double() / 32)
    single = torch.tensor(511.0) * (1.0 / 2000.0 ** (steps.float() / 32))
    assert single.dtype == torch.float32
    assert f"{float((single - exact).abs().max()):.1e}" == "2.0e-05"


def test_shapes_are_those_of_diffusers():
    for guided in (False, True):
        theirs = make_transformer(guidance_embeds=guided)
        shapes = {name: tuple(value.shape) for name, value in theirs.state_dict().items()}
        config = Flux2Config(out_channels=16, **SMALL | {"guidance_embeds": guided})
        assert flatten(transformer_spec(config)) == shapes
