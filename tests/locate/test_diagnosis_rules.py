"""The diagnosis step by step: what is tried, in which order, how often, and what it is called."""

from __future__ import annotations

import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from ldmref.backends.named import LayerCall
from ldmref.locate import diagnosis, nearby
from ldmref.locate.diagnosis import Cause, _Wrong
from ldmref.locate.faults.variants import Variant
from ldmref.locate.pairs import Hypothesis, Tried
from ldmref.locate.points import Frame, Point
from ldmref.trace import build_trace


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


RIGHT = normal(0, 2, 3, 4)
UNIT = 2.0**-23


def call_of(name="a.x", kind="block", inputs=None, compute=lambda x: x):
    return LayerCall(name, kind, inputs or {}, {}, {}, compute)


def point_of(recorded=RIGHT, computed=RIGHT, role="", call=None, suspects=(), frame=None, **more):
    frame = Frame(more.pop("of", ""), lambda x: x, frame or {}, Counter(), [])
    call = call or call_of()
    return Point(call, role, computed, recorded, {}, frame, tuple(suspects), (), **more)


def replay_of(**more):
    port = SimpleNamespace(of_call=lambda call: [], find=lambda *names: None)
    given = {
        "recent": [], "streams": [], "skips": {}, "ids": None, "config": "c", "arguments": {},
        "port": port, "call": "unet.000", "similar_layers": lambda call: [],
    }  # fmt: skip
    return SimpleNamespace(**given | more)


def wrong_of(recorded=RIGHT, error=1.0, floor=UNIT, replay=None, **more):
    return _Wrong(replay or replay_of(), point_of(recorded, **more), recorded, error, floor)


class Fault:
    """A hypothesis whose results are given: the exact one, and that in the port's format."""

    array = None

    def __init__(self, text, exact=None, low=None, pair=None):
        self.text = text
        self.results = (exact, low)
        self.pair = pair
        self.asked = []

    def compute(self, replay, point, low=False):
        self.asked.append(low)
        return self.results[low]

    def joined(self, other):
        return self.pair


def tried_of(text, left, *results, **more):
    return Tried(Fault(text, *results, **more), left, np.zeros(1))


# -- the order ------------------------------------------------------------------------------------


STEPS = (
    "_find_identity", "_find_residual", "_find_term", "_explain_by_fault", "_find_rewiring",
    "_find_other_residual", "_find_layout", "_find_pair",
)  # fmt: skip
OF_CERTAIN = ("_find_rewiring", "_find_pair")


@pytest.mark.parametrize("certain", [True, False, None])
def test_causes_are_tried_in_their_order(monkeypatch, certain):
    """Rewirings, pairs and the nearest fault are only asked of what is certainly a fault."""
    steps = [name for name in STEPS if certain or name not in OF_CERTAIN]
    for first in range(len(steps) + 1):
        asked = []
        for name in STEPS:

            def find(*values, name=name, asked=asked, first=first):
                asked.append((name, values))
                return Cause(name, 0.0) if steps[first : first + 1] == [name] else Cause()

            monkeypatch.setattr(diagnosis, name, find)
        monkeypatch.setattr(diagnosis, "_try_known_faults", lambda wrong: ["t"])
        monkeypatch.setattr(diagnosis, "_nearest", lambda wrong, tried: f"near {tried[0]}")
        more = {} if certain is None else {"certain": certain}
        found = diagnosis.diagnose("run", point_of(np.ones((2, 3, 4), int)), 0.5, 0.25, **more)
        assert [name for name, _ in asked] == steps[: first + 1]
        if first < len(steps):
            assert found == Cause(steps[first], 0.0)
        else:
            assert found == Cause(note="near t" if certain else "")
        wrong = asked[0][1][0]
        assert (wrong.replay, wrong.error, wrong.floor) == ("run", 0.5, 0.25)
        assert wrong.recorded.dtype == np.float64 and (wrong.recorded == 1.0).all()
        by_name = dict(asked)
        assert by_name.get("_explain_by_fault", (0, ["t"], bool(certain)))[1:] == (
            ["t"], bool(certain),
        )  # fmt: skip
        assert by_name.get("_find_pair", (0, ["t"]))[1] == ["t"]


