"""What the golden cases notice: a small scale, one wrong element, another eps, in every layer."""

from __future__ import annotations

import numpy as np
import pytest

from ldmref.cases import make_suite, run_cases
from ldmref.cases.files import SuiteReader
from ldmref.cases.recorder import EMBEDDING, timestep_bound
from ldmref.cases.runtimes import LdmrefRuntime
from ldmref.cases.verdicts import compare_case
from ldmref.math.embedding import timestep_embedding
from ldmref.models import transformer_layers

FAMILIES = ("sd15", "sd3-medium", "sd35-medium", "flux-dev", "z-image")
FLOW_KINDS = {
    "adaptive_norm", "joint_attention", "joint_block", "double_block", "single_block", "rotate",
}  # fmt: skip


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return make_suite(tmp_path_factory.mktemp("cases") / "s", ("layers", "networks"), FAMILIES)


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
    from ldmref.backends.numpy import NumpyBackend

    results = list(run_cases(suite, LdmrefRuntime(NumpyBackend(dtype="float32")), suite.select()))
    assert len(results) == len(suite.cases)
    assert not [str(result) for result in results if not result.passed]


def is_wide_embedding(case, x):
    """Return whether a layer embeds 741 in 256 channels, or does no more than project that."""
    alone = "z-image.transformer.t_embedder"
    return case.name == alone or (case.kind in (EMBEDDING, "embed") and x.shape[-1] >= 12)


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
    from ldmref.backends.numpy import NumpyBackend

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
    assert len(norms) > 10 and passed in ([], ["flux-dev.transformer.norm_out"])
    networks = {r.case: r.passed for r in results if r.part == "networks"}
    noticed = {"sd15.unet", "sd15.vae.encode", "sd15.vae.decode", "sd15.text_encoder"}
    assert [name for name in noticed if networks[name]] == []
    assert networks["flux-dev.transformer"] and networks["sd3-medium.transformer"]


def test_an_eps_of_rms_norms_ten_times_too_large_is_noticed(suite, monkeypatch):
    """In the transformer of Z-Image and in its text encoder."""
    from ldmref.backends.numpy import NumpyBackend

    exact = transformer_layers.divide_by_rms

    def wrong(x, weight, eps, *args):
        return exact(x, weight, 10.0 * eps, *args)

    monkeypatch.setattr(transformer_layers, "divide_by_rms", wrong)
    results = run_cases(suite, LdmrefRuntime(NumpyBackend(dtype="float32")), suite.select())
    networks = {r.case: r.passed for r in results if r.part == "networks"}
    assert not networks["z-image.transformer"] and not networks["z-image.text_encoder"]


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
