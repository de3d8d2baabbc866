"""Golden cases as data: layers, networks, whole runs, and everything that runs on the host.

`docs/cases.md` describes the files, which programs in any language can read.
"""

from ldmref.cases.golden_families import GoldenModels, GoldenRun
from ldmref.cases.golden_models import golden_model
from ldmref.cases.make import make_suite, temporary_suite
from ldmref.cases.model import PARTS, VERSION, CaseTensor, GoldenCase, Suite, read_suite
from ldmref.cases.suite_run import open_runtime, run_cases
from ldmref.cases.verdicts import CaseVerdict, summary

__all__ = [
    "PARTS",
    "VERSION",
    "CaseTensor",
    "CaseVerdict",
    "GoldenCase",
    "GoldenModels",
    "GoldenRun",
    "Suite",
    "golden_model",
    "make_suite",
    "open_runtime",
    "read_suite",
    "run_cases",
    "summary",
    "temporary_suite",
]
