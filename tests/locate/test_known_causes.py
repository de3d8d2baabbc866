"""What is computed once for many hypotheses, and causes that are found once for many runs."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from ldmref.backends.named import LayerCall
from ldmref.locate.causes import known_causes
from ldmref.locate.causes.alike import AlikeLayers, AlikeState
from ldmref.locate.causes.diagnosis import Cause
from ldmref.locate.causes.known_causes import KnownCauses
from ldmref.locate.replay.beginning import MOST_BYTES, PartBeginning
from ldmref.locate.replay.points import Frame, Point

POINT = Point(
    LayerCall("proj", "linear", {}, {}, {}, dict), "input", np.ones(3), np.zeros(3), {},
    Frame("", dict, {}, Counter(), []), (), (),
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "known"),
    [
        ([], ["norm", "block", "proj"]),
        (["norm"], []),
        (["block.norm"], ["norm"]),
        (["block.norm~1"], ["norm"]),
        (["proj"], ["norm", "block"]),
        (["block2"], ["norm", "block", "proj"]),
    ],
)
def test_a_part_begins_alike_up_to_what_is_changed(changes, known):
    beginning = PartBeginning(POINT, "float32")
    layers = {"norm": Counter(), "block": Counter({"block.norm": 2}), "proj": Counter()}
    beginning.start([])
    for name, names in layers.items():
        beginning.keep(name, np.ones(2), names)
    beginning.start(changes)
    found = []
    for name, names in layers.items():
        if beginning.find(name) is None:
            beginning.keep(name, np.zeros(2), names)
        else:
            found.append(name)
    assert found == known
    beginning.start([])  # what was computed with a change is not kept
    assert all(beginning.find(name)[0].all() for name in layers)


def test_what_begins_a_part_cannot_be_written():
    beginning = PartBeginning(POINT, "float32")
    beginning.start([])
    beginning.keep("norm", (np.ones(2), np.ones(3)), Counter())
    beginning.note_recorded("proj", np.ones(2))
    for x in (*beginning.find("norm")[0], beginning.recorded["proj"]):
        with pytest.raises(ValueError, match="read-only"):
            x += 1.0


def test_large_arrays_are_not_kept():
    large = np.broadcast_to(np.zeros(1), (MOST_BYTES // 8 + 1,))
    beginning = PartBeginning(POINT, "float32")
    beginning.start([])
    beginning.keep("norm", large, Counter())
    beginning.note_recorded("norm", large)
    assert beginning.find("norm") is None
    assert not beginning.recorded


def test_a_cause_is_found_once_for_the_same_arrays(monkeypatch):
    found = []

    def diagnose(replay, point, error, floor, certain, *, alike):
        found.append(point.recorded.sum())
        alike.explain(alike.kind_of(point), "a fault in 3")
        return Cause("a fault in 3", 0.0)

    monkeypatch.setattr(known_causes, "diagnose", diagnose)
    causes = KnownCauses()
    for recorded in (POINT.recorded, POINT.recorded, POINT.recorded + 1.0):
        alike = AlikeLayers()
        point = Point(**{**vars(POINT), "recorded": recorded})
        cause = causes.diagnose(None, point, 0.5, 1e-7, True, alike=alike)
        assert cause == Cause("a fault in 3", 0.0)
        assert alike.cause_of(alike.kind_of(point)) == "a fault in #"
    assert found == [0.0, 3.0]


def test_what_is_known_of_a_kind_is_restored():
    alike = AlikeLayers()
    alike.restore("norm", AlikeState("a fault", 2, 3, 8))
    assert alike.state_of("norm") == AlikeState("a fault", 2, 3, 8)
    assert not alike.looks_further
    alike.restore("norm", AlikeState("", 0, 0, 0))
    assert alike.state_of("norm") == AlikeState("", 0, 0, 0)
    assert alike.looks_further
