"""Descriptions of runs that branch: a trunk, which may be a branch itself, a step and changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldmref.errors import UsageError, did_you_mean, short_repr
from ldmref.explore.format import CODE
from ldmref.modes.record import REPLACED, SOURCES, find_missing, replay, upgrade_record
from ldmref.modes.registry import MODES
from ldmref.modes.validation import is_whole

MAX_BRANCHES = 100  # one from another


def find_trunk(recipe: Any, step: Any, changes: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    """Return the trunk of a step, and the changes from there.

    The steps of a branch before its own belong to its trunk; a branch from one of them also has
    the changes of the first branch.

    Raises:
        UsageError: It branches from branches more than 100 times, or from itself.
    """
    require_depth(recipe)
    while isinstance(recipe, Mapping) and "trunk" in recipe:
        first = recipe.get("step")
        if not (is_whole(step) and is_whole(first) and step < first):
            break
        gone = {*changes}.union(*(REPLACED.get(name, ()) for name in changes))
        earlier = changes_of(recipe)
        changes = {name: v for name, v in earlier.items() if name not in gone} | dict(changes)
        recipe = recipe["trunk"]
    return recipe, changes


def require_depth(recipe: Any) -> None:
    """Refuse a branch of too many branches, or of itself; each is sampled within the next.

    Raises:
        UsageError: There are more than 100.
    """
    for _ in range(MAX_BRANCHES + 1):
        if not isinstance(recipe, Mapping) or "trunk" not in recipe:
            return
        recipe = recipe["trunk"]
    message = f"a branch of more than {MAX_BRANCHES} branches cannot be sampled"
    raise UsageError(message, code=CODE, hint="branch from the trunk")


def changes_of(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the changes of a described branch.

    Raises:
        UsageError: They are not parameters by name.
    """
    changes = recipe.get("changes") or {}
    if not isinstance(changes, Mapping):
        message = f"the changes of a branch must be parameters, not {short_repr(changes)}"
        raise UsageError(message, code=CODE)
    return changes


def read_trunk(recipe: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a trunk with its mode, from what was asked for or recorded.

    Raises:
        UsageError: The record lacks what the run was given, such as an image.
    """
    if "ldmref" not in recipe:  # as asked for
        return {**recipe, **inputs}
    record = upgrade_record(recipe)
    if record.get("mode") not in list(MODES):
        message = f"the trunk of a branch has no mode {short_repr(record.get('mode'))}"
        raise UsageError(message, code=CODE, hint=did_you_mean("", MODES))
    images = {name: recipe[name] for name in SOURCES if recipe.get(name) is not None}
    supplied = {**images, **inputs}
    missing = find_missing(record, supplied)
    if missing:
        raise UsageError(
            f"the trunk was made with {missing[0]!r}, which its record does not hold",
            code=CODE,
            hint="give the parameters of the trunk with all that it needs instead of its record",
        )
    return replay(record, supplied) | {"mode": record["mode"]}
