"""Originals of ports: how they are compared, which modules they are, and what makes them."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from ldmref.errors import UsageError
from ldmref.locate import Row, against, original
from ldmref.locate.modules.loading import make_original
from ldmref.trace import build_trace

X = np.ones(2, np.float32)
CALLS = ("net.000", "net.001", "other.000")


def port_of(*calls, dtype=np.float32, **manifest):
    tensors = {f"{c}//{side}": X.astype(dtype) for c in calls for side in ("input", "output")}
    return build_trace(tensors, manifest)


class Judged:
    """An original that yields the rows that it was given, and notes how it was asked."""

    family = "known"
    controlnets = 0

    def __init__(self, rows=None, host=(), again=(), notes=(), gaps=()):
        self.rows = rows or {}
        self.host = [*host]
        self.again = [*again]
        self.notes, self.gaps = notes, gaps
        self.asked = []

    def judge_call(self, port, call, dtype, gaps):
        self.asked.append((str(call), dtype))
        gaps += self.gaps
        return self.again if dtype == "float32" and self.again else self.rows.get(call, [])

    def judge_host(self, port, dtype, notes):
        self.asked.append(("", dtype))
        notes += self.notes
        return self.host


# -- the comparison -------------------------------------------------------------------------------


def test_rows_are_in_the_order_of_calls():
    rows = {"net.001": [Row("net.001", "b"), Row("net.001", "a")], "net.000": [Row("net.000", "")]}
    host = [Row("unheard", ""), Row("net.000", "", "wire"), Row("other.000", "")]
    made = Judged(rows, host, notes=["n", "m", "n"], gaps=["g"])
    seen = []
    report = original.compare(port_of(*CALLS), made, progress=lambda *x: seen.append(x))
    found = [(row.call, row.layer, row.kind) for row in report.rows]
    assert found == [
        ("net.000", "", "own"),
        ("net.000", "", "wire"),
        ("net.001", "b", "own"),
        ("net.001", "a", "own"),
        ("other.000", "", "own"),
        ("unheard", "", "own"),
    ]
    assert report.dtype == "float32" and report.notes == ("n", "m") and report.gaps[-1:] == ("g",)
    assert len(set(report.gaps)) == len(report.gaps)
    assert made.asked == [(call, "float32") for call in (*CALLS, "")]
    assert seen == [(i, 3, call) for i, call in enumerate((*CALLS, ""))]
    assert 0.0 <= report.seconds < 60.0


def test_rows_of_a_port_in_float64_are_judged_again_in_float32():
    wrong = Row("net.000", "a", verdict="differs")
    wire = Row("net.000", "", "wire", verdict="differs")
    made = Judged({"net.000": [wrong]}, [wire], [Row("net.000", "a")], gaps=["g"], notes=["n"])
    report = original.compare(port_of("net.000", dtype=np.float64), made)
    assert [row.verdict for row in report.rows] == ["noisy", "differs"]
    assert made.asked == [
        ("net.000", "float64"),
        ("net.000", "float32"),
        ("", "float64"),
        ("", "float32"),
    ]
    assert report.dtype == "float64"
    again = original.compare(port_of("net.000", dtype=np.float64), made, dtype="float32")
    assert again.dtype == "float32" and [row.verdict for row in again.rows] == ["equal", "differs"]


def test_every_row_may_be_a_reasonable_change(monkeypatch):
    monkeypatch.setattr(
        original, "mark_reasonable", lambda row, family: Row(row.call, row.layer, note=family)
    )
    made = Judged({"net.000": [Row("net.000", "a")]}, [Row("net.000", "b")])
    report = original.compare(port_of("net.000"), made)
    assert [(row.layer, row.note) for row in report.rows] == [("a", "known"), ("b", "known")]


def test_a_reference_may_stand_for_an_original():
    port, reference = port_of("net.000"), port_of("net.000")
    (row,) = original.compare(port, None, reference).rows
    assert (row.verdict, row.inherited) == ("not judged", 0.0)
    far = build_trace({name: np.asarray(x) * 2.0 for name, x in reference.tensors.items()})
    report = original.compare(port, Judged({"net.000": [Row("net.000", "")]}), far)
    assert report.rows[0].inherited == 0.5 and len(report.notes) == 1
    with pytest.raises(UsageError, match="neither") as caught:
        original.compare(port, None)
    assert caught.value.code == "E-TRACE"
    with pytest.raises(UsageError, match="no tensor") as caught:
        original.compare(build_trace({}), Judged())
    assert caught.value.code == "E-TRACE"


def test_identical_dumps_are_found_among_the_rows():
    tensors = {f"net.000/{name}/output": np.arange(3, dtype=np.float32) for name in "ab"}
    rows = {"net.000": [Row("net.000", "a", verdict="differs")]}
    report = original.compare(build_trace(tensors), Judged(rows))
    assert report.rows[0].cause.endswith(" b")


def test_controlnets_of_an_original_and_of_none(monkeypatch):
    seen = []
    monkeypatch.setattr(original, "find_gaps", lambda port, number: seen.append(number) or ["g"])
    made = Judged()
    made.controlnets = 3
    assert original.compare(port_of("net.000"), made).gaps == ("g",)
    original.compare(port_of("net.000"), None, port_of("net.000"))
    assert seen == [3, 0]


# -- the modules of an original -------------------------------------------------------------------


def test_networks_of_an_original():
    torch = pytest.importorskip("torch")
    one, two = torch.nn.Linear(2, 2), torch.nn.Tanh()
    assert against.find_networks(one) == {"": one}
    parts = {
        "transformer": one,
        "vae": two,
        "scheduler": 3,
        "safety_checker": one,
        "image_encoder": one,
        5: two,
    }
    expected = {"transformer": one, "vae": two, "5": two}
    assert against.find_networks(parts) == expected
    assert against.find_networks(SimpleNamespace(components=parts)) == expected
    for other in (
        3,
        [one],
        SimpleNamespace(components=[one]),
        {"a": 3},
        {},
        {"safety_checker": one},
    ):
        with pytest.raises(UsageError) as caught:
            against.find_networks(other)
        assert caught.value.code == "E-AGAINST"


def test_compiled_modules_are_refused_by_name(monkeypatch):
    torch = pytest.importorskip("torch")
    from ldmref.trace import torch_hooks

    seen = []
    monkeypatch.setattr(torch_hooks, "refuse_compiled", lambda *given, copied: seen.append(given))
    module = torch.nn.Tanh()
    against.find_networks(module)
    against.find_networks({"vae": module, "other": 3})
    assert seen[1:] == [("vae", module)] and seen[0][1] is module and "original" in seen[0][0]


def test_only_pipelines_that_can_be_called_are_run(monkeypatch):
    torch = pytest.importorskip("torch")

    class Components:
        def __init__(self):
            self.components = {"net": torch.nn.Linear(2, 2)}

    class Pipe(Components):
        def __call__(self):
            raise AssertionError

    made = []

    def compare(port, found, reference, dtype, progress):
        made.append((port, found.networks, found.pipe, reference, dtype, progress))

    monkeypatch.setattr(against, "compare", compare)
    port, pipe = port_of("net.000", "net.001"), Pipe()
    against.diff_modules(port, pipe, 1, dtype="float16", progress=2)
    assert made[-1] == (port, pipe.components, pipe, 1, "float16", 2)
    against.diff_modules(port, Components())
    assert made[-1][2:] == (None, None, None, None)
    module = torch.nn.Linear(2, 2)
    module.components = {}
    against.diff_modules(port, module)
    assert made[-1][1] == {"": module} and made[-1][2] is module
    against.diff_modules(port_of(*CALLS), {"net": module})
    with pytest.raises(UsageError, match="net, other"):
        against.diff_modules(port_of(*CALLS), module)


def test_a_reference_is_recorded_as_asked_for(monkeypatch):
    torch = pytest.importorskip("torch")
    from ldmref.locate.modules import exact_run

    seen = []
    monkeypatch.setattr(exact_run, "record_in_format", lambda *given: seen.append(given) or "t")
    module = torch.nn.Linear(2, 2)
    assert against.record_reference(module, {"a": 1}, "float16") == "t"
    against.record_reference(module, {}, "float32", "folder", call="net", selection="some")
    assert seen == [
        (module, {"a": 1}, "float16", None, "transformer", None),
        (module, {}, "float32", "folder", "net", "some"),
    ]
    with pytest.raises(UsageError):
        against.record_reference(3, {}, "float32")


# -- what makes an original -----------------------------------------------------------------------

SOURCE = """
from ldmref.errors import UsageError

