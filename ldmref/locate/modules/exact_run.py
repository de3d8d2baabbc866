"""A run of a module in a number format, recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ldmref.backends.base import DTYPES
from ldmref.errors import UsageError, did_you_mean
from ldmref.locate.modules.formats import copy_in_format, default_format, narrow, widen_call
from ldmref.trace.model import Trace
from ldmref.trace.recording import recording
from ldmref.trace.selection import Selection
from ldmref.trace.torch_values import replace_tensors


class Widened(TorchFunctionMode):
    """Computes in float64 what code casts to narrower formats.

    Args:
        dtype: The number format whose unit is the eps of norms that name none.
    """

    def __init__(self, dtype: str):
        super().__init__()
        self.dtype = dtype

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        func, args, kwargs = widen_call(func, args, kwargs or {}, self.dtype)
        return func(*args, **kwargs)


def record_in_format(
    module: torch.nn.Module,
    inputs: Mapping[str, Any],
    dtype: str,
    folder: str | Path | None,
    call: str,
    selection: Selection | None,
) -> Trace:
    """Return the trace of a run of a module; see `ldmref.locate.against.record_reference`."""
    if dtype not in DTYPES:
        message = f"dtype {dtype!r} is not a number format"
        raise UsageError(message, code="E-DTYPE", hint=did_you_mean(str(dtype), DTYPES))
    exact = dtype == "float64"
    network = copy_in_format(module, dtype, exact)
    form = getattr(torch, dtype)

    def cast(role: str, x: torch.Tensor) -> torch.Tensor:
        return narrow(x, form)

    arguments = replace_tensors(inputs, "", cast)
    with recording(network, folder, call=call, selection=selection) as run, ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if exact:
            stack.enter_context(default_format(form))
            stack.enter_context(Widened("float32"))
        network(**arguments)
    return run.trace
