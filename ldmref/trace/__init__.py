"""Traces: every named intermediate of a run, with inputs and outputs of each layer.

`docs/traces.md` describes the format, for programs in other languages.
"""

from typing import TYPE_CHECKING

from ldmref.lazy import export_lazily

if TYPE_CHECKING:
    from ldmref.trace.estimate import TraceEstimate, check_space, estimate_trace, show_bytes
    from ldmref.trace.files import TraceWriter, read_trace
    from ldmref.trace.model import Trace, TraceEntry, build_trace, tensor_name
    from ldmref.trace.readers.load import load_trace
    from ldmref.trace.run import record_trace
    from ldmref.trace.selection import Selection
    from ldmref.trace.torch_hooks import record_module
    from ldmref.trace.torch_pipeline import record_pipeline

__all__ = [
    "Selection",
    "Trace",
    "TraceEntry",
    "TraceEstimate",
    "TraceWriter",
    "build_trace",
    "check_space",
    "estimate_trace",
    "load_trace",
    "read_trace",
    "record_module",
    "record_pipeline",
    "record_trace",
    "show_bytes",
    "tensor_name",
]
__getattr__, __dir__ = export_lazily(
    __name__,
    {
        "Selection": "selection",
        "Trace": "model",
        "TraceEntry": "model",
        "TraceEstimate": "estimate",
        "TraceWriter": "files",
        "build_trace": "model",
        "check_space": "estimate",
        "estimate_trace": "estimate",
        "load_trace": "readers.load",
        "read_trace": "files",
        "record_module": "torch_hooks",
        "record_pipeline": "torch_pipeline",
        "record_trace": "run",
        "show_bytes": "estimate",
        "tensor_name": "model",
    },
)