value = 3

def make():
    return [1]

def fail():
    raise ZeroDivisionError("no number")

def refuse():
    raise UsageError("refused", code="E-OTHER")
"""


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [x for x in sys.path if x != str(tmp_path)])
    (tmp_path / "made_here").mkdir()
    (tmp_path / "made_here" / "inside.py").write_text(SOURCE)
    (tmp_path / "breaks.py").write_text("raise ValueError('broken')")
    yield tmp_path
    for name in ("made_here", "made_here.inside", "breaks"):
        sys.modules.pop(name, None)


def test_a_function_of_the_current_folder_makes_an_original(source):
    assert make_original("made_here.inside:make") == [1]
    assert sys.path[0] == str(source)
    before = [*sys.path]
    assert make_original("made_here.inside:make") == [1] and sys.path == before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("made_here.inside", "names no function"),
        ("made_here.inside:", "names no function"),
        (":make", "names no function"),
        ("made_here..inside:make", "names no function"),
        ("made_here.inside:a.b", "names no function"),
        ("made-here:make", "names no function"),
        ("made_here.nowhere:make", "ModuleNotFoundError"),
        ("breaks:make", "ValueError: broken"),
        ("made_here.inside:value", "has no function 'value'"),
        ("made_here.inside:other", "has no function 'other'"),
        ("made_here.inside:fail", "raised ZeroDivisionError: no number"),
    ],
)
def test_what_makes_no_original_is_refused(source, name, said):
    with pytest.raises(UsageError, match=said) as caught:
        make_original(name)
    assert caught.value.code == "E-AGAINST"


def test_errors_of_ldmref_are_those_of_the_function(source):
    with pytest.raises(UsageError, match="refused") as caught:
        make_original("made_here.inside:refuse")
    assert caught.value.code == "E-OTHER"
