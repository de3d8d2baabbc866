"""Print the requirements of pyproject.toml at their lower bounds, one per line.

python scripts/lowest_versions.py            # requirements of ldmref itself
python scripts/lowest_versions.py hub        # also those of an extra
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def lowest(extras: list[str]) -> list[str]:
    """Turn `numpy>=2.0` into `numpy==2.0`; requirements without a bound are left out."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return [line.replace(">=", "==") for line in lines if ">=" in line]


if __name__ == "__main__":
    print("\n".join(lowest(sys.argv[1:])))
