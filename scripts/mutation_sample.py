"""Mutation testing by sampling: how many mutants of a package do its tests notice?

    python scripts/mutation_sample.py map SCRATCH modes                 # which test runs which line
    python scripts/mutation_sample.py run SCRATCH modes --mutants 50 --seed 1
    python scripts/mutation_sample.py run SCRATCH modes --seed 2 --collected --nearest 4 --budget 4
    python scripts/mutation_sample.py again SCRATCH modes --tests tests/modes/test_masks.py
    python scripts/mutation_sample.py report SCRATCH modes

`map` copies the tracked and untracked files of the working tree to SCRATCH and runs the package's
tests once there (or those of `--tests`, with options for pytest) under coverage with a context per
test. It adds to an existing map. `run` samples mutants (mutation_operators.py): every k-th mutant
of the package in the order of files and lines, from a random start, so each file is sampled by its
size. Each mutant is written into SCRATCH and run against the tests that reach its statement, then
against the other tests of its function and its file, within `--budget` seconds, up to the first
failure. Fast tests come first, and of each test function one case before the others. `--nearest N`
takes only the first N tests of the statement, so that survivors cost little, too. `--collected`
collects the tests once and forks for each mutant in a function that no import calls: minutes for
what takes hours otherwise (mutation_in_process.py). `--only PART` takes the mutants of files with
PART in their names, all with `--mutants 100000`. A run that was stopped continues; outcomes are
kept by seed. `again` runs new tests on the survivors.
A mutant in mutation_equivalent.toml cannot be killed by any test, for the reason given there, and
does not count. Intervals are Wilson's, at 95 %. Needs `coverage`.
"""

from __future__ import annotations

import argparse
import ast
import functools
import gc
import importlib
import json
import math
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from mutation_in_process import (
    CollectedTests,
    Place,
    find_import_calls,
    functions_of,
    place_of,
)
from mutation_operators import Mutant, count_mutants, mutants

HERE = Path(__file__).resolve().parent.parent
PACKAGES = {  # package: (files, tests)
    "math": (("math/*.py", "samplers/*.py"), ("tests/math", "tests/samplers")),
    "samplers": (
        ("samplers/schedule.py", "samplers/configure.py", "samplers/clipping.py",
         "samplers/repaint.py", "samplers/diffusers/*.py"),
        ("tests/samplers", "tests/parity/test_schedulers.py",
         "tests/parity/test_folder_schedulers.py", "tests/parity/test_repaint_schedule.py"),
    ),
    "modes": (
        ("modes/*.py", "advice/*.py"),
        ("tests/modes", "tests/advice", "tests/cli", "tests/parity/test_whole_images.py",
         "tests/parity/test_random_order.py"),
    ),
    "io": (("io/**/*.py",), ("tests/io", "tests/cli", "tests/parity")),
    "models": (
        ("models/*.py",),
        ("tests/models", "tests/parity/test_network_parity.py", "tests/parity/test_vae.py",
         "tests/parity/test_text.py", "tests/parity/test_ldm_networks.py",
         "tests/parity/test_controlnet_parity.py", "tests/parity/test_sizes.py",
         "tests/backends/test_networks.py", "tests/prompts/test_textual_inversion.py",
         "tests/io/test_weights.py", "tests/modes/test_control.py"),
    ),
    "backends": (("backends/**/*.py",), ("tests/backends",)),
    "atlas": (("atlas/*.py",), ("tests/atlas",)),
    "locate": (("locate/**/*.py",), ("tests/locate",)),
    "families": (("families/**/*.py",), ("tests/families",)),
    "edit": (
        ("modes/edit*.py",),
        ("tests/modes/test_edit_requests.py", "tests/families/test_flow_editing.py",
         "tests/families/test_flow_edits.py"),
    ),
    "passport": (("passport/*.py",), ("tests/passport",)),
    "check": (
        ("check/agreement.py", "check/causes.py", "check/flow_step_calls.py", "check/watching.py"),
        ("tests/check",),
    ),
    "quantized": (
        ("io/quantized/*.py",),
        ("tests/io/test_quantized_ggml.py", "tests/io/test_quantized_layers.py",
         "tests/io/test_quantized_limits.py", "tests/io/test_gguf.py",
         "tests/io/test_quantizing_blocks.py", "tests/io/test_quantizing_models.py"),
    ),
    "lora": (
        ("io/adapters/lora*.py", "io/adapters/formulas.py"),
        ("tests/io/test_lora.py", "tests/io/test_lora_forms.py", "tests/io/test_lora_shapes.py",
         "tests/io/test_lycoris.py", "tests/io/test_transformer_lora.py",
         "tests/io/test_adapters.py"),
    ),
}  # fmt: skip
# No test reaches a line that runs when its module is imported: the tests of what it defines are
# these, by the beginning of the module's name, then those of files that are named after it, and
# those that reach a use.
AT_IMPORT = {
    "ldmref/atlas/": ("tests/atlas/test_making.py", "tests/atlas/test_intervals.py"),
    "ldmref/models/": (
        "tests/models/test_published.py", "tests/models/test_presets.py",
        "tests/models/test_limits.py",
    ),
    "ldmref/io/quantized/ggml.py": ("tests/io/test_quantized_ggml.py", "tests/io/test_gguf.py"),
    "ldmref/families/": (
        "tests/families/test_declared_values.py",
        "tests/families/test_published_values.py", "tests/families/test_declared_tables.py",
        "tests/families/test_described_objects.py",
    ),
    "ldmref/check/flow_step_calls.py": ("tests/check/test_flow_step_units.py",),
}  # fmt: skip
QUIET = ["-q", "-x", "--no-header", "-p", "no:cacheprovider", "--hypothesis-seed=0"]


