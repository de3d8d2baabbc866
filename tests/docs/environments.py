"""Virtual environments without an index: with the core dependencies alone, or with everything."""

from __future__ import annotations

import importlib.metadata as metadata
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path

from blocks import ROOT
from packaging.requirements import Requirement

HERE = Path(__file__).parent
COMMANDS = {"pytest": "pytest", "torchrun": "torch.distributed.run"}  # command -> module


def core_distributions() -> Iterator[metadata.Distribution]:
    """Yield the distributions that ldmref requires, and all that these require."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    waiting = list(project["dependencies"])
    seen = set()
    while waiting:
        requirement = Requirement(waiting.pop())
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        distribution = metadata.distribution(requirement.name)
        if distribution.name not in seen:
            seen.add(distribution.name)
            waiting += distribution.requires or []
            yield distribution


def make(folder: Path, everything: bool) -> Path:
    """Make an environment like that of `make demo`, or of `make test`; return its folder.

    The packages are those that the tests run with, by links.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    ran = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    packages = Path(ran.stdout.strip())
    paths = [str(ROOT)]
    if everything:
        paths += [p for p in sys.path if Path(p).name in ("site-packages", "dist-packages")]
    else:
        for distribution in core_distributions():
            link(distribution, packages)
    (packages / "project.pth").write_text("\n".join(paths) + "\n")
    script(folder / "bin" / "ldmref", f'exec "{python}" "{HERE}/reader.py" ldmref "$@"')
    if everything:
        for name, module in COMMANDS.items():
            script(folder / "bin" / name, f'exec "{python}" -m {module} "$@"')
    return folder


def link(distribution: metadata.Distribution, packages: Path) -> None:
    """Link the top-level files and folders of a distribution into an environment."""
    names = {path.parts[0] for path in distribution.files or ()} - {"..", "__pycache__"}
    for name in names:
        target = packages / name
        if not target.exists():
            target.symlink_to(Path(str(distribution.locate_file(name))).resolve())


def script(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
