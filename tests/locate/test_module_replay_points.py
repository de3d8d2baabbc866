"""A module that follows a recorded run: its points, what leads to them, and what it continues."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from module_runs import CALL, Net, Noted, X, followed, made, recorded, replayed, wide  # noqa: E402

from ldmref.locate.modules.arrays import to_array  # noqa: E402
from ldmref.trace import build_trace  # noqa: E402

FIRST = ["first.multiply_number", "first.inner", "first.sine", "first.multiply_number~1"]
SECOND = [name.replace("first", "second") for name in FIRST]
ENDS = ["multiply_number", "tanh"]
WAYS = {  # recorded layers: of each point the layer, role, suspects, layers before, earlier, frame
    (): [
        ("first", "input", [], [], [], ""),
        ("first.inner", "input", FIRST[:1], [], [], "first"),
        ("first.inner", "", ["first.inner"], [], [], "first.inner"),
        ("first", "", FIRST[2:], ["first.inner"], FIRST[:1], "first"),
        ("second", "input", ["cosine"], ["first"], FIRST[:1], ""),
        ("second.inner", "input", SECOND[:1], ["first"], [], "second"),
        ("second.inner", "", ["second.inner"], ["first"], [], "second.inner"),
        ("second", "", SECOND[2:], ["second.inner"], SECOND[:1], "second"),
        ("", "", ENDS, ["second"], SECOND[:1], ""),
    ],
    ("",): [("", "", [*FIRST, "cosine", *SECOND, *ENDS], [], [], "")],
    ("first.inner",): [
        ("first.inner", "input", FIRST[:1], [], [], ""),
        ("first.inner", "", ["first.inner"], [], [], "first.inner"),
    ],
    ("second",): [
        ("second", "input", [*FIRST, "cosine"], [], [], ""),
        ("second", "", SECOND, [], [], "second"),
    ],
    ("first", "second"): [
        ("first", "input", [], [], [], ""),
        ("first", "", FIRST, [], [], "first"),
        ("second", "input", ["cosine"], ["first"], [], ""),
        ("second", "", SECOND, ["first"], [], "second"),
    ],
    ("", "second.inner"): [
        ("second.inner", "input", [*FIRST, "cosine", SECOND[0]], [], [], ""),
        ("second.inner", "", ["second.inner"], [], [], "second.inner"),
        ("", "", [*SECOND[2:], *ENDS], ["second.inner"], [SECOND[0], "cosine", *FIRST[::-1]], ""),
    ],
}


def names(calls):
    return [call.name for call in calls]


@pytest.mark.parametrize("layers", WAYS, ids=lambda layers: "+".join(layers) or "all")
def test_points_know_what_leads_to_them(layers):
    network = made(Net)
    trace = recorded(network, *layers, x=X)
    replay, observer = followed(network, trace, x=X)
    found = [
        (p.call.name, p.role, names(p.suspects), [*p.after], names(p.earlier), p.frame.name)
        for p in observer.points
    ]
    assert found == WAYS[layers]
    for point in observer.points:
        np.testing.assert_allclose(point.computed, point.recorded, rtol=1e-5, atol=1e-7)
        assert point.computed.dtype == np.float64 and point.part == 0 and point.unit == 0.0
    entries = [entry for entry in trace.entries if entry.layer]
    assert replay.visited == {entry.layer for entry in entries} and not observer.skipped
    assert [*replay.coverage.rest([*trace.entries])] == []
    assert [name for name, _ in replay.recent] == [
        p.call.name for p in observer.points if p.call.name and not p.role
    ]
    assert all(np.array_equal(x, observer.find(name).recorded) for name, x in replay.recent)


def test_what_is_recorded_is_used_downstream():
    network = made(Net)
    trace = recorded(network, x=X)
    shifted = {
        name: np.asarray(trace.tensors[name]) + shift
        for name, shift in (
            (f"{CALL}/second/input", 0.5),
            (f"{CALL}/second/output", 0.25),
            (f"{CALL}/first.inner/output", 0.125),
        )
    }
    _, observer = followed(network, recorded(network, arrays=shifted, x=X), x=X)
    inner = torch.tensor(shifted[f"{CALL}/first.inner/output"], dtype=torch.float64)
    expected = {
        ("first", ""): torch.sin(inner) * 2.0,
        ("second.inner", "input"): torch.tensor(shifted[f"{CALL}/second/input"]).double() * 3.0,
        ("", ""): torch.tanh(torch.tensor(shifted[f"{CALL}/second/output"]).double() * 5.0),
    }
    for (name, role), right in expected.items():
        np.testing.assert_allclose(observer.find(name, role).computed, right.numpy(), rtol=1e-12)
    wrong = {
        p.call.name for p in observer.points if not np.allclose(p.computed, p.recorded, atol=1e-6)
    }
    assert wrong == {"second", "second.inner", "first.inner", "first", ""}


def test_what_the_judge_returns_is_used_downstream():
    network = made(Net)
    trace = recorded(network, x=X)

    def use(point):
        if point.call.name == "first" and not point.role:
            return np.full((2, 2), 0.5)
        return (
            np.full((2, 2), 4.0) if (point.call.name, point.role) == ("second", "input") else None
        )

    replay, observer = followed(network, trace, Noted(use), x=X)
    assert np.allclose(observer.find("second", "input").computed, np.cos(0.5))
    assert np.allclose(observer.find("second.inner", "input").computed, 12.0)
    assert [*replay._corrected] == [("first", 0)]
    assert np.array_equal(replay._corrected["first", 0], np.full((2, 2), 0.5))
    assert np.array_equal(dict(replay.recent)["first"], np.full((2, 2), 0.5))


def test_what_the_judge_cannot_compare_is_said_and_computed():
    network = made(Net)
    trace = recorded(network, x=X)

    def use(point):
        if point.call.name == "first" and not point.role:
            raise ZeroDivisionError("no such\nnumber")

    _, observer = followed(network, trace, Noted(use), x=X)
    assert observer.skipped == [("first", "it cannot be compared: ZeroDivisionError: no such")]
    right = np.cos(observer.find("first").computed)
    assert np.array_equal(observer.find("second", "input").computed, right)


# -- layers of several inputs and outputs ---------------------------------------------------------


class Several(torch.nn.Module):
    """Two arrays of three, of which one is in a mapping."""

    def forward(self, x, parts, scale=2.0):
        return x * scale, parts["more"] + parts["other"] * x


class Around(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.several = Several()

    def forward(self, x, y):
        first, second = self.several(x, {"more": y, "other": x + y}, scale=4.0)
        return first - second


def test_layers_of_several_arrays_have_a_point_for_each():
    network, y = made(Around), X * 3.0 + 1.0
    trace = recorded(network, x=X, y=y)
    replay, observer = followed(network, trace, x=X, y=y)
    a, b = X.double().numpy(), y.double().numpy()
    right = {
        ("x", 0): a,
        ("more", 0): b,
        ("other", 0): a + b,
        ("", 0): 4.0 * a,
        ("", 1): b + (a + b) * a,
    }
    found = {(p.role, p.part): p for p in observer.points if p.call.name == "several"}
    assert [*found] == [*right]
    for key, x in right.items():
        np.testing.assert_allclose(found[key].computed, x, rtol=1e-6)
    assert found["", 1].inputs.keys() == {"x", "more", "other"}
    assert found["x", 0].inputs == {}
    (again,) = [p.call.compute for key, p in found.items() if key == ("", 1)]
    changed = again({**found["", 1].inputs, "more": 0.0 * b})
    np.testing.assert_allclose(changed[1], (a + b) * a, rtol=1e-6)
    assert {"x", "more", "other"} <= {role for _, side, role in replay.coverage.judged}
    assert replay.arguments.keys() == {"x", "y"}


@pytest.mark.parametrize(
    ("inputs", "outputs", "points"),
    [
        (["x", "more", "other"], ["output.0", "output.1"], ["x", "more", "other", "0", "1"]),
        (["0", "more"], ["0", "1"], ["x", "more", "0", "1"]),
        (["input"], ["1"], ["x", "1"]),
        (["1", "2"], ["output.1"], ["more", "other", "1"]),
        (["unheard"], ["unheard.0"], []),
        ([], ["output.0"], ["0"]),
    ],
)
def test_arrays_may_be_recorded_by_number(inputs, outputs, points):
    """Programs that do not know the names of arguments record their places."""
    network, y = made(Around), X * 3.0 + 1.0
    whole = recorded(network, "several", x=X, y=y)
    own = whole.find(CALL, "several")
    places = {"0": "x", "input": "x", "1": "more", "2": "other", "unheard": "x"}
    renamed = {f"t{i}": x for i, x in enumerate(whole.tensors.values())}
    tensors = dict(zip(whole.tensors, renamed, strict=True))
    given = {role: tensors[own.inputs[places.get(role, role)]] for role in inputs}
    results = {role: tensors[own.outputs[f"output.{role[-1]}"]] for role in outputs}
    entry = {"call": CALL, "layer": "several", "inputs": given, "outputs": results}
    trace = build_trace(renamed, {"entries": [entry]})
    replay, observer = followed(network, trace, x=X, y=y)
    found = [p.role or str(p.part) for p in observer.points]
    assert found == points
    rest = [role for _, roles, _ in replay.coverage.rest([*trace.entries]) for role in roles]
    assert rest == (["input.unheard", "output.unheard.0"] if "unheard" in inputs else [])
    for point in observer.points:
        np.testing.assert_allclose(point.computed, point.recorded, rtol=1e-5)


def test_a_layer_whose_inputs_were_not_recorded_is_a_part_of_what_is_around_it():
    network = made(Net)
    whole = recorded(network, "first", "second", x=X)
    entries = [vars(e) | ({"inputs": {}} if e.layer == "second" else {}) for e in whole.entries]
    kept = {name: x for name, x in whole.tensors.items() if name != f"{CALL}/second/input"}
    trace = build_trace(kept, {"entries": entries})
    _, observer = followed(network, trace, x=X)
    point = observer.find("second")
    assert names(point.suspects) == ["cosine", *SECOND] and point.frame.name == ""
    assert point.inputs.keys() == {"input"} and not point.earlier


# -- whole calls ----------------------------------------------------------------------------------


class WithMethod(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(2, 2)

    def forward(self, x):
        return {"a": self.decode(x), "b": x}

    def decode(self, x):
        return self.inner(x)


def test_a_method_may_compute_a_call_and_a_result_be_read():
    network = made(WithMethod)
    right = network.inner(X).detach().numpy()
    tensors = {f"{CALL}//input": X.numpy(), f"{CALL}//output": right}
    trace = build_trace(tensors)
    _, observer = followed(network, trace, method="decode", x=X)
    np.testing.assert_allclose(observer.find("").computed, right, rtol=1e-5)
    assert names(observer.find("").suspects) == ["inner"]
    _, observer = followed(network, trace, read=lambda found: found["a"] * 2.0, x=X)
    np.testing.assert_allclose(observer.find("").computed, 2.0 * right, rtol=1e-5)
    replay, observer = followed(network, build_trace({f"{CALL}/inner/input": X.numpy()}), x=X)
    assert [(p.call.name, p.role) for p in observer.points] == [("inner", "input")]
    assert replay.visited == {"inner"}


def test_a_layer_may_run_alone():
    network = made(Net)
    trace = recorded(network, "second", "second.inner", x=X)
    replay, observer = replayed(network, trace)
    layer = replay.copies.exact.layers["second"]
    given = torch.tensor(trace.tensors[f"{CALL}/second/input"]).double()
    replay._pending, replay._after = ["something"], ["before"]
    replay._led = ("else",)
    replay.run_alone(layer, {"x": given})
    found = [(p.call.name, p.role, names(p.suspects), [*p.after]) for p in observer.points]
    assert found == [
        ("second", "input", [], []),
        ("second.inner", "input", SECOND[:1], []),
        ("second.inner", "", ["second.inner"], []),
        ("second", "", SECOND[2:], ["second.inner"]),
    ]
    assert replay.copies.exact.follower is None and not replay._frames


# -- sums, activations and functions that are recorded --------------------------------------------


class BasicTransformerBlock(torch.nn.Module):
    """A block whose sums are named: x + f(x) has the residual last."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(2, 2)

    def forward(self, x):
        x = self.inner(x) + x
        x = torch.nn.functional.silu(x + 1.0)
        return x + x[:, :1] + x


