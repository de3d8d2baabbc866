"""The table: all cases, and the rows that have one."""

from __future__ import annotations

import importlib
from pathlib import Path

from fault_cases import PROCEDURES
from fault_files import OTHER_FILES
from fault_images import IMAGES
from fault_models import FILES
from fault_requests import REQUESTS

CASES = [*FILES, *REQUESTS, *IMAGES, *OTHER_FILES]
for path in sorted(Path(__file__).parent.glob("test_fault_*.py")):
    if path.stem != "test_fault_table":
        importlib.import_module(path.stem)
EVERY_ROW = {case.row for case in CASES} | {procedure.row for procedure in PROCEDURES}
