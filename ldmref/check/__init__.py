"""Check the identities of the mathematics on this machine, or for other implementations.

`ldmref check` runs them on the command line. It also marks the pieces of the course's capstone.
"""

from ldmref.check.capstone import PIECES, nearly_pieces
from ldmref.check.flow_steps import FlowStepReport, identify_flow_step
from ldmref.check.identity import Identity
from ldmref.check.implementation import load_implementation, unknown_functions
from ldmref.check.runner import CheckResult, identities, run

__all__ = [
    "PIECES",
    "CheckResult",
    "FlowStepReport",
    "Identity",
    "identify_flow_step",
    "identities",
    "load_implementation",
    "nearly_pieces",
    "run",
    "unknown_functions",
]


def __dir__() -> list[str]:
    return __all__
