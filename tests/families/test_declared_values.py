"""The declarations of families are the stored ones: `declared_values.py`, `changed_values.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import changed_values
import declared_values
import pytest


def list_differences(stored: Any, found: Any, path: str = "") -> Iterator[str]:
    """Yield the places where two values differ."""
    if isinstance(stored, dict) and isinstance(found, dict):
        for key in {**stored, **found}:
            if key not in found or key not in stored:
                yield f"{path}/{key}: {'no longer there' if key in stored else 'new'}"
            else:
                yield from list_differences(stored[key], found[key], f"{path}/{key}")
    elif isinstance(stored, list) and isinstance(found, list) and len(stored) == len(found):
        for i, (one, other) in enumerate(zip(stored, found, strict=True)):
            yield from list_differences(one, other, f"{path}/{i}")
    elif stored != found:
        yield f"{path}: {found!r}, stored is {stored!r}"


STORED = {declared_values: declared_values.FOLDER, changed_values: changed_values.CHANGED}


@pytest.mark.parametrize("name", declared_values.NAMES)
@pytest.mark.parametrize("values", STORED, ids=lambda values: values.__name__)
def test_declarations_are_the_stored_ones(values, name):
    stored = json.loads((STORED[values] / f"{name}.json").read_text(encoding="utf-8"))
    differences = [*list_differences(stored, values.describe(name))]
    assert not differences, "\n".join(differences[:20])


def test_differences_are_found():
    stored = {"a": [1, {"b": "x"}], "c": None}
    assert not [*list_differences(stored, {"a": [1, {"b": "x"}], "c": None})]
    changed = {"a": [1, {"b": "y"}], "d": None}
    assert [*list_differences(stored, changed)] == [
        "/a/1/b: 'y', stored is 'x'",
        "/c: no longer there",
        "/d: new",
    ]
    assert [*list_differences(stored["a"], [1])] == [f": [1], stored is {stored['a']}"]


def test_every_family_is_stored():
    for values, folder in STORED.items():
        assert sorted(file.stem for file in folder.glob("*.json")) == sorted(values.NAMES)