def test_padding_is_not_compared():
    padding = np.array([[True, False, False], [False, False, True]])
    recorded = np.where(padding[..., None], 9.0, RIGHT)
    computed = np.where(padding[..., None], 0.0, RIGHT)
    before = np.where(padding[..., None], 5.0, RIGHT - 1.0)
    point = point_of(before, computed, padding=padding)
    replay = replay_of(recent=[("m", RIGHT - 1.0)])
    assert diagnosis.diagnose(replay, point, 0.5, UNIT).cause == "equals the output of m"
    wrong = _Wrong(replay, point, computed, 0.5, UNIT)
    assert wrong.error_of(recorded) == 0.0


# -- what explains --------------------------------------------------------------------------------


def test_what_is_left_is_rounding_by_either_floor():
    wrong = wrong_of(error=8.0, floor=2.0**-6)
    assert wrong.is_explained(0.25) and not wrong.is_explained(0.2501)
    assert wrong.is_explained(1.0, 2.0**-4) and not wrong.is_explained(1.001, 2.0**-4)
    assert wrong.is_explained(0.25, 2.0**-7)
    assert wrong.is_explained(2.0, 1.0) and not wrong.is_explained(2.001, 1.0)


def test_the_noise_of_a_part_with_a_fault():
    wrong = wrong_of()
    x = np.array([4.0, 1.0])
    low = np.array([4.0, 2.0])
    fault = Fault("f", x, low)
    assert wrong.noise_of(fault) == 0.25 and fault.asked == [False, True]
    assert wrong.noise_of(Fault("f", None, x)) == wrong.noise_of(Fault("f", x, None)) == 0.0
    assert wrong.noise_of(Fault("f", x, np.array([np.inf, 1.0]))) == 0.0
    given = Fault("f", x, low)
    given.array = x
    assert wrong.noise_of(given) == 0.0


def test_errors_where_a_fault_says_numbers():
    x = np.arange(1.0, 17.0)
    error = diagnosis._error_where_known
    assert error(x, np.arange(1, 17)) == 0.0  # whole numbers
    assert error(x, np.arange(2, 18)) == pytest.approx(1.0 / 17.0)
    said = np.where(np.arange(16) < 8, x, np.nan)
    assert error(x + 1.0, said) == pytest.approx(1.0 / 8.0)
    assert error(x[:8], said) == math.inf
    for without, left in ((9.1, 1.0 / 8.0), (8.9, math.inf), (0.0, math.inf)):  # of 9 + without
        assert error(x + 1.0, said, x + 1.0 + without) == pytest.approx(left)
    assert error(x, x, x + 1.0) == 0.0
    many = np.ones(136)
    for known, left in ((17, 0.0), (16, math.inf)):  # of 136: an eighth, and less
        assert error(many, np.where(np.arange(136) < known, many, np.nan)) == left


# -- arrays nearby --------------------------------------------------------------------------------


def test_arrays_nearby_have_names_in_their_order():
    recent = [("m.a", normal(1, 3)), ("m.b", normal(2, 3)), ("m.c", np.arange(3))]
    inner = call_of("m.silu", "silu", {"input": normal(3, 3), "emb": normal(4, 3), "ids": 1})
    own = {"input": normal(5, 3), "k": normal(6, 3)}
    call = call_of("a.x", "attention", own)
    frame = {"input": normal(7, 3), "context": normal(8, 3), "bad": np.array([1.0, np.nan, 2.0])}
    more = {"call": call, "suspects": [inner, call], "frame": frame, "of": "a"}

    def texts(**changes):
        replay = replay_of(recent=recent)
        return [text for text, _ in nearby.arrays_around(replay, point_of(**more | changes))]

    around = ["the output of m.b", "the output of m.a", "the input of m.silu",
              "the input of m.silu (emb)", "its input", "its input (k)"]  # fmt: skip
    named = ["the input of a", "the input of a (context)"]
    assert texts() == [*around, "its input 'input'", "its input 'k'", *named]
    assert texts(role="k") == [*around, "its input 'input'", *named]
    assert texts(role="k", of="") == [*around, "its input 'input'"]
    assert texts(of="")[-2:] == ["the input of the network", "the input of the network (context)"]


