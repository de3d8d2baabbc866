"""Plug-ins: objects that other packages offer through entry points, loaded on request by name.

A plug-in runs with all rights of the program, so it is loaded only on request; listing plug-ins
imports none of them. A plug-in that cannot be imported is an error only for those who ask for it,
and so is a package whose list of entry points is damaged. Built-in names cannot be replaced, and a
name that two packages offer cannot be used: `list_unusable` lists both. Names are compared in lower
case.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from ldmref.errors import LdmrefError, UsageError, did_you_mean, short_repr

if TYPE_CHECKING:
    from importlib.metadata import Distribution, EntryPoint

Declared = TypeVar("Declared")


def list_entry_points(group: str) -> tuple[list[EntryPoint], list[str]]:
    """List the entry points of a group, and the packages whose entry points cannot be read."""
    import importlib.metadata  # which reads e-mail headers, and most runs ask for no plug-in

    try:
        return list(importlib.metadata.entry_points(group=group)), []
    except Exception:  # of one package, which importlib does not name
        points = []
        damaged = []
    names: set[str] = set()
    for package in importlib.metadata.distributions():
        name = _describe_distribution(package)
        if name in names:  # hidden by a package that is found earlier
            continue
        names.add(name)
        try:
            points += package.entry_points.select(group=group)
        except Exception:
            damaged.append(name)
    return points, sorted(damaged)


def list_plugins(group: str) -> dict[str, str]:
    """List what installed packages offer in a group: the packages of each name, sorted by name."""
    points, _ = list_entry_points(group)
    described: dict[int, str] = {}  # by distribution, whose metadata is a file
    packages: dict[str, set[str]] = {}
    for point in points:
        key = id(point.dist)
        if key not in described:
            described[key] = describe_package(point)
        packages.setdefault(point.name, set()).add(described[key])
    return {name: " and ".join(sorted(packages[name])) for name in sorted(packages)}


def suggest_names(group: str, built_in: Iterable[str], name: str) -> str:
    """Return a hint for an unknown name: the nearest known one, and packages that may have it."""
    hint = did_you_mean(name, {*built_in, *list_plugins(group)})
    _, damaged = list_entry_points(group)
    if damaged:
        hint += f"; the entry points of {', '.join(damaged)} cannot be read"
    return hint


def list_unusable(group: str, built_in: Collection[str]) -> dict[str, str]:
    """List the plug-ins whose name is a built-in's or another plug-in's, with the reason."""
    points, _ = list_entry_points(group)
    alike: dict[str, list[EntryPoint]] = {}
    for point in points:
        alike.setdefault(point.name.lower(), []).append(point)
    reasons = {}
    for point in points:
        others = _find_all(alike[point.name.lower()], point.name)
        if point.name.lower() in built_in:
            taken = "has the name of a built-in, which stays in use"
            reasons[point.name] = f"{describe_origin(point)} {taken}"
        elif len(others) > 1:
            reasons[point.name] = f"{_describe_conflict(point.name, others)}: uninstall one of them"
    return reasons


def find_plugin(group: str, name: str) -> EntryPoint | None:
    """Find the entry point of that name; None if no package offers one.

    Raises:
        UsageError: Two packages offer it.
    """
    points, _ = list_entry_points(group)
    found = _find_all(points, name)
    if len(found) > 1:
        message = _describe_conflict(name, found)
        raise UsageError(message, code="E-PLUGIN", hint="uninstall one of them")
    return found[0] if found else None


def find_declared(
    group: str,
    built_in: Mapping[str, str],
    name: str,
    kind: type[Declared],
    what: str,
    code: str,
) -> Declared:
    """Find an object that ldmref or another package declares: a family, a kind of text encoder.

    Args:
        group: The group of entry points.
        built_in: Those of ldmref: `module:attribute` by name.
        name: Its name, which the object also has as its attribute `name`, if it has one.
        kind: Its class.
        what: What it is, in words.
        code: The code of the error if there is none.

    Raises:
        UsageError: There is none, or its plug-in cannot be used.
    """
    if name in built_in:
        module, _, attribute = built_in[name].partition(":")
        return getattr(import_module(module), attribute)
    point = find_plugin(group, name)
    if point is None:
        hint = suggest_names(group, built_in, name)
        raise UsageError(f"no {what} {short_repr(name)}", code=code, hint=hint)
    found = load_plugin(point)
    if not isinstance(found, kind) or getattr(found, "name", point.name) != point.name:
        message = f"{describe_origin(point)} is not a {kind.__name__} of that name"
        raise UsageError(message, code="E-PLUGIN", hint="update or uninstall it")
    return found


def find_optional(
    group: str, built_in: Mapping[str, str], name: str, kind: type[Declared]
) -> Declared | None:
    """Find an object that ldmref or another package may declare; None if neither does.

    Args:
        group: The group of entry points.
        built_in: Those of ldmref: `module:attribute` by name.
        name: Its name, which the object also has as its attribute `name`.
        kind: Its class.

    Raises:
        UsageError: Its plug-in cannot be used.
    """
    if name not in built_in and find_plugin(group, name) is None:
        return None
    return find_declared(group, built_in, name, kind, kind.__name__, "E-PLUGIN")


def _find_all(points: Iterable[EntryPoint], name: str) -> list[EntryPoint]:
    """Return the entry points of a name that name different objects."""
    by_value = {point.value: point for point in points if point.name.lower() == name.lower()}
    return list(by_value.values())


def _describe_conflict(name: str, points: Iterable[EntryPoint]) -> str:
    return f"two plug-ins are called {name!r}: {describe_origin(*points)}"


def load_plugin(point: EntryPoint) -> Any:
    """Load the object that an entry point names.

    Raises:
        UsageError: Its import fails, for any reason.
    """
    try:
        return point.load()
    except (LdmrefError, KeyboardInterrupt):
        raise
    except BaseException as error:
        message = f"{describe_origin(point)} cannot be imported: {summarize_error(error)}"
        raise UsageError(message, code="E-PLUGIN", hint="update or uninstall it") from error


def describe_origin(*points: EntryPoint) -> str:
    """Describe plug-ins with their packages: "the plug-in 'mine' (pkg:Mine, package pkg 1.2)"."""
    packages = sorted((point.name, point.value, describe_package(point)) for point in points)
    return " and ".join(f"the plug-in {n!r} ({v}, package {p})" for n, v, p in packages)


def describe_package(point: EntryPoint) -> str:
    """Return name and version of the package that declares an entry point."""
    return _describe_distribution(point.dist) if point.dist else "unknown"


def _describe_distribution(package: Distribution) -> str:
    try:
        return f"{package.name} {package.version}"
    except Exception:  # its metadata is damaged or missing
        return "unknown"


def summarize_error(error: BaseException) -> str:
    """Summarize an exception in one line."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0] if isinstance(error, LdmrefError) else f"{type(error).__name__}: {lines[0]}"
