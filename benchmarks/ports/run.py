"""Judge published ports in new environments, and write the tables of docs/ports.md.

    python benchmarks/ports/run.py                # judge them, write results and the tables
    python benchmarks/ports/run.py mflux          # these ports alone
    python benchmarks/ports/run.py --faults       # with faults put into them, one at a time
    python benchmarks/ports/run.py --faults --only tanh mflux    # faults with this in their words
    python benchmarks/ports/run.py --check        # judge them, and compare with the results
    python benchmarks/ports/run.py --here mflux   # in this environment, which has the packages

A folder with a `port.toml` is a port: what it needs, the scripts that run its networks, the errors
that it has, with their repairs, and faults to put into it. This environment needs pip. A new one
takes 0.3 GB without PyTorch and 1 GB with it; most of its time goes into copying and, if a port
needs it, unpacking PyTorch.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
SHARED = FOLDER / "shared"
ROOT = FOLDER.parents[1]
PAGE = ROOT / "docs" / "ports.md"
# What the page shows of each port. first.json is what was measured before causes were mended after
# it, and is never written again.
TABLES = {
    "networks": "results.json", "faults": "faults.json", "first": "first.json",
    "rest": "faults.json",
}  # fmt: skip
BEGIN, END = "<!-- {} of benchmarks/ports/run.py -->", "<!-- end of {} -->"
Row = dict[str, Any]


def ports() -> list[str]:
    """Return the names of the ports' folders."""
    return sorted(path.parent.name for path in FOLDER.glob("*/port.toml"))


class Port:
    """A published port.

    Args:
        name: The name of its folder.

    Attributes:
        declared: What its port.toml says.
    """

    def __init__(self, name: str):
        self.name = name
        self.kits = tempfile.TemporaryDirectory()
        self.folder = FOLDER / name
        self.declared: dict[str, Any] = tomllib.loads((self.folder / "port.toml").read_text())

    def install(self, folder: Path) -> str:
        """Return the Python of a new environment with what the port needs.

        Args:
            folder: An empty folder.
        """
        venv = [sys.executable, "-m", "venv", "--without-pip", folder / "python"]
        subprocess.run(venv, check=True)
        python = str(folder / "python" / "bin" / "python")
        # A pip of its own, and compiling what no script imports, take longer than the scripts.
        pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
        pip += ["--no-compile"]
        subprocess.run([*pip, str(ROOT), *self.declared["requirements"]], check=True)
        if packages := self.declared.get("packages"):
            subprocess.run([*pip, "--no-deps", *packages], check=True)
        return python

    def clone(self, folder: Path) -> str:
        """Return the folder of the port's source; "" if it is a package."""
        if "source" not in self.declared:
            return ""
        git = ["git", "-c", "advice.detachedHead=false"]
        source = self.declared["source"]
        subprocess.run([*git, "clone", "--quiet", source["address"], folder], check=True)
        subprocess.run([*git, "-C", folder, "checkout", "--quiet", source["commit"]], check=True)
        return str(folder / source.get("folder", ""))

    def judge(self, python: str, source: str) -> dict[str, list[Row]]:
        """Return what ldmref says of each network, as published and repaired, by script."""
        found: dict[str, list[Row]] = {}
        for script in self.declared["scripts"]:
            errors = any(error["script"] == script for error in self.declared.get("error", ()))
            for state in ("as published", "repaired") if errors else ("as published",):
                rows = self.run(python, source, script, state)
                found.setdefault(script, []).extend({"state": state, **row} for row in rows)
        return found

    def judge_faults(self, python: str, source: str, only: str = "") -> dict[str, list[Row]]:
        """Return what ldmref says of each fault in the repaired port, by script.

        Args:
            python: The Python that runs the port.
            source: The folder of the port's source; "" if it is a package.
            only: Faults without this text in their script's name or their words are not measured
                again: they keep their stored result, or have none.
        """
        kept = self.stored_faults() if only else {}
        found: dict[str, list[Row]] = {}
        for number, fault in enumerate(self.declared.get("fault", ())):
            script, words = fault["script"], fault["words"]
            row = kept.get((script, words))
            if only in f"{script}: {words}":
                rows = self.run(python, source, script, str(number))
                row = {"fault": words, **measure(fault, rows)}
            if row is not None:
                found.setdefault(script, []).append(row)
        return found

    def stored_faults(self) -> dict[tuple[str, str], Row]:
        """Return the stored result of each fault by its script and words."""
        stored = self.folder / TABLES["faults"]
        found = json.loads(stored.read_text("utf-8")) if stored.exists() else {}
        return {(script, row["fault"]): row for script, rows in found.items() for row in rows}

    def run(self, python: str, source: str, script: str, state: str) -> list[Row]:
        """Return the lines that a script prints in one state of the port."""
        paths = [str(SHARED), *([source] if source else [])]
        kept = os.environ.get("PYTHONPATH")
        path = os.pathsep.join([*paths, *([kept] if kept else [])])
        command = [python, str(SHARED / "changed.py"), f"{script}.py", state]
        known = {"PYTHONPATH": path, "PORT_KITS": self.kits.name}
        run = subprocess.run(
            command, cwd=self.folder, stdout=subprocess.PIPE, env=os.environ | known
        )
        if run.returncode:
            sys.exit(f"{self.name}: {script}.py failed in the state {state!r}")
        rows = [json.loads(line) for line in run.stdout.splitlines() if line.startswith(b"{")]
        for row in rows:
            print(f"{row['network']}, {state}: {row['verdict']}, {[*row['faults']]}", flush=True)
        return rows


