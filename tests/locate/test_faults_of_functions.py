"""Functions of torch with a known fault: each variant against torch's own result of the fault."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from module_runs import bare_run
from torch.overrides import TorchFunctionMode

from ldmref.backends.named import LayerCall
from ldmref.locate.faults import tensors
from ldmref.locate.faults.table import FAULTS
from ldmref.locate.modules.operations import describe_function
from ldmref.locate.replay.following import RECENT
from ldmref.locate.replay.points import Frame, Point

X = torch.linspace(-1.0, 2.0, 48, dtype=torch.float64).reshape(2, 4, 6)
Y = torch.linspace(0.5, 3.0, 48, dtype=torch.float64).reshape(2, 4, 6).flip(1)
PAIRS = X.reshape(2, 4, 3, 2)
MASK = X > 0.3
TURN = torch.polar(torch.ones_like(Y), Y)


class First(TorchFunctionMode):
    """Keeps the first call of a function that is described."""

    operation = None

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if self.operation is None:
            self.operation = describe_function(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


def variants_of(run, only_tensors=False):
    """Return the results of the faults of the first operation of a function, by their words."""
    with First() as mode:
        right = run()
    replay = bare_run()
    call = replay.operation_call("op", mode.operation)
    computed = call.compute({**call.parameters, **call.inputs})
    parts = parts_of(right)
    for got, wanted in zip(parts_of(computed), parts, strict=True):
        np.testing.assert_allclose(got, real(wanted))
    return {
        variant.text: variant.change(call, {**call.parameters, **call.inputs})
        for fault in FAULTS
        if call.kind in fault.applies_to
        if fault.variants.__module__ == tensors.__name__ or not only_tensors
        for variant in fault.variants(call)
        if only_tensors or any(variant.text == text for text, _ in CASES.values())
    }


def parts_of(x):
    return x if isinstance(x, tuple) else (x,)


def real(x):
    return torch.view_as_real(x).numpy() if x.is_complex() else x.numpy()


CASES = {  # a right call: the words of a fault, and what is computed with it
    lambda: X + 1e-6: ("eps 0.001 instead of 1e-06", X + 1e-3),
    lambda: 1 + X: ("1 is not added", X),
    lambda: X * 3.0: ("the factor 3 is missing", X),
    lambda: 2 * X: ("divided by 2 instead of multiplied", X / 2),
    lambda: X / 4: ("the division by 4 is missing", X),
    lambda: X * Y: ("the second factor is missing", X),
    lambda: Y * X: ("1 is added to the second factor", Y * (1 + X)),
    lambda: TURN * TURN: ("the rotation has the other direction", TURN * TURN.conj()),
    lambda: X - Y: ("subtracted in the other order", Y - X),
    lambda: -X: ("the sign is not changed", X),
    lambda: 10000.0**X: ("theta 256 instead of 10000", 256.0**X),
    lambda: torch.pow(100.0, X): ("the exponent has the other sign", 100.0**-X),
    lambda: X.sin(): ("the rotation has the other direction", -X.sin()),
    lambda: torch.cos(X): ("sine and cosine are exchanged", X.sin()),
    lambda: torch.cos(Y): ("the angles are rounded to bfloat16", Y.bfloat16().double().cos()),
    lambda: torch.polar(torch.ones_like(X), X): (
        "the rotation has the other direction",
        torch.polar(torch.ones_like(X), -X),
    ),
    lambda: X.chunk(3, -1): (
        "parts 0 and 2 of 3 are exchanged",
        X.chunk(3, -1)[::-1],
    ),
    lambda: X.chunk(2, dim=-1): (
        "the parts alternate instead of being blocks",
        (X[..., ::2], X[..., 1::2]),
    ),
    lambda: PAIRS.unbind(-1): (
        "the parts alternate instead of being blocks",
        tuple(PAIRS.reshape(2, 4, 2, 3)[..., i, :] for i in (0, 1)),
    ),
    lambda: torch.cat([X, Y], dim=1): (
        "parts are joined in the order 1, 0",
        torch.cat([Y, X], dim=1),
    ),
    lambda: torch.softmax(X, -1): ("softmax over the queries", X.softmax(-2)),
    lambda: X.masked_fill(MASK, -9.0): ("the mask is inverted", X.masked_fill(~MASK, -9.0)),
    lambda: X.repeat_interleave(2, dim=-1): (
        "repeated as a whole instead of each number",
        torch.cat([X, X], -1),
    ),
    lambda: torch.relu(X): ("no activation instead of ReLU", X),
    lambda: X[:, :, :4].permute(2, 0, 1): (
        "axes 0 and 2 are exchanged",
        X[:, :, :4].permute(1, 0, 2),
    ),
}


@pytest.mark.parametrize("run", CASES, ids=[text for text, _ in CASES.values()])
def test_a_fault_computes_what_torch_does_with_it(run):
    text, wrong = CASES[run]
    got = variants_of(run)[text]
    parts = zip(got, wrong, strict=True) if isinstance(wrong, tuple) else [(got, wrong)]
    for found, wanted in parts:
        np.testing.assert_allclose(found, real(wanted), atol=1e-12)


def rounded(x):
    return x.bfloat16().double(), x.half().double()


def exchanged(parts, i, j):
    parts = list(parts)
    parts[i], parts[j] = parts[j], parts[i]
    return tuple(parts)


SUM, MINUS = X + Y, -Y
SQUARE = X[:, :, :4].contiguous()
CONSTANTS = (1e-3, 1e-4, 1e-5, 2.0**-23, 2.0**-10, 2.0**-7, 1e-8, 1e-12, 0.0, 1e-2, 1e-1)
LENGTH = torch.full_like(X, 0.5)
FOURS = torch.arange(20.0, dtype=torch.float64).reshape(1, 20)
# A right call, and the results of all its faults: none more, none less.
ALL = {
    lambda: X + 1e-6: [X + eps for eps in CONSTANTS],
    lambda: X + 0.01: [X, X + 0.02, X - 0.01],  # no eps
    lambda: X + 3.0: [X, X + 6.0, X - 3.0],
    lambda: X * 3.0: [X, X / 3.0, X * 9.0, X * -3.0],
    lambda: X * 0.0: [X, X * 0.0, X * 0.0],
    lambda: X / 4.0: [X, X * 4.0],
    lambda: X * Y: [X, Y, X * (1 + Y), Y * (1 + X), X * (Y - 1)],
    lambda: X * Y[:1]: [
        X,
        Y[:1].expand(2, 4, 6),
        X * (1 + Y[:1]),
        Y[:1] * (1 + X),
        X * (Y[:1] - 1),
    ],
    lambda: TURN * TURN[:1]: [
        TURN,
        TURN[:1].expand(2, 4, 6),
        TURN * TURN[:1].conj(),
        TURN,
    ],
    lambda: X - Y: [X + Y, Y - X, X],
    lambda: X - Y[:1]: [X + Y[:1], Y[:1] - X, X],
    lambda: X[:1] - Y: [X[:1] + Y, Y - X[:1], X[:1].expand(2, 4, 6)],
    lambda: -X: [X],
    lambda: 10000.0**X: [
        *(base**X for base in (100.0, 256.0, 500.0, 1000.0, 2000.0, 100000.0, 1e6)),
        10000.0**-X,
    ],
    lambda: 0.5**X: [0.5**-X],
    lambda: X.cos(): [*(x.cos() for x in rounded(X)), X.sin()],
    lambda: X.sin(): [-X.sin(), *(x.sin() for x in rounded(X)), X.cos()],
    lambda: torch.polar(LENGTH, X): [torch.polar(LENGTH, x) for x in (-X, *rounded(X))],
    lambda: X.chunk(2, 1): [X.chunk(2, 1)[::-1], (X[:, ::2], X[:, 1::2])],
    lambda: X.chunk(3, -1): [
        *(exchanged(X.chunk(3, -1), i, j) for i, j in ((0, 1), (0, 2), (1, 2))),
        *(tuple(X.chunk(3, -1)[i] for i in o) for o in ((1, 2, 0), (2, 0, 1))),
        tuple(X[..., i::3] for i in range(3)),
    ],
    lambda: X.split((2, 3, 1), -1): [
        tuple(X.split((2, 3, 1), -1)[i] for i in o) for o in ((1, 2, 0), (2, 0, 1))
    ],
    lambda: X.split((2, 4), -1): [],
    lambda: FOURS.chunk(10, -1): [
        *(exchanged(FOURS.chunk(10, -1), i, j) for i in range(9) for j in range(i + 1, 9)),
        tuple(FOURS[:, i::10] for i in range(10)),
    ],
    lambda: PAIRS.unbind(-1): [
        PAIRS.unbind(-1)[::-1],
        tuple(PAIRS.reshape(2, 4, 2, 3)[..., i, :] for i in (0, 1)),
    ],
    lambda: torch.cat([X, Y], 1): [torch.cat([Y, X], 1)],
    lambda: torch.stack([X, Y, SUM], 1): [
        torch.stack([(X, Y, SUM)[i] for i in o], 1)
        for o in ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    ],
    lambda: torch.cat([X, Y, SUM, MINUS], 1): [torch.cat([MINUS, SUM, Y, X], 1)],
    lambda: torch.softmax(X, -1): [X.softmax(-2), X.softmax(1)],
    lambda: X.masked_fill(MASK, -9.0): [X, X.masked_fill(~MASK, -9.0)],
    lambda: X.repeat_interleave(3, dim=1): [torch.cat([X, X, X], 1)],
    lambda: X.permute(0, 2, 1): [],
    lambda: SQUARE.permute(2, 1, 0): [SQUARE.permute(2, 1, 0).transpose(0, 1)],
    lambda: X[:1, :1].permute(1, 0, 2): [],
}


@pytest.mark.parametrize("number", range(len(ALL)))
def test_the_faults_of_a_call_are_these(number):
    run = list(ALL)[number]
    found = list(variants_of(run, only_tensors=True).values())
    wanted = ALL[run]
    assert len(found) == len(wanted)
    for got, right in zip(found, wanted, strict=True):
        for x, y in zip(parts_of(got), parts_of(right), strict=True):
            assert x.shape == real(y).shape
            np.testing.assert_allclose(x, real(y), rtol=1e-13, atol=1e-13)


def operation_of(run):
    with First() as mode:
        run()
    replay = bare_run()
    return replay.operation_call("op", mode.operation)


def test_pairs_of_halves_are_rotated_with_each_operation_that_pairs_them():
    """Neighbours or halves: at the start, at the end, and where each half is an array."""
    halves = [PAIRS.reshape(2, 4, 2, 3)[..., i, :] for i in (0, 1)]
    turned = torch.cat([TURN.real, TURN.imag], -1).reshape(2, 4, 6, 2)
    changed = {
        lambda: torch.view_as_complex(PAIRS): torch.complex(*halves),
        lambda: torch.view_as_real(TURN): turned,
        lambda: PAIRS.unbind(-1): tuple(halves),
        lambda: torch.stack([X, Y], -1): torch.cat([X, Y], -1).reshape(2, 4, 6, 2),
        lambda: torch.stack([X, Y], 3): torch.cat([X, Y], -1).reshape(2, 4, 6, 2),
    }
    kept = [
        lambda: X.chunk(2, -1),
        lambda: torch.cat([X, Y], -1),
        lambda: torch.stack([X, Y, X], -1),
        lambda: X * Y,
    ]
    for run, wanted in changed.items():
        call = operation_of(run)
        point = SimpleNamespace(suspects=(*map(operation_of, kept), call))
        ((_, changes),) = tensors.other_pairs(None, point)
        assert set(changes) == {call.name}
        got = changes[call.name](call, dict(call.inputs))
        for x, y in zip(parts_of(got), parts_of(wanted), strict=True):
            assert x.shape == real(y).shape
            np.testing.assert_allclose(x, real(y), atol=1e-13)
    point = SimpleNamespace(suspects=tuple(map(operation_of, kept)))
    assert list(tensors.other_pairs(None, point)) == []


@pytest.mark.parametrize("run", [lambda: X.unbind(1), lambda: torch.stack([X, Y], 1)])
def test_pairs_along_another_axis_have_no_halves(run):
    call = operation_of(run)
    ((_, changes),) = tensors.other_pairs(None, SimpleNamespace(suspects=(call,)))
    with pytest.raises(ValueError, match="last axis"):
        changes[call.name](call, dict(call.inputs))


def test_a_layer_has_no_more_parts_than_it_returned():
    run = bare_run()
    parts = np.ones(3), np.full(2, 2.0), "no array"
    frame = Frame("", lambda inputs: parts, {}, Counter(), [])
    layer = LayerCall("", "", {}, {}, {}, frame.compute, composite=True)
    point = Point(layer, "", np.zeros(0), np.zeros(0), {}, frame, (), ())
    for part, right in enumerate([[1.0, 1.0, 1.0], [2.0, 2.0], None, None]):
        found = run.rerun(replace(point, part=part))
        assert (found if found is None else found.tolist()) == right


def test_the_last_outputs_are_those_an_array_is_compared_with():
    run = bare_run()
    run.recent.extend((str(i), np.zeros(1)) for i in range(2 * RECENT))
    assert [name for name, _ in run.recent] == [str(i) for i in range(RECENT, 2 * RECENT)]


@pytest.mark.parametrize(
    ("shape", "exchanged"),
    [((2, 2), ["0 and 1"]), ((3, 2, 3), ["0 and 2"]), ((1, 1), []), ((2, 3), [])],
)
def test_equal_axes_longer_than_one_are_exchanged(shape, exchanged):
    call = LayerCall("x", "axes", {"input": np.zeros(shape)}, {}, {}, lambda x: x["input"])
    found = [variant.text for variant in tensors.other_axes(call)]
    assert found == [f"axes {pair} are exchanged" for pair in exchanged]
