"""Modules of PyTorch as the original of a port: calls, arguments, layers alone, what is left."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from module_runs import CALL, Net, Noted, X, made, recorded, replayed, wide  # noqa: E402

from ldmref.errors import UsageError  # noqa: E402
from ldmref.locate.modules import original  # noqa: E402
from ldmref.locate.modules.original import ModuleOriginal, WholeCall  # noqa: E402
from ldmref.locate.modules.repeated import NetworkCopies  # noqa: E402
from ldmref.locate.run.calls import ArrayName  # noqa: E402
from ldmref.trace import build_trace  # noqa: E402
from ldmref.trace.torch_arguments import UnknownArgument  # noqa: E402


def call_of(trace, number=0):
    return trace.calls[number]


def judged(network, trace, dtype="float32", name="net"):
    """Return the rows of the first call, the gaps, and the original."""
    given = network if isinstance(network, dict) else {name: network}
    made_ = ModuleOriginal(given)
    gaps: list[str] = []
    return made_.judge_call(trace, call_of(trace), dtype, gaps), gaps, made_


# -- calls ----------------------------------------------------------------------------------------


def test_a_right_call_has_rows_that_are_equal():
    network = made(Net)
    rows, gaps, made_ = judged(network, recorded(network, x=X))
    assert {row.verdict for row in rows} == {"equal"} and not gaps and not made_.alone
    assert {row.layer for row in rows} == {"", "first", "first.inner", "second", "second.inner"}
    assert made_.family == "" and made_.controlnets == 0
    rows, _, _ = judged(network, recorded(network, x=X), name="")
    assert {row.verdict for row in rows} == {"equal"}


def test_calls_without_a_module_are_not_judged():
    trace = build_trace({f"{CALL}//input": X.numpy(), "sampler.000//output": X.numpy()})
    made_ = ModuleOriginal({"other": made(Net)})
    net, sampler = trace.calls
    (row,) = made_.judge_call(trace, net, "float32", [])
    assert (row.call, row.layer, row.verdict) == (CALL, "", "not judged") and "given" in row.note
    assert made_.judge_call(trace, sampler, "float32", []) == []
    (row,) = made_.judge_host(trace, "float32", [])
    assert (row.call, row.layer, row.kind) == ("sampler.000", "", "recorded")
    assert (row.verdict, row.note) == ("not judged", original.HOST)


@pytest.mark.parametrize(("names", "listed"), [("ab", "a, b"), ("gfedcba", "a, b, c")])
def test_layers_that_the_module_does_not_run_are_gaps(names, listed):
    network = made(Net)
    trace = recorded(network, "", "first", x=X)
    more = {f"{CALL}/{name}/output": X.numpy() for name in names}
    entries = [vars(entry) for entry in trace.entries]
    both = build_trace({**trace.tensors, **more}, {"entries": entries})
    rows, gaps, _ = judged(network, both)
    assert len(gaps) == 1 and gaps[0].startswith(f"{len(names)} ") and "Net" in gaps[0]
    assert f": {listed}" in gaps[0] and "f" not in gaps[0].rpartition(":")[2]
    assert {row.verdict for row in rows} == {"equal"}
    broken = {name: x[:, :1] if name == f"{CALL}//input" else x for name, x in both.tensors.items()}
    rows, gaps, _ = judged(network, build_trace(broken, {"entries": entries}))
    assert len(gaps) == 1 and "Net" not in gaps[0] and gaps[0].startswith(f"{len(names)} ")
    assert (rows[-1].layer, rows[-1].verdict) == ("", "not judged")
    assert rows[-1].note.startswith("cannot be replayed: ")


def test_a_call_of_which_nothing_was_compared_has_a_row():
    trace = build_trace({f"{CALL}/nowhere/output": X.numpy()})
    rows, gaps, _ = judged(made(Net), trace)
    assert [(row.layer, row.verdict) for row in rows] == [("", "not judged")]
    assert "recorded" in rows[0].note and len(gaps) == 1


def test_autoencoders_are_judged_again_with_frames(monkeypatch):
    seen = []

    def judge(problems):
        def run(self, port, call, dtype, frames):
            seen.append((call.kind, frames))
            replay = SimpleNamespace(visited=set(), coverage=SimpleNamespace(rest=lambda *x: []))
            replay.copies = SimpleNamespace(module=self)
            return port, SimpleNamespace(rows=[f"frames {frames}"]), replay, problems[frames]

        monkeypatch.setattr(ModuleOriginal, "_judge_whole", run)

    said = "cannot be replayed: bad"
    for kind, problems, asked, rows in (
        ("vae.decode", ("", ""), [False], ["frames False"]),
        ("vae.decode", ("bad", ""), [False, True], ["frames True"]),
        ("vae.decode", ("bad", "worse"), [False, True, False], ["frames False", said]),
        ("vae.encode", ("bad", ""), [False, True], ["frames True"]),
        ("net", ("bad", ""), [False], ["frames False", said]),
    ):
        seen.clear()
        judge(problems)
        trace = build_trace({f"{kind}.000//input": X.numpy()})
        found, _, _ = judged({kind: None}, trace)
        assert [x if isinstance(x, str) else x.note for x in found] == rows
        assert seen == [(kind, frames) for frames in asked]


def test_whole_calls_are_in_the_terms_of_what_computes_them(monkeypatch):
    seen = []

    def in_terms(port, entry, function, frames):
        seen.append((entry.name, function, frames))
        return port

    monkeypatch.setattr(original, "in_terms_of_module", in_terms)
    monkeypatch.setattr(ModuleOriginal, "follow", lambda self, *given: given[:3])
    network = made(Net)
    trace = build_trace({"net.parameters.000//input": X.numpy(), f"{CALL}/a/input": X.numpy()})
    whole, layer = trace.calls
    made_ = ModuleOriginal({"net": network})
    port, judge, *rest = made_._judge_whole(trace, whole, "float16", True)
    assert port is trace and rest == [trace, whole, "float16"] and judge.dtype == "float16"
    made_._judge_whole(trace, layer, "float32", False)
    assert seen == [("net.parameters.000/", network.parameters, True)]
    own = build_trace({f"{CALL}//input": X.numpy()})
    made_._judge_whole(own, call_of(own), "float32", False)
    assert seen[1] == (f"{CALL}/", network.forward, False)


def test_names_of_networks_and_their_methods():
    class Coder(torch.nn.Module):
        number = 3

        def decode(self, z):
            return z

    coder = Coder()
    trace = build_trace(
        {f"{kind}.000//input": X.numpy() for kind in ("vae.decode", "vae.number", "vae", "vae.x.y")}
    )
    decode, number, whole, other = trace.calls
    made_ = ModuleOriginal({"vae": coder})
    assert made_._find(decode) == ("vae", "decode") and made_._find(whole) == ("vae", "")
    assert made_._find(number) == ("vae.number", "") and made_._find(other) == ("vae.x.y", "")
    both = ModuleOriginal({"vae": coder, "vae.decode": coder})
    assert both._find(decode) == ("vae.decode", "")
    assert ModuleOriginal({"": coder})._find(decode) == ("", "")


def test_copies_of_a_network_are_made_once_for_a_format():
    network = made(Net)
    made_ = ModuleOriginal({"a": network, "b": network})
    copies = made_.copies("a", "float32")
    assert made_.copies("a", "float32") is copies and copies.module is network
    assert made_.copies("a", "float16") is not copies and copies.dtype == "float32"
    assert made_.copies("b", "float32") is not copies


@pytest.mark.parametrize(("names", "refused"), [(("a", "a"), False), (("a", "b"), True)])
def test_one_module_is_of_one_network(names, refused):
    calls = [f"{name}.00{i}//input" for i, name in enumerate(names)]
    port = build_trace({x: X.numpy() for x in (*calls, "sampler.000//input")})
    if not refused:
        return original.require_one_network(port)
    with pytest.raises(UsageError, match="a, b") as caught:
        original.require_one_network(port)
    assert caught.value.code == "E-AGAINST" and "sampler" not in str(caught.value)


# -- what is known of a whole call ----------------------------------------------------------------


def test_hooks_run_in_the_copies_of_a_replay():
    copies = NetworkCopies(made(Net), "bfloat16")
    seen = []
    whole = WholeCall(hooks=(("first.inner", lambda module, args, output: seen.append(output)),))
    networks = copies.exact.network, copies.narrow("bfloat16").network
    with torch.no_grad():
        with pytest.raises(ZeroDivisionError), whole.hooked(copies):
            for network, x in zip(networks, (wide(X), X.bfloat16()), strict=True):
                network(x)
            raise ZeroDivisionError
        networks[0](wide(X))
    assert [x.dtype for x in seen] == [torch.float64, torch.bfloat16]
    with WholeCall().hooked(None):  # no copy is made
        pass
    assert WholeCall() == WholeCall({}, None, (), {})


@pytest.mark.parametrize(
    ("attributes", "pipeline", "more", "reads"),
    [
        ({}, "StableDiffusionPipeline", {}, False),
        ({"hidden_states": True}, None, {"output_hidden_states": True}, False),
        ({"hidden_states": False, "clip_skip": 2}, "StableDiffusionPipeline", {}, True),
        ({"hidden_states": True, "clip_skip": 2}, "StableDiffusionPipeline",
         {"output_hidden_states": True}, True),
        ({"hidden_states": True, "clip_skip": 2}, "UnheardPipeline",
         {"output_hidden_states": True}, False),
        ({"hidden_states": True, "clip_skip": 2}, None, {"output_hidden_states": True}, False),
        ({"clip_skip": 2}, "StableDiffusionPipeline", {}, False),
    ],
)  # fmt: skip
def test_results_of_encoders_are_read_as_their_family_does(attributes, pipeline, more, reads):
    entry = {"call": "text_encoder.000", "layer": "", "attributes": attributes}
    tensors = {"text_encoder.000//output": X.numpy()}
    trace = build_trace(tensors, {"entries": [entry], "pipeline": pipeline})
    whole = ModuleOriginal({}).whole_call(trace, call_of(trace), "float32")
    assert whole.more == more and (whole.read is not None) == reads
    assert whole.hooks == () and whole.settings == {}
    bare = build_trace({"text_encoder.000/a/input": X.numpy()}, {"pipeline": pipeline})
    assert ModuleOriginal({}).whole_call(bare, call_of(bare), "float32") == WholeCall()


def test_encoders_are_read_with_the_pipeline_or_its_networks(monkeypatch):
    seen = []

    def read(result, skip, pipe):
        seen.append((result, skip, pipe))
        return "states"

    port = SimpleNamespace(read_encoded=read)
    monkeypatch.setattr(original, "family_of_pipeline", lambda kind: "family")
    monkeypatch.setattr(original, "port_of", {"family": port}.get)
    attributes = {"hidden_states": True, "clip_skip": "3"}
    entry = {"call": "text_encoder.000", "layer": "", "attributes": attributes}
    tensors = {"text_encoder.000//output": X.numpy()}
    trace = build_trace(tensors, {"entries": [entry], "pipeline": "P"})
    for pipe in (None, "pipe"):
        read_ = ModuleOriginal({"unet": 5}, pipe).whole_call(trace, call_of(trace), "float32").read
        assert read_("result") == "states" and seen[-1][:2] == ("result", 3)
        assert seen[-1][2] == (SimpleNamespace(unet=5) if pipe is None else pipe)


# -- layers alone ---------------------------------------------------------------------------------


def test_layers_are_judged_alone_where_nothing_leads_to_them():
    network = made(Net)
    trace = recorded(network, "first.inner", "second", "second.inner", x=X)
    rows, gaps, made_ = judged(network, trace)
    assert {row.layer for row in rows} == {"first.inner", "second", "second.inner"}
    assert {row.verdict for row in rows} == {"equal"} and not gaps
    assert [entry.layer for entry in made_.alone] == ["first.inner", "second"]
    made_.judge_call(trace, call_of(trace), "float32", [])
    assert [entry.layer for entry in made_.alone] == ["first.inner", "second"]  # once


def test_layers_alone_follow_a_whole_call_that_fails():
    network = made(Net)
    trace = recorded(network, x=X)
    broken = {
        name: x[:, :1] if name == f"{CALL}//input" else x for name, x in trace.tensors.items()
    }
    entries = [vars(entry) for entry in trace.entries]
    rows, gaps, made_ = judged(network, build_trace(broken, {"entries": entries}))
    assert [entry.layer for entry in made_.alone] == ["second"]  # the run reached the first
    found = {row.layer: row.verdict for row in rows}
    assert found["second"] == found["second.inner"] == "equal" and found[""] == "not judged"
    assert gaps == []
    reason = rows[-1].note
    assert rows[-1].layer == "" and "shape" in reason and "first" not in reason


def test_layers_alone_that_fail_say_why():
    network = made(Net)
    trace = recorded(network, "first.inner", "second", x=X)
    broken = {name: x[:, :1] if "second/input" in name else x for name, x in trace.tensors.items()}
    entries = [vars(entry) for entry in trace.entries]
    rows, _, _ = judged(network, build_trace(broken, {"entries": entries}))
    assert (rows[-1].layer, rows[-1].verdict) == ("", "not judged")
    assert rows[-1].note.startswith("cannot be replayed: second: ") and "\n" not in rows[-1].note
    assert [row.verdict for row in rows if row.layer == "first.inner"] == ["equal"]


class Scaled(torch.nn.Module):
    def forward(self, x, scale=1.0, names=None):
        return x * scale


class Scales(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scaled = Scaled()

    def forward(self, x):
        return self.scaled(x * 2.0, 3.0)


def test_layers_alone_have_the_settings_of_the_run(monkeypatch):
    network = Scales()
    trace = recorded(network, "scaled", x=X)
    assert judged(network, trace)[0][-1].verdict == "differs"
    settings = {"scaled": {"scale": 3.0, "names": "n", "x": "other"}, "other": {"scale": 4.0}}
    whole = WholeCall(settings=settings)
    monkeypatch.setattr(ModuleOriginal, "whole_call", lambda self, *given: whole)
    assert judged(network, trace)[0][-1].verdict == "equal"


class Projected(torch.nn.Module):
    """A residual block, which reads the time if it has a projection of it."""

    def __init__(self, projection):
        super().__init__()
        if projection != "without":
            self.time_emb_proj = projection

    def forward(self, x, temb):
        return x * 2.0


@pytest.mark.parametrize(
    ("projection", "judged_"), [(None, True), ("without", False), (torch.nn.Tanh(), False)]
)
def test_a_time_that_is_not_read_may_be_missing(projection, judged_):
    network = torch.nn.Module()
    network.block = Projected(projection)
    tensors = {f"{CALL}/block/input.x": X.numpy(), f"{CALL}/block/output": 2.0 * X.numpy()}
    rows, _, _ = judged(network, build_trace(tensors))
    found = {row.layer: row for row in rows}
    assert ("block" in found) == judged_
    assert judged_ or "'temb'" in found[""].note


class Needs(torch.nn.Module):
    """A block that needs a setting, which is no array, around a layer and an activation."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(4, 4)
        self.second = torch.nn.Linear(4, 4)

    def forward(self, x, setting):
        return self.second(torch.relu(self.first(x))) + setting()