def test_what_equals_an_array_nearby():
    before, other = normal(1, 2, 3, 4), normal(2, 2, 3, 4)

    def cause(recorded, **more):
        recent = more.pop("recent", [])
        return diagnosis._find_identity(wrong_of(recorded, replay=replay_of(recent=recent), **more))

    assert cause(before) == Cause()
    assert cause(before, frame={"input": before}, of="a.x").cause == "a.x is skipped: " + (
        "its output is its input"
    )
    assert cause(before, frame={"emb": before}, of="a.x").cause == "equals the input of a.x (emb)"
    assert cause(before, frame={"input": before}).cause == "equals the input of the network"
    assert cause(RIGHT, recent=[("m", RIGHT)]) == Cause()  # the array itself is no other one
    assert cause(before, recent=[("o", other), ("n", before), ("m", RIGHT)]).explained == 0.0
    silu = call_of("m.silu", "silu", {"input": before})
    gelu = call_of("m.gelu", "gelu", {"input": other})
    found = cause(before, role="k", suspects=[silu])
    assert found.cause.startswith("m.silu is skipped") and found.explained == 0.0
    assert cause(before, role="k", suspects=[silu, gelu]).cause == "equals the input of m.silu"
    assert cause(before, role="", suspects=[silu]).cause == "equals the input of m.silu"
    assert cause(other, role="k", suspects=[silu], recent=[("o", other)]).cause.endswith("of o")


def test_hidden_states_come_first(monkeypatch):
    state = normal(1, 2, 3, 4)
    monkeypatch.setattr(
        diagnosis, "hidden_states", lambda replay, point: [("one", RIGHT + 9.0), ("two", state)]
    )
    replay = replay_of(recent=[("m", state)])
    assert diagnosis._find_identity(wrong_of(state, replay=replay)) == Cause("two", 0.0)


@pytest.mark.parametrize(
    ("role", "other", "said"),
    [
        ("input", "k", "q and k"), ("k", "input", "q and k"), ("k", "v", "k and v"),
        ("v", "k", "k and v"), ("emb", "input", "emb and input"),
    ],
)  # fmt: skip
def test_inputs_that_are_exchanged(role, other, said):
    a, b = normal(1, 2, 3), normal(2, 2, 3)

    def cause(recorded=b, second=a, judged=role, read=b, extra=None):
        arrays = {f"unet.000/a.x/input.{role}": recorded}
        if second is not None:
            arrays[f"unet.000/a.x/input.{other}"] = second
        ids, unlike = np.arange(6).reshape(2, 3), normal(3, 2, 3)
        inputs = {"ids": ids, "y": unlike, role: a, other: read}
        call = call_of("a.x", "attention", inputs | (extra or {}))
        replay = replay_of(port=build_trace(arrays))
        wrong = wrong_of(recorded, replay=replay, computed=a, role=judged, call=call)
        return diagnosis._find_exchanged_inputs(wrong)

    assert cause() == Cause(f"{said} are swapped", 0.0)
    assert cause(extra={"z": b}) == cause()
    assert cause(second=None) == cause(second=b) == cause(read=a) == Cause()
    assert cause(recorded=a + 5.0) == cause(judged="") == Cause()
    assert cause(read=np.full((2, 3), np.nan)) == Cause()


def test_inputs_of_numbered_arguments_are_exchanged():
    a, b = normal(1, 2, 3), normal(2, 2, 3)
    port = build_trace({"unet.000/a.x/input.0": b, "unet.000/a.x/input.1": a})
    call = call_of("a.x", "attention", {"input": a, "k": b})
    wrong = wrong_of(b, replay=replay_of(port=port), computed=a, role="input", call=call)
    assert diagnosis._find_identity(wrong).cause == "q and k are swapped"