class Blocks(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.block = BasicTransformerBlock()

    def forward(self, x):
        first = torch.nn.functional.silu(self.block(x)) + x
        return (first[None] + x[None]) * 1.0


def test_sums_have_names_where_the_recorder_has_them():
    network = made(Blocks)
    trace = recorded(network, x=X)
    _, observer = followed(network, trace, x=X)
    found = [(p.call.name, p.role) for p in observer.points]
    own = [
        ("block", "input"), ("block.inner", "input"), ("block.inner", ""), ("block.add", "input"),
        ("block.add", "b"), ("block.add", ""), ("block.silu", "input"), ("block.silu", ""),
        ("block.add~1", "input"), ("block.add~1", "b"), ("block.add~1", ""), ("block", ""),
        ("silu", "input"), ("silu", ""), ("add", "input"), ("add", "b"), ("add", ""), ("", ""),
    ]  # fmt: skip
    assert found == own
    inner = observer.find("block.inner")
    first, second = (observer.find("block.add", role) for role in ("input", "b"))
    assert np.array_equal(first.recorded, X.numpy())  # the residual
    np.testing.assert_allclose(second.recorded, inner.recorded)
    assert names(observer.find("", "").suspects) == ["sum", "multiply_number"]
    for point in observer.points:
        np.testing.assert_allclose(point.computed, point.recorded, rtol=1e-5, atol=1e-6)


class Resized(torch.nn.Module):
    def forward(self, x):
        x = torch.nn.functional.interpolate(x, scale_factor=2.0)
        x = torch.nn.functional.interpolate(x, size=(3, 3))
        return torch.nn.functional.pad(x, (0, 1, 0, 1)) * 2.0


def test_images_that_are_doubled_have_names():
    network, x = Resized(), torch.arange(4.0).reshape(1, 1, 2, 2)
    trace = recorded(network, x=x)
    _, observer = followed(network, trace, x=x)
    found = [(p.call.name, p.role, names(p.suspects)) for p in observer.points]
    assert found == [
        ("upsample2x", "input", []),
        ("upsample2x", "", ["upsample2x"]),
        ("pad_bottom_right", "input", [found[2][2][0]]),
        ("pad_bottom_right", "", ["pad_bottom_right"]),
        ("", "", ["multiply_number"]),
    ]
    for point in observer.points:
        assert np.array_equal(point.computed, point.recorded)


class QuickGELUActivation(torch.nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class Activated(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.act = QuickGELUActivation()

    def forward(self, x):
        return self.act(self.act(x) * 2.0)


def test_activations_are_operations():
    network = Activated()
    trace = recorded(network, x=X)
    _, observer = followed(network, trace, x=X)
    found = [(p.call.name, p.role, names(p.suspects)) for p in observer.points]
    assert found == [
        ("quick_gelu", "input", []),
        ("quick_gelu", "", ["quick_gelu"]),
        ("quick_gelu~1", "input", ["multiply_number"]),
        ("quick_gelu~1", "", ["quick_gelu~1"]),
        ("", "", []),
    ]
    for point in observer.points:
        np.testing.assert_allclose(point.computed, point.recorded, rtol=1e-5)
        assert point.call.kind in ("quick_gelu", CALL)


# -- operations of which a port has another number ------------------------------------------------


class Silus(torch.nn.Module):
    """Activations of numbers that are far apart, all or some of them."""

    kept = (0, 1, 2)

    def forward(self, x):
        y = [x * by for by in (1.0, 30.0, 900.0)]
        parts = [torch.nn.functional.silu(z) if i in self.kept else z for i, z in enumerate(y)]
        return parts[0] + parts[1][:1] * 0.5 + parts[2][1:]


@pytest.mark.parametrize(
    ("ours", "theirs", "aligned"),
    [
        ((0, 1, 2), (0, 1, 2), {}),
        ((0, 1, 2), (0, 2), {"silu": (0, None, 1)}),
        ((0, 1, 2), (1, 2), {"silu": (None, 0, 1)}),
        ((0, 2), (0, 1, 2), {"silu": (0, 2)}),
        ((2,), (0, 1, 2), {"silu": (2,)}),
        ((0, 1, 2), (2,), {"silu": (None, None, 0)}),
    ],
)
def test_operations_of_a_name_are_aligned(ours, theirs, aligned):
    network, port = Silus(), Silus()
    network.kept, port.kept = ours, theirs
    trace = recorded(port, x=X)
    replay, observer = followed(network, trace, x=X)
    assert replay.aligned == aligned and replay.collected == {}
    numbers = aligned.get("silu", tuple(range(len(ours))))
    seen = [p.call.name for p in observer.points if p.role == "input"]
    wanted = [f"silu~{i}" if i else "silu" for i, j in enumerate(numbers) if j is not None]
    assert seen == wanted
    for point in observer.points:
        if point.call.name:
            np.testing.assert_allclose(point.computed, point.recorded, rtol=1e-6)


def test_operations_of_which_there_are_as_many_are_not_aligned():
    """Their inputs are wrong, which is a fault and no other order."""
    network = Silus()
    trace = recorded(network, x=X + 1.0)
    replay, observer = followed(network, trace, x=X)
    assert replay.aligned == {}
    wrong = [p.call.name for p in observer.points if not np.allclose(p.computed, p.recorded)]
    assert wrong == ["silu", "silu~1", "silu~2"]


# -- odd parts ------------------------------------------------------------------------------------


def test_linear_layers_of_adaptive_norms_have_parts():
    class Modulated(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.Module()
            self.norm.linear = torch.nn.Linear(2, 12)
            self.norm.other = torch.nn.Linear(2, 12)

        def forward(self, x):
            return self.norm.linear(x) * self.norm.other(x)

    network = made(Modulated)
    for layers in (("",), ("norm.linear",)):
        replay, _ = followed(network, recorded(network, *layers, x=X), x=X)
        assert replay.modulations == {"norm.linear": 6}


def test_a_layer_of_the_network_twice_has_two_names():
    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(2, 2)

        def forward(self, x):
            return self.inner(self.inner(x))

    network = made(Twice)
    replay, observer = followed(network, recorded(network, x=X), x=X)
    assert [p.call.name for p in observer.points if not p.role] == ["inner", "inner~1", ""]
    assert replay.visited == {"inner", "inner~1"}
    assert observer.find("inner~1").call.layer == "inner"


def test_parts_of_tokens_are_computed_unseen():
    network = made(Net)
    trace = recorded(network, x=X)
    replay, observer = replayed(network, trace)
    layer = replay.copies.exact.layers["first"]
    with torch.no_grad():
        result = replay.see_part(layer, (wide(X),), {})
        assert torch.equal(result, layer.forward(wide(X)))
    assert not observer.points and replay._within == 0 and not replay._seen
    assert to_array(result).shape == (2, 2)
