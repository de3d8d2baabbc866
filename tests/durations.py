"""How long each test takes: a file for later, and a limit for the tests of `make test`.

What counts is processor time, of this process and of the processes that a test started and waited
for. The clock on the wall is recorded, but decides nothing: on a busy machine it runs ten times as
long, and processor time at most twice. A test over the limit runs once more, and the faster run
counts: the first use of a library pays for its import. Tests are to take less than three seconds.
The limit is higher, and higher yet on a slow processor, which is measured when a test is over it.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from _pytest.runner import runtestprotocol
from tiers import reason_to_take_long

LIMIT = 7.0  # seconds of processor time in the call of a test; fixtures are not counted
USUAL = 0.16  # seconds that `seconds_of_work` takes on a processor on which this is the limit
recorded: dict[str, dict[str, float]] = {}


def processor_time() -> float:
    """Return the seconds that this process and its children, as far as they ended, have used."""
    return sum(os.times()[:4])


def seconds_of_work() -> float:
    """Return the processor time that a fixed piece of work takes: Python, and small arrays."""
    start = time.process_time()
    total, x = 0, np.ones((64, 64))
    for i in range(1_600_000):
        total += i * i
    for _ in range(1_600):
        x = np.tanh(x @ x / 64.0)
    return time.process_time() - start


def limit_here() -> float:
    """Return the limit on this processor, as busy as it is."""
    return LIMIT * max(1.0, min(seconds_of_work() for _ in range(3)) / USUAL)


def pytest_addoption(parser):
    group = parser.getgroup("ldmref")
    group.addoption("--durations-file", metavar="PATH", help="write how long each test took")


BEGAN = time.monotonic()  # of this process; those of xdist begin together


def skip_when_over():
    """Skip a test that begins after the minutes that the variable TEST_MINUTES gives a run."""
    minutes = os.environ.get("TEST_MINUTES")
    if minutes and time.monotonic() - BEGAN > 60.0 * float(minutes):
        pytest.skip(f"the {minutes} minutes of this run are over")


USED: pytest.StashKey[dict[str, float]] = pytest.StashKey()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    """Time the fixtures."""
    skip_when_over()
    return (yield from measured(item, "setup"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Time the test itself."""
    return (yield from measured(item, "call"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item):
    """Time the end of the fixtures."""
    return (yield from measured(item, "teardown"))


def measured(item, phase):
    """Wrap a phase of a test, and note its processor time."""
    start = processor_time()
    try:
        return (yield)
    finally:
        item.stash.setdefault(USED, {})[phase] = processor_time() - start


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Add the processor time to the report, with which it reaches the main process of xdist."""
    report = yield
    report.processor = item.stash.get(USED, {}).get(report.when, 0.0)
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    """Run a test, once more if it took too long, and fail it if it took too long again."""
    if not item.config.getoption("--strict-tier") or reason_to_take_long(item.nodeid):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, log=False, nextitem=nextitem)
    if took_too_long(reports):
        item._initrequest()
        reports = min(reports, runtestprotocol(item, log=False, nextitem=nextitem), key=call_time)
    limit = limit_here() if took_too_long(reports) else LIMIT
    if took_too_long(reports, limit):
        report = next(report for report in reports if report.when == "call")
        report.outcome = "failed"
        report.longrepr = (
            f"{item.nodeid} took {report.processor:.1f} s of processor time, twice; the limit of "
            f"`make test` is {limit:.1f} s here. Make it cheaper, or list it in "
            "tests/full_tests.py: in FULL, to run it in `make full` alone, or in LONG, with its "
            "reason."
        )
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def call_time(reports) -> float:
    """Return the processor time of a test without its fixtures."""
    return sum(report.processor for report in reports if report.when == "call")


def took_too_long(reports, limit: float = LIMIT) -> bool:
    """Return whether a test passed, but over the limit."""
    return all(report.outcome == "passed" for report in reports) and call_time(reports) > limit


def pytest_runtest_logreport(report):
    """Collect what each phase took, in the main process."""
    times = recorded.setdefault(report.nodeid, {"seconds": 0.0, "processor": 0.0, "call": 0.0})
    used = getattr(report, "processor", 0.0)
    times["seconds"] += report.duration
    times["processor"] += used
    if report.when == "call":
        times["call"] += used


def pytest_sessionfinish(session):
    """Write the durations, the longest first."""
    path = session.config.getoption("--durations-file")
    if path is None or hasattr(session.config, "workerinput"):
        return
    ordered = sorted(recorded.items(), key=lambda entry: -entry[1]["processor"])
    tests = {name: {k: round(v, 3) for k, v in times.items()} for name, times in ordered}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps({"unit": "s", "tests": tests}, indent=1) + "\n", "utf-8")
