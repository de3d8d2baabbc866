"""Traces: every named intermediate of a run, with inputs and outputs of each layer.

`docs/traces.md` describes the format, for programs in other languages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ldmref.lazy import export_lazily
from ldmref.trace.files import TraceWriter, read_trace
from ldmref.trace.model import Trace, TraceEntry, build_trace, tensor_name

if TYPE_CHECKING:
    from ldmref.trace.torch_hooks import record_module
    from ldmref.trace.torch_pipeline import record_pipeline

__all__ = [
    "Trace",
    "TraceEntry",
    "TraceWriter",
    "build_trace",
    "read_trace",
    "record_module",
    "record_pipeline",
    "tensor_name",
]

_LAZY = {"record_module": "torch_hooks", "record_pipeline": "torch_pipeline"}
__getattr__, __dir__ = export_lazily(__name__, _LAZY)
