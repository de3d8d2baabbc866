"""The judge of a layer, its diagnosis and gradients, with points that are built by hand."""

from __future__ import annotations

import math
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from host_units import context_of, entry_of, normal

from ldmref.backends.named import LayerCall
from ldmref.locate import Row, diagnosis, nearby
from ldmref.locate.judging import Judge, _describe_segment, _shorten
from ldmref.locate.names import count_modulations
from ldmref.locate.pairs import Hypothesis, Tried
from ldmref.locate.pipeline import gradients
from ldmref.locate.points import Frame, Point

UNIT = 2.0**-23
RIGHT = normal(0, 2, 3, 4)


def call_of(name="a.x", kind="block", inputs=None, parameters=None, composite=False):
    return LayerCall(name, kind, inputs or {}, parameters or {}, {}, lambda x: x, composite)


def point_of(recorded, computed=RIGHT, role="", call=None, suspects=(), after=(), **more):
    call = call_of() if call is None else call
    frame = Frame("", lambda x: x, more.pop("frame", {}), Counter(), [])
    return Point(call, role, computed, recorded, {}, frame, tuple(suspects), tuple(after), **more)


def replay_of(low=0.0, **more):
    """Return a replay whose reruns in the port's format have a relative error of `low`."""

    def rerun(point, changes=None, *, arguments=None, low=False, free=False, exact=False):
        largest = np.max(np.abs(point.computed), initial=0.0)
        moved = np.array(point.computed, np.float64)
        if low and moved.size:
            moved.flat[0] += floor * largest
        return moved

    floor = low
    port = SimpleNamespace(of_call=lambda call: [], find=lambda *names: None)
    given = {
        "rerun": rerun, "parameters": lambda call: {}, "recent": [], "streams": [],
        "graph_of": lambda point: None,
        "skips": {}, "ids": None,
        "config": None, "arguments": {}, "modulations": {}, "port": port, "call": "unet.000",
        "parameters_of": lambda *names: None, "similar_layers": lambda call: [],
        "in_format": lambda dtype: nullcontext(),
    }  # fmt: skip
    return SimpleNamespace(**given | more)


def judged(recorded, computed=RIGHT, dtype="float32", low=0.0, **more):
    judge = Judge("unet.000", dtype)
    used = judge.observe(replay_of(low), point_of(recorded, computed, **more))
    return (judge.rows[0] if judge.rows else None), used


def moved(units, x=RIGHT):
    """Return an array with an error of so many units relative to its largest value."""
    y = x.copy()
    y.flat[1] += units * UNIT * np.abs(x).max()
    return y


# -- the judge ------------------------------------------------------------------------------------


def test_sixteen_floors_are_rounding_and_a_hundred_are_certain():
    """Of a part of several operations, whose kind has no bound."""
    part = call_of(kind="resnet_block", composite=True)
    for units, verdict in (
        (7.9, "equal"), (8.1, "noisy"), (49.0, "noisy"), (51.0, "differs"), (-51.0, "differs"),
    ):  # fmt: skip
        row, _ = judged(moved(units), call=part)
        assert row.verdict == verdict, units
        assert row.error == pytest.approx(abs(units) * UNIT)
        assert row.allowed == pytest.approx(8.0 * UNIT)
    for units, verdict in ((15.9, "equal"), (16.1, "noisy"), (99.0, "noisy"), (101.0, "differs")):
        row, _ = judged(moved(units), call=part, low=UNIT)  # twice the least floor
        assert row.verdict == verdict, units
    row, _ = judged(moved(51.0), call=part)
    assert row.floor == UNIT / 2.0 and row.bound == pytest.approx(50.0 * UNIT)


def test_the_unit_is_that_of_what_was_stored():
    part = call_of(kind="resnet_block", composite=True)
    assert judged(moved(1000.0), call=part, unit=2.0**-7)[0].verdict == "equal"
    assert judged(moved(1000.0), call=part, dtype="bfloat16")[0].verdict == "equal"
    assert judged(moved(1000.0), call=part)[0].verdict == "differs"
    ids = np.array([[3, 4]])
    assert judged(ids, ids)[0].verdict == "equal"
    assert judged(ids + 1, ids)[0].verdict == "differs"


def test_a_reference_that_overflows_judges_nothing():
    part = call_of(kind="resnet_block", composite=True)
    row, _ = judged(RIGHT + normal(1, 2, 3, 4), call=part, dtype="float16", low=math.inf)
    assert row.verdict == "not judged" and "overflows in float16" in row.note


