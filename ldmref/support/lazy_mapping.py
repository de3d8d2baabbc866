"""`LazyMapping`: values that are read when they are asked for, under names known before."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping
from typing import TypeVar

Value = TypeVar("Value", covariant=True)


class LazyMapping(Mapping[str, Value]):
    """A mapping whose values are expensive, and whose names are not.

    `name in mapping` of `Mapping` reads the value, which may be gigabytes of weights; here it asks
    the names, as do iteration and length.

    >>> class Squares(LazyMapping[int]):
    ...     names = ("2", "3")
    ...     def __getitem__(self, name):
    ...         print("computed")
    ...         return int(name) ** 2
    >>> "3" in Squares(), len(Squares()), list(Squares())
    (True, 2, ['2', '3'])
    >>> Squares()["3"]
    computed
    9
    """

    @property
    @abstractmethod
    def names(self) -> Collection[str]:
        """The names of all values, in order."""

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)
