"""Data sets by name: ldmref's own, and plug-ins that other packages offer.

Both are entry points of the group `ldmref.datasets`, each of which names a `DatasetSource`.
`BUILT_IN` repeats those that pyproject.toml declares, so a checkout also works before it is
installed. A built-in keeps its name: a plug-in of the same name cannot be reached. Names are
case-sensitive, because they share their place in a recipe with the names of folders.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint

from ldmref.datasets.base import DatasetSource
from ldmref.datasets.config import EMOJI, MIXTURE, SCENES, SMALL_EMOJI, STYLES
from ldmref.errors import UsageError
from ldmref.support.plugins import (
    describe_origin,
    find_plugin,
    list_plugins,
    load_plugin,
    suggest_names,
)

GROUP = "ldmref.datasets"
BUILT_IN = {
    EMOJI: EntryPoint(EMOJI, "ldmref.datasets.emoji:emoji", GROUP),
    MIXTURE: EntryPoint(MIXTURE, "ldmref.datasets.mixture:mixture", GROUP),
    SCENES: EntryPoint(SCENES, "ldmref.datasets.emoji:scenes", GROUP),
    STYLES: EntryPoint(STYLES, "ldmref.datasets.emoji:styles", GROUP),
    SMALL_EMOJI: EntryPoint(SMALL_EMOJI, "ldmref.datasets.emoji:small", GROUP),
}


def dataset_names() -> list[str]:
    """Return the names of all installed data sets, sorted; none of them is imported.

    Returns:
        The names, each allowed as `source` of a `DataConfig`.

    >>> from ldmref.datasets import dataset_names
    >>> {"emoji", "scenes", "small-emoji"} <= set(dataset_names())
    True
    """
    return sorted({*BUILT_IN, *list_plugins(GROUP)})


def is_dataset(source: str) -> bool:
    """Return whether a recipe's `data.source` names a data set; otherwise it is a folder.

    Raises:
        UsageError: Two plug-ins have this name.
    """
    return _find(source) is not None


def find_source(name: str) -> DatasetSource | None:
    """Return the data set of that name, or None if there is none.

    Raises:
        UsageError: The plug-in cannot be imported, is not a `DatasetSource`, or is one of two
            plug-ins of this name.
    """
    point = _find(name)
    if point is None:
        return None
    source = load_plugin(point)
    if not isinstance(source, DatasetSource):
        message = (
            f"{describe_origin(point)} is of type {type(source).__name__}, not a DatasetSource"
        )
        hint = "an entry point names a DatasetSource object"
        raise UsageError(message, code="E-PLUGIN", hint=hint)
    return source


def suggest_source(name: str) -> str:
    """Return a hint for a `data.source` that is neither a data set nor a folder."""
    return f"a folder, or the name of a data set; {suggest_names(GROUP, BUILT_IN, name)}"


def _find(name: str) -> EntryPoint | None:
    if name in BUILT_IN:
        return BUILT_IN[name]
    point = find_plugin(GROUP, name)
    return point if point is not None and point.name == name else None
