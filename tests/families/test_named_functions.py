"""Functions without parameters that transformers call by the names of diffusers' modules.

Traces record them by these names, and recordings of diffusers are compared under them.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from ldmref.backends import get_backend
from ldmref.models import preset
from ldmref.models.family import family_of
from ldmref.models.model import model_spec
from ldmref.models.params import flatten, unflatten

OPS = get_backend("numpy", dtype="float64")
COUNTS = {  # of one call: of 2 blocks of each kind, but 1 and 2 of FLUX.3, and 3 of SD3
    "flux-tiny": {"time_proj": 2, "rms_norm": 2 * 4 + 2 * 2, "rotate": 8, "gelu_tanh": 4,
                  "act_mlp": 2},
    "flux2-tiny": {"time_proj": 1, "rms_norm": 2 * 4 + 2 * 2, "rotate": 8, "norm1": 2,
                   "norm1_context": 2, "norm2": 2, "norm2_context": 2, "norm": 2 + 1},
    "flux3-tiny": {"time_proj": 2, "rms_norm": (3 + 2) * 2, "rotate": (3 + 2) * 2},
    "krea-2-tiny": {"time_proj": 1, "rms_norm": (2 + 1 + 1) * 4 + 2, "rotate": 4, "gelu": 3},
    "sd3-tiny": {"time_proj": 1, "rms_norm": 3 * 4 + 2, "gelu_tanh": 3 + 2},
}  # fmt: skip


def small_arrays(network):
    """Return an array for each input of a network, of small sizes."""
    sizes = {"batch": 1, "timesteps": 1, "height": 4, "width": 4, "tokens": 3, "references": 2}
    return {x.argument: np.ones(x.shape_at(sizes)) for x in network.inputs}


@pytest.mark.parametrize("name", COUNTS)
def test_every_function_has_its_name(name, monkeypatch):
    config = preset(name)
    [network] = [x for x in family_of(config).networks(config) if x.name == "transformer"]
    draw = np.random.default_rng(0).standard_normal
    flat = {path: draw(shape) for path, shape in flatten(model_spec(config)["transformer"]).items()}
    called = Counter()
    call = type(OPS).call_function

    def count(self, name, *arguments, **options):
        called[name] += 1
        return call(self, name, *arguments, **options)

    monkeypatch.setattr(type(OPS), "call_function", count)
    network.function(OPS, unflatten(flat), config.denoiser, **small_arrays(network))
    assert dict(called) == COUNTS[name]


@pytest.mark.parametrize("name", ["flux2-tiny", "flux3-tiny"])
def test_references_without_positions_or_tokens_are_none(name):
    config = preset(name)
    [network] = [x for x in family_of(config).networks(config) if x.name == "transformer"]
    draw = np.random.default_rng(0).standard_normal
    flat = {path: draw(shape) for path, shape in flatten(model_spec(config)["transformer"]).items()}
    given = small_arrays(network)
    more = {x.argument: given.pop(x.argument) for x in network.inputs if x.of_references}
    params = unflatten(flat)
    want = network.function(OPS, params, config.denoiser, **given)
    for argument, array in more.items():
        one = {argument: array}
        assert np.array_equal(network.function(OPS, params, config.denoiser, **given, **one), want)
    both = network.function(OPS, params, config.denoiser, **given, **more)
    assert not np.array_equal(both, want)