class Outer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Needs()

    def forward(self, x):
        return self.block(3.0 * self.block(2.0 * x, float), float)


@pytest.mark.parametrize("layer", ["block.first", "block.second", "block.first~1"])
def test_layers_of_a_block_that_cannot_be_called_are_judged_alone(layer):
    network = made(Outer)
    every = {"block.first", "block.second", "block.first~1", "block.second~1"}
    trace = recorded(network, "block", "block~1", *every, x=torch.rand(2, 4))
    rows, gaps, _ = judged(network, trace)
    assert {row.layer for row in rows if row.verdict == "equal"} == every
    assert gaps == ["2 layers were not judged: block, block~1"]
    assert "'setting' was not recorded" in rows[-1].note and rows[-1].layer == ""
    key = f"{CALL}/{layer}/output"
    wrong = {name: 2.0 * x if name == key else x for name, x in trace.tensors.items()}
    entries = [vars(entry) for entry in trace.entries]
    rows, _, _ = judged(network, build_trace(wrong, {"entries": entries}))
    assert [row.layer for row in rows if row.verdict == "differs"] == [layer]


class Stops(torch.nn.Module):
    """A block that fails behind its first layer, unless it is on."""

    on = True

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(4, 4)
        self.second = torch.nn.Linear(4, 4)

    def forward(self, x):
        x = self.first(x)
        if not self.on:
            raise ValueError("off")
        return self.second(x)