def test_another_order_in_memory_is_used_downstream():
    row, used = judged(RIGHT.transpose(0, 2, 1))
    assert row.verdict == "equal" and row.note == "equal after transpose 0,2,1"
    assert np.array_equal(used, RIGHT)
    row, _ = judged(3.0 * RIGHT.transpose(0, 2, 1))
    assert row.verdict == "differs" and row.cause == "scaled by 3"
    assert row.note == "after transpose 0,2,1"


@pytest.mark.parametrize("part", [0, 2])
def test_rows_of_further_outputs_say_which_in_any_order_and_shape(part):
    for recorded in (RIGHT, RIGHT.transpose(0, 2, 1), RIGHT[:, :2], moved(500.0)):
        row, _ = judged(recorded, part=part)
        assert row.note.startswith("its output 2") == (part == 2)
        assert ("transpose" in row.note) == (recorded.shape == (2, 4, 3))
        assert ("(2, 2, 4)" in row.note) == (recorded.shape == (2, 2, 4))


def test_what_is_not_finite_is_reported_once():
    bad = RIGHT.copy()
    bad[0, 0, 1] = np.nan
    judge = Judge("unet.000", "float32")
    first = judge.observe(replay_of(), point_of(bad))
    judge.observe(replay_of(), point_of(bad))
    assert np.array_equal(first, RIGHT)
    assert [row.verdict for row in judge.rows] == ["differs", "not judged"]
    assert judge.rows[0].error == math.inf
    assert [row.note.partition(" at")[0] for row in judge.rows] == ["NaN", "NaN"]
    assert judge.rows[1].note.endswith("as upstream")
    infinite = np.full((2, 3), -np.inf)
    row, _ = judged(infinite, infinite)
    assert row.verdict == "equal"


def test_what_cannot_be_computed_is_accepted():
    unknown = np.full((2, 3), np.nan)
    row, used = judged(RIGHT[0, :2, :3], unknown)
    assert row.verdict == "not judged" and np.array_equal(used, RIGHT[0, :2, :3])
    turned, expected = RIGHT[0, :2, :3].T, RIGHT[0, :2, :3]
    assert np.array_equal(judged(turned, unknown)[1], expected)
    assert np.isnan(judged(RIGHT, unknown)[1]).all()
    assert judged(RIGHT[0, :2, :3], unknown, role="input")[0] is None


def test_layers_that_cannot_be_judged_say_why():
    judge = Judge("unet.000", "float32")
    judge.skip(call_of("a.norm"), "it has no weights")
    judge.refuse(call_of("a.conv"), {"input": np.ones((1, 2)), "ids": np.ones(3)}, "rank 2")
    note = "input (1, 2), ids (3,) does not fit its weights: rank 2"
    assert judge.rows == [
        Row("unet.000", "a.norm", verdict="not judged", note="it has no weights"),
        Row("unet.000", "a.conv", error=math.inf, verdict="differs", note=note),
    ]


def test_a_right_wire_has_no_row():
    assert judged(RIGHT, role="input")[0] is None
    silu = call_of("m.silu", "silu", {"input": normal(1, 2, 3, 4)})
    row, _ = judged(-RIGHT, role="emb", after=("b.conv",), suspects=[silu])
    assert (row.kind, row.cause) == ("wiring", "sign reversed")
    assert row.segment == "from b.conv, silu to a.x (emb)"


def test_segments_in_words():
    many = [call_of(f"m.{x}") for x in "abcbde"]
    assert _describe_segment(point_of(RIGHT, role="input", suspects=many)) == (
        "from the start, a, b, c, d, ... to a.x"
    )
    assert _describe_segment(point_of(RIGHT, call=call_of(""))) == "from the start to the output"
    assert _shorten("abcd") == "a, b, c, d" and _shorten("aab") == "a, b"


def test_heads_of_another_shape():
    right = normal(0, 2, 4, 6, 3)
    flat = right.transpose(0, 2, 1, 3).reshape(2, 6, 12)
    two = flat.reshape(2, 6, 2, 6).transpose(0, 2, 1, 3)
    row, used = judged(two, right, role="input")
    assert row.verdict == "differs" and row.cause == "2 heads of width 6 instead of 4 of 3"
    assert np.array_equal(used, right) and row.note == "shape (2, 2, 6, 6) instead of (2, 4, 6, 3)"
    row, used = judged(np.zeros((2, 2)), right, role="input")
    assert row.verdict == "differs" and np.array_equal(used, right)