LOG = "killer.txt"  # the name of the test that failed


def outcomes_of(a: argparse.Namespace) -> Path:
    """The file of the outcomes of a sample."""
    return a.scratch / f"mutants-{a.package}-{a.seed}.jsonl"


def files_of(package: str, root: Path) -> list[str]:
    globs = PACKAGES[package][0]
    return sorted({str(p.relative_to(root)) for g in globs for p in (root / "ldmref").glob(g)})


def copy_tree(scratch: Path) -> None:
    """The working tree, as git sees it, in `scratch`."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        if (HERE / name).is_file():
            (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(HERE / name, scratch / name)


class Recorder:
    """A pytest plug-in: a coverage context for each test, and its seconds of processor time."""

    def __init__(self, coverage) -> None:
        self.coverage = coverage
        self.seconds = defaultdict[str, float](float)
        self.failed = set[str]()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        self.coverage.switch_context(item.nodeid)
        start = sum(os.times()[:4])
        result = yield
        self.seconds[item.nodeid] += sum(os.times()[:4]) - start
        return result

    def pytest_runtest_logreport(self, report):
        if not report.passed:
            self.failed.add(report.nodeid)


class Selection:
    """A pytest plug-in: these tests or modules, in this order; the name of the first that fails."""

    def __init__(self, tests: list[str], log: Path) -> None:
        self.order = {name: i for i, name in enumerate(tests)}
        self.log = log

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        """By name; where a module is named, all of it."""
        places = [self.order.get(x.nodeid, self.order.get(x.nodeid.split("::")[0])) for x in items]
        found = [(place, i) for i, place in enumerate(places) if place is not None]
        items[:] = [items[i] for _, i in sorted(found)]

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.log.write_text(report.nodeid)


def record(scratch: Path, package: str, tests: Sequence[str], options: Sequence[str]) -> None:
    """Run the package's tests in `scratch`, and write, or add, which of them reach which line."""
    from coverage import Coverage

    copy_tree(scratch)
    os.chdir(scratch)
    sys.path.insert(0, str(scratch))
    files = files_of(package, scratch)
    coverage = Coverage(data_file=None, include=[str(scratch / x) for x in files])
    recorder = Recorder(coverage)
    coverage.start()
    arguments = [x for x in QUIET if x != "-x"]
    pytest.main([*arguments, *(tests or PACKAGES[package][1]), *options], plugins=[recorder])
    coverage.stop()
    data = coverage.get_data()
    path = scratch / f"map-{package}.json"
    known = json.loads(path.read_text()) if path.exists() else {"lines": {}, "seconds": {}}
    passed = set(recorder.seconds) - recorder.failed
    for name in files:
        lines = known["lines"].setdefault(name, {})
        for line, reached in data.contexts_by_lineno(str(scratch / name)).items():
            lines[str(line)] = sorted({*lines.get(str(line), ()), *passed.intersection(reached)})
    known["seconds"] |= {name: round(recorder.seconds[name], 4) for name in passed}
    path.write_text(json.dumps(known))
    print(f"{package}: {len(passed)} tests, {sum(recorder.seconds.values()):.0f} s")


