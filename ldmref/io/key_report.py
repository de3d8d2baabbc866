"""What became of the tensors of a file: used, ignored, or not fitting."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from ldmref.errors import KeyMismatchError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Report:
    """Names of tensors by what became of them; `misshapen` says both shapes.

    `used` fit; `ignored` are known not to belong to the networks (buffers, averages, a loss's own
    weights); `unexpected` are not known; `missing` are needed and not there.
    """

    used: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        return not (self.unexpected or self.missing or self.misshapen)

    @property
    def problems(self) -> int:
        """How many tensors do not fit."""
        return len(self.unexpected) + len(self.missing) + len(self.misshapen)

    @property
    def shared(self) -> int:
        """How many names are both needed and there."""
        return len(self.used) + len(self.misshapen)

    @property
    def likeness(self) -> tuple[int, int]:
        """What tells the nearest of several: shared names, then how few tensors do not fit."""
        return self.shared, -self.problems

    def require(self, what: str, hint: str = "") -> None:
        """Refuse a file whose tensors do not fit, with the list of what does not.

        Raises:
            KeyMismatchError: something is missing, unexpected or misshapen.
        """
        if not self.fits:
            raise KeyMismatchError(f"{what}: {self.summary()}", code="E-KEYS", hint=hint)

    def summary(self, most: int = 3) -> str:
        """Counts, and the first few names of each kind that does not fit."""
        return ", ".join(
            f"{len(names)} {kind} ({'; '.join(names[:most])}{'; ...' * (len(names) > most)})"
            for kind, names in (
                ("missing", self.missing),
                ("unexpected", self.unexpected),
                ("misshapen", self.misshapen),
            )
            if names
        )


def refuse(reports: Iterable[Report], what: str, hint: str = "") -> NoReturn:
    """Refuse a file that fits none of several, with the list for the one that it fits best.

    Raises:
        KeyMismatchError: always.
    """
    nearest = max(reports, key=lambda report: report.likeness)
    nearest.require(what, hint)
    raise AssertionError("one of the reports fits")


def compare(
    have: Mapping[str, Shape],
    want: Mapping[str, Shape],
    ignorable: set[str] | frozenset = frozenset(),
) -> Report:
    """The report on a file that has `have` where `want` is needed."""
    extra = sorted(set(have) - set(want))
    both = sorted(set(have) & set(want))
    return Report(
        used=[name for name in both if have[name] == want[name]],
        ignored=[name for name in extra if name in ignorable],
        unexpected=[name for name in extra if name not in ignorable],
        missing=sorted(set(want) - set(have)),
        misshapen=[
            f"{name} is {have[name]}, not {want[name]}" for name in both if have[name] != want[name]
        ],
    )
