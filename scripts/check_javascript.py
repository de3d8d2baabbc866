"""Check the page's scripts: types (TypeScript reads `// @ts-check` and JSDoc) and lint (ESLint).

    python scripts/check_javascript.py              # installs the two programs, then runs them
    python scripts/check_javascript.py --tools DIR  # keeps them in DIR instead of build/javascript

Node.js and npm must be installed. The versions of both programs are those of
`scripts/javascript/package.json`; npm fetches them from its registry at the first run. The page
itself needs neither: what is checked is what browsers load.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = Path(__file__).resolve().parent / "javascript"
SCRIPTS = ROOT / "ldmref" / "apps" / "server" / "page" / "js"
TOOLS = ROOT / "build" / "javascript"
MARK = "// @ts-check\n"


class Missing(Exception):
    """A program is not installed, and cannot be."""


def list_unmarked(scripts: Path) -> list[str]:
    """Return the scripts that do not begin with the mark that editors look for."""
    files = sorted(scripts.rglob("*.js"))
    return [str(file) for file in files if not file.read_text("utf-8").startswith(MARK)]


def install(tools: Path) -> None:
    """Put the settings and, unless they are there, the pinned programs into a folder.

    Raises:
        Missing: Node.js or npm is not installed, or npm cannot fetch the programs.
    """
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise Missing(f"{program} is not installed (Debian: apt-get install nodejs npm)")
    tools.mkdir(parents=True, exist_ok=True)
    wanted = (SETTINGS / "package.json").read_text("utf-8")
    installed = tools / "installed.json"
    for file in SETTINGS.iterdir():
        shutil.copyfile(file, tools / file.name)
    if installed.exists() and installed.read_text("utf-8") == wanted:
        return
    command = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
    ran = subprocess.run(command, cwd=tools, capture_output=True, text=True)
    if ran.returncode != 0:
        raise Missing(f"npm cannot install the checks: {ran.stderr.strip().splitlines()[-1:]}")
    installed.write_text(wanted, "utf-8")


def check(scripts: Path, tools: Path) -> list[str]:
    """Return a line for each fault of the scripts in a folder.

    Raises:
        Missing: The programs cannot be installed.
    """
    install(tools)
    page = tools / "page"  # a copy: ESLint reads nothing outside of the folder of its settings
    shutil.rmtree(page, ignore_errors=True)
    shutil.copytree(scripts, page)
    lines = [f"{file}: the first line must be {MARK.strip()}" for file in list_unmarked(scripts)]
    programs = (
        ("tsc", ["--project", "tsconfig.json", "--pretty", "false"]),
        ("eslint", ["--format", "json", "page"]),
    )
    for program, arguments in programs:
        command = [str(tools / "node_modules" / ".bin" / program), *arguments]
        ran = subprocess.run(command, cwd=tools, capture_output=True, text=True)
        found = ran.stdout if program == "tsc" else _faults_of_eslint(ran)
        lines += found.splitlines()
        if ran.returncode not in (0, 1, 2) or (ran.returncode and not found):
            lines.append(f"{program} failed: {ran.stderr.strip()}")
    return lines


def _faults_of_eslint(ran: subprocess.CompletedProcess[str]) -> str:
    """Return ESLint's findings as `file(line,column): rule: message`, a line each."""
    import json

    try:
        files = json.loads(ran.stdout)
    except ValueError:
        return ""
    return "\n".join(
        f"page/{file['filePath'].rpartition('/page/')[2]}({fault.get('line')},"
        f"{fault.get('column')}): {fault.get('ruleId')}: {fault['message']}"
        for file in files
        for fault in file["messages"]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the faults; return 0 without any, 1 with some, and 2 if the programs are missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tools", type=Path, default=TOOLS, help="folder of the two programs")
    options = parser.parse_args(argv)
    try:
        lines = check(SCRIPTS, options.tools.resolve())
    except Missing as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join([*lines, f"{len(lines)} faults"]))
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