def tests_of(
    mutant: Mutant, test_map: dict, root: Path, budget: float, nearest: int = 0
) -> list[str]:
    """The tests of its statement, then of its function and its file, each in `by_function`'s order.

    A statement that runs when its module is imported has the tests of tables instead: those of
    AT_IMPORT, then those of files named after the module and those that reach a use of its names.

    nearest: how many tests of the statement, if none of the function and the file are wanted.
    """
    seconds = test_map["seconds"]
    lines = test_map["lines"][mutant.file]
    selected: list[str] = []
    found = [by_function(tests_between(lines, mutant.lines), seconds)]
    if not found[0]:
        listed = tests_listed(mutant.file, seconds)
        others = tests_named_after(mutant.file, seconds) | tests_of_uses(mutant, test_map, root)
        found.append(by_function(listed, seconds) + by_function(others - listed, seconds))
    for ends in (mutant.function, (1, 10**6)):
        found.append(by_function(tests_between(lines, ends), seconds))
    ordered: dict[str, None] = {}
    for reached in found:
        ordered |= dict.fromkeys(reached)
        if nearest and ordered:
            ordered = dict.fromkeys([*ordered][:nearest])
            break
    spent = 0.0
    for name in ordered:
        spent += seconds[name]
        if spent > budget and selected:
            break
        selected.append(name)
    return selected


def by_function(tests: Collection[str], seconds: Mapping[str, float]) -> list[str]:
    """Order tests by their seconds, times k for the k-th fastest case of one test function.

    The cases of one function notice much the same, so that the fastest tests of all would be many
    of one kind.

    >>> by_function(["t.py::a[1]", "t.py::a[2]", "t.py::a[3]", "t.py::b"], {
    ...     "t.py::a[1]": 0.1, "t.py::a[2]": 0.1, "t.py::a[3]": 0.1, "t.py::b": 0.25})
    ['t.py::a[1]', 't.py::a[2]', 't.py::b', 't.py::a[3]']
    """
    cases: dict[str, int] = defaultdict(int)
    places = {}
    for name in sorted(tests, key=lambda x: (seconds[x], x)):
        function = name.partition("[")[0]
        cases[function] += 1
        places[name] = cases[function] * max(seconds[name], 1e-3), name
    return sorted(places, key=places.__getitem__)


def tests_between(lines: dict[str, list[str]], ends: tuple[int, int]) -> set[str]:
    """The tests that reach a line from the first to the last of `ends`."""
    return {x for n, tests in lines.items() if ends[0] <= int(n) <= ends[1] for x in tests}


def tests_listed(file: str, tests: Collection[str]) -> set[str]:
    """The tests of a module's tables: those of AT_IMPORT."""
    listed = {x for begin in AT_IMPORT if file.startswith(begin) for x in AT_IMPORT[begin]}
    return {name for name in tests if name.partition("::")[0] in listed}


def tests_named_after(file: str, tests: Collection[str]) -> set[str]:
    """The tests of files that are named after a module or a folder of it.

    >>> sorted(tests_named_after("ldmref/families/sd3/presets.py", [
    ...     "tests/families/test_sd3_sizes.py::a", "tests/families/test_flux_sizes.py::b"]))
    ['tests/families/test_sd3_sizes.py::a']
    """
    names = tuple(f"test_{name}" for name in Path(file).with_suffix("").parts[1:])
    return {name for name in tests if Path(name.partition("::")[0]).name.startswith(names)}


