"""The table of cases, their selection, and results as terminal text, Markdown and plots."""

from __future__ import annotations

import numpy as np
import pytest

import ldmref
from benchmarks.cases import CASES, PEER_TITLES, WORK_TITLES, resized, select_cases
from benchmarks.engines import ENGINES
from benchmarks.formatting import format_result, markdown_table, plot_results, verdict
from benchmarks.measured import (
    format_profile,
    format_quantity,
    plot_profile,
    plot_scaling,
)
from benchmarks.profile import OTHER, group_records, name_layers, trace
from ldmref.errors import UsageError
from ldmref.models.presets import preset


@pytest.mark.parametrize("case", CASES.values(), ids=str)
def test_cases_are_sound(case):
    assert case.work in WORK_TITLES and case.peer in PEER_TITLES
    assert 0 < case.aim <= (case.target or 1) or case.target == case.aim == 2
    assert case.measured in ("time", "memory", "start")
    assert case.size % preset(case.model).size_multiple == 0
    assert 1000 % case.steps == 0  # diffusers' DDIM is right for those only
    if case.dtype == "float32":
        assert case.tolerance <= (0.008 if case.work == "image" else 1e-3)
    assert (case.speed == "fastest") == (case.peer == "compiled" or bool(case.array_dtype))
    if case.array_dtype:  # the speed that computes in bfloat16 on float32 arrays
        assert (case.backend, case.dtype, case.array_dtype) == ("openvino", "bfloat16", "float32")
    if case.peer in ENGINES:
        assert case.work == "unet" or case.is_block
        assert (case.dtype, case.device) == ("float32", "cpu")
        assert case.peer_title == {"onnx": "ONNX Runtime", "openvino": "OpenVINO"}[case.peer]
    else:
        assert case.peer_title.startswith(case.library)


def test_select_by_name_by_prefix_and_by_backend():
    assert [case.name for case in select_cases(["clip"])] == ["clip-numpy", "clip-torch"]
    (case,) = select_cases(["unet-torch-32", "unet-torch-32"])
    assert case.name == "unet-torch-32"
    assert {case.backend for case in select_cases(backend="cupy")} == {"cupy"}
    assert select_cases() == list(CASES.values())
    case = resized(CASES["vae-numpy"], size=256, steps=7)
    assert (case.size, case.steps) == (256, 7)
    quick = [resized(case, quick=True) for case in select_cases(["unet", "memory"])]
    assert {case.model for case in quick} == {"tiny", "sd3-tiny", "flux-tiny"}


@pytest.mark.parametrize("names,backend", [(["unett"], None), (["une"], None), (["vae"], "cupy")])
def test_unknown_names_are_refused(names, backend):
    with pytest.raises(UsageError) as caught:
        select_cases(names, backend=backend)
    assert caught.value.code == "E-ROW" and caught.value.hint


def test_verdicts_and_lines(result_of):
    case = CASES["vae-numpy"]
    result = result_of(case)
    assert verdict(result) == "aim" and "0.50 (0.50 to 1.00, 3 rounds)" in format_result(result)[1]
    assert verdict(result_of(case, (1.8,) * 3, (2.0,) * 3)) == "target"
    assert verdict(result_of(case, (2.1,) * 3, (2.0,) * 3)) == "above"
    assert ", target 1.00, aim 0.80: aim reached" in format_result(result)[1]
    informative = CASES["unet-numpy-32-onnx"]
    assert verdict(result_of(informative)) == "aim"
    slower = result_of(informative, (2.1,) * 3, (2.0,) * 3)
    assert verdict(slower) == "above"
    assert format_result(slower)[1].endswith("rounds), aim 1.00: not reached")
    result["ours"] |= {"gflops": 123.4, "share": 0.42}
    text = "\n".join(format_result(result))
    assert "123.4 GFLOP/s" in text and "42% of the peak" in text and "diffusers eager" in text
    assert format_quantity(0.0005, "s") == "0.5 ms" and format_quantity(3 * 2**20, "B") == "3 MiB"


def test_the_table_has_every_case_measured_or_not(result_of):
    case = CASES["clip-torch"]
    result = result_of(case) | {"time": "2030-01-02T03:04"}
    table = markdown_table(CASES.values(), {case.name: result}).splitlines()
    assert len(table) == 2 + len(CASES)
    (line,) = [line for line in table if "`clip-torch`" in line]
    assert "**0.50** (0.50 to 1.00)" in line and line.endswith("| aim | 2030-01-02 |")
    assert sum("not measured" in line for line in table) == len(CASES) - 1
    assert {line.count("|") for line in table} == {12}
    (line,) = [line for line in table if "`unet-numpy-64-onnx`" in line]
    assert "| ONNX Runtime |  | 1.00 | not measured |" in line


