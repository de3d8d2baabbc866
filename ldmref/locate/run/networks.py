"""A backend whose networks return what was recorded of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

import numpy as np

from ldmref.backends import get_backend
from ldmref.backends.base import Backend
from ldmref.locate.run.calls import FollowedCalls
from ldmref.math.arrays import Array
from ldmref.models.config import ModelConfig
from ldmref.trace.backend import LayerRecordingBackend


def exact_backend(dtype: str = "float64") -> Backend:
    """Return the backend of a run that is followed: NumPy, without shortcuts."""
    return get_backend("numpy", dtype=dtype, speed="exact")


class RecordedNetworks(LayerRecordingBackend):
    """A backend whose networks compute nothing, and return what was recorded.

    Args:
        inner: The backend of the model, which computes nothing.
        recorder: The recorded calls.
        config: The model's configuration, which distinguishes its text encoders.
        whole: Whether only whole calls are compared, which is so.
        prefix: What the names of calls begin with.
    """

    recorder: FollowedCalls

    def __init__(
        self,
        inner: Backend,
        recorder: FollowedCalls,
        config: ModelConfig,
        whole: bool | None = None,
        prefix: str = "",
    ):
        super().__init__(exact_backend(recorder.dtype), recorder, config, True, prefix)

    def compile(self, network: Callable, params: Mapping[str, Any]) -> Callable:
        """Return a function that compares its arguments and returns what was recorded."""
        names = list(inspect.signature(network).parameters)[2:]

        def run(*args: object, **kwargs: object) -> Any:
            self.begin(network.__name__, dict(zip(names, args, strict=False)) | kwargs)
            _, call = self._open.pop()
            assert call is not None
            rows = next(len(x) for x in args if isinstance(x, np.ndarray))
            return as_returned(network, self.recorder.outputs_of(call.name, rows))

        return run

    def is_finite(self, x: Array) -> bool:
        """Return that a state may be continued with: the run takes what was recorded, also NaN."""
        return True


def as_returned(network: Callable, outputs: Mapping[str, np.ndarray]) -> Any:
    """Return the recorded outputs of a network in the form in which it returns them.

    >>> as_returned(lambda: 0, {"output": np.ones(1)})
    array([1.])
    """
    if not any("." in role for role in outputs):
        several = [*outputs.values()]
        return tuple(several) if len(several) > 1 else several[0]
    parts: dict[str, Any] = {}
    for role, x in outputs.items():
        name, _, number = role.partition(".")
        parts[name] = (*parts.get(name, ()), x) if number else x
    kind = get_type_hints(network).get("return")
    fields = getattr(kind, "_fields", None)
    if kind is None or fields is None:
        return tuple(parts.values())
    return kind(*(parts.get(name, ()) for name in fields))