def tests_of_uses(mutant: Mutant, test_map: dict, root: Path) -> set[str]:
    """The tests that reach a line of the package with a name that the mutant's statement defines.

    The names are those of constants and tables of a module, and of fields of a class. Files of
    tests with such a name are tests of it, too.
    """
    names = defined_names((root / mutant.file).read_text(), mutant.lines[0])
    if not names:
        return set()
    use = re.compile(rf"\b(?:{'|'.join(names)})\b")
    found = set()
    for file, lines in test_map["lines"].items():
        for number, text in enumerate((root / file).read_text().splitlines(), 1):
            if use.search(text):
                found |= {*lines.get(str(number), ())}
    modules = {x.partition("::")[0] for x in test_map["seconds"]}
    named = {x for x in modules if use.search((root / x).read_text())}
    return found | {x for x in test_map["seconds"] if x.partition("::")[0] in named}


def defined_names(source: str, line: int) -> list[str]:
    """The names that an assignment defines that begins in a line.

    >>> defined_names("A = 1\\nclass B:\\n    c: int = 2", 3)
    ['c']
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.lineno == line:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            named = [x for target in targets for x in ast.walk(target)]
            found += [x.id for x in named if isinstance(x, ast.Name)]
    return found


def run_tests(scratch: Path, tests: list[str]) -> int:
    """Collect and run tests, in a forked process, up to the first that fails; the exit code."""
    modules = dict.fromkeys(x.partition("::")[0] for x in tests)
    plugins = [Selection(tests, scratch / LOG)]
    return int(pytest.main([*QUIET, "--tb=no", *modules], plugins=plugins))


def forked(scratch: Path, work: Callable[[], int], limit: float) -> tuple[str, str]:
    """("killed", the test), ("timeout", "") or ("survived", ""), from `work` in a forked process.

    work: runs tests and returns the exit code.
    limit: seconds of processor time; thirty times as much may pass, since others use the machine.
    """
    log = scratch / LOG
    log.unlink(missing_ok=True)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(limit), math.ceil(limit) + 5))
            output = os.open(scratch / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            enter(scratch)
            code = work()
        finally:
            os._exit(code)
    end = time.monotonic() + 30.0 * limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            killer = log.read_text() if log.exists() else ""
            if os.waitstatus_to_exitcode(status) == -signal.SIGXCPU:
                return "timeout", ""
            return ("survived" if os.waitstatus_to_exitcode(status) in (0, 5) else "killed", killer)
        time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timeout", ""


def enter(scratch: Path) -> None:
    """Import the package and run tests from `scratch`, here and in processes that tests start."""
    os.chdir(scratch)
    sys.path.insert(0, str(scratch))
    os.environ["PYTHONPATH"] = str(scratch)
    os.environ["HYPOTHESIS_PROFILE"] = "mutants"  # which tests/conftest.py loads


def tried(scratch: Path, mutant: Mutant, work: Callable[[], int], limit: float) -> tuple[str, str]:
    """Return the outcome of `work`, which runs tests, with the mutant instead of its file."""
    target = scratch / mutant.file
    original = target.read_bytes()
    try:
        target.write_text(mutant.source)
        date(target)  # no stale bytecode
        return forked(scratch, work, limit)
    finally:
        target.write_bytes(original)
        date(target)


TICKS = iter(range(1, 10**9, 2))


def date(file: Path) -> None:
    """Give a file a date that it never had."""
    seconds = time.time() + next(TICKS)
    os.utime(file, (seconds, seconds))


def sampled(package: str, scratch: Path, n: int, seed: int, only: str = "") -> list[Mutant]:
    """Every k-th mutant of the package's files with `only` in their names, from a random start."""
    names = [name for name in files_of(package, scratch) if only in name]
    sources = {name: (scratch / name).read_text() for name in names}
    counts = {name: count_mutants(source) for name, source in sources.items()}
    total = sum(counts.values())
    start = random.Random(seed).random()
    n = min(n, total)
    chosen = {int((i + start) * total / n) for i in range(n)}
    found: list[Mutant] = []
    first = 0
    for name, source in sources.items():
        wanted = {number - first for number in chosen}
        found += mutants(name, source, wanted)
        first += counts[name]
    return found


