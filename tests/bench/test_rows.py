"""Which rows there are, how they are chosen, and how records become lines and the page's table."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path

import pytest

from ldmref.bench.measure import Pairs
from ldmref.bench.profile import OTHER, lines, placed
from ldmref.bench.report import amount, markdown, profile_text, text, verdict
from ldmref.bench.rows import PEERS, ROWS, WORKS, select
from ldmref.errors import UsageError
from ldmref.models.presets import PRESETS

ROOT = Path(__file__).parents[2]


def record(row, ours=(1.0, 1.0, 2.0), theirs=(2.0, 2.0, 2.0)):
    facts = {"title": row.title, "peer_title": row.peer_title, "rounds": 3, "unit": "s"}
    return dataclasses.asdict(row) | facts | {"error": 1e-5} | Pairs(ours, theirs).to_dict()


@pytest.mark.parametrize("row", ROWS.values(), ids=str)
def test_rows_are_sound(row):
    assert row.work in WORKS and row.peer in PEERS and row.model in PRESETS
    assert 0 < row.aim <= (row.target or 1) or row.target == row.aim == 2
    assert row.measured in ("time", "memory", "start")
    assert row.size % PRESETS[row.model].size_multiple == 0
    assert 1000 % row.steps == 0  # diffusers' DDIM is right for those only
    if row.dtype == "float32":
        assert row.tolerance <= (0.008 if row.work == "picture" else 1e-3)
    assert (row.speed == "fastest") == (row.peer == "compiled")
    if row.peer == "onnx":
        assert (row.work, row.dtype, row.device, row.target) == ("unet", "float32", "cpu", None)
        assert row.peer_title == "ONNX Runtime"
    else:
        assert row.peer_title.startswith(row.library)


def test_select_by_name_by_beginning_and_by_backend():
    assert [row.name for row in select(["clip"])] == ["clip-numpy", "clip-torch"]
    assert [row.name for row in select(["unet-torch-32", "unet-torch-32"])] == ["unet-torch-32"]
    assert {row.backend for row in select(backend="cupy")} == {"cupy"}
    assert select() == list(ROWS.values())
    (row,) = select(["vae-numpy"], size=256, steps=7)
    assert (row.size, row.steps) == (256, 7)
    assert {row.model for row in select(["unet", "memory"], quick=True)} == {"tiny"}


@pytest.mark.parametrize("names,backend", [(["unett"], None), (["une"], None), (["vae"], "cupy")])
def test_unknown_rows_are_refused(names, backend):
    with pytest.raises(UsageError) as caught:
        select(names, backend=backend)
    assert caught.value.code == "E-ROW" and caught.value.hint


def test_verdicts_and_lines():
    row = ROWS["vae-numpy"]
    found = record(row)
    assert verdict(found) == "aim" and "0.50 (0.50 to 1.00, 3 rounds)" in text(found)[1]
    assert verdict(record(row, (1.8,) * 3, (2.0,) * 3)) == "target"
    assert verdict(record(row, (2.1,) * 3, (2.0,) * 3)) == "above"
    assert ", target 1.00, aim 0.80: aim reached" in text(found)[1]
    informative = ROWS["unet-numpy-32-onnx"]
    assert verdict(record(informative)) == "aim"
    slower = record(informative, (2.1,) * 3, (2.0,) * 3)
    assert verdict(slower) == "above" and text(slower)[1].endswith("rounds), aim 1.00: not reached")
    found["ours"] |= {"gflops": 123.4, "share": 0.42}
    said = "\n".join(text(found))
    assert "123.4 GFLOP/s" in said and "42% of the peak" in said and "diffusers eager" in said
    assert amount(0.0005, "s") == "0.5 ms" and amount(3 * 2**20, "B") == "3 MiB"


def test_the_table_has_every_row_measured_or_not():
    row = ROWS["clip-torch"]
    table = markdown(ROWS.values(), {row.name: record(row)}).splitlines()
    assert len(table) == 2 + len(ROWS)
    (line,) = [line for line in table if "`clip-torch`" in line]
    assert "**0.50** (0.50 to 1.00)" in line and line.rstrip(" |").endswith("aim")
    assert sum("not measured" in line for line in table) == len(ROWS) - 1
    assert {line.count("|") for line in table} == {11}
    (line,) = [line for line in table if "`unet-numpy-64-onnx`" in line]
    assert "| ONNX Runtime |  | 1.00 | not measured |" in line


@pytest.mark.parametrize("row", ROWS.values(), ids=str)
def test_a_rows_lines_fit_a_terminal(row):
    found = record(row, (1234.5,) * 3, (1234.5,) * 3)
    for side in ("ours", "theirs"):
        found[side] |= {"gflops": 12345.6, "share": 1.23}
    assert max(map(len, text(found))) <= 100


def test_rows_without_a_target_are_plotted(tmp_path):
    pytest.importorskip("matplotlib")
    from ldmref.bench.plot import plot_rows

    plot_rows([record(ROWS["unet-numpy-32-onnx"])], tmp_path / "a.png")
    plot_rows([record(ROWS["unet-numpy-32-onnx"]), record(ROWS["vae-numpy"])], tmp_path / "b.png")
    assert (tmp_path / "a.png").stat().st_size < (tmp_path / "b.png").stat().st_size


def script():
    path = ROOT / "benchmarks" / "make_table.py"
    spec = importlib.util.spec_from_file_location("make_table", path)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_the_page_shows_the_results_that_are_kept():
    made = script()
    page = (ROOT / "docs" / "performance.md").read_text()
    assert made.filled(page, made.read(made.RESULTS)) == page


def test_the_table_takes_the_newest_and_no_trials(tmp_path):
    made, row = script(), ROWS["vae-numpy"]
    machine = {"cpu": "Z80", "threads": {"numpy": 1, "torch": 2}, "versions": {"numpy": "9.9"}}
    for name, when, ours, quick in (
        ("a", "2030-01-02", 1.0, False), ("b", "2030-01-01", 2.0, False), ("c", "2031", 9.0, True)
    ):  # fmt: skip
        rows = [record(row, (ours,) * 3, (2.0,) * 3)]
        whole = {"schema": 1, "time": when, "machine": machine, "quick": quick, "rows": rows}
        (tmp_path / "zilog").mkdir(exist_ok=True)
        (tmp_path / "zilog" / f"{name}.json").write_text(json.dumps(whole))
    page = f"before\n{made.BEGIN}\nold\n{made.END}\nafter\n"
    got = made.filled(page, made.read(tmp_path))
    assert got.startswith("before\n") and got.endswith("after\n") and "old" not in got
    assert "**0.50** (0.50 to 0.50)" in got and "4.50" not in got and "Z80" in got
    assert "### zilog" in got and "`clip-torch`" in got.split("Not measured anywhere:")[1]
    with pytest.raises(SystemExit, match="marks"):
        made.filled("no marks", {})


def test_profile_lines_are_grouped_sorted_and_complete():
    from ldmref.backends.traced import Record

    def op(name, taken, flops=0):
        return Record(0, name, ((2, 3), (3,)), (2, 3), taken, flops)

    records = [op("linear", 1.0, 4 * 10**9), op("silu", 3.0), op("linear", 1.0, 2 * 10**9)]
    silu, linear, other = lines(records, 10.0, lambda r: (r.name, ""))
    assert (silu.name, silu.calls, silu.seconds, silu.share, silu.gflops) == (
        "silu",
        1,
        3.0,
        0.3,
        0,
    )
    assert (linear.calls, linear.seconds, linear.gflops) == (2, 2.0, 3.0)
    assert other.name == OTHER and other.seconds == 5.0 and other.share == 0.5
    found = {"title": "t", "backend": "numpy", "seconds": 10.0, "flops": 6 * 10**9,
             "kinds": [vars(x) for x in (silu, other)], "shapes": [vars(silu)] * 3,
             "layers": [vars(linear)] * 2}  # fmt: skip
    said = profile_text(found, most=2)
    assert "30.0%" in "\n".join(said) and sum("... and 1 more" in line for line in said) == 1
    assert said[-3].endswith("  layer") and said[-1].endswith("linear")


def test_what_has_no_parameters_belongs_to_the_module_around_it():
    from ldmref.backends.traced import Record

    given = [
        "",
        "mid.attn1.to_v",
        "",
        "",
        "mid.attn1.to_out.0",
        "",
        "mid.attn10.to_q",
        "",
        "out.attn10.to_q",
        "",
    ]
    records = [Record(i, "op", (), (), 0.0, 0, layer=name) for i, name in enumerate(given)]
    found = placed(records)
    assert [r.index for r in found] == list(range(len(given)))
    assert [r.layer for r in found] == [
        "", "mid.attn1.to_v", "mid.attn1", "mid.attn1", "mid.attn1.to_out.0", "mid",
        "mid.attn10.to_q", "", "out.attn10.to_q", "",
    ]  # fmt: skip
    assert placed([]) == []
