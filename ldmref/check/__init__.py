"""`ldmref check`: the identities of the mathematics, on this machine or for other functions."""

from ldmref.check.implementation import load_implementation, unknown_functions
from ldmref.check.runner import CheckResult, identities, run

__all__ = ["CheckResult", "identities", "load_implementation", "run", "unknown_functions"]
