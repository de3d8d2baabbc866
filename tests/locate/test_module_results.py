"""Layers of a repeated run that return what was recorded, and where such a run ends."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from module_runs import CALL, Net, X, followed, made, recorded, replayed  # noqa: E402

from ldmref.locate.following import TargetReached  # noqa: E402
from ldmref.locate.modules import repeated  # noqa: E402
from ldmref.locate.modules.operations import Operation  # noqa: E402
from ldmref.locate.points import Trial  # noqa: E402
from ldmref.trace import build_trace  # noqa: E402


@pytest.fixture(scope="module")
def net():
    return made(Net)


@pytest.fixture
def run(net):
    """Return the replay and the observer of a right run of which all was recorded."""
    return followed(net, recorded(net, x=X), x=X)


def outputs_of(layer, **arrays):
    """Return a trace of the outputs of a layer by role, in which `_` stands for a point."""
    roles = {role.replace("_", "."): role for role in arrays}
    entry = {"call": CALL, "layer": layer, "outputs": roles}
    return build_trace(arrays, {"entries": [entry]})


def forced(trace, name, result, roles, kind="", corrected=None):
    replay, _ = replayed(made(Net), trace)
    replay.keep_result(name, result, roles)
    replay._corrected |= corrected or {}
    return replay._forced(name, kind)


def test_a_layer_returns_what_was_recorded():
    x, y = np.array([1.0, 2.0], np.float32), np.array([[3.0]], np.float32)
    trace = outputs_of("a", output_0=x, output_1=y)
    result = torch.zeros(2), {"output.1": torch.zeros(1, 1), "text": "t"}
    roles = {"output.0": "output.0", "output.1": "output.1"}
    first, second = forced(trace, "a", result, roles)
    assert first.tolist() == [1.0, 2.0] and first.dtype == torch.float64
    assert second["output.1"].tolist() == [[3.0]] and second["text"] == "t"
    assert forced(trace, "b", result, roles) is None  # not recorded
    assert forced(trace, "a", result, {"output.0": "output.0"}) is None  # not all of it
    assert forced(trace, "a", result, roles | {"output.1": "other"})[1]["output.1"] == 3.0
    corrected = {("a", 1): np.array([[9.0]])}
    assert forced(trace, "a", result, roles, corrected=corrected)[1]["output.1"].item() == 9.0
    part = outputs_of("a", output_0=x)
    assert forced(part, "a", result, roles) is None
    assert forced(part, "a", result, roles, corrected=corrected)[0].tolist() == [1.0, 2.0]
    replay, _ = replayed(made(Net), trace)
    assert replay._forced("a", "") is None  # not computed before
    replay.keep_result("a", result, roles)
    template, kept = replay._results["a"]
    assert template[0].is_meta and kept is roles
    image = outputs_of("a", output=np.ones((1, 3, 2, 2)))
    video = torch.zeros(1, 3, 1, 2, 2)
    assert forced(image, "a", video, {"output": "output"}).shape == video.shape


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        (("output.0", "output.1"), "output.1"),
        (("0", "1"), "1"),
        (("b", "1"), "b"),
        (("raw", "1"), "raw"),
        (("1", "output.1"), "1"),
        (("0", "output.0"), None),
        ((), None),
    ],
)
def test_outputs_have_names_or_numbers(roles, expected):
    outputs = dict.fromkeys(roles, "t")
    assert repeated.name_of_output(outputs, 1, "raw", "b") == expected
    assert repeated.first_of(outputs, "unheard") is None


@pytest.mark.parametrize("numbers", [True, False])
def test_layers_whose_outputs_have_numbers_are_not_computed_again(numbers):
    """A wrong output is what the rest of the run follows from."""

    class Pair(torch.nn.Module):
        def forward(self, x):
            return x * 2.0, x * 3.0

    class Pairs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.pair = Pair()

        def forward(self, x):
            first, second = self.pair(torch.cos(x))
            return first * second

    first, second = np.full((2, 2), 5.0), np.full((2, 2), 7.0)
    roles = ("0", "1") if numbers else ("output.0", "output.1")
    tensors = {"x": X.numpy(), "a": first, "b": second, "y": np.ones((2, 2))}
    entries = [
        {"call": CALL, "layer": "", "inputs": {"input": "x"}, "outputs": {"output": "y"}},
        {"call": CALL, "layer": "pair", "outputs": dict(zip(roles, "ab", strict=True))},
    ]
    network = Pairs()
    replay, observer = followed(network, build_trace(tensors, {"entries": entries}), x=X)
    whole = observer.find("")
    assert np.array_equal(whole.computed, np.full((2, 2), 35.0))
    assert np.array_equal(replay.rerun(whole), whole.computed)
    assert np.array_equal(replay.rerun(whole, low=True), whole.computed)
    result = torch.zeros(2, 2), torch.zeros(2, 2)
    assert [x[0, 0] for x in replay._as_recorded("pair", "", result)] == [5.0, 7.0]


def test_computed_results_get_what_was_recorded():
    x = np.array([1.0, 2.0], np.float32)
    replay, _ = replayed(made(Net), outputs_of("a", output_1=x))
    result = torch.zeros(2), torch.zeros(2)
    first, second = replay._as_recorded("a", "", result)
    assert first.tolist() == [0.0, 0.0] and second.tolist() == [1.0, 2.0]
    assert replay._as_recorded("c", "", result) is result
    replay, _ = replayed(made(Net), outputs_of("b", output=np.ones((1, 3, 2, 2))))
    assert replay._as_recorded("b", "", torch.zeros(1, 3, 1, 2, 2)).shape == (1, 3, 1, 2, 2)
    changed = replay._as_recorded("b", "conv2d", (torch.zeros(1, 3, 2, 2), torch.zeros(1)))
    assert changed[0].sum() == 12.0 and changed[1].item() == 0.0


def test_where_a_repeated_run_ends(net, run):
    replay, _ = run
    entry = replay.find("first")
    recorded_ = np.asarray(replay.port.tensors[entry.outputs["output"]], np.float64)

    def again(target="", role="", free=False, changes=(), name="first"):
        computed = []

        def compute():
            computed.append(1)
            return torch.full((2, 2), 4.0)

        trial = Trial(target, role, dict.fromkeys(changes), False, free)
        replay._seen.clear()
        try:
            result = replay.layer_again(name, trial, "", lambda: {"input": "given"}, compute)
        except TargetReached as reached:
            return "reached", reached.parts, len(computed)
        return "returned", result.numpy(), len(computed)

    way, parts, times = again()
    assert (way, times) == ("returned", 0) and np.array_equal(parts, recorded_)
    assert replay._seen["first.multiply_number"] == 2  # what it would have counted
    assert again("first", "input") == ("reached", "given", 0)
    way, parts, times = again("first")
    assert (way, times) == ("reached", 1) and parts[0].tolist() == [[4.0, 4.0]] * 2
    for more in (
        {"free": True},
        {"target": "first.inner"},
        {"target": "first.inner", "role": "input"},
        {"changes": ["first.sine"]},
        {"changes": ["x", "first.sine"]},
        {"name": "unrecorded"},
    ):
        way, parts, times = again(**more)
        assert (way, times) == ("returned", 1) and parts[0, 0] == 4.0
        assert not replay._seen
    for more in ({"target": "second"}, {"changes": ["firsts"]}, {"target": "second.first.a"}):
        assert again(**more)[2] == 0
    replay.collected["other"] = []
    way, parts, times = again(free=True)
    assert (way, times) == ("returned", 1) and np.array_equal(parts, recorded_)


def test_where_operations_end_a_repeated_run(net, run):
    replay, observer = run
    point = observer.find("first.inner")
    x = torch.full((2, 2), 0.5)
    operation = Operation("linear", {"input": x}, lambda v: v["input"] * 3.0)

    def again(name="first.inner", target="", role="", free=False, change=None, value=None):
        computed = []

        def compute():
            computed.append(1)
            return torch.full((2, 2), 4.0) if value is None else value

        changes = {} if change is None else {name: change}
        trial = Trial(target, role, changes, False, free)
        try:
            result = replay.operation_again(name, operation, trial, compute)
        except TargetReached as reached:
            return "reached", reached.parts, len(computed)
        return "returned", result, len(computed)

    way, result, times = again()
    assert (way, times) == ("returned", 0) and np.array_equal(result.numpy(), point.recorded)
    way, parts, times = again(target="first.inner", role="input")
    assert (way, times) == ("reached", 0) and parts.tolist() == [[0.5, 0.5]] * 2
    way, parts, times = again(target="first.inner")
    assert (way, times) == ("reached", 1) and parts[0].tolist() == [[4.0, 4.0]] * 2
    way, parts, _ = again(target="first.inner", value=(x, 2.0 * x))
    assert way == "reached" and [part[0, 0] for part in parts] == [0.5, 1.0]
    for more in ({"free": True}, {"name": "unrecorded"}, {"free": True, "target": "other"}):
        way, result, times = again(**more)
        assert (way, times) == ("returned", 1) and result[0, 0] == 4.0
    way, result, times = again(change=lambda call, v: call.compute(v) + 1.0)
    assert (way, times) == ("returned", 0) and result.tolist() == [[2.5, 2.5]] * 2
    way, parts, times = again(target="first.inner", change=lambda call, v: v["input"] * 2.0)
    assert (way, times) == ("reached", 0) and parts[0].tolist() == [[1.0, 1.0]] * 2
    replay.collected["sine"] = kept = []
    way, result, _ = again(free=True)
    assert way == "returned" and np.array_equal(result.numpy(), point.recorded) and not kept
    way, result, _ = again("sine~1", free=True)
    assert result[0, 0] == 4.0 and [*kept[0]] == ["input", ""]
    assert kept[0]["input"][0, 0] == 0.5 and kept[0][""][0, 0] == 4.0
