"""The fault locator: which layers and steps of a port differ from ldmref's.

`docs/find-where-my-port-differs.md` shows how to use it.
"""

from ldmref.locate.against import diff_modules
from ldmref.locate.diff import diff_traces
from ldmref.locate.findings import DiffReport, Row

__all__ = ["DiffReport", "Row", "diff_modules", "diff_traces"]