def test_terms_have_the_axes_of_the_array():
    image, vector = normal(0, 2, 3, 4, 4), normal(1, 2, 3)

    def cause(recorded, computed, term):
        replay = replay_of(recent=[("m", term)])
        return diagnosis._find_term(wrong_of(recorded, replay=replay, computed=computed))

    added = image + vector[:, :, None, None]
    assert cause(added, image, vector).cause == "the output of m is added twice"
    assert cause(image, added, vector).cause == "the output of m is not added"
    assert cause(image, added, vector).explained < 1e-12
    assert cause(image[0], image, vector) == Cause()
    row = normal(2, 3, 4)
    rest = RIGHT + row[None]
    assert cause(RIGHT, rest, row) == Cause()  # of other axes
    assert cause(RIGHT, rest, row[None]).cause == "the output of m is not added"
    flat = normal(3, 5, 3)
    assert cause(flat, flat + normal(4, 5, 3), normal(5, 5, 3)) == Cause()
    assert cause(flat, flat + vector[:1], vector[:1]).cause.endswith("not added")
    whole = np.arange(24).reshape(2, 3, 4)
    assert cause(whole + RIGHT, whole, RIGHT).cause.endswith("twice")


def test_a_stream_that_is_not_added_is_named_by_its_norm():
    stream = normal(0, *RIGHT.shape)
    replay = replay_of(streams=[("b.norm1", 0 * stream), ("b.norm2", stream)])
    wrong = wrong_of(RIGHT, replay=replay, computed=RIGHT + stream)
    assert diagnosis._find_term(wrong).cause == "the input of b.norm2 is not added"


# -- layouts --------------------------------------------------------------------------------------


def test_relations_of_the_array_and_of_its_padding(monkeypatch):
    asked = []
    answers = [None, None]

    def recognise(*values):
        asked.append(values)
        return answers[len(asked) - 1]

    monkeypatch.setattr(diagnosis, "recognise", recognise)
    assert diagnosis._find_layout(wrong_of(floor=0.5)) == Cause()
    ((recorded, computed, close),) = asked
    assert recorded is RIGHT and computed is RIGHT and close == 8.0
    padding = np.zeros((2, 3), bool)
    padding[0, 1] = True
    shown = np.where(padding[..., None], 0.0, RIGHT)
    asked.clear()
    answers[1] = SimpleNamespace(text="l", array=RIGHT + padding[..., None])
    wrong = _Wrong(None, point_of(RIGHT, shown, padding=padding), shown, 1.0, 0.25)
    assert diagnosis._find_layout(wrong) == Cause("l", 0.0)
    assert asked[0][0] is shown and asked[1][0] is RIGHT and asked[1][1] is shown
    assert asked[1][2] == 4.0 and np.array_equal(asked[1][3](RIGHT), shown)
    asked.clear()
    answers[0] = SimpleNamespace(text="first", array=shown)
    assert diagnosis._find_layout(wrong) == Cause("first", 0.0) and len(asked) == 1


# -- known faults ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "most"), [(2**16, 1200), (2**16 + 1, 400)])
def test_how_many_faults_are_tried(monkeypatch, size, most):
    """More of an array that is quickly computed again."""
    x = np.zeros(1)
    hypotheses = [Fault(str(i), None if i == 1 else x) for i in range(1300)]
    monkeypatch.setattr(diagnosis, "_hypotheses", lambda replay, point: iter(hypotheses))
    found = diagnosis._try_known_faults(wrong_of(x, computed=np.zeros(size)))
    assert len(found) == most - 1 and sum(len(fault.asked) for fault in hypotheses) == most


