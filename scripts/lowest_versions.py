"""Print the requirements of pyproject.toml at their lower bounds, one on a line.

python scripts/lowest_versions.py            # of ldmref itself
python scripts/lowest_versions.py hub        # and of an extra
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def lowest(extras: list[str]) -> list[str]:
    """`numpy>=2.0` becomes `numpy==2.0`; without a bound a requirement is left out."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return [line.replace(">=", "==") for line in lines if ">=" in line]


if __name__ == "__main__":
    print("\n".join(lowest(sys.argv[1:])))
