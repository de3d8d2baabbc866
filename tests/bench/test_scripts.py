"""The scripts of benchmarks/: charts and table of docs/performance.md, and OpenBLAS overrides."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from benchmarks import charts, cpu, make_page
from benchmarks.cases import CASES
from benchmarks.machine import OPENBLAS_OVERRIDES
from ldmref.support.version import __version__

ROOT = Path(__file__).parents[2]


@pytest.fixture
def write_report(tmp_path, result_of):
    """A function that writes the report of one case as benchmarks/results/zilog/`name`.json."""

    def write(
        name, case, *, time="2030-01-01", ours=1.0, quick=False, environment=None, of=__version__
    ):
        versions = {"numpy": "9.9", "ldmref": of}
        machine = {"cpu": "Z80", "threads": {"numpy": 1, "torch": 2}, "versions": versions}
        machine |= {"environment": environment} if environment else {}
        rows = [result_of(case, (ours,) * 3, (2.0,) * 3)]
        report = {"schema": 1, "time": time, "machine": machine, "quick": quick, "rows": rows}
        (tmp_path / "zilog").mkdir(exist_ok=True)
        (tmp_path / "zilog" / f"{name}.json").write_text(json.dumps(report))

    return write


def test_the_page_shows_the_stored_results():
    page = (ROOT / "docs" / "performance.md").read_text()
    assert make_page.fill(page, make_page.read_results(make_page.RESULTS)) == page


def test_the_charts_show_the_stored_results():
    machines = make_page.read_results(make_page.RESULTS)
    assert machines.keys() == charts.LOOKS.keys()
    drawn = make_page.make_charts(machines)
    for chart in drawn:
        file = ROOT / "docs" / "images" / f"{chart.name}.svg"
        assert file.read_text("utf-8") == make_page.draw_chart(chart, machines), chart.name
    shown = [case.name for chart in drawn for case in chart.cases]
    assert sorted(shown) == sorted({name for results in machines.values() for name in results})


def test_every_ratio_fits_its_chart():
    for results in make_page.read_results(make_page.RESULTS).values():
        for name, result in results.items():
            ends = [result["ratio"][key] for key in ("min", "median", "max")]
            assert charts.LEAST < min(ends) <= max(ends) < charts.MOST, name


def test_a_dot_is_where_its_ratio_is(write_report, tmp_path):
    case = CASES["vae-numpy"]
    write_report("a", case, ours=1.0)
    machines = make_page.read_results(tmp_path)
    (chart,) = [chart for chart in make_page.make_charts(machines) if chart.cases]
    drawn = make_page.draw_chart(chart, machines)
    assert (
        f'cx="{charts.place(0.5):.1f}"' in drawn and ">vae-numpy<" in drawn and ">zilog<" in drawn
    )
    assert charts.place(1.0) - charts.place(0.5) == pytest.approx(
        charts.place(2.0) - charts.place(1.0)
    )


def test_the_table_takes_the_newest_and_no_quick_runs(write_report, tmp_path):
    case = CASES["vae-numpy"]
    write_report("a", case, time="2030-01-02", ours=1.0)
    write_report("b", case, time="2030-01-01", ours=2.0)
    write_report("c", case, time="2031", ours=9.0, quick=True)
    write_report("d", case, time="2032", ours=9.0, of="0.0.9")  # an earlier release
    page = f"before\n{make_page.BEGIN}\nold\n{make_page.END}\nafter\n"
    got = make_page.fill(page, make_page.read_results(tmp_path), "zilog")
    assert got.startswith("before\n") and got.endswith("after\n") and "old" not in got
    assert "**0.50** (0.50 to 0.50)" in got and "4.50" not in got and "Z80" in got
    assert "numbers of `zilog`" in got and "`clip-torch`" in got.split("Not measured anywhere:")[1]
    with pytest.raises(SystemExit, match="marks"):
        make_page.fill("no marks", {})


def test_the_table_names_the_rows_measured_under_an_openblas_override(write_report, tmp_path):
    write_report("a", CASES["vae-numpy"], environment={"OMP_NUM_THREADS": "2"})
    write_report("b", CASES["clip-numpy"], environment={"OPENBLAS_CORETYPE": "Haswell"})
    write_report("c", CASES["clip-torch"], environment={"OPENBLAS_CORETYPE": "Haswell"})
    page = f"{make_page.BEGIN}{make_page.END}"
    got = make_page.fill(page, make_page.read_results(tmp_path), "zilog")
    (line,) = [line for line in got.splitlines() if "overrides OpenBLAS" in line]
    assert line.startswith("**Measured with OPENBLAS_CORETYPE=Haswell**")
    assert "`clip-numpy`, `clip-torch`." in line and "`vae-numpy`" not in line


@pytest.mark.parametrize("variable", OPENBLAS_OVERRIDES)
def test_cpu_refuses_an_openblas_override(variable, monkeypatch, tmp_path):
    commands = []
    monkeypatch.setattr(cpu, "RESULTS", tmp_path)
    monkeypatch.setattr(subprocess, "run", lambda command, **_: commands.append(command))
    for name in OPENBLAS_OVERRIDES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "12345")
    with pytest.raises(SystemExit, match=f"unset {variable}=12345$") as caught:
        cpu.measure("cpu", ["zilog"])
    assert "\n" not in str(caught.value) and not commands and not list(tmp_path.iterdir())
    monkeypatch.delenv(variable)
    cpu.measure("cpu", ["zilog", "--quick"])
    assert len(commands) == sum(case.device == "cpu" for case in CASES.values())
    assert all("--quick" in command for command in commands)