def measure(fault: Mapping[str, Any], rows: list[Row]) -> Row:
    """Return whether a fault was located and explained, and which causes were wrong.

    Args:
        fault: The fault, with a part of its layer's name and the beginnings of right causes;
            " ... " within one stands for any words.
        rows: What ldmref says of the networks.
    """
    named = [(words, layers) for row in rows for words, (_, *layers) in row["faults"].items()]
    words = [words for words, _ in named if words != NO_CAUSE]
    wrong = [text for text in words if not any(says(text, right) for right in fault["says"])]
    return {
        "located": any(fault["where"] in layer for _, layers in named for layer in layers),
        "explained": len(wrong) < len(words),
        "wrong": wrong,
    }


def says(text: str, right: str) -> bool:
    """Return whether a cause has the words of a right one."""
    begin, _, end = right.partition(" ... ")
    return text.startswith(begin) and end in text.removeprefix(begin)


NO_CAUSE = "no cause"


def describe(words: str, count: int, *layers: str) -> str:
    """Return an error in words, and the layers that have it."""
    names = sorted({".".join(layer.split(".")[-2:]) for layer in layers})
    return f"{words} ({count}: {', '.join(f'`{name}`' for name in names)})"


def network_rows(port: Port, found: Mapping[str, list[Row]]) -> Iterator[list[str]]:
    """Yield the rows of a port in the table of networks."""
    for row in (row for rows in found.values() for row in rows):
        named = "; ".join(describe(words, *found) for words, found in row["faults"].items())
        largest = f"{max(row['errors'].values()):.1e}"
        state = f"{row['network']}, {row['state']}"
        title = f"[{port.declared['title']}](../benchmarks/ports/{port.name}/README.md)"
        yield [title, state, str(row["layers"]), row["verdict"], named or "none", largest]


def fault_rows(port: Port, found: Mapping[str, list[Row]]) -> Iterator[list[str]]:
    """Yield the row of a port in the table of faults."""
    rows = [row for rows in found.values() for row in rows]
    located, explained = (sum(row[key] for row in rows) for key in ("located", "explained"))
    wrong = sum(len(row["wrong"]) for row in rows)
    yield [port.declared["title"], *map(str, (len(rows), located, explained, wrong))]


def rest_rows(port: Port, found: Mapping[str, list[Row]]) -> Iterator[list[str]]:
    """Yield the rows of a port in the table of faults without a right cause alone."""
    for script, rows in found.items():
        for row in rows:
            if row["explained"] and not row["wrong"]:
                continue
            said = NO_CAUSE if row["located"] else "not located"
            if row["wrong"]:
                words = ", ".join(f'"{words}"' for words in row["wrong"])
                said = f"right; wrong beside it: {words}" if row["explained"] else f"wrong: {words}"
            yield [port.declared["title"], f"`{script}`", row["fault"], said]


HEADERS = {
    "networks": ["port", "network", "layers", "verdict", "errors that ldmref names", "difference"],
    "first": ["port", "faults", "located", "explained", "wrong causes"],
    "faults": ["port", "faults", "located", "explained", "wrong causes"],
    "rest": ["port", "network", "fault", "cause"],
}
ROWS = {"networks": network_rows, "first": fault_rows, "faults": fault_rows, "rest": rest_rows}


def make_table(subject: str, file: str) -> str:
    """Return the stored results of all ports as a table of Markdown."""
    lines = [HEADERS[subject], ["---"] * len(HEADERS[subject])]
    for port in map(Port, ports()):
        stored = port.folder / file
        if stored.exists():
            lines += ROWS[subject](port, json.loads(stored.read_text("utf-8")))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_page() -> None:
    """Write the tables of the stored results into the page."""
    text = PAGE.read_text("utf-8")
    for subject, file in TABLES.items():
        begin, end = BEGIN.format(subject), END.format(subject)
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n{make_table(subject, file)}\n{end}{rest.partition(end)[2]}"
    PAGE.write_text(text, encoding="utf-8")


def verdicts(found: Mapping[str, list[Row]]) -> dict[str, list[Row]]:
    """Return the results without the differences, whose digits depend on the processor."""
    return {name: [row | {"errors": None} for row in rows] for name, rows in found.items()}


def main() -> None:
    """Judge the ports, and write or compare what was found."""
    parser = argparse.ArgumentParser(description="Judge published ports.")
    parser.add_argument("ports", nargs="*", choices=[*ports(), []], help="these ports alone")
    parser.add_argument("--check", action="store_true", help="compare with the stored results")
    parser.add_argument("--faults", action="store_true", help="put faults into them")
    parser.add_argument("--only", default="", help="of the faults, those with this text alone")
    parser.add_argument("--here", action="store_true", help="use this environment")
    arguments = parser.parse_args()
    file = "faults.json" if arguments.faults else "results.json"
    other = []
    for port in map(Port, arguments.ports or ports()):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            python = sys.executable if arguments.here else port.install(folder)
            known = os.environ.get("PORT_SOURCE", "") if arguments.here else ""
            source = known or port.clone(folder / "source")
            if arguments.faults:
                found = port.judge_faults(python, source, arguments.only)
            else:
                found = port.judge(python, source)
        stored = port.folder / file
        if arguments.check:
            known = json.loads(stored.read_text("utf-8"))
            other += [] if verdicts(known) == verdicts(found) else [port.name]
        else:
            stored.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            write_page()
    if other:
        sys.exit(f"other results than the stored ones: {', '.join(other)}")


if __name__ == "__main__":
    main()
