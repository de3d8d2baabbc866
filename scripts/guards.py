"""Which tests guard a file: `tests/guards.txt`, and the tests of what was changed.

    python scripts/guards.py show ldmref/io/tensors/safetensors.py   # tests of a file
    python scripts/guards.py changed --since main         # run those of all changes (make changed)
    python scripts/guards.py make                         # write tests/guards.txt anew (make map)
    python scripts/guards.py make --measure               # the same, from a run of the tests

A file of tests is near a module if it imports it, if it imports what imports it, or if they have
words of their names in common: that takes seconds (`find_near`). `--measure` runs one case of each
function of `make test` under coverage, in one process, which takes half an hour, and keeps the
files that run, together, each line of a module that any of them runs (`choose_guards`).

A context for each test, as pytest-testmon has it, slows every run of the suite, and its database
belongs to one machine; a few files for each module are enough to begin with, and are text that can
be reviewed.

The stored map may be old. New tests are found by their imports, and those of a new module as those
of all modules here. It decides nothing: `make test` runs everything.
"""

from __future__ import annotations

import argparse
import ast
import math
import re
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STORED = "tests/guards.txt"
MOST = 6  # files of tests that are stored for a module, and those of its importers that are run
ALWAYS = ("tests/test_house.py",)
BASES = ("origin/main", "main", "HEAD")  # what `changed` compares with, the first that exists
HEAD = """\
# The tests that guard each file of ldmref, the nearest first; +n: how many others import or run it.
# `make map` writes this file, and `python scripts/guards.py show FILE` prints a part of it.
"""
FAR = 3  # imports between a module and a test of it
ADDRESS = re.compile(r"ldmref(\.\w+)+(:\w+)?")
Lines = frozenset[int]
Guards = dict[str, tuple[list[str], int]]  # module -> its tests, and how many others run it


# -- what is stored -------------------------------------------------------------------------------


def read_guards(text: str) -> Guards:
    """Return the stored tests of each module, and how many others run it.

    >>> read_guards("[ldmref/io]\\ntensors.py: io/test_a test_b +3\\n")
    {'ldmref/io/tensors.py': (['tests/io/test_a.py', 'tests/test_b.py'], 3)}
    """
    found: Guards = {}
    folder = ""
    for line in text.splitlines():
        if line.startswith("["):
            folder = line.strip("[]")
        elif line and not line.startswith("#"):
            name, _, rest = line.partition(":")
            words = rest.split()
            more = [int(word) for word in words if word.startswith("+")]
            tests = [f"tests/{word}.py" for word in words if not word.startswith("+")]
            found[f"{folder}/{name}"] = tests, sum(more)
    return found


def write_guards(guards: Guards) -> str:
    """Return the text of a map; the inverse of `read_guards`."""
    lines = [HEAD.rstrip()]
    folder = ""
    for module in sorted(guards, key=lambda name: (name.rpartition("/")[0], name)):
        tests, more = guards[module]
        if module.rpartition("/")[0] != folder:
            folder = module.rpartition("/")[0]
            lines += ["", f"[{folder}]"]
        words = [test.removeprefix("tests/").removesuffix(".py") for test in tests]
        words += [f"+{more}"] if more else []
        lines.append(f"{module.rpartition('/')[2]}: {' '.join(words)}".rstrip())
    return "\n".join(lines) + "\n"


def prune_guards(guards: Guards, exists: Collection[str]) -> Guards:
    """Return a map without the modules and tests that are gone."""
    return {
        module: ([test for test in tests if test in exists], more)
        for module, (tests, more) in guards.items()
        if module in exists
    }


def choose_guards(reached: Mapping[str, Lines], sizes: Mapping[str, int]) -> list[str]:
    """Return the tests of a module: together they run all its lines that any test runs, twice.

    Each is the one that adds the most lines, divided by the square root of all that it runs of
    ldmref: a test of this module comes before one that runs everything.

    Args:
        reached: The lines of the module that each file of tests runs.
        sizes: How many lines of ldmref each of them runs.

    >>> reached = {"all": frozenset({1, 2, 3}), "own": frozenset({1, 2})}
    >>> choose_guards(reached, {"all": 900, "own": 4})
    ['own', 'all']
    """
    left = {line: min(2, sum(line in x for x in reached.values())) for line in union(reached)}
    found: list[str] = []
    while any(left.values()) and len(found) < MOST:
        gains = {
            test: sum(left[line] > 0 for line in lines) / math.sqrt(sizes[test])
            for test, lines in sorted(reached.items())
            if test not in found
        }
        best = max(gains, key=gains.__getitem__)
        found.append(best)
        left = {line: n - (line in reached[best] and n > 0) for line, n in left.items()}
    return found


