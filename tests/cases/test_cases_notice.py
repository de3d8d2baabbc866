"""What the golden cases notice: a small scale, one wrong element, another eps, in every layer."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from ldmref.backends.named import LayerCall
from ldmref.backends.numpy import NumpyBackend
from ldmref.cases import make_suite, run_cases
from ldmref.cases.files import SuiteReader
from ldmref.cases.golden_families import golden_models_of
from ldmref.cases.recorder import (
    EMBEDDING,
    HALF,
    U,
    compute_network,
    flat,
    timestep_bound,
    tolerance_of,
)
from ldmref.cases.runtimes import LdmrefRuntime
from ldmref.cases.suite_run import open_runtime
from ldmref.cases.trace_cases import DisturbedOperations
from ldmref.cases.verdicts import compare_case
from ldmref.math.embedding import timestep_embedding
from ldmref.models import transformer_layers
from ldmref.models.family import BUILT_IN, find_family
from ldmref.models.layers import layer
from ldmref.models.params import Params

KITS = [find_family(name) for name in BUILT_IN if name != "latent-diffusion"]
FAMILIES = (
    "sd15",
    *dict.fromkeys(run.preset for kit in KITS for run in golden_models_of(kit).runs),
)
FLOW_KINDS = {
    "adaptive_norm",
    "joint_attention",
    "joint_block",
    "double_block",
    "single_block",
    "rotate",
}


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return make_suite(tmp_path_factory.mktemp("cases") / "s", ("layers", "networks"), FAMILIES)


@pytest.mark.parametrize("dtype", HALF)
def test_right_programs_in_half_precision_pass(suite, dtype):
    """Times, which are embedded in float32 everywhere, are not rounded."""
    pytest.importorskip("torch")
    results = list(run_cases(suite, open_runtime("ldmref", "torch", dtype), suite.select()))
    assert not [str(result) for result in results if not result.passed]


@pytest.fixture(scope="module")
def layers(suite):
    reader = SuiteReader(suite)
    cases = [case for case in suite.cases.values() if case.part == "layers"]
    return [(case, reader.outputs(case)) for case in cases]


def test_every_kind_of_layer_of_the_transformers_is_there(layers):
    assert {case.kind for case, _ in layers} >= FLOW_KINDS
    several = [case for case, _ in layers if len(case.outputs) > 1]
    assert {case.kind for case in several} >= FLOW_KINDS - {"rotate"}
    assert [x.name for x in several[0].outputs][:2] == ["output.0", "output.1"]


def test_right_programs_pass_with_all_outputs(suite):
    results = list(run_cases(suite, LdmrefRuntime(NumpyBackend(dtype="float32")), suite.select()))
    assert len(results) == len(suite.cases)
    assert not [str(result) for result in results if not result.passed]


def is_wide_embedding(case, x):
    """Return whether a layer embeds 741 in 256 channels, or does no more than project that."""
    return case.kind in (EMBEDDING, "embed", "embed_time") and x.shape[-1] >= 12


def test_each_output_times_1_0001_is_noticed_in_every_layer(layers):
    """But not in embeddings of 741 in 256 channels, whose angles are known to 1e-4 in float32."""
    for case, outputs in layers:
        for x in case.outputs:
            wrong = outputs | {x.name: 1.0001 * outputs[x.name].astype(np.float64)}
            passed = compare_case(case, outputs, wrong, "float32").passed
            assert not passed or is_wide_embedding(case, x), case.name


def test_one_element_that_is_1_percent_off_is_noticed_in_every_layer(layers):
    """An element of the median size, of those that are not zero."""
    for case, outputs in layers:
        for x in case.outputs:
            y = outputs[x.name].astype(np.float64)
            sizes = np.abs(y).reshape(-1)
            order = np.argsort(np.where(sizes, sizes, np.inf))[: np.count_nonzero(sizes)]
            y.reshape(-1)[order[len(order) // 2]] *= 1.01
            assert not compare_case(case, outputs, outputs | {x.name: y}, "float32").passed, case


def test_one_wrong_output_of_several_is_named(layers):
    case, outputs = next((c, y) for c, y in layers if c.kind == "adaptive_norm" and len(y) > 3)
    name = case.outputs[2].name
    verdict = compare_case(case, outputs, outputs | {name: -outputs[name]}, "float32")
    assert not verdict.passed and verdict.detail.startswith(f"{name}:")


def test_an_eps_ten_times_too_large_is_noticed(suite):
    """In the norms, and in the whole networks of the U-Net's families; transformers have 1e-6."""

    class Wrong(NumpyBackend):
        def group_norm(self, x, weight, bias, groups, eps):
            return super().group_norm(x, weight, bias, groups, 10.0 * eps)

        def group_norm_silu(self, x, weight, bias, groups, eps):
            return super().group_norm_silu(x, weight, bias, groups, 10.0 * eps)

        def layer_norm(self, x, weight, bias, eps):
            return super().layer_norm(x, weight, bias, 10.0 * eps)

    results = list(run_cases(suite, LdmrefRuntime(Wrong(dtype="float32")), suite.select()))
    norms = [r for r in results if r.kind in ("group_norm", "layer_norm", "adaptive_norm")]
    passed = [r.case for r in norms if r.passed]
    unnoticed = {
        "flux-dev.transformer.norm_out",
        "flux2-klein-4b.vae.decode.decoder.up_blocks.1.resnets.0.norm1",
    }
    assert len(norms) > 10 and {*passed} <= unnoticed
    networks = {r.case: r.passed for r in results if r.part == "networks"}
    noticed = {"sd15.unet", "sd15.vae.encode", "sd15.vae.decode", "sd15.text_encoder"}
    assert [name for name in noticed if networks[name]] == []
    assert networks["flux-dev.transformer"] and networks["sd3-medium.transformer"]


