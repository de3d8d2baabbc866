"""What pyproject.toml asks for is what the package imports."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
SERVER = ROOT / "ldmref" / "apps" / "server"
# A module whose distribution has another name.
DISTRIBUTIONS = {"PIL": "pillow", "cupy": "cupy-cuda12x", "cupyx": "cupy-cuda12x"}
# The first versions without a published vulnerability that a client of the server can use.
FIRST_SAFE = {"starlette": (0, 49, 1), "h11": (0, 16), "python-multipart": (0, 0, 18)}
PARTS = re.compile(r"(?P<name>[\w.-]+)(?:\[(?P<extras>[\w,-]+)\])?(?:>=(?P<lowest>[\d.]+))?")


def required(requirements):
    """Return {distribution: lowest version}, extras of ldmref itself included."""
    found = {}
    for requirement in requirements:
        match = PARTS.match(requirement)
        if match["name"] == "ldmref":
            for extra in match["extras"].split(","):
                found |= required(EXTRAS[extra])
        else:
            found[match["name"]] = tuple(map(int, (match["lowest"] or "0").split(".")))
    return found


def imported(folder):
    """Return {distribution: a file that imports it}, for imports within functions too."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in names:
                top = name.partition(".")[0]
                if top != "ldmref" and top not in sys.stdlib_module_names:
                    found[DISTRIBUTIONS.get(top, top.replace("_", "-"))] = path
    return found


def test_what_is_imported_is_declared():
    declared = required([*PROJECT["dependencies"], *(f"ldmref[{name}]" for name in EXTRAS)])
    assert {
        name: str(path) for name, path in imported(ROOT / "ldmref").items() if name not in declared
    } == {}


def test_the_server_declares_what_it_imports():
    declared = required([*PROJECT["dependencies"], "ldmref[http]"])
    assert {*imported(SERVER)} <= {*declared}
    assert {"starlette", "anyio", "uvicorn", "python-multipart"} <= {*imported(SERVER)}


def test_the_server_accepts_no_version_with_a_published_vulnerability():
    declared = required(["ldmref[http]"])
    assert {name: declared[name] >= lowest for name, lowest in FIRST_SAFE.items()} == dict.fromkeys(
        FIRST_SAFE, True
    )