settings.register_profile(  # failures need not be shrunk
    "mutants", max_examples=25, deadline=None, phases=[Phase.explicit, Phase.generate]
)


def preload(scratch: Path, tests: Sequence[str]) -> None:
    """Import once what the tests' folders import of other libraries; each mutant runs in a fork."""
    own = {x.stem for x in (scratch / "tests").rglob("*.py")} | {"pytest"}
    own |= {x.stem for x in scratch.iterdir()}  # which would import ldmref before it is changed
    folders = {x if x.is_dir() else x.parent for x in (scratch / test for test in tests)}
    for path in {path for folder in folders for path in folder.glob("*.py")}:
        text = path.read_text()
        names = set(re.findall(r"^\s*(?:from|import) ([\w.]+)", text, re.MULTILINE))
        names |= set(re.findall(r"importorskip\(\"([\w.]+)", text))
        for name in (x for x in names if x.partition(".")[0] not in own):
            with suppress(ImportError):
                module = importlib.import_module(name)
                for attribute in re.findall(rf"\b{name}(?:\.| import )(\w+)", text):
                    getattr(module, attribute, None)  # some libraries import lazily
    gc.freeze()


def run(a: argparse.Namespace) -> None:
    """Try a sample of mutants: those of imports each in a new process, first."""
    scratch = a.scratch
    test_map = json.loads((scratch / f"map-{a.package}.json").read_text())
    found = sampled(a.package, scratch, a.mutants, a.seed, a.only)
    new = [x for x in found if not a.collected or changes_import(x, scratch, a.package)]
    collected = [x for x in found if x not in new]
    if new:
        preload(scratch, PACKAGES[a.package][1])
    outcomes = outcomes_of(a)
    done = len(outcomes.read_text().splitlines()) if outcomes.exists() else 0
    numbers = iter(range(1, len(found) + 1))

    def try_all(mutants: Sequence[Mutant], tests_in: CollectedTests | None) -> None:
        for mutant in mutants:
            number = next(numbers)
            if number <= done:
                continue
            tests = tests_of(mutant, test_map, scratch, a.budget, a.nearest)
            limit = 60.0 + 6.0 * sum(test_map["seconds"].get(x, 5.0) for x in tests)
            start = time.monotonic()
            if tests_in is None:
                work = partial(run_tests, scratch, tests)
            else:
                work = partial(tests_in.run, functions_of(mutant, scratch) or [], tests)
            outcome, killer = tried(scratch, mutant, work, limit) if tests else ("survived", "")
            row = {"outcome": outcome, "killer": killer, "tests": len(tests), **mutant._asdict()}
            row["seconds"] = round(time.monotonic() - start, 1)
            with outcomes.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(
                f"{number:3} {outcome:8} {row['seconds']:5} s {len(tests):3} tests  "
                f"{mutant.file}:{mutant.lines[0]} {mutant.operator}",
                flush=True,
            )

    try_all(new, None)
    if collected:
        enter(scratch)
        modules = sorted({x.partition("::")[0] for x in test_map["seconds"]})
        files = files_of(a.package, scratch)
        plugin = CollectedTests(files, partial(try_all, collected), scratch / LOG)
        pytest.main([*QUIET, "-s", "--tb=no", *modules], plugins=[plugin])
    report(a)


def changes_import(mutant: Mutant, scratch: Path, package: str) -> bool:
    """Return whether a mutant changes what importing the package computes."""
    changed = functions_of(mutant, scratch)
    if changed is None:
        return True
    return any(place_of(old) in import_calls(scratch, package) for old, _ in changed)


