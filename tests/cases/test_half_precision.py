"""Programs in float16 and bfloat16: right ones pass every layer and network, wrong ones fail."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ldmref.backends.named import LayerCall
from ldmref.cases import read_suite, run_cases
from ldmref.cases.recorder import HALF, compute_rounded, tolerance_of
from ldmref.cases.runtimes import LdmrefRuntime
from ldmref.cases.suite_run import judge_values, open_runtime
from ldmref.errors import UsageError

pytest.importorskip("torch")


def results_of(small, runtime):
    return list(run_cases(small, runtime, small.select()))


@pytest.mark.parametrize("dtype", HALF)
def test_right_programs_pass(small, dtype):
    results = results_of(small, open_runtime("ldmref", "torch", dtype))
    assert len(results) == len(small.cases)
    assert not [str(result) for result in results if not result.passed]
    assert max(result.ratio for result in results) > 0.3  # they are not far too wide


@pytest.mark.parametrize("dtype", HALF)
def test_wrong_programs_fail(small, dtype):
    """Of group norm with another eps, of quick GELU, and of a forgotten bias and scale."""
    from ldmref.backends.torch import TorchBackend

    class Wrong(TorchBackend):
        def group_norm(self, x, weight, bias, groups, eps):
            times = 1000 if dtype == "float16" else 20_000
            return super().group_norm(x, weight, bias, groups, times * eps)

        def gelu(self, x):
            return self.quick_gelu(x)

        def linear(self, x, weight, bias=None):
            return super().linear(x, weight)

        def attention(self, q, k, v, causal=False, **more):
            return super().attention(2.0 * q, k, v, causal, **more)

    results = results_of(small, LdmrefRuntime(Wrong(dtype=dtype)))
    failed = {kind: [] for kind in {result.kind for result in results}}
    for result in results:
        failed[result.kind].append(not result.passed)
    assert any(failed["group_norm"]) and any(failed["linear"]) and any(failed["attention"])
    assert any(failed["gelu"]) or dtype == "bfloat16"
    for kind in ("conv2d", "layer_norm", "silu", "add", "upsample2x", "timestep_embedding"):
        assert not any(failed[kind]), kind
    networks = [result for result in results if result.part == "networks"]
    assert any(not result.passed for result in networks)


def test_tanh_gelu_is_found_where_the_format_resolves_it(small):
    """It errs by 5e-4, which float32 shows, and which is below the roundings of half precision."""
    from ldmref.backends.torch import TorchBackend

    class Tanh(TorchBackend):
        def gelu(self, x):
            inner = (2.0 / np.pi) ** 0.5 * (x + 0.044715 * x**3)
            return 0.5 * x * (1.0 + self.xp.tanh(inner))

    cases = small.select(kinds=["gelu"])
    wide = list(run_cases(small, LdmrefRuntime(Tanh()), cases))
    assert not any(result.passed for result in wide)
    half = list(run_cases(small, LdmrefRuntime(Tanh(dtype="bfloat16")), cases))
    assert all(result.passed for result in half)


def test_tolerances_grow_with_the_roundoff(small):
    for case in small.cases.values():
        for output in case.outputs:
            single, half, brain = (output.tolerance[d][0] for d in ("float32", *HALF))
            assert single < half < brain < 16.0 * half


def test_a_suite_without_these_tolerances_says_so(small, tmp_path):
    folder = tmp_path / "old"
    folder.mkdir()
    manifest = json.loads((small.folder / "cases.json").read_text())
    for row in manifest["cases"]:
        for output in row["outputs"]:
            output["tolerance"] = {"float32": output["tolerance"]["float32"]}
    (folder / "cases.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match="the suite has no tolerances of float16"):
        results_of(read_suite(folder), open_runtime("ldmref", "torch", "float16"))


def test_results_of_another_program_are_judged_in_its_format(small, tmp_path):
    from safetensors.numpy import save_file

    from ldmref.cases.files import SuiteReader

    reader = SuiteReader(small)
    cases = small.select(kinds=["silu"])
    found = {}
    for case in cases:
        x = reader.inputs(case)["input"].astype(np.float16)
        with np.errstate(over="ignore"):
            y = (x / (1 + np.exp(-x))).astype(np.float16)
        found[f"{case.name}/output"] = y.astype(np.float32)
    save_file(found, tmp_path / "results.safetensors")
    judge = lambda dtype: list(judge_values(small, tmp_path / "results.safetensors", cases, dtype))  # noqa: E731
    assert all(result.passed for result in judge("float16"))
    assert not any(result.passed for result in judge(None))


@pytest.mark.parametrize("dtype", HALF)
def test_what_rounding_the_inputs_changes_is_allowed(dtype):
    """The result is small beside the inputs, so the rounding of the result alone is far less."""
    x = np.array([[1.0 + 2.0**-12, 1.0]])
    weight = np.array([[1.0, -1.0]])

    def compute(arrays):
        return arrays["input"] @ arrays.get("weight", weight).T

    call = LayerCall("layer", "linear", {"input": x}, {"weight": weight}, {}, compute)
    exact = compute({"input": x})
    assert exact[0, 0] == 2.0**-12 and compute_rounded(call, dtype) == 0.0
    assert tolerance_of(call, exact, {"input": x}, dtype) >= 2.0 * 2.0**-12
    assert tolerance_of(call, exact, {"input": x}, "float32") < 2.0**-20