@pytest.mark.parametrize("whole", ["", "block"])
def test_a_layer_that_fails_in_between_says_why_and_the_others_are_judged(whole, monkeypatch):
    network = torch.nn.Sequential()
    network.add_module("block", made(Stops))
    trace = recorded(network, whole, "block", "block.first", "block.second", input=torch.rand(2, 4))
    monkeypatch.setattr(Stops, "on", False)
    rows, gaps, _ = judged(network, trace)
    found = {row.layer: row for row in rows}
    assert found["block.first"].verdict == found["block.second"].verdict == "equal"
    assert found["block"].verdict == "not judged"
    assert found["block"].note == "output not compared: it cannot be replayed: off" and not gaps


# -- arguments ------------------------------------------------------------------------------------


def arguments(arrays, function, kind="", unread=(), attributes=None):
    """Return the arguments of a layer with recorded arrays by role."""
    tensors = {f"t{i}": np.asarray(x) for i, x in enumerate(arrays.values())}
    same = {id(x): name for name, x in zip(tensors, arrays.values(), strict=True)}
    inputs = {role: same[id(x)] for role, x in arrays.items()}
    entry = {"call": CALL, "layer": "a", "inputs": inputs, "attributes": attributes or {}}
    trace = build_trace(tensors, {"entries": [entry]})
    return original._arguments(None, trace, trace.find(CALL, "a"), function, kind, unread)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (np.float32, torch.float64),
        (np.float16, torch.float64),
        (np.float64, torch.float64),
        (np.int32, torch.int64),
        (np.uint8, torch.int64),
        (bool, torch.bool),
        (np.complex64, torch.complex128),
    ],
)
def test_recorded_arrays_are_tensors(form, expected):
    x = np.array([0, 1, 1]).astype(form)
    found = arguments({"x": x}, lambda x: x)["x"]
    assert found.dtype == expected and found.tolist() == x.tolist()


