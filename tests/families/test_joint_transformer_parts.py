"""Transformers of image and text: times of any type, and names that earlier versions declared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import ldmref
from ldmref.backends import get_backend
from ldmref.families import joint_transformers
from ldmref.models.declared import BATCH, NetworkInput
from ldmref.models.params import flatten, unflatten
from ldmref.models.specs import linear_spec
from ldmref.ports.arguments import first_layers_of, names_of

OPS = get_backend("numpy", dtype="float64")
HALF = get_backend("numpy", dtype="float16")


def draw(shapes, seed=0):
    """Return parameters of these shapes, by name."""
    generator = np.random.default_rng(seed)
    return {name: generator.standard_normal(shape) for name, shape in shapes.items()}


def silu(x):
    return x / (1.0 + np.exp(-x))


def waves_of(numbers, width):
    """Return cosines, then sines, of numbers over a range of frequencies from 1 to 1/10000."""
    half = width // 2
    angles = np.asarray(numbers, np.float64)[:, None] * 10000.0 ** (-np.arange(half) / half)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)


def apply_mlp(flat, name, x):
    """Apply the two layers of an MLP."""
    one, two = (flat[f"{name}.linear_{i}.weight"] for i in (1, 2))
    biases = (flat[f"{name}.linear_{i}.bias"] for i in (1, 2))
    first, second = biases
    return silu(x @ one.T + first) @ two.T + second


# -- layers ---------------------------------------------------------------------------------------


def test_whole_times_become_floating_numbers():
    for given in (np.array([3, 900]), np.array([3, 900], np.int32)):
        found = joint_transformers.as_floating(OPS, given)
        assert found.dtype == np.float64 and found.tolist() == [3.0, 900.0]
    floating = np.array([0.5], np.float32)
    assert joint_transformers.as_floating(OPS, floating) is floating
    np.testing.assert_allclose(
        joint_transformers.find_sines(OPS, np.array([3, 900]), 8), waves_of([3, 900], 8), atol=1e-12
    )


def test_sines_are_rounded_to_the_type_of_the_text():
    flat = draw(flatten({"time": {"linear_1": linear_spec(4, 3), "linear_2": linear_spec(3, 3)}}))
    p = unflatten({name.removeprefix("time."): x.astype("f2") for name, x in flat.items()})
    like = np.zeros(1, np.float16)
    found = joint_transformers.embed_numbers(HALF, p, np.array([5]), 4, like)
    assert found.dtype == np.float16
    np.testing.assert_allclose(
        found, apply_mlp(flat, "time", waves_of([5], 4)), rtol=0.02, atol=0.02
    )


# -- declarations ---------------------------------------------------------------------------------


def test_names_that_a_declaration_of_an_earlier_version_says_are_known():
    with pytest.warns(DeprecationWarning, match=r"NetworkInput\(also=\) is declared by"):
        x = NetworkInput("x", "sample", (BATCH, 1), also=("mine",))
    with pytest.warns(DeprecationWarning, match="layers"):
        x = replace(x, layers=(("first", "input"),))
    network = replace(ldmref.random_model("flux-tiny").denoiser, inputs=(x,))
    assert names_of(network, x)[-1] == "mine"
    assert first_layers_of(network, x) == (("first", "input"),)
