"""The end of a run says what was not tested, and why."""

from __future__ import annotations

import re
from collections import Counter

import pytest

NOT_COLLECTED = "not tested"  # what a process of pytest-xdist reports under this key
MISSING = re.compile(r"could not import|not installed")
EXEMPT = re.compile(r"(could not import ')?(cupy|open_clip)\b")  # a GPU; no environment installs it
not_collected: Counter[str] = Counter()


def pytest_addoption(parser):
    parser.getgroup("ldmref").addoption(
        "--strict-tier",
        action="store_true",
        help="fail if a test is skipped for want of a library, or takes too long and is not listed",
    )


def pytest_collectreport(report):
    if report.skipped:
        not_collected[reason_of(report)] += 1


def pytest_deselected(items):
    for item in items:
        if item.get_closest_marker("slow"):
            not_collected["takes minutes: make slow"] += 1
        elif item.get_closest_marker("gpu"):
            not_collected["cupy: tests that need a GPU were deselected"] += 1
        elif left := item.get_closest_marker("full"):
            not_collected[f"make full: {left.kwargs.get('reason', 'is marked')}"] += 1


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput[NOT_COLLECTED] = dict(not_collected)
    elif session.config.getoption("--strict-tier"):
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if session.exitstatus == pytest.ExitCode.OK and missing_libraries(reporter):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """Take over what a process of pytest-xdist did not collect; each collects the same."""
    for reason, count in getattr(node, "workeroutput", {}).get(NOT_COLLECTED, {}).items():
        not_collected[reason] = count


def reason_of(report) -> str:
    """Return the reason of a report of a skipped test or file."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return " ".join(text.removeprefix("Skipped: ").split())


def all_reasons(reporter) -> Counter[str]:
    """Return every reason for which something was not tested, and how often."""
    skipped = reporter.stats.get("skipped", [])
    reasons = Counter(reason_of(report) for report in skipped if report.when != "collect")
    return reasons + not_collected


def missing_libraries(reporter) -> list[str]:
    """Return the reasons that name a Python library which is not installed.

    What only the system could bring (a shell, a font, a browser) is "not on this machine".
    """
    found = [reason for reason in all_reasons(reporter) if MISSING.search(reason)]
    return sorted(reason for reason in found if not EXEMPT.match(reason))


def pytest_terminal_summary(terminalreporter, config):
    """Say loudly what was not tested, and why."""
    reasons = all_reasons(terminalreporter)
    if reasons:
        terminalreporter.section("NOT TESTED HERE", red=True, bold=True)
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"SKIPPED {count}: {reason}", red=True, bold=True)
    if config.getoption("--strict-tier") and missing_libraries(terminalreporter):
        terminalreporter.section("SKIPPED FOR WANT OF A LIBRARY", red=True, bold=True)
        advice = "List these tests in tests/full_tests.py: `make full` installs every library."
        terminalreporter.write_line(advice, red=True, bold=True)
        for reason in missing_libraries(terminalreporter):
            terminalreporter.write_line(reason, red=True)
    passed = terminalreporter.stats.get("passed", [])
    stand_ins = sum(("stand-in", "cupy") in report.user_properties for report in passed)
    if stand_ins:
        terminalreporter.section("STAND-IN, NOT A GPU", yellow=True, bold=True)
        line = f"{stand_ins} tests of the cupy backend ran on NumPy in CuPy's clothes"
        terminalreporter.write_line(f"{line}; they prove nothing about a GPU", yellow=True)