A, B, C = (np.full(2, float(i)) for i in range(3))
BY_ROLE = [  # roles, a function, the kind of its layer, arguments by name
    ({"a": A, "b": B}, lambda a, b: 0, "", {"a": A, "b": B}),
    ({"input": A}, lambda x, y=1: 0, "", {"x": A}),
    ({"input": A}, lambda x, input: 0, "", None),
    ({"input": A, "x": B}, lambda x, input: 0, "", {"input": A, "x": B}),
    ({"input": A}, lambda: 0, "", {"input": A}),
    ({"input": A}, lambda *more: 0, "", {"more": A}),
    ({"input": A}, lambda **named: 0, "", {"input": A}),
    ({"x.1": B, "x.0": A, "x.10": C}, lambda x: 0, "", {"x": [A, B, C]}),
    ({"x.a": B, "x": A, "7": C}, lambda x: 0, "", {"x.a": B, "x": A, "7": C}),
    ({"context": A, "input": A}, lambda x, context=None: 0, "", {"x": A}),
    ({"context": B, "input": A}, lambda x, context=None: 0, "", {"x": A, "context": B}),
    ({"context": B}, lambda context: 0, "", {"context": B}),
    ({"input": A, "context": B}, lambda x, encoder_hidden_states=None: 0, "attention",
     {"x": A, "encoder_hidden_states": B}),
    ({"input": A, "context": B}, lambda x, encoder_hidden_states=None: 0, "",
     {"x": A, "context": B}),
    ({"input": A, "context": B}, lambda x, context=None: 0, "attention", {"x": A, "context": B}),
    ({"input": A, "emb": B}, lambda x, temb: 0, "resnet_block", {"x": A, "temb": B}),
    ({"input": A}, lambda x, temb: 0, "resnet_block", None),
]  # fmt: skip


