"""Known faults of ports: one table (`table.py`), one small function for each fault."""

from ldmref.locate.faults.table import FAULTS, Fault, faults_of

__all__ = ["FAULTS", "Fault", "faults_of"]
