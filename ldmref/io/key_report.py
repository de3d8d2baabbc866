"""Comparison of a file's tensors with those that a network needs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from ldmref.errors import KeyMismatchError
from ldmref.models.params import Shape


@dataclass(frozen=True)
class KeyReport:
    """Tensor names by outcome.

    Attributes:
        used: Names that fit.
        ignored: Names that are known not to belong to the networks (buffers, averages, weights of
            the loss).
        unexpected: Unknown names.
        missing: Names that are needed but absent.
        misshapen: Names with both shapes.
    """

    used: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)

    @property
    def problems(self) -> int:
        """The number of tensors that do not fit."""
        return len(self.unexpected) + len(self.missing) + len(self.misshapen)

    @property
    def fits(self) -> bool:
        """Whether nothing is missing, unexpected or misshapen."""
        return not self.problems

    @property
    def shared(self) -> int:
        """The number of names that are both needed and present."""
        return len(self.used) + len(self.misshapen)

    @property
    def likeness(self) -> tuple[int, int]:
        """The sort key of the nearest candidate: most shared names, then fewest problems."""
        return self.shared, -self.problems

    def require(self, what: str, hint: str = "") -> None:
        """Refuse a file that does not fit, and list the problems.

        Raises:
            KeyMismatchError: A tensor is missing, unexpected or misshapen.
        """
        if not self.fits:
            raise KeyMismatchError(f"{what}: {self.summary()}", code="E-KEYS", hint=hint)

    def summary(self, most: int = 3) -> str:
        """Return counts and the first few names of each kind of problem."""
        kinds = {name: getattr(self, name) for name in ("missing", "unexpected", "misshapen")}
        return ", ".join(
            f"{len(names)} {kind} ({'; '.join(names[:most])}{'; ...' * (len(names) > most)})"
            for kind, names in kinds.items()
            if names
        )


def compare(
    have: Mapping[str, Shape], want: Mapping[str, Shape], ignorable: Collection[str] = ()
) -> KeyReport:
    """Compare names and shapes of a file with those that are needed.

    `ignorable` are names that may be present although they are not needed.
    """
    extra = sorted(set(have) - set(want))
    common = sorted(set(have) & set(want))
    wrong = {
        name: f"{name} is {have[name]}, not {want[name]}"
        for name in common
        if have[name] != want[name]
    }
    return KeyReport(
        used=[name for name in common if name not in wrong],
        ignored=[name for name in extra if name in ignorable],
        unexpected=[name for name in extra if name not in ignorable],
        missing=sorted(set(want) - set(have)),
        misshapen=list(wrong.values()),
    )