@pytest.mark.parametrize(("roles", "function", "kind", "expected"), BY_ROLE)
def test_arguments_have_the_names_of_their_roles(roles, function, kind, expected):
    if expected is None:
        with pytest.raises(UnknownArgument):
            arguments(roles, function, kind)
        return
    found = arguments(roles, function, kind)
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        parts = zip(found[name], x, strict=True) if isinstance(x, list) else [(found[name], x)]
        assert all(np.array_equal(got, right) for got, right in parts)


def test_arguments_that_are_not_read_are_none():
    def function(x, temb, other, *, more, scale=1.0):
        return x

    found = arguments({"x": A, "other": B}, function, unread={"temb", "scale", "nothing"})
    assert found.keys() == {"x", "temb", "other"} and found["temb"] is None
    assert arguments({"x": A, "temb": B, "other": C}, function, unread={"temb"})["temb"][0] == 1.0
    with pytest.raises(UnknownArgument, match="'temb'"):
        arguments({"x": A}, function)
    with pytest.raises(UnknownArgument, match="'other'"):
        arguments({"x": A}, function, unread={"temb"})


def test_described_arguments_are_restored():
    described = [["x", {"tuple": [{"tensor": "x.0"}, 3]}], ["scale", 2.0]]
    of = {"arguments": described}
    found = arguments({"x.0": A}, None, attributes=of)
    assert found["scale"] == 2.0 and found["x"][1] == 3 and np.array_equal(found["x"][0], A)
    alone = arguments({"input": A}, None, attributes=of)["x"][0]
    assert np.array_equal(alone, A)  # the only one, whatever it is called
    with pytest.raises(UnknownArgument):
        arguments({"y": A}, None, attributes=of)


