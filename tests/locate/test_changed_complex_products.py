"""Changed operations of complex numbers return the numbers that the operation does."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch
from module_runs import bare_run

from ldmref.locate.modules.operations import describe_function
from ldmref.locate.replay.points import Trial

REAL = torch.linspace(-1.0, 2.0, 12, dtype=torch.float64).reshape(2, 3, 2)
TURN = torch.polar(torch.ones_like(REAL), REAL)


@pytest.mark.parametrize(
    ("function", "terms"),
    [
        (torch.mul, (REAL, TURN)),
        (torch.mul, (TURN, REAL)),
        (torch.mul, (TURN, TURN)),
        (torch.mul, (REAL, REAL)),
        (torch.add, (REAL, TURN)),
        (torch.sub, (TURN, REAL)),
        (torch.view_as_complex, (REAL,)),
        (torch.view_as_real, (TURN,)),
        (torch.neg, (TURN,)),
    ],
)
def test_a_changed_operation_returns_numbers_of_its_kind(function, terms):
    run = bare_run()
    operation = describe_function(function, terms, {})
    right = function(*terms)

    def twice(call, x):
        return 2.0 * call.compute(x)

    trial = Trial("end", "", {"op": twice}, False, False)
    found = run.operation_again("op", operation, trial, lambda: right)
    assert found.dtype == right.dtype
    torch.testing.assert_close(found, 2.0 * right)
