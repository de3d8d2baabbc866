"""The cases of the conformance suite: compositions after their parts."""

import numpy as np
import pytest

from ldmref.backends.base import Backend
from ldmref.backends.numpy import NumpyBackend
from ldmref.errors import VerifyError
from ldmref.testing import assert_conforms
from ldmref.testing.cases import cases
from ldmref.testing.conformance import COMPOSITIONS


def order_of_operations():
    return list(dict.fromkeys(case.operation for case in cases()))


def parts_of(case):
    """Return the operations that the base class's version of a composition calls."""
    called = set()

    class Spy(NumpyBackend):
        def __getattribute__(self, name):
            called.add(name)
            return super().__getattribute__(name)

    getattr(Backend, case.operation)(Spy(dtype="float64"), *case.arrays, **case.options)
    return called & set(order_of_operations())


def test_compositions_come_after_their_parts():
    order = order_of_operations()
    for case in cases():
        parts = parts_of(case) if case.operation in COMPOSITIONS else ()
        assert all(order.index(part) < order.index(case.operation) for part in parts)
        assert len(parts) != 1 or case.operation not in COMPOSITIONS


@pytest.mark.parametrize("operation", ["gelu", "linear", "silu", "group_norm"])
def test_a_report_begins_with_the_operation_that_is_wrong(operation):
    def wrong(self, *args, **kwargs):
        return 1.001 * getattr(NumpyBackend, operation)(self, *args, **kwargs)

    broken = type("Broken", (NumpyBackend,), {operation: wrong})(dtype="float64")
    with np.errstate(all="ignore"), pytest.raises(VerifyError) as caught:
        assert_conforms(broken)
    assert caught.value.report[0].startswith(f"FAILED: {operation} (")
