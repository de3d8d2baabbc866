"""Passports of ports: a kit with everything that a port must compute, and the verdict on its dump.

`docs/passport.md` describes both.
"""

from ldmref.passport.badge import write_badge
from ldmref.passport.check import Verdict, check_dump
from ldmref.passport.kit import VERSION, Kit, WrongDump, read_kit
from ldmref.passport.make import make_kit, make_kits
from ldmref.passport.modules import make_module_kit
from ldmref.passport.pipelines import kit_pipeline, run_pipeline
from ldmref.passport.recorded import kit_families

__all__ = [
    "VERSION",
    "Kit",
    "Verdict",
    "WrongDump",
    "check_dump",
    "kit_families",
    "kit_pipeline",
    "make_kit",
    "make_kits",
    "make_module_kit",
    "read_kit",
    "run_pipeline",
    "write_badge",
]
