"""For tests of your own code: backend conformance, hypothesis strategies, an analytic problem."""

from ldmref.testing.cases import Case, cases
from ldmref.testing.conformance import Finding, assert_conforms, check_backend

__all__ = ["Case", "Finding", "assert_conforms", "cases", "check_backend"]
