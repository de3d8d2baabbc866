"""Known faults of latents that are normalised by more than two numbers, in patches."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ldmref.locate.pipeline.port_run import PortRun

GAIN, SHIFT = 2.0, 0.5


class Kind:
    """Normalisation by a gain and a shift, which has no scaling factor of its own."""

    scales = None

    @staticmethod
    def normalize(ops, params, config, x):
        return (x - SHIFT) / GAIN

    @staticmethod
    def denormalize(ops, params, config, x):
        return GAIN * x + SHIFT


def unfold(x):
    """Join patches of 2 x 2: the channels hold channel, row and column."""
    n, c, h, w = x.shape
    axes = x.reshape(n, c // 4, 2, 2, h, w).transpose(0, 1, 4, 2, 5, 3)
    return axes.reshape(n, c // 4, 2 * h, 2 * w)


def fold(x):
    n, c, h, w = x.shape
    axes = x.reshape(n, c, h // 2, 2, w // 2, 2).transpose(0, 1, 3, 5, 2, 4)
    return axes.reshape(n, 4 * c, h // 2, w // 2)


@pytest.fixture
def context():
    scale = SimpleNamespace(
        kind=Kind, ops=None, params=None, config=SimpleNamespace(patch=2, latent_channels=8)
    )
    scale.fold, scale.unfold = fold, unfold
    scale.normalize = lambda z: Kind.normalize(None, None, None, fold(z))
    scale.denormalize = lambda x: unfold(Kind.denormalize(None, None, None, x))
    return SimpleNamespace(latent_scale=scale)


def test_shapes_that_can_be_normalised(context):
    def fits(shape, patch):
        run = SimpleNamespace(latent_scale=context.latent_scale)
        x = np.zeros(shape)
        return PortRun._normalized(run, x, lambda y: y, patch) is x

    assert fits((1, 2, 4, 6), 2) and fits((1, 8, 3, 5), 1)
    for shape in ((1, 3, 4, 6), (1, 2, 5, 6), (1, 2, 4, 5), (2, 4, 6)):
        assert not fits(shape, 2)
    assert not fits((1, 2, 4, 6), 1)
    assert (
        PortRun._normalized(SimpleNamespace(latent_scale=context.latent_scale), None, abs, 1)
        is None
    )