# -- the diagnosis --------------------------------------------------------------------------------


def cause_of(recorded, recent=(), **more):
    point = point_of(recorded, **more)
    error = float(np.max(np.abs(recorded - RIGHT)) / np.abs(RIGHT).max())
    found = diagnosis.diagnose(replay_of(recent=list(recent)), point, error, UNIT / 2.0)
    return found.cause


def test_arrays_nearby_that_the_port_passed_on():
    before, after = normal(1, 2, 3, 4), normal(2, 2, 3, 4)
    recent = [("m.a", after), ("m.b", before)]
    assert cause_of(before, recent) == "equals the output of m.b"
    silu = call_of("m.silu", "resnet_block", {"input": before})
    assert cause_of(before, role="input", suspects=[silu]) == (
        "m.silu is skipped: its output is its input"
    )
    own = call_of("a.x", "resnet_block", {"input": before, "emb": after})
    assert cause_of(before, call=own, suspects=[own]) == "a.x is skipped: its output is its input"
    assert cause_of(after, call=own, suspects=[own]) == "equals its input (emb)"
    assert cause_of(after, frame={"x": after}) == "equals the input of the network (x)"


@pytest.mark.parametrize("role", ["", "input", "emb"])
@pytest.mark.parametrize("frame", ["", "m"])
def test_which_arrays_are_nearby(role, frame):
    """Of the input that is judged, its value is none; that of its block is, if it is inside one."""
    arrays = iter(normal(0, 5, 2, 3))
    whole = {"input": next(arrays), "x": next(arrays), "ids": np.arange(3)}
    call = call_of("m.a", inputs={"input": next(arrays), "emb": next(arrays), "n": 3})
    point = point_of(RIGHT, role=role, call=call)
    point = replace(point, frame=replace(point.frame, name=frame, inputs=whole))
    replay = replay_of(recent=[("m.b", next(arrays)), ("m.c", RIGHT * np.nan)])
    known = {
        "the output of m.b": replay.recent[0][1],
        **{f"its input {name!r}": call.inputs[name] for name in ("input", "emb") if name != role},
    }
    if not role or frame:
        of = f"the input of {frame or 'the network'}"
        known |= {of: whole["input"], f"{of} (x)": whole["x"]}
    assert dict(nearby.arrays_around(replay, point)) == known


def test_arrays_that_are_no_terms_do_not_hide_those_that_are():
    """The nearest arrays come first: of other axes, or of sizes that do not broadcast."""
    term = normal(1, 2, 3, 4)
    others = [normal(2, 2, 3), normal(3, 2, 3, 5), normal(4, 1, 2, 3, 4), normal(5, 3, 3, 4)]
    for other in others:
        recent = [("m.a", term), ("m.b", other)]
        assert cause_of(RIGHT - term, recent) == "the output of m.a is not added"
        assert cause_of(RIGHT + term, recent) == "the output of m.a is added twice"


def test_terms_that_were_not_added():
    term = normal(1, 2, 3, 4)
    recent = [("m.a", term)]
    assert cause_of(RIGHT - term, recent) == "the output of m.a is not added"
    assert cause_of(RIGHT + term, recent) == "the output of m.a is added twice"
    assert cause_of(RIGHT - 0.5 * term, recent) == ""
    row = [("m.a", term[:, :1])]
    assert cause_of(RIGHT - term[:, :1], row) == "the output of m.a is not added"


def test_what_a_fault_does_not_say_is_left_out():
    x = normal(0, 16)
    said = np.where(np.arange(16) < 2, x, np.nan)  # an eighth
    assert diagnosis._error_where_known(x, said) == 0.0
    less = np.where(np.arange(16) < 1, x, np.nan)
    assert diagnosis._error_where_known(x, less) == math.inf
    assert diagnosis._error_where_known(x, said, x) == math.inf  # as right without it
    assert diagnosis._error_where_known(x, said, x + 1.0) == 0.0
    assert diagnosis._error_where_known(x, x) == 0.0


