"""`python -m tests.fuzz TARGET ... --seconds 600`; `all` is every target in turn.

With atheris (pip install atheris) new paths through ldmref guide the mutations; without it, they
are blind. Every new failure is printed and kept, minimised, in tests/fuzz/corpus/TARGET.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).with_name("corpus")
WORKING_MEMORY = 8 * 2**30  # of address space
COLUMNS = "{:20} {:>12} {:>8} {:>9} {:>6} {:>9}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="+", metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--keep", type=Path, help="folder for all inputs that found new paths")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        fuzz(options.targets[0], options.seconds, options.keep)
        return 0
    names = options.targets
    if names == ["all"]:
        names = list(importlib.import_module("tests.fuzz.targets").TARGETS)
    print(COLUMNS.format("target", "executions", "seconds", "per s", "edges", "failures"))
    failed = False
    for name in names:
        with tempfile.TemporaryDirectory() as scratch:
            keep = str(options.keep / name if options.keep else scratch)
            failed |= run_child(name, options.seconds, keep)
    return int(failed)


def run_child(name: str, seconds: int, keep: str) -> bool:
    """Fuzz one target in its own process; print its row and its failures."""
    command = [
        sys.executable,
        "-m",
        "tests.fuzz",
        name,
        "--child",
        "--seconds",
        str(seconds),
        "--keep",
        keep,
    ]
    start = time.monotonic()
    child = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    seconds = round(time.monotonic() - start)
    runs = re.findall(r"number_of_executed_units:\s*(\d+)|^#(\d+)\s", child.stdout, re.MULTILINE)
    executions = max((int(a or b) for a, b in runs), default=0)
    edges = re.findall(r"\bcov: (\d+)", child.stdout)
    failures = re.findall(r"^FAILURE .*", child.stdout, re.MULTILINE)
    row = (
        name,
        executions,
        seconds,
        executions // max(1, seconds),
        edges[-1] if edges else "-",
        len(failures),
    )
    print(COLUMNS.format(*row), flush=True)
    for line in failures:
        print("   ", line)
    if child.returncode:
        print(child.stdout[-3000:])
    return bool(failures or child.returncode)


def fuzz(name: str, seconds: int, keep: Path) -> None:
    """Fuzz one target in this process; does not return with atheris."""
    try:
        atheris: Any = importlib.import_module("atheris")
    except ImportError:
        atheris = None
    if atheris is None:
        targets: Any = importlib.import_module("tests.fuzz.targets")
    else:
        with atheris.instrument_imports(include=["ldmref", "tomllib", "pickletools"]):
            targets = importlib.import_module("tests.fuzz.targets")
    warnings.simplefilter("ignore")  # Pillow's, about odd metadata
    resource.setrlimit(resource.RLIMIT_AS, (WORKING_MEMORY, WORKING_MEMORY))
    target, seen = targets.TARGETS[name], set()
    change = targets.mutator(target.mutate, target.words)

    def one_input(data: bytes) -> None:
        problem = targets.failure(target, data)
        if problem is None or problem[0] in seen:
            return
        seen.add(problem[0])
        data = targets.minimised(target, data)
        path = CORPUS / name / hashlib.sha256(data).hexdigest()[:12]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        print(f"FAILURE {path.name} {problem[0]}: {problem[1]!r}", flush=True)

    seeds = [*target.seeds(), *(p.read_bytes() for p in sorted((CORPUS / name).glob("*")))]
    if atheris is None:
        start, runs, rng = time.monotonic(), 0, random.Random()
        for data in seeds:
            one_input(data)
        while time.monotonic() - start < seconds:
            one_input(targets.fuzz_blindly(target, seeds, rng))
            runs += 1
        print(f"number_of_executed_units: {runs}")
        return

    def custom_mutator(data: bytes, limit: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.3:
            return atheris.Mutate(data, limit)
        return change(data, rng)[:limit]

    keep.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        (keep / hashlib.sha256(seed).hexdigest()[:12]).write_bytes(seed)
    longest = max(4096, 2 * max(map(len, seeds)))
    limits = [f"-max_total_time={seconds}", f"-max_len={longest}", "-timeout=60"]
    limits += ["-rss_limit_mb=4096", "-print_final_stats=1", f"-artifact_prefix={keep}-"]
    atheris.Setup([sys.argv[0], *limits, str(keep)], one_input, custom_mutator=custom_mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
