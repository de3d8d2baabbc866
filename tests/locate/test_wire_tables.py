"""Wires of several steps, of which some lack arrays, and the borders of what continues a run."""

from __future__ import annotations

import numpy as np
import pytest
from host_units import context_of, entry_of, normal

from ldmref.locate.pipeline import wires

SHAPE = (1, 4, 8, 8)
X, Y, Z = (normal(i, *SHAPE) for i in range(3))
HALVES = [(normal(10 + i, *SHAPE), normal(20 + i, *SHAPE)) for i in range(3)]
NAMES = [f"guidance.00{i}" for i in range(3)]


# -- what a guidance was given --------------------------------------------------------------------


def guided_calls(order=("uncond", "cond")):
    """Return three steps whose guidance was given both halves of the network's output."""
    calls = {}
    for i, (uncond, cond) in enumerate(HALVES):
        given = {"uncond": uncond, "cond": cond}
        calls[f"unet.00{i}"] = {"input.sample": X, "output": np.concatenate([uncond, cond])}
        calls[f"guidance.00{i}"] = {f"input.{role}": given[role] for role in order}
        calls[f"guidance.00{i}"]["output"] = Z
        calls[f"sampler.00{i}"] = {"input.x": X, "input.prediction": Z}
    return calls


OTHERS = ("scale", "guide")  # inputs of a guidance that are no halves


def halves(calls, attributes=None, **manifest):
    """Return the verdicts, causes and reasons of the guidances by call."""
    context = context_of(calls, attributes=attributes, **manifest)
    rows = {row.call: row.cause or row.verdict for row in wires._judge_halves(context)}
    reasons = {name.rstrip("/"): why for (name, _, _), why in context.ledger.reasons.items()}
    for name in rows:
        entry = entry_of(context, name)
        assert all(context.ledger.has(entry, role) for role in entry.inputs if role not in OTHERS)
    return rows | {name: why for name, why in reasons.items() if name not in rows}


RIGHT = dict.fromkeys(NAMES, "equal")
UNKNOWN = "the parts of the network's outputs are not known"


@pytest.mark.parametrize("order", [("uncond", "cond"), ("cond", "uncond")])
def test_halves_of_the_network_in_either_order(order):
    calls = guided_calls(order)
    assert halves(calls) == RIGHT
    (_, _), (uncond, cond), _ = HALVES
    for cause, (low, high) in {
        "the halves are exchanged": (cond, uncond),
        "both are the conditional half": (cond, cond),
        "both are the unconditional half": (uncond, uncond),
        "the prediction of the step before": HALVES[0],
    }.items():
        wrong = {**calls[NAMES[1]], "input.uncond": low, "input.cond": high}
        assert halves({**calls, NAMES[1]: wrong}) == RIGHT | {NAMES[1]: cause}


@pytest.mark.parametrize("place", range(3))
def test_a_guidance_without_known_parts_leaves_the_others(place):
    calls = guided_calls()
    name, network = NAMES[place], f"unet.00{place}"
    own, others = calls[name], {x: "equal" for x in NAMES if x != NAMES[place]}
    assert halves({key: x for key, x in calls.items() if key != name}) == others
    small = {**own, "input.cond": own["input.cond"][..., :4]}
    assert halves({**calls, name: small}) == others | {name: UNKNOWN}
    both = {f"input.{role}": own[f"input.{role}"][..., :4] for role in ("uncond", "cond")}
    shape = "they have another shape"
    assert halves({**calls, name: {**own, **both}}) == others | {name: shape}
    for output in (np.concatenate([X] * 3), X):
        changed = {**calls, network: {"input.sample": X, "output": output}}
        assert halves(changed) == others | {name: UNKNOWN}
    assert halves({**calls, network: {"input.sample": X}}) == others | {name: UNKNOWN}
    lacking = {**calls, f"sampler.00{place}": {"input.prediction": Z}}
    assert halves(lacking) == others | {name: UNKNOWN}


def test_without_calls_of_the_network_their_parts_have_that_reason():
    calls = {name: x for name, x in guided_calls().items() if not name.startswith("unet")}
    assert halves(calls) == dict.fromkeys(NAMES, "no call of the unet was recorded")


def test_settings_and_a_weaker_model_are_no_halves():
    calls = guided_calls()
    for name in NAMES:
        calls[name] |= {"input.guide": Y, "input.scale": np.array(3.0)}
    weaker = {f"guide.unet.00{i}": {"input.sample": X, "output": Y} for i in range(3)}
    assert halves({**weaker, **calls}) == RIGHT