def test_the_nearest_fault_is_a_hint_if_it_is_near():
    wrong = diagnosis._Wrong(replay_of(), point_of(RIGHT), RIGHT + normal(1, 2, 3, 4), 1.0, UNIT)

    def hint(*left):
        tried = [Tried(Hypothesis(f"f{x:g}"), x, np.zeros(1)) for x in left]
        return diagnosis._nearest(wrong, tried)

    assert hint(0.019, 0.5) == "nearest to f0.019, which leaves 0.019"
    assert hint(0.02) == "nearest to f0.02, which leaves 0.02"
    assert hint(0.021) == hint() == ""
    assert hint(0.019, 0.01).startswith("nearest to f0.01,")


def test_large_parts_are_those_of_many_operations():
    def large(n, size=1):
        return diagnosis._is_large(point_of(RIGHT, np.zeros(size), suspects=[call_of()] * n))

    assert not large(64) and large(65)
    assert not large(24, 2**16 + 1) and large(25, 2**16 + 1) and not large(25, 2**16)


def test_what_broadcasts():
    assert nearby.broadcasts((2, 1, 4), (2, 3, 4))
    assert not nearby.broadcasts((2, 2, 4), (2, 3, 4))
    assert nearby.is_usable(RIGHT) and not nearby.is_usable(RIGHT * np.nan)
    assert not nearby.is_usable(np.arange(3)) and not nearby.is_usable(None)


# -- the replay -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "rows", "parts"),
    [
        ("b.norm1.linear", "linear", 36, 6),
        ("norm_out.linear", "linear", 12, 2),
        ("b.norm1_context.linear", "linear", 18, 3),
        ("b.norm.linear", "linear", 54, 9),
        ("b.norm.linear", "linear", 24, 4),
        ("b.norm.linear", "linear", 30, 0),
        ("b.ff.linear", "linear", 36, 0),
        ("b.norm1.linear", "conv2d", 36, 0),
    ],
)
def test_linear_layers_of_modulations(name, kind, rows, parts):
    call = call_of(name, kind, parameters={"weight": np.zeros((rows, 6))})
    assert count_modulations(call) == parts


# -- gradients ------------------------------------------------------------------------------------


class Layer:
    """The gradients of a layer with a weight and a bias, of the norms 3 and 4."""

    parameters = ("l.weight", "l.bias")
    norm = 5.0
    floor = 1e-7

    @staticmethod
    def norm_of(*names):
        return math.hypot(*({"l.weight": 3.0, "l.bias": 4.0}[name] for name in names))


def gradient_row(got, layer=Layer, total=10.0, counts=(4, 2), **optimizer):
    calls = {"train.000": {"output.loss": np.ones(1)}}
    context = context_of(calls, params={"diffusion": {"optimizer": optimizer}})
    entry = entry_of(context, "train.000")
    part = SimpleNamespace(layer="l", outputs={"grad_norm": "g"})
    context.port.tensors["g"] = np.array([got])
    return gradients._judge_layer(context, entry, part, layer, total, counts)


@pytest.mark.parametrize(
    ("got", "cause"),
    [
        (5.0, ""),
        (20.0, "the sum over the 4 examples instead of the mean"),
        (10.0, "the sum over the 2 evaluations instead of the mean"),
        (0.5, "after clipping to the norm 1"),
        (5.0 * 2.0**8, "the loss is scaled by 2^8, as for float16"),
        (5.0 * 2.0**24, "the loss is scaled by 2^24, as for float16"),
        (5.0 * 2.0**25, "scaled by 3.3554e+07"),
        (2.5, "the loss is halved"),
        (0.0, "the layer is frozen"),
        (25.0, "the square of the norm"),
        (3.0, "only the gradient of the weight"),
        (4.0, "only the gradient of the bias"),
    ],
)
def test_norms_of_gradients(got, cause):
    row = gradient_row(got)
    assert (row.layer, row.cause) == ("l", cause)
    assert row.verdict == ("differs" if cause else "equal")


def test_rounding_of_gradients_is_that_of_their_format():
    rough = SimpleNamespace(
        norm=5.0, floor=1e-2, parameters=Layer.parameters, norm_of=Layer.norm_of
    )
    for factor, verdict in ((15.9, "equal"), (16.1, "differs")):
        assert gradient_row(5.0 * (1.0 + factor * 1e-2), rough).verdict == verdict
    assert gradient_row(5.0 * (1.0 + 0.9e-5)).verdict == "equal"


def test_clipping_of_gradients():
    assert gradient_row(1.25, clip_norm=2.5).cause == "after clipping to the norm 2.5"
    assert gradient_row(0.5, total=1.0).cause != "after clipping to the norm 1"
    assert gradient_row(10.0, counts=(4, 1)).cause == "scaled by 2"


