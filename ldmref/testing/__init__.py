"""For your tests: conformance of backends and families, Hypothesis strategies, an exact problem.

`strategies` needs Hypothesis. It and what checks families are imported at first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ldmref.support.renames import find_former_name
from ldmref.testing.cases import Case, cases
from ldmref.testing.conformance import OperationCheck, assert_conforms, check_backend
from ldmref.testing.mixture import Mixture, three_modes
from ldmref.testing.packages import add_entry_points

if TYPE_CHECKING:
    from ldmref.testing import mixture, strategies
    from ldmref.testing.family.conforms import FAMILY_CHECKS, assert_family_conforms, check_family
    from ldmref.testing.family.oracles import LivePipeline, Original
    from ldmref.testing.family.report import FamilyCheck, FamilyReport

FAMILY = {  # where each name of the checks of families is
    "FAMILY_CHECKS": "conforms.FAMILY_CHECKS",
    "assert_family_conforms": "conforms.assert_family_conforms",
    "check_family": "conforms.check_family",
    "LivePipeline": "oracles.LivePipeline",
    "Original": "oracles.Original",
    "FamilyCheck": "report.FamilyCheck",
    "FamilyReport": "report.FamilyReport",
}
__all__ = [
    "FAMILY_CHECKS",
    "Case",
    "FamilyCheck",
    "FamilyReport",
    "LivePipeline",
    "Mixture",
    "OperationCheck",
    "Original",
    "add_entry_points",
    "assert_conforms",
    "assert_family_conforms",
    "cases",
    "check_backend",
    "check_family",
    "mixture",
    "strategies",
    "three_modes",
]


def __getattr__(name: str) -> Any:
    if name == "strategies":
        return import_module("ldmref.testing.strategies")
    if name in FAMILY:
        module, _, attribute = FAMILY[name].partition(".")
        return getattr(import_module(f"ldmref.testing.family.{module}"), attribute)
    return find_former_name(__name__, name)


def __dir__() -> list[str]:
    return __all__