def test_what_a_fault_leaves_and_its_effect(monkeypatch):
    known = np.where(np.arange(4) < 3, RIGHT, np.nan)
    results = [RIGHT + 1.0, known + 1.0, RIGHT[0]]
    hypotheses = [Fault(str(i), x) for i, x in enumerate(results)]
    monkeypatch.setattr(diagnosis, "_hypotheses", lambda replay, point: hypotheses)
    recorded = RIGHT + 1.0
    found = diagnosis._try_known_faults(wrong_of(recorded, computed=RIGHT))
    assert [one.hypothesis for one in found] == hypotheses
    assert [one.left for one in found] == [0.0, 0.0, math.inf]
    assert np.allclose(found[0].effect, 1.0) and found[0].effect.shape == (24,)
    assert found[2].effect.shape == (0,)
    same = diagnosis._try_known_faults(wrong_of(RIGHT - 9.0, computed=RIGHT))
    assert same[1].left == math.inf  # as right without it


def test_the_first_fault_that_explains_is_named():
    wrong = wrong_of(error=1.0, floor=2.0**-10)
    tried = [tried_of("far", 0.5), tried_of("a", 0.01), tried_of("b", 0.006), tried_of("c", 0.004)]
    for certain in (True, False):
        assert diagnosis._explain_by_fault(wrong, tried, certain) == Cause("c", 0.004)
        assert diagnosis._explain_by_fault(wrong, tried[:3], certain) == Cause("a", 0.01)
        assert diagnosis._explain_by_fault(wrong, tried[:1], certain) == Cause()
        assert diagnosis._explain_by_fault(wrong, [], certain) == Cause()


def test_three_nearest_faults_may_have_a_noise_of_their_own():
    x = np.array([4.0, 1.0])
    noisy, exact = (x, np.array([4.0, 3.0])), (x, x)
    wrong = wrong_of(error=1.0, floor=2.0**-20)

    def cause(*results, certain=True, left=0.1):
        tried = [tried_of(str(i), left + 0.01 * i, *r) for i, r in enumerate(results)]
        found = diagnosis._explain_by_fault(wrong, tried[::-1], certain)
        return found.cause, [bool(one.hypothesis.asked) for one in tried]

    assert cause(exact, exact, noisy, noisy) == ("2", [True, True, True, False])
    assert cause(exact, exact, exact, noisy) == ("", [True, True, True, False])
    assert cause(noisy, noisy) == ("0", [True, False])
    assert cause(noisy, certain=False) == ("", [False])
    assert cause(noisy, left=0.25) == ("0", [True])
    assert cause(noisy, left=0.26) == ("", [False])


def test_pairs_that_explain_more_than_each_of_their_faults(monkeypatch):
    recorded = RIGHT.copy()
    scale = np.abs(RIGHT).max()

    def both(text, left):
        x = RIGHT.copy()
        x.flat[np.argmin(np.abs(RIGHT))] += left * scale
        return Fault(text, x)

    def pair(text, left, alone=(1.0, 1.0)):
        one = tried_of("x", alone[0], pair=None if left is None else both(text, left))
        return one, tried_of("y", alone[1])

    def cause(*pairs, floor=2.0**-10, error=1.0, **more):
        monkeypatch.setattr(diagnosis, "likely_pairs", lambda difference, tried: iter(pairs))
        wrong = wrong_of(recorded, error=error, floor=floor, computed=RIGHT, **more)
        found = diagnosis._find_pair(wrong, [])
        return found.cause, found.explained

    assert cause(pair("a", 0.01)) == ("a", pytest.approx(0.01))
    assert cause(pair("a", 0.02)) == ("", None)
    assert cause(pair("a", 0.02), pair("b", 0.01))[0] == "b"
    assert cause(pair("a", 0.01), pair("b", 0.005), pair("c", 0.005))[0] == "b"
    assert cause(pair("a", 0.005), pair("b", 0.01))[0] == "a"
    assert cause(pair("", None), pair("b", 0.01))[0] == "b"
    for alone in ((0.041, 1.0), (1.0, 0.041)):
        assert cause(pair("a", 0.01, alone))[0] == "a"
    for alone in ((0.039, 1.0), (1.0, 0.039)):
        assert cause(pair("a", 0.01, alone))[0] == ""
    assert cause(pair("a", 0.01), error=0.039)[0] == ""
    failed = (tried_of("x", 1.0, pair=Fault("f", None)), tried_of("y", 1.0))
    assert cause(failed, pair("b", 0.01))[0] == "b"
    assert cause(pair("a", 0.01), suspects=[call_of()] * 65)[0] == ""


