"""Run the reference's tests in a copy without the wings: `python scripts/check_reference.py`.

A wing is built on the reference, and not the other way round: without the wings, the reference
imports, loads its models and passes its tests. Tests that use a wing are left out and counted. They
run in a second copy if `verify`, with its oracles, is the only one that they use.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "tests"))

from test_house import PACKAGE, WINGS

ROOT = PACKAGE.parent
FOLDERS = ("math", "backends", "samplers", "prompts", "models", "families", "io", "modes", "advice")
# The command line in another process, and what else needs apps.
COMMAND = re.compile(
    r'"-m", "ldmref"|with_name\("ldmref"\)|ldmref\.recording|"(docs|scripts|examples)"'
)


def main() -> int:
    """Return 0 if the tests of both copies pass."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", nargs="*", default=FOLDERS, choices=FOLDERS, metavar="FOLDER")
    parser.add_argument("-n", default="auto", help="processes of pytest")
    options = parser.parse_args()
    chosen = [
        p for name in options.only for p in sorted((ROOT / "tests" / name).rglob("test_*.py"))
    ]
    uses = {path: wings_of(path) for path in chosen}
    copies = {
        "without a wing": ((), [path for path in chosen if not uses[path]]),
        "with verify alone": (("verify",), [path for path in chosen if uses[path] == {"verify"}]),
    }
    failed = 0
    for title, (kept, files) in copies.items():
        print(f"{title}: {len(files)} of {len(chosen)} files of tests", flush=True)
        failed |= files != [] and run(kept, files, options.n)
    return int(failed)


def wings_of(path: Path, seen: frozenset[Path] = frozenset()) -> set[str]:
    """Return the wings that a test uses, itself or by the modules of tests that it imports."""
    text = path.read_text("utf-8")
    wing_of = {package: wing for wing, packages in WINGS.items() for package in packages}
    names = {*re.findall(r"\bldmref\.([a-z_0-9]+)", text)}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module == "ldmref":
            names |= {alias.name for alias in node.names}
    found = {wing_of[name] for name in names & wing_of.keys()}
    if COMMAND.search(text):
        found.add("apps")
    for helper in helpers(path, text) - seen - {path}:
        found |= wings_of(helper, seen | {path})
    return found


def helpers(path: Path, text: str) -> set[Path]:
    """Return the files of tests that a test imports, and the conftest of its folder."""
    found = {path.with_name("conftest.py")} if path.parent.name != "tests" else set()
    for node in ast.walk(ast.parse(text)):
        modules = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for module in modules:
            found |= {*(ROOT / "tests").rglob(f"{module.split('.')[0]}.py")}
    return {file for file in found if file.is_file()}


def run(kept: tuple[str, ...], files: list[Path], processes: str) -> bool:
    """Run tests in a copy that has these wings only; return whether they failed."""
    with tempfile.TemporaryDirectory() as folder:
        ignore = shutil.ignore_patterns("__pycache__")
        for name in ("ldmref", "tests", "docs"):  # tests compare pages with the code
            shutil.copytree(ROOT / name, f"{folder}/{name}", ignore=ignore)
        shutil.copy(ROOT / "pyproject.toml", folder)
        for wing in {*WINGS} - {*kept}:
            for package in WINGS[wing]:
                path = Path(folder, "ldmref", package)
                shutil.rmtree(path) if path.is_dir() else path.with_suffix(".py").unlink()
        argv = ["-m", "pytest", "-q", "-n", processes, "-p", "no:ldmref", "-p", "no:cacheprovider"]
        argv += ["-m", "not slow and not full"]
        argv += [path.relative_to(ROOT).as_posix() for path in files]
        environment = os.environ | {"PYTHONPATH": folder, "OMP_NUM_THREADS": "1"}
        return subprocess.run([sys.executable, *argv], cwd=folder, env=environment).returncode != 0


if __name__ == "__main__":
    sys.exit(main())
