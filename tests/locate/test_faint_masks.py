"""Masks over values that are nearly alike: an error of the size of rounding has its cause."""

from __future__ import annotations

import numpy as np
import pytest
from fault_calls import attention, call_of, normal, replay_of

from ldmref.backends.named import LayerCall
from ldmref.locate.faint import find_faint_mask
from ldmref.locate.replay.points import Point

EPSILON = 2.0**-7
HIDDEN = (np.arange(8) >= np.array([[3], [5]]))[:, None, None]
ROLES = {"input": normal(0, 2, 2, 8, 16), "k": normal(1, 2, 2, 8, 16)}
MASK = {"bias": np.where(HIDDEN, -1e9, 0.0)}
INVERTED = {"bias": np.where(HIDDEN, 0.0, -1e9)}


def found(wrong=INVERTED, spread=20.0, kind="attention", role="", noise=0.0, **more):
    """Return the cause of attention with a wrong mask, over values that are nearly four.

    Args:
        wrong: The inputs that are not the right ones.
        spread: How far apart the values are, in units of rounding.
        kind, role: Of the layer, and of the array.
        noise: What was also added to the recorded array, in units.
        **more: Fields of the point.
    """
    values = 4.0 + 4.0 * spread * EPSILON * normal(2, 2, 2, 8, 16)
    inputs = {**ROLES, "v": values}
    masked = inputs | more.pop("mask", MASK)
    call = call_of("attention", attention, masked)
    right = call.compute(masked)
    recorded = call.compute(inputs | wrong) + noise * EPSILON * normal(3, *right.shape)
    named = LayerCall("a", kind, masked, {}, {}, call.compute)
    point = Point(named, role, right, more.pop("recorded", recorded), masked, None, (), (), **more)
    cause = find_faint_mask(replay_of(), point, EPSILON)
    return "" if cause is None else cause.cause


def test_another_mask_is_named():
    assert found() == "the mask is inverted"
    assert found(MASK | {"bias": np.roll(MASK["bias"], 1, axis=0)}).startswith("each row has")


@pytest.mark.parametrize(
    "more",
    [
        {"spread": 0.5},  # an error below a unit is rounding
        {"noise": 32.0},  # an error that no mask explains
        {"kind": "linear"},
        {"role": "input"},
        {"mask": {}},
        {"recorded": np.ones((2, 2, 8, 15))},
    ],
)
def test_rounding_and_other_layers_have_no_cause(more):
    assert found(**more) == ""


def test_padding_is_not_compared():
    padding = np.zeros((2, 2, 8), bool)
    padding[:, :, 6:] = True
    assert found(padding=padding) == "the mask is inverted"
