"""Traces: every named intermediate of a run, with inputs and outputs of each layer.

`docs/traces.md` describes the format, for programs in other languages.
"""

from ldmref.trace.files import TraceWriter, read_trace
from ldmref.trace.model import Trace, TraceEntry, build_trace, tensor_name

__all__ = ["Trace", "TraceEntry", "TraceWriter", "build_trace", "read_trace", "tensor_name"]
