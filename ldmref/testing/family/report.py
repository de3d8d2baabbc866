"""The report of a family's checks: promises that hold, that are broken, or were not compared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from ldmref.errors import BackendUnavailable, VerifyError

MOST = 5  # names that a line lists


class BrokenPromises(VerifyError, AssertionError):
    """A family that does not do what it declares, for tests that expect an `AssertionError`."""


class NotChecked(Exception):
    """A check cannot run here; the message says why."""


@dataclass(frozen=True)
class FamilyCheck:
    """One promise of a family, checked.

    Attributes:
        name: The name of the check.
        compared: The compared things, one entry each.
        problems: The mistakes, a line each.
        left_out: The things that were not compared, with the reason, a line each.

    >>> from ldmref.testing import FamilyCheck
    >>> print(FamilyCheck("presets", problems=("'dit-s': patch_size must divide sample_size",)))
    BROKEN: presets: 'dit-s': patch_size must divide sample_size
    """

    name: str
    compared: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def verdict(self) -> Literal["holds", "broken", "not checked"]:
        """The result; a check that compared nothing holds nothing."""
        if self.problems:
            return "broken"
        return "holds" if self.compared else "not checked"

    def __str__(self) -> str:
        if self.problems:
            return "\n".join(f"BROKEN: {self.name}: {problem}" for problem in self.problems)
        if not self.compared:
            return f"not checked: {self.name}: {'; '.join(self.left_out) or 'nothing fits'}"
        rest = f"; not compared: {'; '.join(self.left_out)}" if self.left_out else ""
        return f"holds: {self.name}: {shorten(self.compared)}{rest}"


@dataclass(frozen=True)
class FamilyReport:
    """All checks of a family.

    Attributes:
        family: Its name.
        checks: Every check, in the order in which they ran.

    >>> from ldmref.testing import FamilyCheck, FamilyReport
    >>> report = FamilyReport("dit", (FamilyCheck("presets", ("dit-s",)), FamilyCheck("images")))
    >>> report.holding, report.not_checked, report.problems
    (['presets'], ['images'], [])
    """

    family: str
    checks: tuple[FamilyCheck, ...]

    @property
    def holding(self) -> list[str]:
        """The names of the checks that hold."""
        return [check.name for check in self.checks if check.verdict == "holds"]

    @property
    def broken(self) -> list[str]:
        """The names of the checks that found a problem."""
        return [check.name for check in self.checks if check.verdict == "broken"]

    @property
    def not_checked(self) -> list[str]:
        """The names of the checks that compared nothing."""
        return [check.name for check in self.checks if check.verdict == "not checked"]

    @property
    def problems(self) -> list[str]:
        """A line for each problem, which begins with the name of the check."""
        return [f"{check.name}: {line}" for check in self.checks for line in check.problems]

    def __getitem__(self, name: str) -> FamilyCheck:
        """Return the check of a name."""
        return next(check for check in self.checks if check.name == name)

    def __str__(self) -> str:
        order = ("broken", "holds", "not checked")
        checks = sorted(self.checks, key=lambda check: order.index(check.verdict))
        return "\n".join([f"family {self.family!r}:", *map(str, checks)])


class Findings:
    """Collects what a check compares, finds and leaves out."""

    def __init__(self, name: str):
        self.name = name
        self._compared: list[str] = []
        self._problems: list[str] = []
        self._left_out: list[str] = []

    def compare(self, what: str) -> None:
        """Note that something was compared."""
        self._compared.append(what)

    def problem(self, line: str) -> None:
        """Note a problem."""
        self._problems.append(line)

    def leave_out(self, line: str) -> None:
        """Note what is not compared, and why."""
        self._left_out.append(line)

    def require(self, condition: bool, line: str) -> None:
        """Note a problem if a condition does not hold."""
        if not condition:
            self.problem(line)

    @contextmanager
    def about(self, what: str) -> Iterator[None]:
        """Compare one thing: it counts as compared unless it cannot be; an error is a problem.

        Args:
            what: Its name. "": a part that is compared under other names.
        """
        try:
            yield
        except NotChecked as reason:
            self.leave_out(f"{what}: {reason}" if what else str(reason))
            return
        except BackendUnavailable as error:
            message = first_line(error)
            self.leave_out(f"{what}: {message}" if what else message)
            return
        except Exception as error:  # whatever a family raises breaks a promise
            message = f"{type(error).__name__}: {first_line(error)}"
            self.problem(f"{what}: {message}" if what else message)
        if what:
            self.compare(what)

    @property
    def has_compared(self) -> bool:
        """Whether anything was compared, or found."""
        return bool(self._compared or self._problems)

    def close(self) -> FamilyCheck:
        """Return what was found."""
        rows = (self._compared, self._problems, self._left_out)
        return FamilyCheck(self.name, *(tuple(dict.fromkeys(row)) for row in rows))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return next(iter(str(error).splitlines()), "") or "no message"


def shorten(names: tuple[str, ...] | list[str]) -> str:
    """Return names in a line, at most `MOST` of them."""
    shown = ", ".join(names[:MOST])
    return f"{shown} and {len(names) - MOST} more" if len(names) > MOST else shown