@pytest.mark.parametrize(("kind", "allowed"), [("eps", 2.0**-19), ("x0", 1e-4)])
def test_predictions_that_were_converted_are_allowed_more(kind, allowed):
    """x0 = x - sigma eps, of the guidance of programs that combine x0."""
    sigma = 2.0

    def verdict(share):
        calls = guided_calls()
        for i, (name, pair) in enumerate(zip(NAMES, HALVES, strict=True)):
            calls[f"sampler.00{i}"]["input.sigma"] = np.array(sigma)
            uncond, cond = (x if kind == "eps" else X - sigma * x for x in pair)
            moved = uncond.copy()
            moved.flat[0] += share * allowed * max(np.abs(uncond).max(), np.abs(cond).max())
            calls[name] |= {"input.uncond": moved, "input.cond": cond}
        found = halves(calls, {name: {"prediction_type": kind} for name in NAMES})
        return {*found.values()}

    assert verdict(0.9) == {"equal"}
    assert "equal" not in verdict(1.1)


# -- what a step was given ------------------------------------------------------------------------


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("lacking", ["prediction", "output", "call"])
def test_a_step_without_its_prediction_leaves_the_others(place, lacking):
    calls = {}
    for i, (_, cond) in enumerate(HALVES):
        calls[f"unet.00{i}"] = {"input.sample": X, "output": cond}
        calls[f"sampler.00{i}"] = {"input.x": X, "input.prediction": cond}
    if lacking == "prediction":
        del calls[f"sampler.00{place}"]["input.prediction"]
    elif lacking == "output":
        del calls[f"unet.00{place}"]["output"]
    else:
        del calls[f"unet.00{place}"]
    context = context_of(calls)
    rows = {row.call: row.verdict for row in wires._judge_predictions(context)}
    assert rows == {f"sampler.00{i}": "equal" for i in range(3) if i != place}


@pytest.mark.parametrize("role", ["sample", "x"])
def test_channels_of_a_variance_are_left_out(role):
    """A network may predict as many channels again; another number of images is another batch."""
    name = {"sample": "model_output", "x": "prediction"}[role]

    def rows_of(output, got, state=X):
        calls = {
            "unet.000": {"output": output},
            "sampler.000": {f"input.{role}": state, f"input.{name}": got},
            "unet.001": {"output": Y},
            "sampler.001": {f"input.{role}": state, f"input.{name}": Y},
        }
        context = context_of(calls)
        rows = [(row.call, row.verdict) for row in wires._judge_predictions(context)]
        assert rows.pop() == ("sampler.001", "equal")
        return rows, context.ledger.reasons.get(("sampler.000/", "input", name))

    both = np.concatenate([Y, Z], axis=1)
    assert rows_of(both, Y) == ([("sampler.000", "equal")], None)
    assert rows_of(both, Z) == ([("sampler.000", "differs")], None)
    why = "no guidance was recorded"
    assert rows_of(np.concatenate([Y, Z]), Y) == ([], why)
    two = np.concatenate([X, X])
    assert rows_of(np.concatenate([Y, Z]), Y, two) == ([], why)  # the same channels


@pytest.mark.parametrize(
    ("got", "doubled"),
    [
        (np.concatenate([X, X]), True),
        (np.concatenate([X, Y]), False),
        (X, False),
        (np.concatenate([X] * 3), False),
        (np.concatenate([X, X])[:, :2], False),
        (np.concatenate([X] * 4), False),
    ],
)
def test_batches_that_are_there_twice(got, doubled):
    assert wires._is_doubled(got, X) == doubled
    two = np.concatenate([X, Y])
    assert wires._is_doubled(np.concatenate([two, two]), two)
    assert not wires._is_doubled(X, two)


# -- states ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "first"),
    [((0, 1), True), ((1, 2), False), ((0,), True), ((2,), False)],
)
def test_the_first_recorded_step_may_be_a_later_one(numbers, first):
    context = context_of({f"sampler.00{i}": {"input.x": X} for i in numbers})
    assert wires._is_first(context, context.calls("sampler")[0]) == first


@pytest.mark.parametrize("role", ["sample", "x"])
@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("side", ["input", "output"])
def test_a_step_without_its_state_leaves_the_others(place, role, side):
    calls = {
        f"sampler.00{i}": {
            f"input.{role}": normal(40 + i, *SHAPE),
            "output": normal(41 + i, *SHAPE),
        }
        for i in range(4)
    }
    names = [*calls]
    gone = f"input.{role}" if side == "input" else "output"
    del calls[names[place + 1 if side == "input" else place]][gone]
    context = context_of(calls)
    rows = {row.call: row.verdict for row in wires._judge_states(context)}
    assert rows == {name: "equal" for i, name in enumerate(names[1:]) if i != place}
    assert all(context.ledger.has(entry_of(context, name), role) for name in rows)
    wrong = "the state before the step: its result is not used"
    again = {name: {f"input.{role}": X, "output": Y} for name in ("sampler.000", "sampler.001")}
    (row,) = wires._judge_states(context_of(again))
    assert row.cause == wrong


@pytest.mark.parametrize(
    ("values", "limits"),
    [
        ([-0.5, 0.75, 3.0], (-0.5, 0.75)),
        ([0.25, 0.5, 3.0], (0.0, 0.5)),
        ([-0.5, -0.25, -3.0], (-0.5, 0.0)),
        ([2.0, 1.5, 3.0], (0.0, 2.0)),
    ],
)
def test_a_clamp_contains_zero(values, limits):
    expected = np.array(values)
    found = wires.clamp_of(np.clip(expected, *limits), expected)
    assert found is not None
    text, clamped = found
    assert text == f"the state is clamped to [{limits[0]:.5g}, {limits[1]:.5g}]"
    assert np.array_equal(clamped, np.clip(expected, *limits))
    assert wires.clamp_of(expected, expected) is None


