"""Attention, residual blocks and sums of a followed module, and what leads to several layers."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from module_runs import CALL, X, followed, made, recorded, replayed  # noqa: E402

from ldmref.trace import build_trace  # noqa: E402

F = torch.nn.functional
LONG = torch.linspace(-1.0, 1.0, 12).reshape(2, 3, 2)


def names(calls):
    return [call.name for call in calls]


def around(kind):
    """Return a network with one block of a kind, and a product after it."""

    class Around(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.block = kind()

        def forward(self, x, *more):
            return self.block(x * 2.0, *more) * 3.0

    return made(Around)


def assert_followed(network, *given):
    """Follow a right run, and return its replay and the points."""
    arguments = dict(zip(("x", "y"), given, strict=False))
    trace = recorded(network, **arguments)
    replay, observer = followed(network, trace, **arguments)
    for point in observer.points:
        np.testing.assert_allclose(point.computed, point.recorded, rtol=1e-4, atol=1e-6)
    assert [*replay.coverage.rest([*trace.entries])] == [] and not observer.skipped
    assert replay.visited == {entry.layer for entry in trace.entries if entry.layer}
    assert replay._around == [] == replay._frames and replay.names.scopes == []
    return replay, observer


# -- layers of known kinds ------------------------------------------------------------------------


class Attention(torch.nn.Module):
    """Attention to a text, or to its own input."""

    normed = False
    heads = 1

    def __init__(self):
        super().__init__()
        self.to_q = torch.nn.Linear(2, 2)
        self.group_norm = torch.nn.GroupNorm(1, 2) if self.normed else None

    def forward(self, hidden_states, encoder_hidden_states=None):
        x, text = hidden_states, encoder_hidden_states
        if self.group_norm is not None:
            x = self.group_norm(x.flatten(2)).mT
        q, k = self.to_q(x), x if text is None else text
        y = F.scaled_dot_product_attention(q[:, None], k[:, None], k[:, None])[:, 0]
        return y.mT.reshape(hidden_states.shape) if self.normed else y + hidden_states


class Block(Attention):
    normed = True


def test_attention_to_its_own_input_has_no_other():
    network = around(Attention)
    replay, observer = assert_followed(network, LONG)
    block = replay.find("block")
    assert block.inputs["context"] == block.inputs["input"]
    roles = [p.role for p in observer.points if p.call.name == "block"]
    assert roles == ["input", ""]


def test_attention_to_a_text_has_a_point_for_it():
    class Reads(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Attention()

        def forward(self, x, y):
            return self.block(x, y * 2.0)

    _, observer = assert_followed(made(Reads), LONG, LONG + 1.0)
    assert [p.role for p in observer.points if p.call.name == "block"] == ["input", "context", ""]


def test_a_context_of_its_own_that_was_not_given_is_not_compared():
    network = around(Attention)
    trace = recorded(network, "block", x=LONG)
    entry = trace.find(CALL, "block")
    arrays = {**trace.tensors, "other": np.ones((2, 3, 2))}
    changed = vars(entry) | {"inputs": {**entry.inputs, "context": "other"}}
    port = build_trace(arrays, {"entries": [changed]})
    replay, _ = followed(network, port, x=LONG)
    rest = [
        role for _, roles, _ in replay.coverage.rest([port.find(CALL, "block")]) for role in roles
    ]
    assert rest == ["input.context"]


def test_attention_blocks_are_two_layers_of_one_name():
    """Those of images: the second has the attention itself."""
    network, x = around(Block), torch.linspace(0.0, 1.0, 8).reshape(1, 2, 2, 2)
    trace = recorded(network, x=x)
    replay, observer = followed(network, trace, x=x)
    assert replay.visited == {entry.layer for entry in trace.entries if entry.layer}
    found = {p.call.name for p in observer.points}
    assert {"block", "block~1.attention"} < found and "block.attention" not in found


class ResnetBlock2D(torch.nn.Module):
    """A residual block: its first sum adds the time, its last one ends it."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Linear(2, 2)

    def forward(self, x):
        y = self.conv(x) + x
        return x + torch.sin(y)


def test_the_sum_that_ends_a_residual_block_is_found_among_its_sums():
    network = around(ResnetBlock2D)
    replay, observer = assert_followed(network, X)
    found = [(p.call.name, p.role) for p in observer.points if ".add" in p.call.name]
    assert found == [("block.add~1", "input"), ("block.add~1", "b"), ("block.add~1", "")]
    assert replay.aligned == {"block.add": (None, 0)}


def test_a_block_whose_sum_was_not_recorded_has_none():
    network = around(ResnetBlock2D)
    whole = recorded(network, "block", x=X)
    entry = whole.find(CALL, "block")
    tensors = {
        "a": whole.tensors[entry.inputs["input"]],
        "b": whole.tensors[entry.outputs["output"]],
    }
    alone = vars(entry) | {"inputs": {"input": "a"}, "outputs": {"output": "b"}}
    _, observer = followed(network, build_trace(tensors, {"entries": [alone]}), x=X)
    assert [p.call.name for p in observer.points] == ["block", "block"]
    labels = ["block.conv", "block.sum", "block.sine", "block.sum~1"]
    assert names(observer.find("block").suspects) == labels


