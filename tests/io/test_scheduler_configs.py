"""Configurations of schedulers: unknown names are unsupported, values of other types damaged."""

from __future__ import annotations

import pytest

from ldmref.errors import CorruptModelError, UnsupportedModelError
from ldmref.io.diffusers import convert_scheduler_config
from ldmref.io.diffusers.scheduler import FIELDS, FLOW_EULER, FLOW_FIELDS, FLOW_HEUN, FORWARD_ONLY

CLASSES = FIELDS | FORWARD_ONLY | {FLOW_EULER: FLOW_FIELDS, FLOW_HEUN: FLOW_FIELDS}
NAMED = ("beta_schedule", "prediction_type", "timestep_spacing", "solver_type")
NAMES = [(kind, name) for kind in FIELDS | FORWARD_ONLY for name in NAMED if name in CLASSES[kind]]
NAMES.append((FLOW_EULER, "time_shift_type"))
PLAIN = {"PNDMScheduler": {"skip_prk_steps": True}}  # what a class needs to be read at all


def convert(kind, **fields):
    return convert_scheduler_config({"_class_name": kind} | PLAIN.get(kind, {}) | fields)


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_a_name_that_is_not_known_is_unsupported(kind, name):
    with pytest.raises(UnsupportedModelError, match=f"{name} = 'of a later version'") as caught:
        convert(kind, **{name: "of a later version"})
    assert caught.value.code == "E-CONFIG" and "supported: " in caught.value.hint
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("kind", ["NewScheduler", "EDMEulerScheduler", 5, None])
def test_a_class_that_is_not_known_is_unsupported(kind):
    with pytest.raises(UnsupportedModelError, match=f"{kind}, which is not supported") as caught:
        convert_scheduler_config({"_class_name": kind})
    assert caught.value.code == "E-SCHEDULER" and "DDIMScheduler" in caught.value.hint


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("value", ["x", [], [1], {}, -1, 10**400, float("nan")], ids=repr)
def test_a_value_of_another_type_is_a_line(kind, value):
    """Each field in turn: it is read, not supported, or damaged, and never another error."""
    for name in CLASSES[kind]:
        try:
            convert(kind, **{name: value})
        except CorruptModelError as error:
            assert error.code in ("E-CONFIG", "E-SCHEDULER") and str(error).isprintable()
            assert isinstance(error, UnsupportedModelError) or "cannot read" in str(error)
