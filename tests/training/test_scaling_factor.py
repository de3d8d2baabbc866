"""The scaling factor of latents, against the law of total variance and against samples."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="training runs on the torch backend")

from ldmref.training.diffusion.latents import CHUNK, Latents


def latents(n, logvar=-1.0, spread=0.5, shift=0.3):
    rng = np.random.default_rng(n)
    shape = (n, 3, 4, 4)
    mean = shift + spread * rng.standard_normal(shape)
    return Latents(mean, logvar + 0.2 * rng.standard_normal(shape))


@pytest.mark.parametrize("n", [1, 7, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 5])
@pytest.mark.parametrize("logvar", [-30.0, -1.0, 2.0])
def test_the_law_of_total_variance(n, logvar):
    """Var[z] = Var[mean] + E[exp(logvar)], read in parts or at once. Rombach et al. 2022,
    arXiv:2112.10752, appendix G."""
    data = latents(n, logvar)
    variance = data.mean.var() + np.exp(data.logvar).mean()
    assert data.scaling_factor == pytest.approx(variance**-0.5, rel=1e-9)


def test_scaled_samples_have_unit_variance():
    """The variance of 300,000 numbers errs by sqrt(2 / 300,000) = 0.26 %, five of which are 1.3 %.
    Without exp(logvar) it would be 1 + exp(-1) / 0.25 = 2.5."""
    data = latents(6250)
    noise = np.random.default_rng(0).standard_normal(data.mean.shape)
    samples = data.mean + np.exp(data.logvar / 2) * noise
    assert (data.scaling_factor * samples).var() == pytest.approx(1.0, abs=0.013)


def test_moments_in_float16_are_summed_in_float64():
    data = latents(2000)
    half = Latents(data.mean.astype(np.float16), data.logvar.astype(np.float16))
    wide = Latents(half.mean.astype(np.float64), half.logvar.astype(np.float64))
    assert half.scaling_factor == pytest.approx(wide.scaling_factor, rel=1e-12)
