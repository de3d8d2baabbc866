"""How long ldmref takes to start: `python -m benchmarks.start`.

A command and `ldmref.load` of the embedded model, from process to end, in units of
`python -c "import numpy"`. The three take turns, so that a busy machine slows all of them; the
least time of each counts. Below each is what its imports are made of, by `python -X importtime`.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import click

IMPORTED = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s*(\S+)")
LOAD = "import ldmref; ldmref.load('emoji-map')"
GOALS = {"command": 8.0, "load": 4.0}  # times `import numpy`
SHOWN = 12


def list_programs(folder: Path) -> dict[str, list[str]]:
    """Return what Python is given for each program; images are written into a folder."""
    image = ["red heart", "-m", "emoji-map", "-o", str(folder / "image.png"), "--overwrite"]
    return {
        "numpy": ["-c", "import numpy"],
        "command": ["-m", "ldmref", *image],
        "load": ["-c", LOAD],
    }


def measure(arguments: list[str]) -> float:
    """Return the seconds of one process."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - began


def sum_imports(arguments: list[str], rounds: int) -> Counter[str]:
    """Return the least milliseconds of the imports of each package: `ldmref.modes`, `numpy`."""
    least: dict[str, int] = {}
    for _ in range(rounds):
        command = [sys.executable, "-X", "importtime", *arguments]
        ran = subprocess.run(command, check=True, capture_output=True, text=True)
        for microseconds, module in IMPORTED.findall(ran.stderr):
            least[module] = min(int(microseconds), least.get(module, sys.maxsize))
    found: Counter[str] = Counter()
    for module, microseconds in least.items():
        parts = module.split(".")
        own = parts[:2] if parts[0] == "ldmref" else parts[:1]
        package = "Python itself" if parts[0] in sys.stdlib_module_names else ".".join(own)
        found[package] += microseconds
    return found


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", type=click.IntRange(1, 1000), default=10, show_default=True)
def compare_starts(rounds: int) -> None:
    """Print the times of a command and of `ldmref.load`, in units of `import numpy`."""
    with TemporaryDirectory() as folder:
        programs = list_programs(Path(folder))
        times: dict[str, list[float]] = {name: [] for name in programs}
        for _ in range(rounds):
            for name, arguments in programs.items():
                times[name].append(measure(arguments))
        unit = min(times["numpy"])
        click.echo(f"import numpy: {unit:.3f} s, least of {rounds}")
        for name, goal in GOALS.items():
            seconds = min(times[name])
            click.echo(f"{name}: {seconds:.3f} s, {seconds / unit:.1f} times (aim: {goal:g})")
            imports = sum_imports(programs[name], min(rounds, 5))
            total = sum(imports.values()) / 1e6
            click.echo(f"  imports {total:.3f} s, the rest {max(0.0, seconds - total):.3f} s")
            for package, microseconds in imports.most_common(SHOWN):
                click.echo(f"  {microseconds / 1e3:6.1f} ms  {package}")


if __name__ == "__main__":
    compare_starts()
