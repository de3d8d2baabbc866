"""A small Z-Image of diffusers, and the package as pip would install it."""

from __future__ import annotations

import importlib.metadata
import sys
import tempfile
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parent.parent / "pyproject.toml"

if not importlib.metadata.entry_points(group="ldmref.families", name="z-image"):
    # the package is not installed: write what pip would write
    site = Path(tempfile.mkdtemp(prefix="ldmref-zimage-"))
    metadata = site / "ldmref_zimage-0.1.0.dist-info"
    metadata.mkdir()
    about = "Metadata-Version: 2.1\nName: ldmref-zimage\nVersion: 0.1.0\n"
    (metadata / "METADATA").write_text(about)
    groups = tomllib.loads(PROJECT.read_text())["project"]["entry-points"]
    lines = []
    for group, points in groups.items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in points.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    sys.path.append(str(site))
