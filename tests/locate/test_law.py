"""The law of verdicts in numbers: floors, units and causes on both sides of each limit."""

from __future__ import annotations

import math

import pytest

from ldmref.locate import law


@pytest.mark.parametrize(
    ("floor", "unit", "least", "allowed"),
    [
        (0.0, 0.0, 0.0, 0.0),
        (0.0, 0.25, 0.125, 2.0),
        (0.125, 0.25, 0.125, 2.0),
        (0.1875, 0.25, 0.1875, 3.0),
        (1.0, 0.25, 1.0, 16.0),
        (math.inf, 0.25, 0.25, math.inf),
    ],
)
def test_floors_and_what_they_allow(floor, unit, least, allowed):
    assert law.noise_floor(floor, unit) == least
    assert law.allowed_error(floor, unit) == allowed
    assert law.allowed_error(floor) == 16.0 * floor
    assert law.CERTAIN == 100.0 and law.GAIN == 4.0


def test_a_cause_leaves_less_than_the_error():
    assert law.explains(0.0, 1e-9, 1.0)
    assert not law.explains(0.0, 0.0, 0.0)
    assert not law.explains(math.nan, 1.0, 1.0) and not law.explains(1.0, math.nan, 1.0)
    assert law.explains(2.0, math.inf, 2.0) and not law.explains(math.inf, math.inf, math.inf)


def test_causes_that_do_not_explain_are_no_competitors():
    """The first that explains is compared with those after it, not with those before it."""
    assert law.choose_cause([("a", 0.3), ("b", 0.2), ("c", 0.11)], 1.0, 1.0) == ("b", 0.2)
    assert law.choose_cause([("a", 0.25), ("b", 0.12)], 1.0, 1.0) == ("b", 0.12)
    assert law.choose_cause([("a", 0.25), ("b", 0.125)], 1.0, 1.0) == ("a", 0.25)
    assert law.choose_cause([("a", 0.2), ("b", 0.09), ("c", 0.05)], 1.0, 1.0) == ("b", 0.09)
    assert law.choose_cause(iter([("a", 0.2)]), 1.0, 0.1) is None


def test_a_cause_leaves_rounding_and_a_quarter_of_the_error_at_most():
    assert law.explains(1.0, 8.0, 1.0) and not law.explains(1.0 + 1e-9, 8.0, 1.0)
    assert law.explains(1.0, 4.0, 9.0) and not law.explains(1.0 + 1e-9, 4.0, 9.0)
    assert law.explains(0.0, 1.0, 0.0) and not law.explains(0.0, 0.0, 1.0)
    assert law.is_clearly_better(0.49, 1.0) and not law.is_clearly_better(0.5, 1.0)


def test_floors_are_half_a_unit_at_least():
    assert law.noise_floor(3.0, 2.0) == 3.0 and law.noise_floor(0.5, 2.0) == 1.0
    assert law.noise_floor(math.inf, 2.0) == law.noise_floor(math.nan, 2.0) == 2.0
    assert law.allowed_error(3.0, 2.0) == 48.0 and law.allowed_error(0.5, 2.0) == 16.0
    assert law.allowed_error(3.0) == 48.0 and law.allowed_error(0.0) == 0.0


def test_the_first_cause_is_taken_unless_a_later_one_is_clearly_better():
    tried = [("bad", 0.9), ("first", 1e-7), ("alike", 0.6e-7), ("best", 0.4e-7)]
    assert law.choose_cause(tried, 1.0, 1e-6) == ("best", 0.4e-7)
    assert law.choose_cause(tried[:3], 1.0, 1e-6) == ("first", 1e-7)
    assert law.choose_cause(tried[:1], 1.0, 1e-6) is None and law.choose_cause([], 1.0, 1.0) is None