def union(reached: Mapping[str, Lines]) -> Lines:
    """Return all lines that any file of tests runs."""
    return frozenset().union(*reached.values())


# -- what the working tree says -------------------------------------------------------------------


def list_files(root: Path = ROOT) -> list[str]:
    """Return the files of the working tree, as git sees them."""
    listed = run_git("ls-files", "-co", "--exclude-standard", root=root)
    return sorted({name for name in listed if (root / name).is_file()})


def run_git(*command: str, root: Path = ROOT) -> list[str]:
    """Return the lines that git prints."""
    ran = subprocess.run(["git", *command], cwd=root, capture_output=True, text=True)
    if ran.returncode:
        raise SystemExit(f"error: git {' '.join(command)}: {ran.stderr.strip()}")
    return ran.stdout.splitlines()


def is_test(name: str) -> bool:
    """Return whether a file holds tests of the suite."""
    path = Path(name)
    return name.startswith("tests/") and path.name.startswith("test_") and path.suffix == ".py"


@cache
def exports_of(package: str, root: Path) -> Mapping[str, str]:
    """Return the module that each name of a package's `__init__.py` is imported from."""
    path = root / package.replace(".", "/") / "__init__.py"
    tree = ast.parse(path.read_text("utf-8")) if path.is_file() else ast.Module([], [])
    return {
        alias.asname or alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and not node.level
        for alias in node.names
    }


def file_of(module: str, root: Path) -> str | None:
    """Return the file of a module, or of the module that has this name, if it is one of ours."""
    path = module.replace(".", "/")
    found = next((x for x in (f"{path}.py", f"{path}/__init__.py") if (root / x).is_file()), None)
    above = module.rpartition(".")[0]
    return file_of(above, root) if found is None and above else found


def find_imports(name: str, root: Path = ROOT) -> Iterator[str]:
    """Yield the files that a Python file imports: of ldmref, and helpers of tests.

    A name that a package of ldmref exports counts as an import of the module that defines it, and
    so does a text such as "ldmref.families.sd3:SD3", as entry points and patches of tests have it.
    """
    for node in ast.walk(ast.parse((root / name).read_text("utf-8"))):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules = [resolve(node.module, alias.name, root) for alias in node.names]
        elif isinstance(node, ast.Constant) and ADDRESS.fullmatch(str(node.value)):
            modules = [node.value.partition(":")[0]]
        for module in modules:
            ours = module.startswith("ldmref")
            file = file_of(module, root) if ours else helpers(root).get(module)
            if file:
                yield file


def resolve(module: str, name: str, root: Path) -> str:
    """Return the module that defines a name which is imported from a module or package."""
    if not module.startswith("ldmref"):
        return module
    if file_of(f"{module}.{name}", root) != file_of(module, root):
        return f"{module}.{name}"
    source = exports_of(module, root).get(name)
    return module if source is None or source == module else resolve(source, name, root)


@cache
def helpers(root: Path) -> Mapping[str, str]:
    """Return the files of modules that tests share, by their names, which are unique."""
    paths = [path for path in (root / "tests").rglob("*.py") if not path.name.startswith("test_")]
    named = [path for path in paths if path.stem not in ("conftest", "__init__")]
    return {path.stem: path.relative_to(root).as_posix() for path in named}


def find_importers(names: Iterable[str], root: Path = ROOT) -> dict[str, set[str]]:
    """Return the modules, tests and helpers of tests that import each file."""
    found: dict[str, set[str]] = {}
    for name in names:
        if name.startswith(("ldmref/", "tests/")) and name.endswith(".py"):
            for imported in find_imports(name, root):
                found.setdefault(imported, set()).add(name)
    return found


def find_near(
    name: str, importers: Mapping[str, set[str]], others: Iterable[str] = ()
) -> tuple[list[str], int]:
    """Return the tests that are nearest to a module, and how many others import it.

    Nearest are those with the smallest number of imports between them, less the number of words
    that the paths have in common. The `__init__.py` of a package imports everything, and is no way.
    A module that nothing near imports, such as a command, has those of `others` with common words.

    >>> find_near("ldmref/io/files.py", {
    ...     "ldmref/io/files.py": {"tests/io/test_names.py", "ldmref/io/folder.py"},
    ...     "ldmref/io/folder.py": {"tests/io/test_folder.py", "tests/io/test_files_of_folder.py"}})
    (['tests/io/test_names.py', 'tests/io/test_files_of_folder.py', 'tests/io/test_folder.py'], 0)
    """
    distances = {name: 0}
    left = [name]
    for file in left:
        for user in sorted(importers.get(file, ())):
            if user not in distances and not user.endswith("__init__.py") and distances[file] < FAR:
                distances[user] = distances[file] + 1
                left.append(user)
    words = words_of(name)
    if not any(map(is_test, distances)):
        distances = {test: FAR for test in others if words & words_of(test)}
    near = sorted(
        (d - len(words & words_of(test)), d, test) for test, d in distances.items() if is_test(test)
    )
    direct = sum(d == 1 for _, d, _ in near[MOST:])
    return [test for _, _, test in near[:MOST]], direct


