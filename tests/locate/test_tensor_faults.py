"""Functions of torch with a known fault: each variant against torch's own result of the fault."""

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch.overrides import TorchFunctionMode

from ldmref.locate.faults import faults_of
from ldmref.locate.modules.operations import describe_function
from ldmref.locate.modules.repeated import NetworkCopies, RepeatedModule
from ldmref.trace import build_trace

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


def variants_of(run):
    """Return the kind of the first operation of a function, and its faults by their words."""
    with First() as mode:
        right = run()
    replay = RepeatedModule(NetworkCopies(torch.nn.Identity(), "float64"), build_trace({}), "net")
    call = replay.operation_call("op", mode.operation)
    computed = call.compute({**call.parameters, **call.inputs})
    parts = parts_of(right)
    for got, wanted in zip(parts_of(computed), parts, strict=True):
        np.testing.assert_allclose(got, real(wanted))
    return {
        variant.text: variant.change(call, {**call.parameters, **call.inputs})
        for fault in faults_of(call.kind)
        for variant in fault.variants(call)
        if any(variant.text == text for text, _ in CASES.values())
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
        "the rotation has the other direction", torch.polar(torch.ones_like(X), -X),
    ),
    lambda: X.chunk(3, -1): (
        "parts 0 and 2 of 3 are exchanged", X.chunk(3, -1)[::-1],
    ),
    lambda: X.chunk(2, dim=-1): (
        "the parts alternate instead of being blocks", (X[..., ::2], X[..., 1::2]),
    ),
    lambda: PAIRS.unbind(-1): (
        "the parts alternate instead of being blocks",
        tuple(PAIRS.reshape(2, 4, 2, 3)[..., i, :] for i in (0, 1)),
    ),
    lambda: torch.cat([X, Y], dim=1): (
        "parts are joined in the order 1, 0", torch.cat([Y, X], dim=1),
    ),
    lambda: torch.softmax(X, -1): ("softmax over the queries", X.softmax(-2)),
    lambda: X.masked_fill(MASK, -9.0): ("the mask is inverted", X.masked_fill(~MASK, -9.0)),
    lambda: X.repeat_interleave(2, dim=-1): (
        "repeated as a whole instead of each number", torch.cat([X, X], -1),
    ),
    lambda: torch.relu(X): ("no activation instead of ReLU", X),
    lambda: X[:, :, :4].permute(2, 0, 1): (
        "axes 0 and 2 are exchanged", X[:, :, :4].permute(1, 0, 2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("run", CASES, ids=[text for text, _ in CASES.values()])
def test_a_fault_computes_what_torch_does_with_it(run):
    text, wrong = CASES[run]
    got = variants_of(run)[text]
    parts = zip(got, wrong, strict=True) if isinstance(wrong, tuple) else [(got, wrong)]
    for found, wanted in parts:
        np.testing.assert_allclose(found, real(wanted), atol=1e-12)
