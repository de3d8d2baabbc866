"""Known faults of ports: one table (`table.py`), one small function for each fault."""

from ldmref.locate.faults.table import FAULTS, Fault

__all__ = ["FAULTS", "Fault"]