def test_pairs_are_ranked_by_the_difference(monkeypatch):
    asked = []

    def pairs(difference, tried):
        asked.append((difference, tried))
        return iter(())

    monkeypatch.setattr(diagnosis, "likely_pairs", pairs)
    diagnosis._find_pair(wrong_of(RIGHT + 2.0, computed=RIGHT), ["t"])
    assert np.allclose(asked[0][0], 2.0) and asked[0][1] == ["t"]
    assert diagnosis._find_pair(wrong_of(RIGHT[0], computed=RIGHT), []) == Cause()
    assert len(asked) == 1


def test_a_relation_may_be_the_nearest(monkeypatch):
    layout = SimpleNamespace(text="l", array=RIGHT * 1.01)
    asked = []

    def recognise(*values):
        asked.append(values)
        return layout

    monkeypatch.setattr(diagnosis, "recognise", recognise)
    wrong = wrong_of(RIGHT, error=10.0, computed=RIGHT)
    assert diagnosis._nearest(wrong, []) == "nearest to l, which leaves 0.01"
    assert asked[0][0] is RIGHT and asked[0][1] is RIGHT and asked[0][2] == 0.2
    assert "nearest to f," in diagnosis._nearest(wrong, [tried_of("f", 0.009)])
    assert "nearest to l," in diagnosis._nearest(wrong, [tried_of("f", 0.011)])
    layout = None
    assert "leaves 0.2" in diagnosis._nearest(wrong, [tried_of("f", 0.2), tried_of("g", 0.21)])


# -- hypotheses -----------------------------------------------------------------------------------


def test_every_kind_of_fault_is_tried_in_turn(monkeypatch):
    x = np.zeros(1)
    monkeypatch.setattr(diagnosis, "argument_changes", lambda *_: [("a", {"p": 1}, True)])
    between = SimpleNamespace(variants=lambda replay, point: [("b", x)])
    blocks = SimpleNamespace(variants=lambda replay, point: [("c", {"m": max})])
    monkeypatch.setattr(diagnosis, "BETWEEN", (between,))
    monkeypatch.setattr(diagnosis, "IN_BLOCKS", (blocks,))
    monkeypatch.setattr(diagnosis, "_changes", lambda replay, point: [("d", {"n": min})])
    assert [*diagnosis._hypotheses(None, None)] == [
        Hypothesis("a", None, {"p": 1}, True),
        Hypothesis("b", array=x),
        Hypothesis("c", {"m": max}),
        Hypothesis("d", {"n": min}),
    ]


def changes_of(monkeypatch, suspects, earlier=(), size=1, own="a.x"):
    monkeypatch.setattr(
        diagnosis, "_variants", lambda replay, call: [Variant(f"wrong {call.name}", max)]
    )
    suspects = [call_of(name, kind) for name, kind in suspects]
    earlier = tuple(call_of(name, kind) for name, kind in earlier)
    computed = np.zeros(size)
    point = point_of(computed, computed, call=call_of(own), suspects=suspects, earlier=earlier)
    found = [*diagnosis._changes(None, point)]
    assert all(change is max for _, changes in found for change in changes.values())
    return [(text, list(changes)) for text, changes in found]


def test_operations_are_changed_one_by_one(monkeypatch):
    suspects = [("a", "silu"), ("b", "silu"), ("a.x", "linear")]
    assert changes_of(monkeypatch, suspects, [("e", "silu"), ("a", "silu")]) == [
        ("wrong a in a", ["a"]),
        ("wrong b in b", ["b"]),
        ("wrong a.x", ["a.x"]),
        ("wrong e in e", ["e"]),
    ]


