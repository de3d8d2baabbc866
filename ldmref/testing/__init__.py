"""For your tests: backend conformance, Hypothesis strategies and an exact problem.

`strategies` needs Hypothesis and is imported at first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ldmref.testing.cases import Case, cases
from ldmref.testing.conformance import OperationCheck, assert_conforms, check_backend
from ldmref.testing.mixture import Mixture, three_modes

if TYPE_CHECKING:
    from ldmref.testing import mixture, strategies

__all__ = [
    "Case",
    "Mixture",
    "OperationCheck",
    "assert_conforms",
    "cases",
    "check_backend",
    "mixture",
    "strategies",
    "three_modes",
]


def __getattr__(name: str) -> Any:
    if name == "strategies":
        return import_module("ldmref.testing.strategies")
    raise AttributeError(f"module 'ldmref.testing' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
