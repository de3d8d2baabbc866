"""The original samplers of k-diffusion hold, with the roundings of their own arithmetic."""

from __future__ import annotations

import k_diffusion
import numpy as np
import pytest
from k_diffusion import SAMPLERS
from wrapped import module_of

from ldmref import samplers
from ldmref.backends import get_backend
from ldmref.check import run
from ldmref.check.chapters.samplers_ends import chapter as ends

LAST = [identity for identity in ends.identities if "last step" in identity.law]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_an_original_sampler_holds(name, library, dtype):
    pytest.importorskip(library)
    backend = get_backend(library, dtype=dtype)
    module = module_of({name: SAMPLERS[name]})
    results = [*run(backend, against=module, cases=40, hard=True)]
    assert results
    for result in results:
        assert result.holds, (result.identity, result.verdict, result.detail)


def test_the_roundings_of_the_last_step_are_those_that_are_counted():
    """Of many states: the published form rounds, and stays within the 2 units allowed."""
    rng = np.random.default_rng(0)
    x0 = rng.standard_normal(200_000)
    x = x0 + 10 ** rng.uniform(-3, 2, x0.shape) * rng.standard_normal(x0.shape)
    sigma = rng.uniform(0.01, 20.0, x0.shape)
    last = x + (x - x0) / sigma * (0.0 - sigma)
    units = np.abs(last - x0) / (np.finfo(float).eps * (np.abs(x0) + np.abs(x - x0)))
    assert {identity.ulps for identity in LAST} == {2.0}
    assert 0.5 < units.max() <= 2.0


@pytest.mark.parametrize("identity", LAST, ids=lambda identity: identity.name)
@pytest.mark.parametrize("wrong", ["one more unit", "the state", "noise is left"])
def test_a_last_step_that_is_wrong_still_fails(identity, wrong):
    own = SAMPLERS[identity.function]

    def make(*settings):
        inner = own(*settings)

        def step(denoise, x, at, history, noise):
            moved, denoised, memory = inner(denoise, x, at, history, noise)
            if at.sigma_next == 0:
                size = np.abs(denoised) + np.abs(x - denoised)
                moved = {
                    "one more unit": moved + 5 * np.finfo(float).eps * size,
                    "the state": x,
                    "noise is left": moved + 1e-3 * (x - denoised),
                }[wrong]
            return moved, denoised, memory

        return step

    backend = get_backend("numpy", dtype="float64")
    module = module_of({identity.function: make})
    results = [*run(backend, against=module, cases=10, only=identity.name)]
    assert not next(r for r in results if r.identity == identity.name).holds


def test_every_sampler_of_the_file_is_tried():
    factories = {
        name
        for name, value in vars(k_diffusion).items()
        if hasattr(samplers, name) and callable(value)
    }
    assert factories == set(SAMPLERS)