def words_of(name: str) -> set[str]:
    """Return the words of a path; those that all files have say nothing."""
    words = re.split(r"[/_.]", name.removeprefix("ldmref/").removeprefix("tests/"))
    return {word.removesuffix("s") for word in words} - {"test", "py", ""}


class TestFinder:
    """The tests of files: stored ones, those that import a file, and those that name it."""

    def __init__(self, root: Path = ROOT):
        self.root = root
        self.files = list_files(root)
        stored = root / STORED
        known = read_guards(stored.read_text("utf-8")) if stored.is_file() else {}
        self.guards = prune_guards(known, set(self.files))
        self.importers = find_importers(self.files, root)

    def find(self, name: str) -> list[str]:
        """Return the tests of a file, the most specific first."""
        if is_test(name):
            return [name] if name in self.files else []
        if name.startswith("ldmref/") and name.endswith(".py"):
            tests = [x for x in self.files if is_test(x)]
            stored, _ = self.guards.get(name) or find_near(name, self.importers, tests)
            importing = sorted(x for x in self.importers.get(name, ()) if is_test(x))
            return [*dict.fromkeys([*stored, *(importing if len(importing) <= MOST else [])])]
        if name.startswith("tests/") and name.endswith(".py"):
            return self.users_of(name)
        return self.naming(name)

    def users_of(self, name: str) -> list[str]:
        """Return the tests that import a helper, also through other helpers; of a conftest: all
        of its folder."""
        if Path(name).name == "conftest.py":
            folder = name.removesuffix("conftest.py")
            return [x for x in self.files if is_test(x) and x.startswith(folder)]
        found: set[str] = set()
        left = [name]
        while left:
            users = self.importers.get(left.pop(), set()) - found
            found |= users
            left += users
        return sorted(x for x in found if is_test(x))

    def naming(self, name: str) -> list[str]:
        """Return the tests that name another file: a script, a page, an example, data."""
        words = {name, Path(name).name}
        if Path(name).suffix == ".py":
            words.add(f"import {Path(name).stem}")
        tests = [x for x in self.files if is_test(x)]
        found = [x for x in tests if any(word in self.text(x) for word in words)]
        pages = ["tests/test_markdown.py", "tests/docs"] if name.endswith(".md") else []
        stored = self.readers_of(name) if name.startswith("tests/") and not found else []
        return [*pages, *found, *stored]

    def readers_of(self, name: str) -> list[str]:
        """Return the tests that read a stored file, which a helper may do for them.

        They name the file or else the nearest folder around it, from beside that folder.
        """
        path = Path(name)
        for part in (path, *path.parents[:-2]):
            beside = f"{part.parent.as_posix()}/"
            words = f'"{part.name}', f"/{part.name}", f"{part.name}/"
            found: dict[str, None] = {}
            for file in self.files:
                if file.startswith(beside) and file.endswith(".py"):
                    if any(word in self.text(file) for word in words):
                        found |= dict.fromkeys([file] if is_test(file) else self.users_of(file))
            if found:
                return [*found]
        return []

    @cache  # noqa: B019
    def text(self, name: str) -> str:
        return (self.root / name).read_text("utf-8")


# -- commands -------------------------------------------------------------------------------------


def find_changed(since: str | None, root: Path = ROOT) -> tuple[str, list[str]]:
    """Return a commit and the files that differ from it in the working tree, untracked ones too.

    Args:
        since: A commit, or a branch, of which the last common commit counts. None: the first of
            `BASES` that exists.
        root: The repository.
    """
    if since is None:
        listed = subprocess.run(
            ["git", "for-each-ref", "--format=%(refname:short)"],
            cwd=root,
            capture_output=True,
            text=True,
        )
        known = {*listed.stdout.split(), "HEAD"}
        since = next(base for base in BASES if base in known)
    (base,) = run_git("merge-base", since, "HEAD", root=root)
    names = run_git("diff", "--name-only", "--no-renames", base, root=root)
    names += run_git("ls-files", "-o", "--exclude-standard", root=root)
    return since, sorted(set(names))


