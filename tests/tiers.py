"""Which tests `make test` runs: all, but for what `full_tests.py` lists.

- `make test` proves the mission within ten minutes, in an environment of 1.2 GB: the formulas, the
  networks and samplers against NumPy and torch, the modes, checkpoints against diffusers, faults in
  this process and the server of the page.
- `make rest` runs what `make test` leaves out, with every library: browsers, packages, Ray, JAX,
  OpenVINO, processes, the pages of the documentation, and sweeps as a whole.
- `make full` runs both in one go. A plain `pytest`, too, leaves out nothing but the mark "slow".

A test belongs to the rest if its file, folder or function is listed in `FULL`, if a parameter of it
names a library that is not installed for `make test`, if it is marked `@pytest.mark.full`, or if it
is one of a sweep, of which `make test` runs a sample. The sample depends on nothing but the names
of the tests: a file that has more tests tomorrow keeps most of those of today. The others have the
mark `not_sampled`, also in sweeps that are all in the rest: `.ci/run` leaves them to `make full`.
Of functions with many tests, `make test` runs the few that take half a second, as `FEW` says, and
`make rest` the others, in `.ci/run` too.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TypeVar

import pytest
from full_tests import COMBINATIONS, FEW, FULL, LIBRARIES, LONG, SAMPLED, SECONDS
from not_tested import not_collected

Row = TypeVar("Row")
SWEEP = "sweeps, of which a sample ran"  # the reason to leave out what is not in a sample
SEED = 40  # of the samples


def prefixes(name: str) -> Iterator[str]:
    """Yield what may stand for a test in a table: itself, its function, file and folders.

    >>> list(prefixes("tests/io/test_a.py::test_b[1]"))
    ['tests/io/test_a.py::test_b[1]', 'tests/io/test_a.py::test_b', 'tests/io/test_a.py', \
'tests/io', 'tests']
    """
    yield name
    if "[" in name:
        name = name.partition("[")[0]
        yield name
    while "::" in name:
        name = name.rpartition("::")[0]
        yield name
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name


def find(table: dict[str, Row], name: str) -> Row | None:
    """Return the row of a table for a test, or for the function, file or folder that it is in."""
    return next((table[prefix] for prefix in prefixes(name) if prefix in table), None)


def reason_to_take_long(name: str) -> str | None:
    """Return why a test of `make test` may take more than five seconds, or None."""
    return find(LONG, name)


def sample(names: Iterable[str], number: int) -> set[str]:
    """Return `number` of the names, the same in every run: those with the smallest hashes."""

    def order(name: str) -> bytes:
        return hashlib.sha256(f"{SEED} {name}".encode()).digest()

    return set(sorted(names, key=order)[:number])


def leave_out(names: Iterable[str], numbers: dict[str, int] = SAMPLED) -> set[str]:
    """Return the tests of sweeps that are not in the sample of their sweep.

    Args:
        names: The names of tests.
        numbers: How many tests of a function are in its sample; a folder or file stands for each
            function in it.
    """
    sweeps: defaultdict[str, set[str]] = defaultdict(set)
    for name in names:
        sweeps[name.partition("[")[0]].add(name)
    left: set[str] = set()
    for function, tests in sweeps.items():
        number = find(numbers, function)
        if number is not None:
            left |= tests - sample(tests, number)
    return left


def reason_in_parameters(parameters: dict[str, object]) -> str:
    """Return why a test with these parameters is left to `make full`, or ""."""
    for value in parameters.values():
        if isinstance(value, str) and value in LIBRARIES:
            return f"needs {LIBRARIES[value]}"
    for combination in COMBINATIONS:
        if all(parameters.get(name) == value for name, value in combination.items()):
            return SWEEP
    return ""


def reason_of(item: pytest.Item) -> str:
    """Return why a test is left to `make full`, or "" where nothing but a sample may leave it."""
    call = getattr(item, "callspec", None)
    parameters = call.params if call else {}
    return find(FULL, item.nodeid) or reason_in_parameters(parameters)


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by marks
def pytest_collection_modifyitems(items):
    """Mark the tests that `make test` leaves out, with the reason."""
    reasons = {
        item.nodeid: reason_of(item) for item in items if not item.get_closest_marker("slow")
    }
    not_sampled = leave_out(name for name, reason in reasons.items() if not reason)
    not_sampled |= leave_out(name for name, reason in reasons.items() if reason)
    quick = (name for name, reason in reasons.items() if not reason and name not in not_sampled)
    reasons |= dict.fromkeys(leave_out(quick, FEW), SECONDS)
    for item in items:
        reason = reasons.get(item.nodeid, "") or (SWEEP if item.nodeid in not_sampled else "")
        if reason:
            item.add_marker(pytest.mark.full(reason=reason))
        if item.nodeid in not_sampled or reason == SWEEP:
            item.add_marker("not_sampled")


def pytest_ignore_collect(collection_path, config):
    """Do not import the files of which `make test` runs nothing."""
    if "not full" not in config.option.markexpr:
        return None
    try:
        name = collection_path.relative_to(config.rootpath).as_posix()
    except ValueError:
        return None
    if name in FULL:
        not_collected[f"make full: {FULL[name]}"] += 1
        return True
    return None