@functools.cache
def import_calls(scratch: Path, package: str) -> set[Place]:
    """Return the functions of a package that its import calls, found in another process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        return pool.submit(find_import_calls, files_of(package, scratch), scratch).result()


def again(a: argparse.Namespace) -> None:
    """The survivors, against further or new tests of the working tree: modules, or single ones."""
    scratch = a.scratch
    new = set()
    for name in {x.partition("::")[0] for x in a.tests}:
        source = HERE / name
        target = scratch / name
        if not target.exists() or target.read_bytes() != source.read_bytes():
            new.add(name)
        shutil.copy2(source, target)
    preload(scratch, a.tests)
    outcomes = outcomes_of(a)
    rows = [json.loads(x) for x in outcomes.read_text().splitlines()]
    for row in rows:
        if row["outcome"] == "survived" and a.only in row["file"] and not equivalent(row):
            mutant = Mutant(*(row[x] for x in Mutant._fields))
            outcome, killer = tried(scratch, mutant, partial(run_tests, scratch, a.tests), 300.0)
            if outcome != "survived":
                row |= {
                    "outcome": outcome,
                    "killer": killer,
                    "late": killer.partition("::")[0] in new,
                }
            print(f"{outcome:8} {mutant.file}:{mutant.lines[0]} {mutant.operator}", flush=True)
            outcomes.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report(a)


def equivalent(row: dict) -> str:
    """Why no test can kill a mutant, if that is known."""
    path = Path(__file__).with_name("mutation_equivalent.toml")
    listed = tomllib.loads(path.read_text())
    same = (
        x for x in listed["mutant"] if all(x[key] == row[key] for key in ("file", "old", "new"))
    )
    of_kind = (x for x in listed["kind"] if is_of_kind(row, x))
    return next((x["reason"] for x in (*same, *of_kind)), "")


def is_of_kind(row: dict, kind: dict) -> bool:
    """Whether a mutant is one replacement of `kind["old"]`, a regular expression."""
    for match in re.finditer(kind["old"], row["old"]):
        changed = match.expand(kind["new"])
        if row["old"][: match.start()] + changed + row["old"][match.end() :] == row["new"]:
            return True
    return False


def wilson(killed: int, n: int) -> tuple[float, float, float]:
    """The share, and its interval at 95 %."""
    z = 1.959964
    p = killed / n
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return p, (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


def report(a: argparse.Namespace) -> None:
    rows = [json.loads(x) for x in outcomes_of(a).read_text().splitlines()]
    counted = [row for row in rows if row["outcome"] != "survived" or not equivalent(row)]
    survivors = [row for row in counted if row["outcome"] == "survived"]
    before = [row for row in counted if row["outcome"] != "survived" and not row.get("late")]
    for row in rows:
        if row["outcome"] == "survived":
            reason = equivalent(row)
            label = f"equivalent: {reason}" if reason else f"survived ({row['tests']} tests)"
            print(f"\n{row['file']}:{row['lines'][0]} {label}")
            print(f"  - {row['old']}\n  + {row['new']}")
    print(f"\n{a.package}: {len(rows)} mutants, {len(rows) - len(counted)} of them equivalent")
    for label, killed in (("before", len(before)), ("now", len(counted) - len(survivors))):
        share, low, high = wilson(killed, len(counted))
        print(f"{label:6} killed {killed} of {len(counted)}: {share:.1%} ({low:.1%} to {high:.1%})")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("command", choices=("map", "run", "again", "report"))
    parser.add_argument("scratch", type=lambda x: Path(x).resolve())
    parser.add_argument("package", choices=PACKAGES)
    parser.add_argument("--mutants", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--budget", type=float, default=40.0)
    parser.add_argument("--tests", nargs="*", default=[])
    parser.add_argument("--nearest", type=int, default=0)
    parser.add_argument("--collected", action="store_true")
    parser.add_argument("--only", default="", help="part of the file's name")
    a, options = parser.parse_known_args()
    a.scratch.mkdir(parents=True, exist_ok=True)
    if a.command == "map":
        record(a.scratch, a.package, a.tests, options)
    else:
        {"run": run, "again": again, "report": report}[a.command](a)


if __name__ == "__main__":
    main()
