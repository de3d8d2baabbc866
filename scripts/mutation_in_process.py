"""Try mutants in a process that has collected the tests: a fraction of a second for each.

A new process spends seconds on imports and on collecting tests before it runs one. Here pytest
collects once; for each mutant the process is forked, and in the fork the functions that the mutant
changes are given their new code, wherever they are: in modules, classes and behind decorators. What
modules compute while they are imported stays as it is: constants, tables, defaults and fields.
`changed_functions` tells which mutants change only what is inside of functions, and
`find_import_calls` which of these functions an import calls, as one that makes a table.
"""

from __future__ import annotations

import ast
import functools
import gc
import importlib
import inspect
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import pytest
from mutation_operators import Mutant

Change = tuple[CodeType, CodeType]  # of a function: the old and the new code
Place = tuple[str, str, int]  # of a function: its file, its name in the file, its first line
CACHED = type(functools.cache(len))
AT_ONCE = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")  # run where they are written


class ChangesImport(Exception):
    """A mutant changes what a module computes when it is imported."""


def changed_functions(old: CodeType, same: CodeType, new: CodeType) -> Iterator[Change]:
    """Yield the functions of a module that differ, as (old code, new code), from the outside in.

    Args:
        old: The code of the module.
        same: The code of the same statements, in the lines of the mutant.
        new: The code of a mutant.

    Raises:
        ChangesImport: A module or the body of a class differs, or a function of other closures.

    >>> codes = (compile(f"f = lambda: {i}", "f.py", "exec") for i in (1, 1, 2))
    >>> [(a.co_name, b.co_consts[-1]) for a, b in changed_functions(*codes)]
    [('<lambda>', 2)]
    """
    if _content(same, deep=True) == _content(new, deep=True):
        return
    inside = [[x for x in code.co_consts if isinstance(x, CodeType)] for code in (old, same, new)]
    is_function = bool(old.co_flags & inspect.CO_OPTIMIZED)  # not the body of a module or class
    if is_function:
        if old.co_freevars != new.co_freevars:
            raise ChangesImport
        yield old, new
        if len(inside[1]) != len(inside[2]):
            return
    elif _content(same, deep=False) != _content(new, deep=False):
        raise ChangesImport
    for codes in zip(*inside, strict=True):
        for change in changed_functions(*codes):
            if not is_function and codes[0].co_name in AT_ONCE:
                raise ChangesImport
            yield change


def _content(code: CodeType, *, deep: bool) -> tuple[Any, ...]:
    """Return what a code does, without its lines; `deep` includes the functions inside of it."""
    constants = []
    for x in code.co_consts:
        if isinstance(x, CodeType):
            constants.append(_content(x, deep=True) if deep else None)
        else:
            constants.append((type(x), x))
    names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
    return code.co_code, code.co_exceptiontable, names, tuple(constants)


def functions_of(mutant: Mutant, root: Path) -> list[Change] | None:
    """Return the functions that a mutant changes, or None if it changes what an import computes."""
    path = str(root / mutant.file)
    text = Path(path).read_text()
    texts = (text, ast.unparse(ast.parse(text)), mutant.source)
    try:
        return list(changed_functions(*(compile(x, path, "exec") for x in texts)))
    except ChangesImport:
        return None


class CollectedTests:
    """A pytest plug-in that collects tests and, instead of running them all, calls `work`.

    Args:
        files: The files whose functions are changed, relative to the folder of the package.
        work: Called with this object when everything is collected.
        log: The file for the name of a test that failed.
    """

    def __init__(
        self, files: Sequence[str], work: Callable[[CollectedTests], None], log: Path
    ) -> None:
        self.files = files
        self.work = work
        self.log = log

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.items = {item.nodeid: item for item in session.items}
        for file in self.files:
            importlib.import_module(".".join(Path(file).with_suffix("").parts))
        self.functions: dict[Place, list[FunctionType]] = defaultdict(list)
        self.caches = []
        gc.unfreeze()  # what tests/conftest.py has frozen is not among the objects
        for x in gc.get_objects():
            if isinstance(x, FunctionType):
                self.functions[place_of(x.__code__)].append(x)
            elif isinstance(x, CACHED) and x.__module__.startswith("ldmref."):
                self.caches.append(x)
        gc.freeze()
        self.work(self)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:  # in the fork
            self.log.write_text(report.nodeid)
            os._exit(int(pytest.ExitCode.TESTS_FAILED))

    def run(self, changed: Sequence[Change], tests: Sequence[str]) -> int:
        """Run tests with changed functions, in a fork, up to the first that fails.

        Args:
            changed: The old and the new code of each function.
            tests: Names of tests, or of modules: all of their tests.

        Returns:
            The exit code.
        """
        for old, new in changed:
            for function in self.functions[place_of(old)]:
                function.__code__ = new
        for cache in self.caches:  # what the unchanged code has computed while tests were collected
            cache.cache_clear()
        items = [x for name in tests for x in self.items if x == name or x.startswith(f"{name}::")]
        items = [self.items[name] for name in dict.fromkeys(items)]
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        return int(pytest.ExitCode.OK)


def place_of(code: CodeType) -> Place:
    """Return where a function stands, which a changed function has in common with it."""
    return code.co_filename, code.co_qualname, code.co_firstlineno


def find_import_calls(files: Sequence[str], root: Path) -> set[Place]:
    """Return the functions that importing files calls. Run it in a process of its own.

    Args:
        files: The files of modules, relative to `root`.
        root: The folder of the package.
    """
    sys.path.insert(0, str(root))
    called: set[Place] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            called.add(place_of(frame.f_code))

    sys.setprofile(note)
    for file in files:
        importlib.import_module(".".join(Path(file).with_suffix("").parts))
    sys.setprofile(None)
    return called
