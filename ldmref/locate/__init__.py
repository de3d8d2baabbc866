"""The fault locator: which layers and steps of a port differ from ldmref's.

`docs/find-where-my-port-differs.md` shows how to use it.
"""

from ldmref.locate.findings import DiffReport, Row
from ldmref.locate.run import diff_traces

__all__ = ["DiffReport", "Row", "diff_traces"]
