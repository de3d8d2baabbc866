"""Judge published ports in a new environment, and write the table of docs/ports.md.

    python benchmarks/ports/run.py              # judge them, write results.json and the table
    python benchmarks/ports/run.py --check      # judge them, and compare with results.json
    python benchmarks/ports/run.py --here       # in this environment, which has the packages

A new environment takes 2 GB and a few minutes, most of them for PyTorch.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
RESULTS = FOLDER / "results.json"
PAGE = ROOT / "docs" / "ports.md"
BEGIN, END = "<!-- table of benchmarks/ports/run.py -->", "<!-- end -->"
# What is installed for the scripts, with its dependencies; and the packages, without: mflux asks
# for MLX with CUDA on Linux.
PORTS = {
    ("torch==2.13.0", "diffusers==0.42.1", "mlx[cpu]==0.32.4", "piexif==1.1.3", "toml==0.10.2",
     "transformers", "accelerate", "opencv-python-headless", "matplotlib", "platformdirs", "regex",
     "requests", "sentencepiece", "protobuf", "pyyaml", "fonttools", "tqdm"): {
        "mflux==0.24.0": ("mflux_z_image", "mflux_flux2", "mflux_flux1", "mflux_flux_vae"),
    },
}  # fmt: skip


def judge_all(here: bool) -> dict[str, list[dict[str, Any]]]:
    """Return what ldmref says of each network, by script.

    Args:
        here: Whether to use this environment instead of new ones.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for needed, packages in PORTS.items():
        with tempfile.TemporaryDirectory() as folder:
            python = sys.executable if here else install(Path(folder), needed, packages)
            for name in (name for names in packages.values() for name in names):
                command = [python, f"{name}.py"]
                run = subprocess.run(command, cwd=FOLDER, check=True, stdout=subprocess.PIPE)
                found[name] = [json.loads(line) for line in run.stdout.splitlines()]
                for row in found[name]:
                    print(
                        f"{row['network']}: {row['verdict']}, {len(row['faults'])} kinds of faults"
                    )
    return found


def install(folder: Path, needed: tuple[str, ...], packages: dict[str, tuple[str, ...]]) -> str:
    """Return the Python of a new environment with this checkout and the packages of a port."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = str(folder / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, str(ROOT), *needed], check=True)
    subprocess.run([*pip, "--no-deps", *packages], check=True)
    return python


def describe(words: str, count: int, *layers: str) -> str:
    """Return an error in words, and the layers that have it."""
    names = sorted({".".join(layer.split(".")[-2:]) for layer in layers})
    return f"{words} ({count}: {', '.join(f'`{name}`' for name in names)})"


def make_table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Return the results as a table of Markdown."""
    lines = ["| network | layers | verdict | errors that ldmref names | difference |"]
    lines.append("|---|---|---|---|---|")
    for row in (row for rows in found.values() for row in rows):
        named = "; ".join(describe(words, *found) for words, found in row["faults"].items())
        largest = max(row["errors"].values())
        cells = [row["network"], row["layers"], row["verdict"], named or "none", f"{largest:.1e}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def verdicts(found: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Return the results without the differences, whose digits depend on the processor."""
    return {name: [row | {"errors": None} for row in rows] for name, rows in found.items()}


def main() -> None:
    """Judge the ports, and write or compare what was found."""
    parser = argparse.ArgumentParser(description="Judge published ports.")
    parser.add_argument("--check", action="store_true", help="compare with results.json")
    parser.add_argument("--here", action="store_true", help="use this environment")
    arguments = parser.parse_args()
    found = judge_all(arguments.here)
    if arguments.check:
        known = json.loads(RESULTS.read_text("utf-8"))
        sys.exit(0 if verdicts(known) == verdicts(found) else "results.json has other verdicts")
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{make_table(found)}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