def test_which_sum_ends_a_block():
    replay, _ = replayed(around(ResnetBlock2D), build_trace({f"{CALL}/a.add/output": X.numpy()}))
    result = object()

    def ends(name="a", kind=ResnetBlock2D, last=(1, 2, result)):
        scope = SimpleNamespace(name=name, module=kind(), last_sum=last)
        return replay._ends_block(scope, result)

    assert ends() is True and not replay._ends_block(None, result)
    assert not ends(last=None) and not ends(last=(1, 2, object()))
    assert not ends(name="b") and not ends(kind=Attention)


# -- sums and operations without a description ----------------------------------------------------


def test_sums_that_are_no_plain_ones_are_computed():
    class Weighed(torch.nn.Module):
        def forward(self, x):
            return torch.add(x, x, alpha=2) * 1.0

    replay, observer = followed(Weighed(), recorded(Weighed(), "", x=X), x=X)
    np.testing.assert_allclose(observer.find("").computed, 3.0 * X.numpy())
    assert names(observer.find("").suspects)[-1] == "multiply_number"
    assert "add" not in replay._seen


def test_operations_without_a_description_have_names_if_they_are_recorded():
    replay, observer = replayed(around(Attention), build_trace({}))
    assert replay._see_operation("silu", None, lambda: "result") == "result"
    assert replay._see_operation("", None, lambda: "other") == "other"
    assert dict(replay._seen) == {"silu": 1} and not observer.points


# -- what leads to layers -------------------------------------------------------------------------


class Twice(torch.nn.Module):
    """Two layers that read one array, each of one operation or of several."""

    def __init__(self):
        super().__init__()
        self.to_q, self.to_k = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        self.first, self.second = Inner(), Inner()

    def forward(self, x):
        y = torch.cos(x)
        z = self.to_q(y) * self.to_k(y)
        return self.first(z), self.second(z)


class Inner(torch.nn.Module):
    def forward(self, x):
        return torch.sin(x)


def test_layers_that_read_one_array_have_the_same_suspects():
    _, observer = assert_followed(made(Twice), X)
    read = {p.call.name: names(p.suspects) for p in observer.points if p.role}
    assert read == {
        "to_q": ["cosine"], "to_k": ["to_q"], "first": ["multiply"], "second": ["multiply"],
    } or read == {
        "to_q": ["cosine"], "to_k": ["cosine"], "first": ["multiply"], "second": ["multiply"],
    }  # fmt: skip


def test_points_say_whether_their_layer_has_layers():
    _, observer = assert_followed(made(Twice), X)
    parts = {p.call.name: p.call.composite for p in observer.points}
    assert parts == {"to_q": False, "to_k": False, "first": True, "second": True, "": True}
    kinds = {p.call.name: p.call.kind for p in observer.points}
    assert kinds["to_q"] == "linear" and kinds[""] == CALL and kinds["first"] == ""
    assert {p.call.name: p.call.layer for p in observer.points}["first"] == "first"


def test_as_many_earlier_operations_are_kept():
    class Many(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(2, 2)

        def forward(self, x):
            for _ in range(60):
                x = torch.sin(x)
            return self.inner(x) * 2.0

    network = made(Many)
    _, observer = followed(network, recorded(network, "", "inner", x=X), x=X)
    earlier = names(observer.find("").earlier)
    assert earlier == [f"sine~{i}" for i in range(59, 27, -1)]
    assert len(observer.find("inner", "input").suspects) == 60


# -- operations of another number -----------------------------------------------------------------


def test_layers_with_parameters_are_never_other_ones():
    network = made(Twice)
    trace = recorded(network, x=X)
    name = trace.find(CALL, "to_q").inputs["input"]
    wrong = {**trace.tensors, name: np.asarray(trace.tensors[name]) + 1.0}
    entries = [vars(entry) for entry in trace.entries]
    replay, _ = followed(network, build_trace(wrong, {"entries": entries}), x=X)
    assert replay.aligned == {}


def test_outputs_tell_operations_apart_where_inputs_were_not_recorded():
    class Silus(torch.nn.Module):
        def forward(self, x):
            return sum(F.silu(x * by)[:1] for by in (1.0, 30.0, 900.0, 5000.0)) * 1.0

    x = X.numpy().astype(np.float64)

    def silu(by):
        return x * by / (1.0 + np.exp(-x * by))

    with np.errstate(over="ignore"):
        tensors = {
            f"{CALL}/silu/input": x * 30.0,
            f"{CALL}/silu/output": silu(30.0),
            f"{CALL}/silu~1/output": silu(5000.0),
        }
    replay, observer = followed(Silus(), build_trace(tensors), dtype="float64", x=X)
    assert replay.aligned == {"silu": (None, 0, None, 1)}
    for point in observer.points:
        np.testing.assert_allclose(point.computed, point.recorded, rtol=1e-12)
    assert [p.call.name for p in observer.points if not p.role] == ["silu~1", "silu~3"]