def run_changed(since: str | None, only_list: bool, options: list[str]) -> int:
    """Run the tests of what was changed; return pytest's exit code."""
    since, changed = find_changed(since)
    finder = TestFinder()
    tests: dict[str, None] = {}
    for name in changed:
        found = finder.find(name)
        tests |= dict.fromkeys(found)
        if not found:
            print(f"no test names {name}")
    tests |= dict.fromkeys(ALWAYS)
    print(f"{len(changed)} files differ from {since}: {len(tests)} files of tests")
    if only_list:
        print(*tests, sep="\n")
        return 0
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow and not full"]
    return subprocess.run([*command, *options, *tests], cwd=ROOT).returncode


class OneCaseRecorder:
    """A pytest plug-in: one case of each test function, a coverage context for each file."""

    def __init__(self, coverage) -> None:
        self.coverage = coverage

    def pytest_collection_modifyitems(self, items) -> None:
        first = {item.nodeid.partition("[")[0]: item for item in reversed(items)}
        kept = {id(item) for item in first.values()}
        items[:] = [item for item in items if id(item) in kept]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.coverage.switch_context(nodeid.partition("::")[0])


def measure(tests: str = "tests") -> Guards:
    """Run one case of each test function, and return the guards of each module."""
    import pytest
    from coverage import Coverage

    coverage = Coverage(data_file=None, source=[str(ROOT / "ldmref")], config_file=False)
    coverage.start()
    arguments = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly", "--hypothesis-seed=0"]
    pytest.main(
        [*arguments, "-m", "not slow and not full", tests], plugins=[OneCaseRecorder(coverage)]
    )
    coverage.stop()
    return guards_of(coverage.get_data())


def guards_of(data=None) -> Guards:
    """Return the guards of each module.

    Args:
        data: Coverage data with a context for each file of tests. None, and for a module of which
            no function ran: the tests that are near.
    """
    names = list_files()
    modules = [name for name in names if name.startswith("ldmref/") and name.endswith(".py")]
    reached = {} if data is None else {name: find_reached(data, name) for name in modules}
    sizes: dict[str, int] = {}
    for by_file in reached.values():
        for test, lines in by_file.items():
            sizes[test] = sizes.get(test, 0) + len(lines)
    importers = find_importers(names)
    tests = [name for name in names if is_test(name)]
    guards: Guards = {}
    for name in modules:
        chosen = choose_guards(reached.get(name, {}), sizes)
        more = len({*reached.get(name, {})} - {*chosen})
        guards[name] = (chosen, more) if chosen else find_near(name, importers, tests)
    return guards


def find_reached(data, name: str) -> dict[str, Lines]:
    """Return the lines within functions of a module that each file of tests ran."""
    bodies = lines_of_functions((ROOT / name).read_text("utf-8"))
    found: dict[str, set[int]] = {}
    for line, contexts in data.contexts_by_lineno(str(ROOT / name)).items():
        for context in contexts if line in bodies else ():
            if is_test(context):
                found.setdefault(context, set()).add(line)
    return {test: frozenset(lines) for test, lines in found.items()}


def lines_of_functions(source: str) -> set[int]:
    """Return the lines within functions, which no import runs.

    >>> sorted(lines_of_functions("A = 1\\ndef f():\\n    return 2\\n"))
    [3]
    """
    return {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for statement in node.body
        for line in range(statement.lineno, (statement.end_lineno or 0) + 1)
    }


def show(names: list[str]) -> None:
    """Print the tests of files."""
    finder = TestFinder()
    for name in names:
        path = Path(name).resolve()
        name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else name
        _, more = finder.guards.get(name, ([], 0))
        print(f"{name}:", *finder.find(name), *([f"and {more} more"] if more else []), sep="\n  ")


def main() -> int:
    parser = argparse.ArgumentParser(description="Which tests guard a file.")
    commands = parser.add_subparsers(dest="command", required=True)
    shown = commands.add_parser("show", help="print the tests of files")
    shown.add_argument("files", nargs="+")
    changed = commands.add_parser("changed", help="run the tests of what was changed")
    changed.add_argument("--since", help="a commit or branch; default: origin/main, main or HEAD")
    changed.add_argument("--list", action="store_true", help="print the tests, and run none")
    made = commands.add_parser("make", help=f"write {STORED}")
    made.add_argument("--measure", action="store_true", help="run the tests: half an hour")
    commands.add_parser("prune", help=f"remove files that are gone from {STORED}")
    a, options = parser.parse_known_args()
    if options and a.command != "changed":
        parser.error(f"unknown options {' '.join(options)}")
    stored = ROOT / STORED
    if a.command == "show":
        show(a.files)
    elif a.command == "changed":
        return run_changed(a.since or None, a.list, options)
    elif a.command == "make":
        stored.write_text(write_guards(measure() if a.measure else guards_of()), "utf-8")
    else:
        guards = prune_guards(read_guards(stored.read_text("utf-8")), set(list_files()))
        stored.write_text(write_guards(guards), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