def test_changes_need_arrays_of_one_shape():
    assert not [*wires._changes_of(X[..., :4], X)]
    assert not [*wires._changes_of(X[:0], X[:0])]
    assert len([*wires._changes_of(0.5 * X, X)]) == 1


@pytest.mark.parametrize(
    ("first", "second", "continues"),
    [
        ({}, {}, True),
        ({"timestep": 600.0}, {"timestep": 300.0}, True),
        ({"timestep": 600.0}, {"timestep": 600.0}, True),
        ({"timestep": 300.0}, {"timestep": 600.0}, False),
        ({"timestep": 300.0}, {}, True),
        ({}, {"timestep": 300.0}, True),
        ({"sigma_next": 4.0}, {"sigma": 4.0}, True),
        ({"sigma_next": 4.0}, {"sigma": 4.0039}, True),  # a thousandth of the larger one
        ({"sigma_next": 4.0}, {"sigma": 4.004003}, True),
        ({"sigma_next": 4.0}, {"sigma": 4.0042}, False),
        ({"sigma_next": 4.0042}, {"sigma": 4.0}, False),
        ({"sigma_next": 0.0}, {"sigma": 0.0}, True),
        ({"sigma_next": 0.0}, {"sigma": 4.0}, False),
        ({"sigma_next": 4.0}, {}, True),
        ({}, {"sigma": 4.0}, True),
    ],
)
def test_what_continues_a_run(first, second, continues):
    arrays = [{f"input.{k}": np.array(x) for k, x in each.items()} for each in (first, second)]
    calls = {f"sampler.00{i}": {"input.x": X, **each} for i, each in enumerate(arrays)}
    context = context_of(calls)
    assert wires._continues(context, *context.calls("sampler")) == continues


# -- known parts ----------------------------------------------------------------------------------


def test_the_last_mask_is_used_if_it_fits():
    white = np.ones((2, 1, 8, 8))
    masks = {f"mask.00{i}": {"output.mask": i * white} for i in range(3)}

    def found(last):
        return wires.recorded_mask(context_of({**masks, "mask.002": {"output.mask": last}}), X)

    four = np.ones((1, 4, 8, 8))
    for last in (2.0 * white, four):
        mask = found(last)
        assert mask is not None and np.array_equal(mask, last[:1])
    for wrong in (white[:, 0], white[..., :4], four[:, :3], white[:0]):
        assert found(wrong) is None


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_known_part_is_put_in_between_two_steps(place):
    """Noise that is added before both or after both belongs to other steps."""
    order = [("sampler.000", {"input.x": X}), ("sampler.001", {"input.x": Y})]
    order.insert(place, ("add_noise.000", {"output": Z, "input.x0": Z}))
    context = context_of({**dict(order), "mask.000": {"output.mask": np.zeros((1, 1, 8, 8))}})
    before, after = context.calls("sampler")
    found = wires._blend(context, before, after, Y)
    assert (found is not None) == (place == 1)
    if found is not None:
        assert np.array_equal(found[0], Z)
    assert wires.puts_known_back(context) == (place > 0)
    last = wires.blended_at_the_end(context, context.calls("sampler"), Y, Y)
    assert (last is not None) == (place > 0)


def test_known_values_of_another_shape_are_not_put_in():
    calls = {"mask.000": {"output.mask": np.zeros((1, 1, 8, 8))}, "sampler.000": {"input.x": X},
             "add_noise.000": {"input.x0": Z[..., :4], "output": Z}}  # fmt: skip
    context = context_of(calls)
    entry = entry_of(context, "sampler.000")
    assert wires._with_known(context, None, entry, X) is None
    assert wires._with_known(context, Z[..., :4], entry, X) is None
    assert wires.blended_at_the_end(context, [entry], X, X) is None
    lacking = context_of({**calls, "add_noise.000": {"output": Z}})
    assert wires.blended_at_the_end(lacking, lacking.calls("sampler"), X, X) is None


@pytest.mark.parametrize(
    ("call", "role"), [("sampler.000", "x"), ("sampler.000", "sample"), ("vae.decode.000", "z")]
)
def test_without_a_mask_the_nearer_values_are_taken(call, role):
    known, expected = X, X + 1.0
    got = np.where(Y > 0.0, known + 0.2, expected - 0.2)
    context = context_of({call: {f"input.{role}": got}})
    found = wires._with_known(context, known, entry_of(context, call), expected)
    assert found is not None and not found[1]
    assert np.array_equal(found[0], np.where(Y > 0.0, known, expected))
    lacking = context_of({call: {"output": got}})
    assert wires._with_known(lacking, known, entry_of(lacking, call), expected) is None
