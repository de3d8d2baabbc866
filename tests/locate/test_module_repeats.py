"""Parts of a followed module that are run again: in formats, with changes, from other inputs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from module_runs import (  # noqa: E402
    CALL,
    Net,
    Noted,
    Part,
    X,
    followed,
    made,
    recorded,
    replayed,
    wide,
)

from ldmref.backends.named import LayerCall  # noqa: E402
from ldmref.locate.modules import repeated  # noqa: E402
from ldmref.locate.modules.operations import Operation  # noqa: E402
from ldmref.locate.modules.repeated import NetworkCopies  # noqa: E402
from ldmref.locate.replay.repeating import TargetReached  # noqa: E402
from ldmref.trace import build_trace  # noqa: E402

THIRD = 1.0 / 3.0


def array(x):
    return x.detach().double().numpy()


@pytest.fixture(scope="module")
def net():
    return made(Net)


@pytest.fixture
def run(net):
    """Return the replay and the observer of a right run of which all was recorded."""
    return followed(net, recorded(net, x=X), x=X)


# -- formats --------------------------------------------------------------------------------------


def test_copies_are_made_once_for_each_format():
    module = torch.nn.Linear(2, 2)
    module.weight.data.fill_(THIRD)
    copies = NetworkCopies(module, "bfloat16")
    third = torch.tensor(THIRD).bfloat16()
    for made_, form in (
        (copies.exact, torch.float64),
        (copies.narrow("bfloat16"), torch.bfloat16),
        (copies.narrow("float32"), torch.float32),
        (copies.narrow("float64"), torch.float64),
    ):
        weight = made_.network.weight
        assert made_.dtype == weight.dtype == form and weight[0, 0].double() == third.double()
    assert copies.exact is copies.exact is not copies.narrow("float64")
    assert copies.narrow("float32") is copies.narrow("float32")
    assert module.weight.dtype == torch.float32 and copies.module is module
    assert NetworkCopies(module, "float32").narrow("float16").network.weight[0, 0].item() == (
        torch.tensor(THIRD).half().item()
    )


def test_the_end_of_a_run_is_no_error_that_code_catches():
    reached = TargetReached((1, 2))
    assert reached.parts == (1, 2) and not isinstance(reached, Exception)


def test_a_run_is_followed_while_its_block_runs(net):
    replay, _ = replayed(net, build_trace({}))
    exact, before = replay.copies.exact, torch.get_default_dtype()
    assert replay.is_exact and replay.dtype_of_port == "float32" and not replay._plain
    for network, wide_, is_exact in (
        (exact, torch.float64, True),
        (replay.copies.narrow("bfloat16"), torch.float32, False),
    ):
        replay.network = network
        network.follower = "before"
        assert replay.is_exact == is_exact
        with pytest.raises(ZeroDivisionError), replay.running():
            assert network.follower is replay and torch.get_default_dtype() == wide_
            assert not torch.is_grad_enabled()
            raise ZeroDivisionError
        assert network.follower == "before" and torch.get_default_dtype() == before
        assert torch.is_grad_enabled()
        network.follower = None


def test_another_format_is_that_of_a_block(net):
    replay, _ = replayed(net, build_trace({}))
    with pytest.raises(ZeroDivisionError), replay.in_format("float16"):
        assert replay.dtype_of_port == "float16"
        raise ZeroDivisionError
    assert replay.dtype_of_port == "float32"


def test_tensors_are_cast_to_the_format_that_is_computed(net):
    replay, _ = replayed(net, build_trace({}))
    x = torch.tensor([THIRD])
    phases, ids = torch.polar(x, x), torch.arange(2)
    assert replay.cast(x).dtype == torch.float64
    assert replay.cast(x.bfloat16()).dtype == torch.float64
    assert replay.cast(phases).dtype == torch.complex128 and replay.cast(ids) is ids
    assert replay.cast(ids > 0).dtype == torch.bool
    replay.network = replay.copies.narrow("bfloat16")
    assert replay.cast(x).dtype == torch.bfloat16 and replay.cast(ids) is ids
    assert replay.cast(phases).dtype == torch.complex64


def test_casts_of_code_are_exact_unless_a_copy_is_made(net):
    replay, _ = replayed(net, build_trace({}))
    x = torch.tensor([THIRD], dtype=torch.float64)
    for plain, exact, form in (
        (False, True, torch.float64),
        (True, True, torch.float32),
        (False, False, torch.float32),
    ):
        replay._plain = plain
        replay.network = replay.copies.exact if exact else replay.copies.narrow("float32")
        assert replay.compute_function(torch.Tensor.float, (x,), {}).dtype == form
    replay._plain, replay.network = False, replay.copies.exact
    norm = torch.nn.functional.rms_norm
    small = torch.tensor([[1e-3, 2e-3]], dtype=torch.float64)
    got = replay.compute_function(norm, (small, (2,)), {})
    eps = torch.finfo(torch.float32).eps
    assert torch.allclose(got, small / ((small**2).mean() + eps).sqrt(), rtol=1e-12, atol=0.0)


def test_a_copy_is_made_without_being_followed(net, monkeypatch):
    replay, _ = replayed(net, build_trace({}))
    seen = []

    def narrow(dtype):
        seen.append((dtype, replay._plain, replay._within))
        raise ZeroDivisionError

    monkeypatch.setattr(replay.copies, "narrow", narrow)
    with pytest.raises(ZeroDivisionError):
        replay._narrow("float16")
    assert seen == [("float16", True, 1)] and not replay._plain and replay._within == 0


# -- parameters -----------------------------------------------------------------------------------


def test_parameters_are_those_of_the_copy_in_float64(net, run):
    replay, observer = run
    call = observer.find("first.inner").call
    own = replay.parameters(call)
    assert own.keys() == {"weight", "bias"} and own is not call.parameters
    assert np.array_equal(own["weight"], array(net.first.inner.weight))
    assert np.array_equal(replay.parameters_of("d.inner"), array(net.second.inner.weight))
    assert np.array_equal(replay.parameters_of("x", "inner"), array(net.first.inner.weight))
    assert replay.parameters_of("other") is None
    assert [name for name, _ in replay._layers()] == ["first.inner", "second.inner"]
    blocks = torch.nn.Module()
    blocks.to_q, blocks.to_k, blocks.norm = (
        torch.nn.Linear(2, 2),
        torch.nn.Linear(2, 2),
        torch.nn.LayerNorm(2),
    )
    replay, _ = replayed(blocks, build_trace({}))
    weights = {"weight": np.zeros((2, 2)), "bias": np.zeros(2)}
    call = LayerCall("to_q", "linear", {}, weights, {}, lambda x: x)
    ((name, leaves),) = replay.similar_layers(call)
    assert name == "to_k" and np.array_equal(leaves["weight"], array(blocks.to_k.weight))


# -- reruns ---------------------------------------------------------------------------------------

SUBSETS = [(), ("",), ("first", "second"), ("second",), ("", "first.inner", "second.inner")]


@pytest.mark.parametrize("layers", SUBSETS, ids=lambda layers: "+".join(layers) or "all")
def test_points_are_computed_again(net, layers):
    replay, observer = followed(net, recorded(net, *layers, x=X), x=X)
    seen = replay._seen.copy()
    for point in observer.points:
        again = replay.rerun(point)
        assert again.dtype == np.float64
        np.testing.assert_allclose(again, point.computed, rtol=1e-13, atol=1e-15)
        np.testing.assert_allclose(replay.rerun(point, free=True), point.computed, rtol=1e-5)
    assert replay.network is replay.copies.exact and replay._trial is None
    assert replay._seen == seen and replay._within == 0 and replay.names.scopes == []


def test_points_are_computed_again_in_the_format_of_the_port(net):
    """As the port computed them, from what it recorded."""
    trace = recorded(net, x=X)
    replay, observer = followed(net, trace, x=X)
    for point in observer.points:
        again = replay.rerun(point, low=True)
        assert np.array_equal(again, point.recorded), point.call.name
    assert any(not np.array_equal(p.computed, p.recorded) for p in observer.points)
    with replay.in_format("bfloat16"):
        again = replay.rerun(observer.find("second"), low=True)
    inner = torch.tensor(observer.find("second.inner").recorded).bfloat16()
    assert np.array_equal(again, array(torch.sin(inner) * 3.0))
    assert replay.network is replay.copies.exact


def test_points_follow_from_changed_operations(net, run):
    replay, observer = run

    def rerun(name, role="", **changes):
        """Each change is called with the operation and its arrays by role."""
        point = observer.find(name, role)
        table = {key.replace("__", "."): change for key, change in changes.items()}
        return replay.rerun(point, table, free=False)

    inner = observer.find("first.inner").recorded
    got = rerun("first", first__sine=lambda call, x: np.cos(x["input"]))
    np.testing.assert_allclose(got, 2.0 * np.cos(inner), rtol=1e-12)
    got = rerun("first.inner", "input", first__multiply_number=lambda call, x: 7.0 * x["input"])
    np.testing.assert_allclose(got, 7.0 * array(X), rtol=1e-12)
    got = rerun("second", "input", cosine=lambda call, x: x["input"])
    assert np.array_equal(got, observer.find("first").recorded)
    got = rerun("", tanh=lambda call, x: call.compute({"input": 0.5 * x["input"]}))
    right = np.tanh(2.5 * observer.find("second").recorded)
    np.testing.assert_allclose(got, right, rtol=1e-12)

    def doubled(call, x):
        assert x.keys() == {"input", "weight", "bias"} and call.kind == "linear"
        return 2.0 * call.compute(x)

    got = replay.rerun(observer.find("first.inner"), {"first.inner": doubled})
    np.testing.assert_allclose(got, 2.0 * observer.find("first.inner").computed, rtol=1e-12)
    other = replay.rerun(observer.find("first.inner"), {"second.inner": doubled})
    assert np.array_equal(other, observer.find("first.inner").computed)


def test_recorded_layers_are_not_computed_again_unless_the_run_is_free(net, run):
    replay, observer = run
    changes = {"first.multiply_number": lambda call, x: 7.0 * x["input"]}
    point = observer.find("first")
    np.testing.assert_allclose(replay.rerun(point, changes), point.computed, rtol=1e-12)
    free = array(torch.sin(net.first.inner(7.0 * X)) * 2.0)
    np.testing.assert_allclose(replay.rerun(point, changes, free=True), free, rtol=1e-5)
    whole = observer.find("")
    inside = {"second.sine": lambda call, x: 0.5 + 0.0 * x["input"]}
    assert np.array_equal(replay.rerun(whole, inside), whole.computed)  # it was recorded
    around = {"first.sine": lambda call, x: 0.5 + 0.0 * x["input"]}
    assert np.array_equal(replay.rerun(whole, around), whole.computed)  # second was recorded


def test_an_output_without_inputs_follows_from_what_leads_to_its_layer(net):
    whole = recorded(net, "first", "second", x=X)
    entries = [vars(e) | ({"inputs": {}} if e.layer == "second" else {}) for e in whole.entries]
    kept = {name: x for name, x in whole.tensors.items() if name != f"{CALL}/second/input"}
    replay, observer = followed(net, build_trace(kept, {"entries": entries}), x=X)
    point = observer.find("second")
    assert np.array_equal(replay.rerun(point), point.computed)
    got = replay.rerun(point, {"cosine": lambda call, x: x["input"]})
    first = torch.tensor(observer.find("first").recorded).float()
    np.testing.assert_allclose(got, array(net.second(first)), rtol=1e-4, atol=1e-6)


def test_points_follow_from_other_inputs(net, run):
    replay, observer = run
    other = np.array([[0.125, -3.0]])
    point = observer.find("second.inner")
    right = array(net.second.inner(torch.tensor(other).float()))
    got = replay.rerun(point, arguments={"input": other})
    np.testing.assert_allclose(got, right, rtol=1e-6)
    got = replay.rerun(observer.find("second.inner", "input"), arguments={"input": other})
    np.testing.assert_allclose(got, 3.0 * other, rtol=1e-12)
    whole = observer.find("first", "input")
    assert np.array_equal(replay.rerun(whole, arguments={"x": other}), other)
    with pytest.raises(ValueError, match=r"shape|size"):
        replay.rerun(point, arguments={"input": np.ones((2, 3))})
    assert replay.network is replay.copies.exact and replay._trial is None


def test_what_is_not_reached_is_no_array(net, run):
    replay, observer = run
    whole = observer.find("")
    assert replay.rerun(replace(whole, part=1)) is None
    scalar = replay.rerun(observer.find("first.inner"), {"first.inner": lambda call, x: 1.0})
    assert scalar is None
    nowhere = replace(whole, call=replace(whole.call, name="nowhere"))
    assert replay.rerun(nowhere) is None


def test_a_run_that_was_judged_otherwise_is_repeated_with_that(net):
    trace = recorded(net, x=X)
    half = np.full((2, 2), 0.5)

    def use(point):
        return half if (point.call.name, point.role) == ("first", "") else None

    replay, observer = followed(net, trace, Noted(use), x=X)
    again = replay.rerun(observer.find("second", "input"))
    np.testing.assert_allclose(again, np.cos(half), rtol=1e-12)


# -- names ----------------------------------------------------------------------------------------


def test_names_are_numbered_in_the_order_of_calls(net):
    replay, _ = replayed(net, build_trace({}))
    assert [replay.unique("a") for _ in range(3)] == ["a", "a~1", "a~2"]
    assert replay.unique("b") == "b" and replay._seen == Counter(a=3, b=1)
    assert repeated.numbered("a", 0) == "a" and repeated.numbered("a", 4) == "a~4"


def test_aligned_operations_are_found_by_the_number_of_the_port(net):
    trace = build_trace({f"{CALL}/{name}/input": X.numpy() for name in ("a", "a~1", "b", "b~1")})
    replay, _ = replayed(net, trace)
    replay.aligned["a"] = (None, 0, 1)
    found = {name: replay.find(name) for name in ("a", "a~1", "a~2", "a~3", "b", "b~1", "c")}
    layers = {name: None if entry is None else entry.layer for name, entry in found.items()}
    assert layers == {
        "a": None, "a~1": "a", "a~2": "a~1", "a~3": None, "b": "b", "b~1": "b~1", "c": None,
    }  # fmt: skip


def test_what_is_unseen_belongs_to_one_operation(net):
    replay, _ = replayed(net, build_trace({}))
    with replay.unseen():
        with pytest.raises(ZeroDivisionError), replay.unseen():
            assert replay._within == 2
            raise ZeroDivisionError
        assert replay._within == 1
    assert replay._within == 0


# -- operations of a name -------------------------------------------------------------------------


class Silus(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(2, 2)
        self.part = Part(2.0)

    def forward(self, x):
        silu = torch.nn.functional.silu
        return silu(self.part(silu(self.inner(silu(x)))))


def test_all_operations_of_a_name_are_collected():
    """Layers between them return what the port recorded."""
    network = made(Silus)
    shift = {
        f"{CALL}/{name}/output": np.full((2, 2), x, np.float32)
        for name, x in (("inner", 0.25), ("part", 0.75))
    }
    trace = recorded(network, "", "inner", "part", "silu~1", arrays=shift, x=X)
    replay, observer = followed(network, trace, x=X)
    frame = observer.find("").frame
    for known in (True, False):  # whether the layers were computed before
        if not known:
            replay._forms.clear()
        replay.aligned["other"] = ()
        found = replay.collect("silu", frame)
        inputs = (array(X), np.full((2, 2), 0.25), np.full((2, 2), 0.75))
        assert len(found) == 3
        for arrays, x in zip(found, inputs, strict=True):
            assert arrays.keys() == {"input", ""}
            np.testing.assert_allclose(arrays["input"], x, rtol=1e-12)
            np.testing.assert_allclose(arrays[""], x / (1.0 + np.exp(-x)), rtol=1e-12)
        assert replay.collected == {} and replay.aligned == {"other": ()}


def test_nothing_is_collected_of_a_part_that_cannot_run():
    network = made(Silus)
    replay, observer = followed(network, recorded(network, x=X), x=X)
    frame = observer.find("").frame
    broken = {**vars(frame), "inputs": {"x": np.ones((2, 3))}}
    replay._forms.clear()
    assert replay.collect("silu", type(frame)(**broken)) == []
    assert replay.collected == {} == replay.aligned


# -- layers from arrays ---------------------------------------------------------------------------


class Taker(torch.nn.Module):
    """A layer with an optional tensor, one in a list, and a number."""

    def forward(self, x, more=None, parts=(), scale=1.0):
        self.seen = more, [part.dtype for part in parts]
        result = x * scale + sum(parts)
        return result if more is None else result + more


class Takes(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.taker = Taker()

    def forward(self, x):
        return self.taker(x, x, [x], 2.0)


def test_a_layer_is_computed_from_arrays_by_role():
    network = made(Takes)
    replay, _ = replayed(network, build_trace({}))
    layer = replay.copies.exact.layers["taker"]
    x, ids = torch.ones(2, 2), torch.tensor([3, 4])
    arguments = {"x": x, "more": 2.0 * x, "parts": [ids], "scale": 4.0}
    roles = {"x": "input", "more": "more", "parts.0": "part"}
    kept = []
    again = replay.composite(layer, arguments, roles, kept.append)
    (got,) = again({})
    assert np.array_equal(got, 6.0 + np.array([[3.0, 4.0]] * 2)) and got.dtype == np.float64
    assert layer.module.seen[1] == [torch.int64] and kept[0].dtype == torch.float64
    (got,) = again({"input": np.full((2, 2), 0.5), "part": np.array([1, 0]), "other": None})
    assert got.tolist() == [[5.0, 4.0], [5.0, 4.0]]
    (got,) = again({"more": None})
    assert got.tolist() == [[7.0, 8.0], [7.0, 8.0]] and layer.module.seen[0] is None
    assert len(kept) == 3
    replay.network = replay.copies.narrow("bfloat16")
    replay.composite(replay.network.layers["taker"], arguments, roles, kept.append)({})
    assert kept[-1].dtype == torch.bfloat16

    def whole(**given):
        assert given["x"].dtype == torch.bfloat16
        return given["x"], {"output.1": given["x"] * 3.0}

    got = replay.composite(None, {"x": x}, {"x": "x"}, None, whole)({"x": np.full((2, 2), 2.0)})
    assert [part[0, 0] for part in got] == [2.0, 6.0]


def test_an_operation_is_computed_from_arrays_by_role(net):
    replay, _ = replayed(net, build_trace({}))
    seen = []

    def compute(values):
        seen.append((values, replay._within))
        return values["input"] * values["weight"] + values["shift"]

    x, weight = torch.tensor([1.0, 2.0]), torch.tensor(3.0)
    operation = Operation("scale", {"input": x}, compute, {"weight": weight}, {"shift": 0.5})
    call = replay.operation_call("a.b~2", operation)
    assert (call.name, call.kind, call.layer) == ("a.b~2", "scale", "a.b")
    assert call.inputs["input"].tolist() == [1.0, 2.0] and call.parameters["weight"] == 3.0
    assert call.attributes == {"shift": 0.5} and not call.composite
    assert call.compute({}).tolist() == [3.5, 6.5]
    assert call.compute({"input": np.array([5.0]), "weight": np.array(2.0)}).tolist() == [10.5]
    assert call.compute({"shift": 1}).tolist() == [4.0, 7.0]
    assert call.compute({"other": np.array([1.0])}).tolist() == [3.5, 6.5]
    values, within = seen[-1]
    assert within == 1 and values["other"].dtype == torch.float64
    assert values["input"].dtype == values["weight"].dtype == torch.float64
    parts = Operation("parts", {"input": x}, lambda v: [v["input"], v["input"] + 1.0])
    both = replay.operation_call("a", parts).compute({})
    assert isinstance(both, tuple) and [part.tolist() for part in both] == [[1, 2], [2, 3]]


@pytest.mark.parametrize(
    ("kind", "form", "attributes", "expected"),
    [
        ("linear", torch.float32, {}, torch.float64),
        ("linear", torch.complex64, {}, torch.complex128),
        ("pair", torch.float32, {}, torch.complex128),
        ("polar", torch.float32, {}, torch.complex128),
        ("multiply", torch.complex64, {"complex": True}, torch.complex128),
        ("multiply", torch.float32, {"complex": False}, torch.float64),
        ("unpair", torch.complex64, {}, torch.float64),
        ("embedding", torch.int64, {}, torch.float64),
        ("other", torch.int64, {}, torch.float64),
        ("other", torch.bool, {}, torch.float64),
    ],
)
def test_changed_arrays_are_tensors_of_the_kind_of_the_result(
    net, kind, form, attributes, expected
):
    replay, _ = replayed(net, build_trace({}))
    operation = Operation(kind, {"input": torch.ones(2).to(form)}, lambda v: v, {}, attributes)
    changed = np.array([[1.0, 2.0]])
    got = replay._like(changed, operation)
    assert got.dtype == expected and torch.view_as_real(got.to(torch.complex128))[0, 0] is not None
    both = replay._like((changed, changed), operation)
    assert isinstance(both, tuple) and [x.dtype for x in both] == [expected] * 2
    assert got.shape == ((1,) if expected == torch.complex128 else (1, 2))


def test_operations_of_several_parts_are_computed_again():
    class Halves(torch.nn.Module):
        def forward(self, x):
            a, b = (x * 2.0).chunk(2, dim=-1)
            return torch.sin(a) * torch.cos(b)

    network = made(Halves)
    replay, observer = followed(network, recorded(network, x=X), x=X)
    point = observer.find("")
    assert np.array_equal(replay.rerun(point), point.computed)
    (split,) = [call for call in point.suspects if call.kind == "split"]

    def exchanged(call, x):
        first, second = call.compute(x)
        return second, first

    got = replay.rerun(point, {split.name: exchanged})
    a, b = array(X * 2.0)[:, 1:], array(X * 2.0)[:, :1]
    np.testing.assert_allclose(got, np.sin(a) * np.cos(b), rtol=1e-12)


# -- odd parts ------------------------------------------------------------------------------------


def test_functions_are_called_by_name_and_with_arguments_without_one():
    def function(a, b=2, *more, **named):
        return a, b, more, named

    call = repeated.call_with
    assert call(function, {"a": 1, "b": 3}) == (1, 3, (), {})
    assert call(function, {"b": 3, "a": 1}) == (1, 3, (), {})
    assert call(function, {"a": 1, "b": 3, "input.2": 5, "input.3": 6}) == (1, 3, (5, 6), {})
    assert call(function, {"a": 1, "c": 3}) == (1, 2, (), {"c": 3})


def test_an_empty_tensor_is_where_the_module_is():
    replay, _ = replayed(made(Net), build_trace({}))
    empty = replay._empty(torch.complex64)
    assert empty.shape == (0,) and empty.dtype == torch.complex64 and empty.device.type == "cpu"
    plain, _ = replayed(torch.nn.Tanh(), build_trace({}))
    assert plain._empty(torch.float16).dtype == torch.float16
    replay.network.network.to("meta")
    assert replay._empty(torch.float32).is_meta


def test_the_last_outputs_are_kept(net):
    replay, _ = replayed(net, build_trace({}))
    assert replay.recent.maxlen == 24
    for i in range(30):
        replay.recent.append((str(i), wide(X).numpy()))
    assert [name for name, _ in replay.recent] == [str(i) for i in range(6, 30)]
    assert replay.skips == {} == replay.modulations and replay.config is None is replay.ids
    assert replay.arguments == {}


def test_real_numbers_are_those_with_a_point_or_two_parts():
    for form, real in (
        (torch.float32, True),
        (torch.bfloat16, True),
        (torch.complex64, True),
        (torch.int64, False),
        (torch.bool, False),
    ):
        assert repeated._is_real(torch.zeros(1).to(form)) == real
