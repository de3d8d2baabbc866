"""`python -m tests.fuzz TARGET ... --seconds 600`; `all` is every target in turn.

With atheris (pip install atheris) new paths through ldmref guide the mutations; without it, or
with --blind, they are random changes of the seeds and of what --keep holds. Every new failure is
printed and kept, minimised, in tests/fuzz/corpus/TARGET.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import hashlib
import importlib
import io
import os
import random
import re
import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).with_name("corpus")
ADDRESS_SPACE = 8 * 2**30
COLUMNS = "{:18} {:>12} {:>8} {:>7} {:>6} {:>9}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="+", metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--keep", type=Path, help="folder for all inputs that found new paths")
    parser.add_argument("--executions", type=int, default=0, help="at most, for each target")
    parser.add_argument("--blind", action="store_true", help="several times as fast")
    options = parser.parse_args()
    atheris, targets = load(options.blind)
    print(COLUMNS.format("target", "executions", "seconds", "per s", "edges", "failures"))
    names = list(targets.TARGETS) if options.targets == ["all"] else options.targets
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            folder = Path(options.keep or scratch, name)
            limits = (options.seconds, options.executions)
            failed |= in_child(atheris, targets, name, limits, folder)
    return int(failed)


def load(blind: bool) -> tuple[Any, Any]:
    """Return atheris, or None, and the targets, instrumented by it."""
    try:
        atheris = None if blind else importlib.import_module("atheris")
    except ImportError:
        atheris = None
    if atheris is None:
        return None, importlib.import_module("tests.fuzz.targets")
    with contextlib.redirect_stderr(io.StringIO()):  # a line per module
        with atheris.instrument_imports(include=["ldmref", "tomllib", "pickletools"]):
            return atheris, importlib.import_module("tests.fuzz.targets")


def in_child(atheris: Any, targets: Any, name: str, limits: tuple[int, int], folder: Path) -> bool:
    """Fuzz one target in a separate process; print its row and its failures."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder.with_suffix(".log")
    start = time.monotonic()
    child = os.fork()
    if not child:
        with log.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        fuzz(atheris, targets, name, limits, folder)
        sys.stdout.flush()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    seconds = round(time.monotonic() - start)
    text = log.read_text(errors="replace")
    counts = re.findall(r"number_of_executed_units:\s*(\d+)|^#(\d+)\s", text, re.MULTILINE)
    executions = max((int(a or b) for a, b in counts), default=0)
    edges = re.findall(r"\bcov: (\d+)", text)
    failures = re.findall(r"(?m)^FAILURE .*", text)
    row = (
        name,
        executions,
        seconds,
        executions // max(1, seconds),
        (edges or "-")[-1],
        len(failures),
    )
    print(COLUMNS.format(*row), *failures, sep="\n    ", flush=True)
    if status:
        print(f"stopped with status {status}:", text[-2000:], flush=True)
    return bool(failures or status)


def fuzz(atheris: Any, targets: Any, name: str, limits: tuple[int, int], folder: Path) -> None:
    """Fuzz one target in this process for so many seconds, and executions at most if not 0.

    Does not return with atheris.
    """
    seconds, most = limits
    warnings.simplefilter("ignore")  # Pillow's, about odd metadata
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    target = targets.TARGETS[name]
    seen = set()
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
    gc.freeze()
    if atheris is None:
        seeds += [path.read_bytes() for path in sorted(folder.glob("*"))]
        start = time.monotonic()
        executions = 0
        rng = random.Random()
        while time.monotonic() - start < seconds and not 0 < most <= executions:
            one_input(targets.fuzz_blindly(target, seeds, rng))
            executions += 1
        print(f"number_of_executed_units: {executions}")
        return

    def custom_mutator(data: bytes, limit: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.3:
            return atheris.Mutate(data, limit)
        return change(data, rng)[:limit]

    for seed in seeds:
        (folder / hashlib.sha256(seed).hexdigest()[:12]).write_bytes(seed)
    longest = max(1024, 2 * max(map(len, seeds)))
    flags = [f"-max_total_time={seconds}", f"-max_len={longest}", "-timeout=60"]
    flags += ["-rss_limit_mb=4096", "-print_final_stats=1", f"-artifact_prefix={folder}-"]
    flags += [f"-runs={most}"] if most else []
    atheris.Setup([sys.argv[0], *flags, str(folder)], one_input, custom_mutator=custom_mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
