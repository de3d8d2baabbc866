"""What the values of a recipe may be: each is a set, and its text follows "must be"."""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """The range of a number, inclusive but for `above`."""

    low: float
    high: float
    above: bool = False  # the low end is excluded

    def __contains__(self, value: object) -> bool:
        number = isinstance(value, int | float)
        return number and self.low <= value <= self.high and not (self.above and value == self.low)

    def __str__(self) -> str:
        if self.above:
            return f"above {self.low} and at most {self.high}"
        return f"from {self.low} to {self.high}"


class Beginning(NamedTuple):
    """The lists that begin with the first of these names and go on in their order."""

    names: tuple[str, ...]

    def __contains__(self, value: object) -> bool:
        return (
            isinstance(value, tuple | list)
            and 0 < len(value) <= len(self.names)
            and (tuple(value) == self.names[: len(value)])
        )

    def __str__(self) -> str:
        return " or ".join(str(list(self.names[: i + 1])) for i in range(len(self.names)))


class Subset(NamedTuple):
    """Lists of at least one of these names."""

    names: tuple[str, ...]

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, tuple | list) or not value:
            return False
        return all(name in self.names for name in value)

    def __str__(self) -> str:
        return f"a list of some of {', '.join(self.names)}"


class Texts(NamedTuple):
    """Lists of at most so many texts."""

    most: int

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, tuple | list) or len(value) > self.most:
            return False
        return all(isinstance(text, str) for text in value)

    def __str__(self) -> str:
        return f"a list of at most {self.most} texts"
