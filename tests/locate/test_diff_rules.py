"""The calls of a port one by one: which model judges them, and what was not judged."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ldmref.locate import Row, diff
from ldmref.locate.diff import ModelOriginal, judge_call
from ldmref.locate.unnamed import SortedLayers
from ldmref.trace import build_trace
from ldmref.trace.calls import TraceCall

CALL = "unet.000"


def port_of(*layers, inputs=False, attributes=None, call=CALL):
    """Return a trace of layers; "" is the whole call, whose attributes may be given."""
    tensors = {f"{call}/{name}/output": np.zeros(1) for name in layers}
    if inputs:
        tensors[f"{call}//input"] = np.zeros(1)
    whole = {
        "call": call,
        "layer": "",
        "inputs": {"input": f"{call}//input"},
        "outputs": {"output": f"{call}//output"},
        "attributes": attributes or {},
    }
    return build_trace(tensors, {"entries": [whole]} if attributes else {})


# -- one call -------------------------------------------------------------------------------------


@pytest.fixture
def replayed(monkeypatch):
    """Let the replay visit given layers, and say given rows and a given problem.

    Of the layers that it does not visit, none is read of those in `unread`.
    """
    given = SimpleNamespace(rows=[], visited=set(), problem="", asked=[], unread=set())

    def replay(*values):
        given.asked.append(values)
        judge = SimpleNamespace(rows=given.rows)
        network = SimpleNamespace(network="network")
        return diff.ReplayedCall(judge, given.visited, "reads", network, given.problem)

    def sort(port, call, network, reads, visited, dtype):
        assert (network, reads, dtype) == ("network", "reads", "float32")
        left = {e.layer for e in port.of_call(call)} - {"", *visited}
        return SortedLayers(sorted(left & given.unread), sorted(left - given.unread))

    monkeypatch.setattr(diff, "_replay", replay)
    monkeypatch.setattr(diff, "sort_unvisited", sort)
    return given


def judged(port, call=CALL, **more):
    gaps = []
    rows = judge_call(port, "model", TraceCall(call), "float32", gaps, **more)
    return rows, gaps


def test_layers_that_the_replay_visits_leave_no_gap(replayed):
    replayed.rows = [Row(CALL, "a")]
    replayed.visited = {"a", "b"}
    port = port_of("a", "b", "")
    assert judged(port, controlnets=("net",), padding="finder") == (replayed.rows, [])
    assert replayed.asked.pop() == (port, "model", CALL, "float32", ("net",), "finder")
    judged(port)
    *_, nets, finder = replayed.asked.pop()
    assert nets == () and isinstance(finder, diff.PaddingFinder)
    replayed.rows = []
    assert judged(port_of("")) == ([], [])


def test_layers_that_were_not_visited_are_a_gap(replayed):
    replayed.visited = {"a"}
    rows, (gap,) = judged(port_of("a", "", *"hgfedcb"))
    assert rows == [] and gap.startswith("7 layers ")
    assert diff.NOT_DEFINED in gap and gap.endswith("unet: b, c, d, e, f and 2 more")
    replayed.problem = "p"
    rows, (gap,) = judged(port_of("a", "b"))
    assert rows == [] and gap.endswith("not judged: b") and diff.NOT_DEFINED not in gap


@pytest.mark.parametrize(
    ("problem", "layers", "unread", "said"),
    [
        ("", ("a",), (), diff.NO_LAYER),
        ("p", ("a",), (), "cannot be replayed: p"),
        ("p", ("a",), ("a",), "cannot be replayed: p"),
        ("", ("a",), ("a",), diff.ALONE),
        ("", ("a", "b"), ("a", "b"), diff.ALONE),
        ("", ("a", "b"), ("b",), diff.NO_LAYER),
    ],
)
def test_calls_of_which_no_layer_was_judged(replayed, problem, layers, unread, said):
    replayed.problem = problem
    replayed.visited = {"other"}
    replayed.unread = {*unread}
    rows, _ = judged(port_of(*layers))
    assert rows == [Row(CALL, "", verdict="not judged", note=said)]


def test_parts_of_which_nothing_is_read_are_remarks(replayed):
    replayed.visited = {"a"}
    replayed.unread = {"b", "c"}
    remarks = diff.LayerRemarks()
    assert judged(port_of("a", "b", "c", ""), remarks=remarks)[1] == []
    assert [*remarks.describe()] == ["nothing reads b, c of unet"]
    _, (gap,) = judged(port_of("a", "b", "d"))
    assert gap.endswith("unet: d")
    replayed.problem = "p"
    _, (gap,) = judged(port_of("a", "b"), remarks=remarks)
    assert gap.endswith("not judged: b")


@pytest.mark.parametrize(
    ("rows", "gaps"),
    [
        ([Row(CALL, "")], 0),
        ([Row(CALL, "", verdict="differs")], 0),
        ([Row(CALL, "a")], 1),
        ([Row(CALL, "", verdict="not judged")], 1),
        ([], 1),
    ],
)
def test_layers_in_another_form_are_compared_by_the_output_of_their_call(replayed, rows, gaps):
    replayed.rows = rows
    replayed.visited = {"a"}
    remarks = diff.LayerRemarks()
    port = port_of("", "a", attributes={"unlike_ours": ["b", "c"]})
    assert len(judged(port, remarks=remarks)[1]) == gaps
    said = [*remarks.describe()]
    assert len(said) == 1 - gaps and all("2 layers of unet" in text for text in said)


def test_attention_of_the_ports_own_is_not_judged(replayed):
    replayed.rows = [Row(CALL, x) for x in ("a", "m", "m.to_q", "mm")]
    replayed.visited = {"a", "m", "m.to_q", "mm"}
    port = port_of("", "a", "m", "m.to_q", "m.x", "mm", attributes={"own_attention": {"m": "K"}})
    rows, gaps = judged(port)
    assert [(row.layer, row.verdict) for row in rows] == [
        ("a", "equal"),
        ("mm", "equal"),
        ("m", "not judged"),
    ]
    assert "of K," in rows[-1].note and gaps == []
    for found in (["m"], None, {}):
        port = port_of("", "a", "m", attributes={"own_attention": found, "x": 1})
        assert judged(port)[0] == replayed.rows


# -- replays --------------------------------------------------------------------------------------


class Networks:
    """Stands for the networks of calls: which fit, and what their replays say and visit."""

    def __init__(self, monkeypatch):
        self.opened = []
        self.replays = []
        self.fits = [("network", ""), ("network", "")]
        self.problems = ["", ""]
        monkeypatch.setattr(diff, "try_network", self.open)
        monkeypatch.setattr(diff, "replay_network", self.replay)
        monkeypatch.setattr(diff, "find_wrong_axes", lambda *values: "")
        monkeypatch.setattr(diff, "passes_tokens", lambda *values: False)

    def open(self, *values):
        self.opened.append(values)
        return self.fits[len(self.opened) - 1]

    def replay(
        self, network, port, call, dtype, judge, visited, rows, reads, foreign, unmasked, **more
    ):
        assert not foreign and not unmasked
        if more:  # a run that looks for layers without a name
            return ""
        self.reads = reads
        self.replays.append((network, port, call, dtype, rows))
        visited.add(f"l{len(self.replays)}")
        self.judge = judge
        return self.problems[len(self.replays) - 1]


@pytest.fixture
def networks(monkeypatch):
    return Networks(monkeypatch)


FINDER = SimpleNamespace(find=lambda model, network: (model, network))


def replay(port, call=CALL):
    return diff._replay(port, "model", TraceCall(call), "float16", ("net",), FINDER)


def test_a_network_that_fits_is_replayed_once(networks):
    port = port_of("l1", "x")
    found = replay(port)
    judge = found.judge
    assert networks.opened == [("model", port, CALL, ("net",), False)]
    assert networks.replays == [("network", port, CALL, "float16", ("model", "network"))]
    assert judge is networks.judge and (judge.call, judge.dtype) == (CALL, "float16")
    assert found.visited == {"l1"} and found.problem == "" and judge.rows == []
    assert found.network == "network" and found.reads is networks.reads


@pytest.mark.parametrize("inputs", [True, False])
def test_layers_that_are_left_are_judged_by_themselves(networks, inputs):
    """The second replay reads what the first one did not visit, without the whole call."""
    networks.problems = ["first", "second"]
    port = build_trace(
        port_of("", "l1", "x", inputs=inputs).tensors | port_of("l1", "", call="unet.001").tensors
    )
    found = replay(port)
    assert [values[-1] for values in networks.opened] == [False, True]
    rest = networks.opened[1][1]
    assert rest is networks.replays[1][1] and rest.tensors is port.tensors
    assert {(e.call, e.layer) for e in rest.entries} == {
        (CALL, "x"),
        ("unet.001", "l1"),
        ("unet.001", ""),
    }
    assert found.visited == {"l1", "l2"} and found.problem == "second"
    assert len(found.judge.rows) == inputs
    if inputs:
        (row,) = found.judge.rows
        assert (row.layer, row.error, row.verdict) == ("", float("inf"), "differs")
        assert row.note.endswith(": first")


def test_a_network_that_does_not_fit_is_assumed(networks):
    networks.fits[0] = (None, "unfit")
    found = replay(port_of("x", ""))
    assert len(networks.opened) == 2 and len(networks.replays) == 1
    assert found.problem == "" and found.visited == {"l1"} and found.judge.rows == []
    networks.opened.clear()
    networks.replays.clear()
    networks.fits[1] = (None, "again")
    found = replay(port_of("x"))
    assert (found.visited, found.problem) == (set(), "again") and networks.replays == []
    assert found.network is None


# -- models ---------------------------------------------------------------------------------------


@pytest.fixture
def judges(monkeypatch):
    asked = []

    def judge(*values):
        asked.append(values)
        return ["rows"]

    monkeypatch.setattr(diff, "judge_call", judge)
    monkeypatch.setattr(diff, "judge_host", lambda *values: values)
    return asked


def test_calls_are_judged_by_the_model_that_ran_them(judges):
    original = ModelOriginal("model", ["net"], "guide")
    gaps = []
    for call, model in (
        ("unet.000", "model"),
        ("guide.unet.000", "guide"),
        ("controlnet.000", "model"),
    ):
        assert original.judge_call("port", TraceCall(call), "float16", gaps) == ["rows"]
        assert judges.pop() == (
            "port", model, call, "float16", gaps, ["net"], original.padding, original.remarks,
            original.terms,
        )  # fmt: skip
    assert original.controlnets == 1 and ModelOriginal("model").controlnets == 0
    assert original.judge_host("port", "float16", gaps) == (
        "port", "model", "float16", gaps, ["net"], "guide",
    )  # fmt: skip
    assert gaps == []


@pytest.mark.parametrize(
    ("call", "word"),
    [
        ("controlnet.000", "ControlNet"),
        ("controlnet_2.000", "ControlNet"),
        ("guide.unet.000", "weaker"),
    ],
)
def test_networks_that_were_not_given_are_not_judged(judges, call, word):
    (row,) = ModelOriginal("model").judge_call("port", TraceCall(call), "float32", [])
    assert (row.call, row.layer, row.verdict) == (call, "", "not judged") and word in row.note
    assert judges == []


def test_calls_that_are_none_are_a_gap(judges):
    original = ModelOriginal("model")
    gaps = []
    assert original.judge_call("port", TraceCall("sampler.000"), "float32", gaps) == []
    assert gaps == []
    assert original.judge_call("port", TraceCall("other.000"), "float32", gaps) == []
    assert len(gaps) == 1 and "other.000" in gaps[0] and judges == []


def test_what_is_compared_with_what(monkeypatch):
    asked = []

    def compare(*values):
        asked.append(values)
        return "report"

    monkeypatch.setattr(diff, "compare", compare)
    monkeypatch.setattr(diff, "name_numbered", lambda port, networks: (port, networks))
    monkeypatch.setattr(diff, "name_as_makers", lambda port, model: port)
    monkeypatch.setattr(diff, "networks_of_run", lambda config: f"networks of {config}")
    monkeypatch.setattr(diff, "without_own_arguments", lambda port: f"{port} of the calls")
    model = SimpleNamespace(config="c")
    more = {"controlnets": ["net"], "guide": "guide", "dtype": "float16", "progress": max}
    assert diff.diff_traces("port", model, "reference", **more) == "report"
    port, original, reference, dtype, progress = asked.pop()
    assert port == ("port of the calls", "networks of c") and reference == "reference"
    assert (dtype, progress) == ("float16", max)
    assert (original.model, original.nets, original.guide) == (model, ["net"], "guide")
    diff.diff_traces("port", None, "reference", controlnets=["net"])
    assert asked.pop() == ("port of the calls", None, "reference", None, None)
    diff.diff_traces("port", model)
    _, original, *rest = asked.pop()
    assert rest == [None, None, None] and (original.nets, original.guide) == ((), None)
