"""Former public names, each with its new one, for a minor version after it was renamed.

The names that packages of other people use stand in docs/stable-names.md. One that is renamed has a
row in `RENAMES`: its old name is then imported as before, with a DeprecationWarning that says the
new one. `ldmref.support.lazy.export_lazily` reads the table, and a package that imports its names
at once defines `__getattr__ = find_former_names(__name__)`. `ldmref.math` imports nothing of
ldmref: a formula that is renamed there stays under its old name as a function that warns.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pkgutil import resolve_name
from typing import Any, NamedTuple


class Rename(NamedTuple):
    """The new name of something public.

    Attributes:
        name: Its address: a module and a name in it, or a module.
        since: The version that renamed it.

    >>> Rename("ldmref.samplers.Sampler", "0.2.0").end
    '0.3'
    """

    name: str
    since: str

    @property
    def end(self) -> str:
        """The minor version that no longer has the old name."""
        major, minor = self.since.split(".")[:2]
        return f"{major}.{int(minor) + 1}"


RENAMES: dict[str, Rename] = {
    "ldmref.families.PipelineCalls": Rename("ldmref.ports.former.PipelineCalls", "0.2.0"),
    "ldmref.families.PipelineParts": Rename("ldmref.ports.PipelineParts", "0.2.0"),
    "ldmref.families.LibraryObject": Rename("ldmref.ports.LibraryObject", "0.2.0"),
    "ldmref.families.GoldenModels": Rename("ldmref.cases.GoldenModels", "0.2.0"),
    "ldmref.families.GoldenRun": Rename("ldmref.cases.GoldenRun", "0.2.0"),
    "ldmref.families.TrainingRules": Rename("ldmref.training.TrainingRules", "0.2.0"),
}
"""Each former address with its new one: {"ldmref.families.Old": Rename("ldmref....New", "0.2.0")}.

`tests/docs/test_stable_names.py` says when a row is due to go.
"""


def find_former_name(
    package: str, name: str, renames: Mapping[str, Rename] = RENAMES, depth: int = 3
) -> Any:
    """Return what a package offered under a former name, with a warning that says the new one.

    Args:
        package: The package that was asked for the name.
        name: The name, without the package.
        renames: The table of former addresses.
        depth: How many calls above this one the name was asked for.

    Raises:
        AttributeError: The package never had this name, or has it no more.
    """
    renamed = renames.get(f"{package}.{name}")
    if renamed is None:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    message = f"{package}.{name} is {renamed.name} since ldmref {renamed.since}"
    text = f"{message}; the old name goes in {renamed.end}"
    warnings.warn(text, DeprecationWarning, stacklevel=depth)
    return resolve_name(renamed.name)


def find_former_names(package: str) -> Callable[[str], Any]:
    """Return `__getattr__` of a package whose present names need none."""

    def get(name: str) -> Any:
        return find_former_name(package, name)

    return get


def take_former(
    declaration: object, former: str, value: object, now: str, since: str = "0.2.0"
) -> None:
    """Take a former argument of a frozen declaration for the one that has another name now.

    Args:
        declaration: An object of a dataclass in whose class the former name is an `InitVar`.
        former: The former name.
        value: Its value; an empty one was not given.
        now: The present name.
        since: The version that renamed it.

    >>> from types import SimpleNamespace
    >>> found = SimpleNamespace(makers=None)
    >>> take_former(found, "original", None, "makers")
    >>> vars(found)
    {'makers': None}
    """
    if value:
        kind = type(declaration).__name__
        text = f"{kind}({former}=) is {kind}({now}=) since ldmref {since}; the old name goes in"
        warnings.warn(f"{text} {Rename(now, since).end}", DeprecationWarning, stacklevel=4)
        object.__setattr__(declaration, now, value)


def keep_former(declaration: object, now: str, since: str = "0.2.0", **values: Any) -> None:
    """Keep former arguments of a frozen declaration as its attributes, with a warning.

    Args:
        declaration: An object of a dataclass in whose class they are `InitVar`s.
        now: Where this is declared now.
        since: The version that moved them.
        values: The arguments by name; empty ones were not given.

    >>> from types import SimpleNamespace
    >>> found = SimpleNamespace()
    >>> keep_former(found, "ldmref.ports", also=())
    >>> vars(found)
    {}
    """
    for name, value in values.items():
        if value:
            kind = type(declaration).__name__
            text = f"{kind}({name}=) is declared by {now} since ldmref {since}; it goes in"
            warnings.warn(f"{text} {Rename(now, since).end}", DeprecationWarning, stacklevel=4)
            object.__setattr__(declaration, name, value)