# -- what was not compared ------------------------------------------------------------------------


def test_arrays_of_layers_that_ran_have_a_row_if_nothing_compared_them():
    names = ("a/input", "a/input.mask", "a/output", "b/output", "/input.y", "/output")
    trace = build_trace({f"{CALL}/{name}": X.numpy() for name in names})
    replay, _ = replayed(made(Net), trace, Noted())
    replay.visited.add("a")
    replay.coverage.note([ArrayName(f"{CALL}/a", "input", "input")])
    replay.coverage.note([ArrayName(f"{CALL}/", "output", "output")])
    found = [(row.layer, row.kind, row.verdict) for row in original._rest(replay, trace, CALL)]
    assert sorted(found) == [("", "recorded", "not judged"), ("a", "recorded", "not judged")]
    notes = {row.layer: row.note for row in original._rest(replay, trace, call_of(trace))}
    assert notes[""].startswith("input.y ") and notes["a"].startswith("input.mask, output ")
    assert all(note.endswith(original.UNUSED) for note in notes.values())


def test_a_run_of_a_module_may_stop_for_many_reasons(monkeypatch):
    network = made(Net)
    trace = recorded(network, "", x=X)
    entry = trace.find(CALL)
    whole = SimpleNamespace(more={"more": 1, "x": 2}, read="read", settings={})
    replay, _ = replayed(network, trace)
    for error in (*original.FAILURES, UnknownArgument):

        def run(method, arguments, read, error=error):
            assert (method, [*arguments], read) == ("", ["more", "x"], "read")
            assert isinstance(arguments["x"], torch.Tensor)
            raise error("no such\nnumber")

        monkeypatch.setattr(replay, "run", run)
        alone: list = []
        with nullcontext():
            problem = original._replay(replay, trace, call_of(trace), "", whole, alone)
        assert problem.strip("'").startswith("no such") and alone == []
    monkeypatch.setattr(replay, "run", lambda *given: None)
    assert original._replay(replay, trace, call_of(trace), "", whole, []) == ""
    assert entry is not None
