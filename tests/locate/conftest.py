"""The small pipelines of tests/families, whose runs are judged here."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "families"))