def test_layers_without_a_gradient():
    zero = SimpleNamespace(norm=0.0)
    for got, verdict in ((0.0, "equal"), (0.99e-4, "equal"), (1.01e-4, "differs")):
        row = gradient_row(got, zero)
        assert row.verdict == verdict and row.error == pytest.approx(got / 10.0)
    assert gradient_row(0.5, zero, total=0.0).error == 0.5


def test_the_norm_of_all_gradients():
    def row_of(total, **selection):
        calls = {"train.000": {"output.grad_norm": np.array([total])}}
        context = context_of(calls, selection=selection)
        layers = [SimpleNamespace(outputs={"grad_norm": f"g{i}"}) for i in range(2)]
        context.port.tensors.update(g0=np.array([3.0]), g1=np.array([4.0]))
        rows = gradients._judge_total(context, entry_of(context, "train.000"), layers)
        return [(row.verdict, row.cause) for row in rows]

    assert row_of(5.0) == [("equal", "")]
    assert row_of(7.0) == [("differs", "the sum of the layers' norms")]
    assert row_of(1.0) == [("differs", "after clipping")]
    assert row_of(5.0, layers=["x"]) == []


def test_a_vector_is_a_term_of_every_pixel():
    """The embedding of the time is added to images of as many channels."""
    image, vector = normal(0, 2, 3, 4, 4), normal(1, 2, 3)
    for factor, words in ((-1.0, "is not added"), (1.0, "is added twice")):
        recorded = image + factor * vector[:, :, None, None]
        point = point_of(recorded, image)
        found = diagnosis.diagnose(replay_of(recent=[("t", vector)]), point, 0.5, UNIT / 2.0)
        assert found.cause == f"the output of t {words}"


def test_the_gradients_of_a_layer_are_found_by_name():
    gradients_of = {"unet.a.weight": 1, "unet.a.bias": 2, "unet.ab.weight": 3, "unet.a.b.weight": 4}
    config = SimpleNamespace(denoiser=SimpleNamespace(network="unet"))
    exact = SimpleNamespace(
        model=SimpleNamespace(config=config), denoiser=gradients_of, text={"text_encoder.a.w": 5}
    )
    without = SimpleNamespace(model=exact.model, denoiser=gradients_of, text=None)

    def names(layer, steps=exact, low=exact, **attributes):
        entry = SimpleNamespace(layer=layer, attributes=attributes)
        found = gradients._find_gradient(entry, steps, low)
        return found if isinstance(found, str) else found.parameters

    assert names("unet.a") == ["unet.a.weight", "unet.a.bias"]
    assert names("unet.a", parameters=["bias"]) == ["unet.a.bias"]
    assert names("text_encoder.a") == ["text_encoder.a.w"]
    unknown = gradients.UNKNOWN_PARAMETERS
    assert names("unet.c") == names("vae.a") == names("unet.a", parameters=["x"]) == unknown
    text = "the recorded context is not that of recorded prompts"
    assert names("text_encoder.a", without) == names("text_encoder.a", exact, without) == text


def test_norms_of_several_parameters():
    torch = pytest.importorskip("torch")
    exact = {"w": torch.tensor([3.0, 0.0]), "b": torch.tensor([4.0])}
    rounded = {"w": torch.tensor([3.0, 0.6]), "b": torch.tensor([4.8])}
    layer = gradients._LayerGradient(exact, rounded, ["w", "b"])
    assert layer.norm == pytest.approx(5.0) and layer.norm_of("b") == 4.0
    assert layer.floor == pytest.approx(math.hypot(0.6, 0.8) / 5.0)


def test_evaluations_of_a_step_that_cannot_be_repeated():
    def reason(recipe=None, steps=1, **arrays):
        calls = {f"train.{i:03}": arrays for i in range(steps)}
        stage = {"diffusion": {"objective": recipe or {}}}
        context = context_of(calls, params=stage)
        return gradients._evaluations(context, entry_of(context, "train.000"))

    whole = {"input.target": RIGHT, "input.timesteps": np.array([1, 2])}
    missing = "the target or the timesteps were not recorded"
    for role in whole:
        assert reason(**{name: x for name, x in whole.items() if name != role}) == missing
    assert reason({"loss": "x"}, **whole) == "the loss 'x' is not recomputed"
    calls = "the denoiser's calls of this step were not recorded"
    assert reason(**whole) == reason(steps=2, **whole) == calls
