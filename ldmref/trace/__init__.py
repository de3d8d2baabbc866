"""Traces: every named intermediate of a run, with inputs and outputs of each layer.

`docs/traces.md` describes the format, for programs in other languages.
"""

from typing import TYPE_CHECKING

from ldmref.support.lazy import export_lazily

if TYPE_CHECKING:
    from ldmref.trace.files import TraceWriter as TraceWriter
    from ldmref.trace.files import read_trace as read_trace
    from ldmref.trace.files import show_bytes as show_bytes
    from ldmref.trace.model import Trace as Trace
    from ldmref.trace.model import TraceEntry as TraceEntry
    from ldmref.trace.model import build_trace as build_trace
    from ldmref.trace.model import tensor_name as tensor_name
    from ldmref.trace.readers.load import load_trace as load_trace
    from ldmref.trace.record_plan import record_trace as record_trace
    from ldmref.trace.selection import Selection as Selection
    from ldmref.trace.single import save_trace as save_trace
    from ldmref.trace.torch_modules import record_module as record_module
    from ldmref.trace.torch_pipeline import record_pipeline as record_pipeline

__getattr__, __dir__, __all__ = export_lazily(__name__)
