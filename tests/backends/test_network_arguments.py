"""The arguments of compiled networks: split into arrays and a template, and joined again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest

from ldmref.backends.arguments import ArraySlot, Template, fill, map_arrays, split_arrays
from ldmref.models.conditioning import CachedContext
from ldmref.models.presets import preset
from ldmref.models.unet import Residuals


class Pair(NamedTuple):
    first: object
    second: object


def arrays(count):
    return [np.full(i + 1, i) for i in range(count)]


def test_a_call_is_split_and_joined_again():
    a, b, c, d, e = arrays(5)
    config = preset("tiny").unet
    args = (config, a, None, Residuals((b, c), d), ("down", "mid"))
    found, template = split_arrays(args, {"sizes": e, "skip": 2})
    assert [id(x) for x in found] == [id(x) for x in (a, b, c, d, e)]
    again, named = fill(template, found)
    assert again == args or all(x is y for x, y in zip(again[:3], args[:3], strict=True))
    assert isinstance(again[3], Residuals) and again[3].mid is d and again[3].down == (b, c)
    assert again[4] == ("down", "mid") and named["sizes"] is e and named["skip"] == 2


def test_templates_are_keys_of_graphs():
    """Equal for equal static arguments, whatever the arrays are and whoever gives which name."""
    config = preset("tiny").unet
    x, y = arrays(2)
    keys = {split_arrays((config, x, 1), {"a": y, "b": None})[1]: "first"}
    assert keys[split_arrays((config, y, 1), {"b": None, "a": x})[1]] == "first"
    for other in (
        split_arrays((config, x, 2), {"a": y, "b": None}),
        split_arrays((config, x, 1), {"a": None, "b": None}),
        split_arrays((preset("sd15").unet, x, 1), {"a": y, "b": None}),
        split_arrays((config, x, 1)),
    ):
        assert other[1] not in keys


def test_a_template_holds_no_array():
    _, template = split_arrays((Pair(np.ones(2), 3),), {"t": np.float32(1.0)})
    assert template == Template((Pair(ArraySlot.ARRAY, 3),), (("t", ArraySlot.ARRAY),))


def test_mapping_keeps_structure_and_everything_else():
    got = map_arrays(lambda x: x + 1, (np.zeros(1), Pair(None, (np.ones(1), "up"))))
    assert isinstance(got[1], Pair) and got[0] == 1 and got[1].second == (2, "up")
    assert got[1].first is None


@dataclass
class Mutable:
    value: int


@pytest.mark.parametrize("value", [[1], {"a": 1}, Mutable(1), CachedContext(np.ones(1)), {1}])
def test_what_cannot_select_a_graph_is_refused(value):
    with pytest.raises(TypeError, match=f"not {type(value).__name__}"):
        split_arrays((np.ones(1), (None, value)))
    with pytest.raises(TypeError, match=f"not {type(value).__name__}"):
        split_arrays((), {"x": value})
