"""`ldmref check`: the identities of the mathematics, on this machine or for other functions."""

from ldmref.check.runner import CheckResult, identities, load_implementation, run

__all__ = ["CheckResult", "identities", "load_implementation", "run"]
