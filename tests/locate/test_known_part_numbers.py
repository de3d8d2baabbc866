"""What inpainting puts back between steps, and jumps to more noise, in numbers made by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from host_units import context_of, entry_of, normal

from ldmref.locate.pipeline import known_parts
from ldmref.samplers.path import FLOW

SHAPE = (2, 4, 8, 8)
X, MEAN = normal(0, *SHAPE), normal(1, 1, 4, 8, 8)
NOISE = normal(2, *SHAPE)
WHITE = np.zeros(SHAPE, bool)
WHITE[..., 5:] = True


def scaled(x, within):
    """Return noise with the mean square 1 and the mean 0 within a mask."""
    x = x - x[within].mean()
    return x / np.sqrt(np.mean(np.square(x[within])))


def judged(after, sigma=0.5, before=X, model="tiny", mean=MEAN, attributes=None, **more):
    """Return the rows of a constraint and what of it was compared, with the reasons."""
    dtype = more.pop("dtype", "float32")
    sampled = more.pop("sampled", before)
    step = {"input.x": X, "output": sampled, "input.sigma_next": sigma}
    put = {"input": before, "output": after}
    calls = {
        "vae.encode.000": {"output.mean": mean},
        "sampler.000": {name: np.asarray(x) for name, x in step.items() if x is not None},
        "sampler.000/constrain": {name: x for name, x in put.items() if x is not None},
    }
    named = {"sampler.000": attributes or {"i_next": 1, "n": 4}}
    context = context_of(calls, model, dtype, attributes=named, **more)
    rows = [*known_parts.judge_known_parts(context)]
    entry = context.port.find("sampler.000", "constrain")
    marked = (context.ledger.has(entry, "input"), context.ledger.has(entry, "output", "output"))
    found = [(row.kind, row.verdict, row.segment) for row in rows]
    return found, marked, [*context.ledger.reasons.items()], rows


STEP = ("constrain", "equal", "from the step")
NOISY = ("constrain", "equal", "the noise of the known part")
LAST = {"i_next": 4, "n": 4}


@pytest.mark.parametrize(("model", "signal"), [("tiny", 1.0), ("flux-tiny", 0.5)])
def test_the_known_part_is_as_noisy_as_its_level(model, signal):
    mean = 8.0 * MEAN  # so that the image has more variance than the noise
    clean = context_of({}, model).normalize(mean)
    right = np.where(WHITE, signal * clean + 0.5 * scaled(NOISE, WHITE), X)
    found, marked, reasons, rows = judged(right, model=model, mean=mean)
    assert found == [STEP, NOISY] and marked == (True, True) and not reasons
    assert rows[1].error < 0.02  # the mean and the mean square of the noise alone are exact
    wrong = np.where(WHITE, (1.5 - signal) * clean + 0.5 * scaled(NOISE, WHITE), X)
    assert judged(wrong, model=model, mean=mean)[0][1][1] == "differs"


def test_at_the_end_of_a_flow_data_and_noise_are_scaled_together():
    """A level above 0 at the end leaves the image with the spread of its path."""
    clean = context_of({}, "flux-tiny").normalize(MEAN)
    right = np.where(WHITE, math.hypot(0.75, 0.25) * clean, X)
    found, marked, _, rows = judged(right, 0.25, model="flux-tiny", attributes=LAST)
    assert found == [STEP, ("constrain", "equal", "")] and marked == (True, True)
    assert rows[1].allowed == pytest.approx(1e-5) and rows[1].error < 1e-6
    for wrong in (0.75, 1.0, 0.25):
        other = np.where(WHITE, wrong * clean, X)
        found = judged(other, 0.25, model="flux-tiny", attributes=LAST)[0]
        assert found[1][1] == "differs"


def test_what_rounding_allows_at_the_end():
    clean = context_of({}).normalize(MEAN)
    right = np.where(WHITE, clean, X)
    rows = judged(right, 0.0, dtype="bfloat16")[3]
    assert [row.verdict for row in rows] == ["equal", "equal"]
    assert rows[1].allowed == pytest.approx(16 * 2.0**-7)


def test_a_pixel_is_known_if_any_image_or_channel_changed_there():
    clean = np.broadcast_to(context_of({}).normalize(MEAN), SHAPE)
    right = np.where(WHITE, clean, X)
    before = X.copy()
    before[0, :, 6, 6] = clean[0, :, 6, 6]  # of one image, this pixel is right already
    before[:, 2, 7, 7] = clean[:, 2, 7, 7]  # of all images, one channel of this one is
    assert judged(right, 0.0, before)[0][1][1] == "equal"
    moved = right.copy()
    moved[0, :, 6, 6] = before[0, :, 6, 6] = 0.0  # which differs there from the other image
    assert judged(moved, 0.0, before)[0][1][1] == "differs"


@pytest.mark.parametrize("missing", ["before", "sampled", "after", "sigma"])
def test_what_is_left_of_a_constraint_without_one_of_its_arrays(missing):
    clean = context_of({}).normalize(MEAN)
    arrays = {"after": np.where(WHITE, clean, X), "sigma": 0.0, "before": X, "sampled": X}
    found, marked, reasons, _ = judged(**arrays | {missing: None})
    of_step = [] if missing in ("before", "sampled") else [STEP]
    of_part = [("constrain", "equal", "")] if missing == "sampled" else []
    assert found == of_step + of_part and not reasons
    assert marked == (bool(of_step), bool(of_part))


def test_a_state_of_another_shape_is_not_taken_apart():
    found, marked, reasons, _ = judged(X[..., :4], 0.0)
    assert found == [STEP] and marked == (True, False) and not reasons


@pytest.mark.parametrize(
    "unknown",
    [{"mean": MEAN[..., :4]}, {"mean": MEAN[:, :, :4]}, {"params": {"rng": "torch"}}],
)
def test_latents_that_are_not_known_are_a_reason(unknown):
    found, marked, reasons, _ = judged(np.where(WHITE, 1.0, X), **unknown)
    assert found == [STEP] and marked == (True, False)
    ((_, side, role), why), *rest = reasons
    assert (side, role, rest) == ("output", "output", []) and "latents" in why
    assert judged(np.where(WHITE, 1.0, X), params={"rng": "numpy"})[1] == (True, True)


def test_a_constraint_without_known_latents_leaves_the_next_ones():
    clean = context_of({}).normalize(MEAN)
    calls = {"vae.encode.000": {"output.mean": MEAN}}
    attributes = {}
    for i, after in enumerate((X[..., :4], np.where(WHITE, clean, X))):
        calls[f"sampler.{i:03}"] = {"input.sigma_next": np.array(0.0), "output": X}
        calls[f"sampler.{i:03}/constrain"] = {"input": X, "output": after}
        attributes[f"sampler.{i:03}"] = LAST
    rows = [*known_parts.judge_known_parts(context_of(calls, attributes=attributes))]
    steps = ["sampler.000", "sampler.001", "sampler.001"]
    assert [(row.call, row.verdict) for row in rows] == [(step, "equal") for step in steps]


def test_images_of_another_size_leave_the_constraints_that_fit():
    """The reason of one constraint does not end the list of the others."""
    clean = context_of({}).normalize(MEAN)
    small = X[..., :4]
    calls = {"vae.encode.000": {"output.mean": MEAN}}
    attributes = {}
    pairs = ((small, small + 1.0), (X, np.where(WHITE, clean, X)))
    for i, (before, after) in enumerate(pairs):
        calls[f"sampler.{i:03}"] = {"input.sigma_next": np.array(0.0), "output": before}
        calls[f"sampler.{i:03}/constrain"] = {"input": before, "output": after}
        attributes[f"sampler.{i:03}"] = LAST
    context = context_of(calls, attributes=attributes)
    rows = [*known_parts.judge_known_parts(context)]
    assert [row.call for row in rows] == ["sampler.000", "sampler.001", "sampler.001"]
    assert len(context.ledger.reasons) == 1


# -- the end of a schedule ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sigma", "attributes", "last"),
    [
        (0.0, {}, True),
        (0.0, {"i_next": 2, "n": 4}, True),
        (0.5, {"i_next": 4, "n": 4}, True),
        (0.5, {"i_next": 3, "n": 4}, False),
        (0.5, {"i_next": 4}, False),
    ],
)
def test_steps_say_where_their_schedule_ends(sigma, attributes, last):
    step = SimpleNamespace(attributes=attributes)
    assert known_parts._is_last(context_of({}), step, sigma) is last


def test_a_step_that_leads_to_the_last_level_of_the_schedule_ends_it():
    def last(sigma, levels=(3.0, 0.5), unknown=""):
        schedule = None if levels is None else SimpleNamespace(sigmas=np.array(levels))
        context = SimpleNamespace(unknown_scheduler=unknown, make_schedule=lambda: schedule)
        return bool(known_parts._is_last(context, SimpleNamespace(attributes={}), sigma))

    assert last(0.5) and not last(3.0) and not last(0.6)
    for apart, ends in ((0.9e-3, True), (1.1e-3, False)):
        assert last(2.0, (3.0, 2.0 * (1.0 + apart))) is ends
        assert last(2.0, (3.0, 2.0 * (1.0 - apart))) is ends
    assert last(0.5, (3.0, 1.0, 0.5)) and not last(1.0, (3.0, 1.0, 0.5))
    assert not last(0.5, None) and not last(0.5, unknown="another scheduler")
    assert last(1000.0, (3000.0, 1001.0)) and not last(1000.0, (3000.0, 1001.1))
    assert last(0.001, (3.0, 0.0010009)) and not last(0.001, (3.0, 0.00105))


# -- jumps ----------------------------------------------------------------------------------------


STATE = normal(3, *SHAPE)
FRESH = scaled(normal(4, *SHAPE), np.ones(SHAPE, bool))


def jumped(start=0.25, begun=0.5, model="flux-tiny", dtype="float32", left=(), steps=(0, 1), **own):
    """Return the rows of a jump between levels, its context, and what it should return."""
    path = context_of({}, model).path
    keep, up = path.forward(start, begun)
    right = keep * STATE + up * FRESH
    jump = {"input.noise": FRESH, "input.sigma": np.array(begun), "output": right} | own
    before = {"input.sigma_next": np.array(start), "output": STATE}
    after = {"input.sigma": np.array(begun), "input.x": jump["output"]}
    parts = {"before": before, "jump": jump, "after": after}
    for name in left:
        part, _, role = name.partition(" ")
        del parts[part][role]
    calls = {"sampler.000": before} if 0 in steps else {}
    calls |= {"jump.000": jump}
    calls |= {"sampler.001": after} if 1 in steps else {}
    context = context_of(calls, model, dtype)
    rows = [*known_parts.judge_known_parts(context)]
    return rows, context, right


def test_a_jump_on_the_path_of_a_flow():
    """From 0.25 to 0.5, data fade from 0.75 to 0.5, and the noise has 0.25 - (1/6)^2 more."""
    rows, context, right = jumped()
    assert context.path is FLOW
    hand = 2.0 / 3.0 * STATE + math.sqrt(0.25 - 1.0 / 36.0) * FRESH
    np.testing.assert_allclose(right, hand, rtol=1e-12)
    found = [(row.call, row.kind, row.verdict, row.segment) for row in rows]
    assert found == [
        ("jump.000", "noise", "equal", ""),
        ("jump.000", "jump level", "equal", ""),
        ("jump.000", "jump", "equal", ""),
        ("sampler.001", "state", "equal", "from jump.000"),
    ]
    jump, after = entry_of(context, "jump.000"), entry_of(context, "sampler.001")
    assert all(context.ledger.has(jump, role) for role in ("noise", "sigma"))
    assert context.ledger.has(jump, "output", "output") and context.ledger.has(after, "x")
    assert not context.ledger.has(after, "sigma")
    assert rows[1].allowed == pytest.approx(1e-6) and rows[2].allowed == pytest.approx(1e-5)
    wide = jumped(dtype="bfloat16")[0]
    assert wide[2].allowed == pytest.approx(16 * 2.0**-7)


@pytest.mark.parametrize(
    ("own", "kind", "cause"),
    [
        ({"output": STATE}, "jump", "the state before the jump"),
        ({"output": math.sqrt(0.25 - 1.0 / 36.0) * FRESH}, "jump", "only the noise"),
        ({"input.sigma": np.array(0.6)}, "jump level", None),
        ({"output": FRESH}, "jump", None),
    ],
)
def test_the_causes_of_a_wrong_jump(own, kind, cause):
    rows = {row.kind: row for row in jumped(**own)[0]}
    wrong = {name for name, row in rows.items() if row.verdict == "differs"}
    assert wrong == {kind}
    assert cause is None or rows[kind].cause == cause


NEEDED = [
    "before output",
    "before input.sigma_next",
    "jump input.noise",
    "jump input.sigma",
    "jump output",
    "after input.sigma",
    "after input.x",
]


def test_a_jump_without_one_of_its_arrays_is_not_judged():
    for left in NEEDED:
        rows, context, _ = jumped(left=[left])
        assert rows == [] and not context.ledger.marked


@pytest.mark.parametrize("steps", [(0,), (1,), ()])
def test_a_jump_needs_steps_on_both_sides(steps):
    rows, context, _ = jumped(steps=steps)
    assert rows == [] and not context.ledger.marked


def test_a_jump_follows_the_last_step_before_it():
    """Of several steps before and after a jump, the nearest ones are meant."""
    keep, up = FLOW.forward(0.25, 0.5)
    right = keep * STATE + up * FRESH
    calls = {
        "sampler.000": {"input.sigma_next": np.array(0.4), "output": X},
        "sampler.001": {"input.sigma_next": np.array(0.25), "output": STATE},
        "jump.000": {"input.noise": FRESH, "input.sigma": np.array(0.5), "output": right},
        "sampler.002": {"input.sigma": np.array(0.5), "input.x": right, "output": X},
        "sampler.003": {"input.sigma": np.array(0.3), "input.x": X, "output": X},
    }
    rows = [*known_parts.judge_known_parts(context_of(calls, "flux-tiny"))]
    found = [(row.call, row.verdict) for row in rows]
    assert found == [("jump.000", "equal")] * 3 + [("sampler.002", "equal")]


@pytest.mark.parametrize(
    ("start", "begun", "why"),
    [(1.0, 0.5, "holds no image"), (0.6, 0.5, "no more noise"), (-0.1, 0.5, "no more noise")],
)
def test_jumps_that_no_formula_holds_for_are_not_judged(start, begun, why):
    calls = {
        "sampler.000": {"input.sigma_next": np.array(start), "output": STATE},
        "jump.000": {"input.noise": FRESH, "input.sigma": np.array(begun), "output": X},
        "sampler.001": {"input.sigma": np.array(begun), "input.x": X},
    }
    rows = {row.kind: row for row in known_parts.judge_known_parts(context_of(calls, "flux-tiny"))}
    assert rows["jump"].verdict == "not judged" and why in rows["jump"].note
    assert rows["jump level"].verdict == rows["state"].verdict == "equal"
