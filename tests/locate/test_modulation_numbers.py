"""Modulations of adaptive norms with one number in each part: what each fault makes of them."""

from __future__ import annotations

from itertools import combinations, permutations
from types import SimpleNamespace

import numpy as np
import pytest
from fault_calls import point_of, replay_of

from ldmref.locate.faults import modulation

LAYER = "norm.linear"
NAMES = {
    2: ["scale", "shift"],
    3: ["shift", "scale", "gate"],
    6: [
        "shift", "scale", "gate", "shift of the MLP", "scale of the MLP", "gate of the MLP",
    ],
    9: [
        "shift", "scale", "gate", "shift of the MLP", "scale of the MLP", "gate of the MLP",
        "shift of the second attention", "scale of the second attention",
        "gate of the second attention",
    ],
}  # fmt: skip


def changed(count):
    """Return the parts 10, 20, ... with each fault, by its words."""
    replay = replay_of(modulations={LAYER: count})
    call = SimpleNamespace(compute=lambda x: 10.0 * np.arange(1.0, count + 1)[None])
    found = {}
    for words, changes in modulation.other_modulation(replay, point_of()):
        assert [*changes] == [LAYER] and words.endswith(f" in {LAYER}")
        y = changes[LAYER](call, {})
        found[words.removesuffix(f" in {LAYER}")] = y[0].tolist()
    return found


def test_the_parts_of_a_gated_block():
    assert changed(3) == {
        "shift and scale are exchanged": [20, 10, 30],
        "shift and gate are exchanged": [30, 20, 10],
        "scale and gate are exchanged": [10, 30, 20],
        "the shift is missing": [0, 20, 30],
        "1 is not added to the scale": [10, 19, 30],
        "1 is added to the gate": [10, 20, 31],
        "the gate is missing": [10, 20, 1],
        "shift, scale and gate are scale, gate and shift": [20, 30, 10],
        "shift, scale and gate are gate, shift and scale": [30, 10, 20],
    }


def test_the_parts_of_a_last_norm():
    assert changed(2) == {
        "scale and shift are exchanged": [20, 10],
        "1 is not added to the scale": [9, 20],
        "the shift is missing": [10, 0],
    }


@pytest.mark.parametrize("count", [2, 3, 6, 9])
def test_parts_by_their_number(count):
    found = changed(count)
    pairs = [x for x in found if x.endswith("are exchanged")]
    names = NAMES[count]
    assert pairs == [f"{a} and {b} are exchanged" for a, b in combinations(names, 2)]
    single = {
        "shift": ("the {} is missing",), "scale": ("1 is not added to the {}",),
        "gate": ("1 is added to the {}", "the {} is missing"),
    }  # fmt: skip
    rest = [words.format(name) for name in names for words in single[name.split()[0]]]
    alike = [(a, b) for a, b in permutations(names, 2) if a.split()[0] == b.split()[0]]
    others = [f"the {a} is the {b}" for a, b in alike]
    inner = [name.removeprefix("gate") for name in names if name.startswith("gate")]
    ends = [*inner, " in all parts"] if len(inner) > 1 else inner
    turned = [
        f"shift, scale and gate{end if end in inner else ''} are {order}"
        + (end if end not in inner else "")
        for order in ("scale, gate and shift", "gate, shift and scale")
        for end in ends
    ]
    assert [x for x in found if x not in pairs] == [*others, *rest, *turned]


def test_wide_parts_are_cut_along_the_last_axis():
    y = np.arange(24.0).reshape(2, 2, 6)
    call = SimpleNamespace(compute=lambda x: y)
    found = dict(modulation.other_modulation(replay_of(modulations={"a": 2}), point_of()))
    exchanged = found["scale and shift are exchanged in a"]["a"](call, {})
    assert np.array_equal(exchanged, y[..., [3, 4, 5, 0, 1, 2]])
    without = found["the shift is missing in a"]["a"](call, {})
    assert np.array_equal(without, y * [1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    lower = found["1 is not added to the scale in a"]["a"](call, {})
    assert np.array_equal(lower, y - [1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    assert np.array_equal(y, np.arange(24.0).reshape(2, 2, 6))


def test_modulations_of_the_block_are_changed_the_last_ones_first():
    modulations = dict.fromkeys(("a.1", "b.1", "a.2", "ab.1", "a", "a.3", "a.4", "a.5"), 2)
    replay = replay_of(modulations=modulations)

    def names(within):
        found = modulation.other_modulation(replay, point_of(within=within))
        return [*dict.fromkeys(name for _, changes in found for name in changes)]

    assert names("a") == ["a.5", "a.4", "a.3", "a.2"]
    assert names("b") == ["b.1"]
    assert names("") == ["a.5", "a.4", "a.3", "a"]
    assert names("c") == []