def test_an_eps_of_rms_norms_ten_times_too_large_is_noticed(suite, monkeypatch):
    """In the transformers of Z-Image and Krea 2, and in the language models that encode text."""
    exact = transformer_layers.divide_by_rms

    def wrong(x, weight, eps, *args):
        return exact(x, weight, 10.0 * eps, *args)

    monkeypatch.setattr(transformer_layers, "divide_by_rms", wrong)
    results = run_cases(suite, LdmrefRuntime(NumpyBackend(dtype="float32")), suite.select())
    networks = {r.case: r.passed for r in results if r.part == "networks"}
    models = "z-image", "flux2-klein-4b", "flux3-klein-base", "krea-2", "qwen-image-2.1"
    readers = [f"{name}.text_encoder" for name in models]
    noticed = ["z-image.transformer", "krea-2.transformer", *readers]
    assert [name for name in noticed if networks[name]] == []
    assert networks["qwen-image-2.1.transformer"] and networks["flux3-klein.transformer"]


def make_norm(x, function):
    """Return a layer that computes with arrays alone, in the type of its input."""

    def compute(arrays):
        return function(arrays["input"])

    return LayerCall("norm", function.__name__, {"input": x}, {}, {}, compute, composite=True)


def root_mean_square(x):
    return transformer_layers.divide_by_rms(x, x[0], 1e-6, x.dtype.name)


def deviation(x):
    return transformer_layers.divide_by_deviation(x, 1e-6, x.dtype.name)


@pytest.mark.parametrize("function", [root_mean_square, deviation])
@pytest.mark.parametrize("mean", [0.0, 30.0, 1000.0])
def test_a_norm_in_float32_is_within_its_tolerance_whatever_its_mean_and_width(function, mean):
    """A common factor of the inputs would change no norm; the mean that one subtracts rounds."""
    ratios = []
    for seed, width in enumerate([8, 32, 256, 3072]):
        x = (np.random.default_rng(seed).normal(size=(3, width)) + mean).astype(np.float32)
        wide = x.astype(np.float64)
        exact = function(wide)
        error = np.max(np.abs(function(x) - exact))
        call = make_norm(wide, function)
        ratios.append(error / tolerance_of(call, exact, call.inputs, "float32"))
    assert max(ratios) < 1.0
    assert max(ratios) > 0.05  # they are not far too wide


class Halves(NamedTuple):
    """The results of `cut_halves`."""

    first: np.ndarray
    others: tuple[np.ndarray, ...]


@layer
def cut_halves(ops, p, x):
    """Compute with arrays alone, and return several of them in nested tuples."""
    first = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True))
    return Halves(3.0 * first, (0.01 * first, x))


@layer
def add_halves(ops, p, x):
    """Add the results of a layer that has no operations."""
    halves = cut_halves(ops, p.inner, x)
    return halves.first + halves.others[0]


def test_a_layer_that_computes_with_arrays_alone_errs():
    """Each result by its own size; and what reads it, and a trace, by what that changes."""
    params = Params({"inner": Params({"gamma": np.ones(1)})})
    x = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)
    _, (whole,), layers = compute_network(add_halves, params, {}, {"x": x})
    around, inner = sorted(layers, key=lambda each: each.name)
    tolerances = [each["float32"] for each in inner.tolerances]
    units = [U * np.max(np.abs(y)) for y in inner.outputs]
    assert [5.0 < t / u < 20.0 for t, u in zip(tolerances, units, strict=True)] == [True] * 3
    for found in (whole["float32"], around.tolerances[0]["float32"]):
        assert 4.0 * units[0] < found < 40.0 * units[0]

    disturbed = DisturbedOperations(NumpyBackend(dtype="float64"))
    disturbed.name_parameters(params)
    y = cut_halves(disturbed, params.inner, x.astype(np.float64))
    exact = cut_halves(NumpyBackend(dtype="float64"), params.inner, x.astype(np.float64))
    assert isinstance(y, Halves)
    for got, right in zip(flat(y), flat(exact), strict=True):
        assert 0.0 < np.max(np.abs(got - right)) < 1e-5 * np.max(np.abs(right))


@pytest.mark.parametrize("dim", [8, 256])
def test_the_bound_of_embedded_timesteps_holds_and_is_not_far_too_wide(dim):
    """Frequencies and angles in float32, by exp and by powers."""
    t = np.linspace(0.0, 1000.0, 997, dtype=np.float32)
    exact = timestep_embedding(t.astype(np.float64), dim)
    bound = timestep_bound(t, dim) + 4.0 * 2.0**-24
    half = dim // 2
    i = np.arange(half, dtype=np.float32)
    exponents = -np.float32(np.log(10_000.0)) * i / np.float32(half)
    powers = np.float32(1.0) / np.float32(10_000.0) ** (i / np.float32(half))
    for frequencies in (np.exp(exponents), powers):
        angles = t[:, None] * frequencies
        assert angles.dtype == np.float32
        found = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
        error = np.abs(found - exact)
        assert np.all(error <= bound)
        assert np.max(error / bound) > 0.1