def test_operations_of_a_large_part_are_changed_together(monkeypatch):
    suspects = [(str(i), "silu" if i % 2 else "gelu") for i in range(65)]
    found = changes_of(monkeypatch, suspects, [("e", "silu")])
    evens = [str(i) for i in range(0, 65, 2)]
    odds = [str(i) for i in range(1, 65, 2)]
    assert found == [
        ("wrong 0 in all gelu", evens), ("wrong 1 in all silu", odds), ("wrong e in e", ["e"]),
    ]  # fmt: skip
    assert len(changes_of(monkeypatch, suspects[:64])) == 64
    few = [*[(str(i), "silu") for i in range(64)], ("z", "gelu")]
    assert changes_of(monkeypatch, few)[1] == ("wrong z", ["z"])


SHARING = ["rotate", "rotate_halves", "power", "polar", "sine", "cosine", "repeat_each", "masked"]


def test_operations_that_share_a_table_are_also_changed_together(monkeypatch):
    for kind in SHARING:
        suspects = [("a", kind), ("b", kind), ("c", "silu"), ("d", "silu")]
        alone = ", of the queries alone," if kind.startswith("rotate") else ""
        together = (f"wrong a in all {kind}", ["a", "b"])
        expected = [
            (f"wrong a{alone} in a", ["a"]), (f"wrong b{alone} in b", ["b"]),
            ("wrong c in c", ["c"]), ("wrong d in d", ["d"]),
        ]  # fmt: skip
        expected.insert(4 if alone else 1, together)
        assert changes_of(monkeypatch, suspects) == expected
        assert changes_of(monkeypatch, suspects[:1]) == [
            (f"wrong a{alone} in a", ["a"]), ("wrong a", ["a"]),
        ]  # fmt: skip
        large = [(str(i), kind) for i in range(65)]
        assert len(changes_of(monkeypatch, large)) == 1


@pytest.mark.parametrize(
    ("kind", "ids", "mask", "sources"),
    [
        ("attention", None, None, ["table"]),
        ("attention", 1, None, ["table", "padding", "wrong padding"]),
        ("attention", None, np.ones(1), ["table", "text", "mask"]),
        ("attention", 1, np.ones(1), ["table", "padding", "text", "mask"]),
        ("attention", 1, "text", ["table", "padding"]),
        ("linear", 1, np.ones(1), ["table"]),
    ],
)
def test_variants_of_an_operation(monkeypatch, kind, ids, mask, sources):
    asked = {}

    def given(name):
        def variants(*values):
            asked[name] = values
            return [Variant(name, max)]

        return variants

    def faults(kind):
        asked["kind"] = kind
        return [SimpleNamespace(variants=given("table"))]

    monkeypatch.setattr(diagnosis, "faults_of", faults)
    for name, source in (
        ("with_padding_mask", "padding"), ("with_wrong_padding_mask", "wrong padding"),
        ("with_text_mask", "text"), ("with_mask", "mask"),
    ):  # fmt: skip
        monkeypatch.setattr(diagnosis, name, given(source))
    similar = [("l.a", {"weight": 2}), ("l.b", {"weight": 3})]
    replay = replay_of(
        ids=ids, arguments={} if mask is None else {"mask": mask},
        similar_layers=lambda call: similar,
    )  # fmt: skip
    call = call_of("a", kind, compute=lambda x: dict(x))
    found = [*diagnosis._variants(replay, call)]
    assert [v.text for v in found[:-2]] == sources and asked["kind"] == kind
    assert asked["table"] == (call,)
    for name, extra in (("padding", (1, "c")), ("wrong padding", (1, "c")), ("text", (mask,)),
                        ("mask", (mask,))):  # fmt: skip
        if name in sources:
            assert asked[name] == (call, *extra)
    for variant, (name, parameters) in zip(found[-2:], similar, strict=True):
        assert variant.text.endswith(f" {name}")
        x = {"input": 1, "weight": 0}
        assert variant.change(call, x) == {"input": 1, **parameters}