def test_the_table_judges_by_the_goals_of_today(result_of):
    case = CASES["embedded-step-torch"]
    result = result_of(case, (1.1,) * 3, (1.0,) * 3) | {"target": 1.2}  # as it was measured
    line = markdown_table([case], {case.name: result}).splitlines()[-1]
    assert "|  | 1.00 | **1.10**" in line and "| above |" in line


@pytest.mark.parametrize("case", CASES.values(), ids=str)
def test_the_lines_of_a_result_fit_a_terminal(case, result_of):
    result = result_of(case, (1234.5,) * 3, (1234.5,) * 3)
    for side in ("ours", "theirs"):
        result[side] |= {"gflops": 12345.6, "share": 1.23}
    assert max(map(len, format_result(result))) <= 100


def test_cases_without_a_target_are_plotted(tmp_path, result_of):
    pytest.importorskip("matplotlib")
    results = [result_of(CASES["unet-numpy-32-onnx"]), result_of(CASES["vae-numpy"])]
    plot_results(results[:1], tmp_path / "a.png")
    plot_results(results, tmp_path / "b.png")
    assert (tmp_path / "a.png").stat().st_size < (tmp_path / "b.png").stat().st_size


def test_profile_and_scaling_are_plotted(tmp_path):
    pytest.importorskip("matplotlib")
    lines = [{"name": "conv2d", "share": 0.75}, {"name": OTHER, "share": 0.25}]
    profile = {"title": "t", "backend": "numpy", "seconds": 1.0, "kinds": lines}
    points = [
        {"what": "batch", "model": "tiny", "backend": "numpy", "value": n, "seconds": n}
        for n in (1, 2, 4)
    ]
    plot_profile(profile, tmp_path / "a.svg")
    plot_scaling(points, tmp_path / "b.svg")
    assert "conv2d" in (tmp_path / "a.svg").read_text() and (tmp_path / "b.svg").stat().st_size


def test_profile_lines_are_grouped_sorted_and_complete():
    from ldmref.backends.traced import Record

    def op(name, seconds, flops=0):
        return Record(0, name, ((2, 3), (3,)), (2, 3), seconds, flops)

    records = [op("linear", 1.0, 4 * 10**9), op("silu", 3.0), op("linear", 1.0, 2 * 10**9)]
    silu, linear, other = group_records(records, 10.0, lambda r: (r.name, ""))
    assert (silu.name, silu.calls, silu.seconds, silu.share, silu.gflops) == (
        "silu",
        1,
        3.0,
        0.3,
        0,
    )
    assert (linear.calls, linear.seconds, linear.gflops) == (2, 2.0, 3.0)
    assert other.name == OTHER and other.seconds == 5.0 and other.share == 0.5
    profile = {
        "title": "t",
        "backend": "numpy",
        "seconds": 10.0,
        "flops": 6 * 10**9,
        "kinds": [vars(x) for x in (silu, other)],
        "shapes": [vars(silu)] * 3,
        "layers": [vars(linear)] * 2,
    }
    text = format_profile(profile, limit=2)
    assert "30.0%" in "\n".join(text) and sum("... and 1 more" in line for line in text) == 1
    assert text[-3].endswith("  layer") and text[-1].endswith("linear")


def test_operations_without_parameters_belong_to_the_module_around_them():
    model = ldmref.random_model("tiny", backend="numpy")
    traced, records = trace(model, name_layers(model, ["unet", "vae"]))
    traced.unet(np.ones((1, 4, 8, 8)), np.ones(1), np.ones((1, 3, 32)))
    layers = {(record.name, record.layer) for record in records}
    block = "unet.down_blocks.0.attentions.0.transformer_blocks.0"
    assert ("attention", f"{block}.attn1") in layers and ("attention", f"{block}.attn2") in layers
    assert ("silu", "unet.time_embedding") in layers
    assert ("linear", f"{block}.attn1.to_q") in layers
    plain, unnamed = trace(model)
    plain.unet(np.ones((1, 4, 8, 8)), np.ones(1), np.ones((1, 3, 32)))
    assert [f"unet.{r.layer}" for r in unnamed if r.layer] == [r.layer for r in records if r.layer]
