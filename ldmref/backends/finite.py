"""A backend that finds the origin of NaN and infinity by checking every layer of a computation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ldmref.backends.base import Backend
from ldmref.backends.named import LayerCall, NamedBackend
from ldmref.backends.traced import TracedBackend, layer_names
from ldmref.math.arrays import Array


class NonFinite(Exception):
    """Raised at the first NaN or infinity of a checked computation; the message says where."""


class FiniteBackend(TracedBackend):
    """A backend that stops at the first operation whose input or output is not finite."""

    _previous = "the input"

    def operate(self, call: LayerCall, arrays: list[Array]) -> Array:
        """Compute an operation between two checks."""
        ops = self.inner
        name = call.kind
        where = f"{name} of {call.layer}" if call.layer else f"{name} after {self._previous}"
        parameters = [id(x) for x in call.parameters.values()]
        for x in arrays:
            if ops.xp.isdtype(x.dtype, "real floating") and not ops.is_finite(x):
                part = "the parameters of" if id(x) in parameters else "the input of"
                raise NonFinite(f"{part} {where}")
        y = call.compute(call.inputs)
        if not ops.is_finite(y):
            raise NonFinite(where)
        self._previous = call.layer or self._previous
        return y


def check_layers(ops: Backend, params: Mapping[str, Any]) -> FiniteBackend:
    """Return a backend that checks every operation.

    Args:
        ops: Backend on which the operations run.
        params: Tree of parameters by which layers are named.
    """
    computing = ops.inner if isinstance(ops, NamedBackend) else ops  # a run that is recorded
    return FiniteBackend(computing, layer_of=layer_names(params))


def find_origin(compute: Callable[[], Any]) -> str:
    """Return where a checked computation is first not finite, "" if it is finite everywhere."""
    try:
        compute()
    except NonFinite as error:
        return str(error)
    return ""
