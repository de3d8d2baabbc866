"""How runs begin and what is put into them: images with noise, known parts, and their sizes."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from host_units import Sized, context_of, entry_of, normal

from ldmref.locate.pipeline import added_noise, classes, inputs, latents
from ldmref.locate.pipeline.known_parts import judge_known_parts
from ldmref.locate.pipeline.prompt_arrays import NotKnown
from ldmref.samplers.schedule import training_alphas_cumprod

SHAPE = (1, 4, 8, 8)
X, Y, Z = (normal(i, *SHAPE) for i in range(3))
NOISE = normal(7, *SHAPE)


def verdicts(rows):
    return [(row.kind, row.verdict, row.cause) for row in rows]


# -- noise that is added --------------------------------------------------------------------------


@pytest.mark.parametrize("image", ["original_samples", "x0", "sample", "input"])
@pytest.mark.parametrize("time", ["timestep", "timesteps"])
def test_noise_is_added_at_a_time(image, time):
    alpha_bar = training_alphas_cumprod(context_of({}).config)[400]

    def rows_of(output, t=400.0):
        arrays = {f"input.{image}": X, "input.noise": NOISE, f"input.{time}": np.array(t)}
        calls = {
            "add_noise.000": {**arrays, "output": output},
            "sampler.000": {"input.model_output": X, "input.sample": X},
        }
        context = context_of(calls)
        found = verdicts(added_noise.judge_added_noise(context))
        assert context.ledger.has(entry_of(context, "add_noise.000"), "output", "output")
        return [(verdict, cause) for kind, verdict, cause in found if kind == "add_noise"]

    right = math.sqrt(alpha_bar) * X + math.sqrt(1.0 - alpha_bar) * NOISE
    sigma = math.sqrt(1.0 / alpha_bar - 1.0)
    assert rows_of(right) == [("equal", "")]
    assert rows_of(X + sigma * NOISE) == [
        ("differs", "added as x0 + sigma noise, not variance-preserving")
    ]
    assert rows_of(X)[0][1] == "the noise is not added"
    assert rows_of(right, math.nan) == [("not judged", "")]


def test_the_time_of_the_noise_is_that_of_the_next_step():
    def rows_of(t, before=900.0):
        calls = {
            "schedule.000": {"output.timesteps": np.array([900.0, 600.0, 300.0])},
            "sampler.000": {"input.timestep": np.array(before), "input.x": X},
            "add_noise.000": {"input.timestep": np.array(t), "input.noise": NOISE},
            "sampler.001": {"input.timestep": np.array(600.0), "input.x": X},
        }
        rows = verdicts(added_noise.judge_added_noise(context_of(calls)))
        return [row[1:] for row in rows if row[0] == "noise time"]

    assert rows_of(600.0) == [("equal", "")]
    words = "the noise of timestep 900 instead of 600, where the state is"
    assert rows_of(900.0) == [("differs", words)]
    assert rows_of(600.0 * (1 + 0.9e-5)) == [("equal", "")]
    assert rows_of(600.0 * (1 + 1.1e-5))[0][0] == "differs"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_tables_of_narrow_formats_round(dtype):
    context = context_of({}, dtype=dtype)
    table = training_alphas_cumprod(context.config)
    for t in (-1.0, 0.0, 500.0, 999.0, 2000.0):
        found = added_noise._table_error(context, t, X, NOISE)
        if dtype == "float32":
            assert found == 0.0
            continue
        alpha_bar = table[min(max(int(t), 0), 999)]
        digits = 8 if dtype == "bfloat16" else 11
        mantissa, exponent = math.frexp(alpha_bar)
        rounded = math.ldexp(round(mantissa * 2**digits) / 2**digits, exponent)
        if dtype == "float16" and alpha_bar < 2.0**-14:
            continue
        right, narrow = (
            math.sqrt(a) * X + math.sqrt(max(1.0 - a, 0.0)) * NOISE for a in (alpha_bar, rounded)
        )
        error = np.abs(narrow - right).max() / np.abs(right).max()
        assert found == pytest.approx(error, rel=1e-6, abs=1e-12)
    assert added_noise._table_error(context_of({}, "flux-tiny", dtype), 500.0, X, NOISE) == 0.0


# -- states that begin with an image --------------------------------------------------------------


def begins(state, arrays=None, model="tiny", mixture=None, **params):
    calls = {
        **({} if mixture is None else {"add_noise.000": mixture}),
        "vae.encode.000": {"output.mean": Y, **(arrays or {})},
        "sampler.000": {"input.x": state, "input.sigma": np.array(3.0)},
    }
    context = context_of(calls, model, params={"steps": 4} | params)
    step = entry_of(context, "sampler.000")
    found = verdicts(latents._judge_noised(context, step, state))
    return found[0][1:] if found else None, context


def first_state(context):
    """Return whether a state was compared, and has a reason why not, by either of its names."""
    entry = entry_of(context, "sampler.000")
    ledger, roles = context.ledger, ("sample", "x")
    reasons = (bool(ledger.reasons.get((entry.name, "input", role))) for role in roles)
    return *(ledger.has(entry, role) for role in roles), *reasons


def test_a_first_state_is_an_image_with_noise():
    context = context_of({})
    clean = context.normalize(Y)
    noise = NOISE / np.sqrt(np.mean(np.square(NOISE)))
    assert begins(clean + 3.0 * noise)[0] == ("equal", "")
    assert begins(clean + 9.0 * noise)[0][1] == "standard deviation 3 instead of 1"
    assert begins(clean + 3.0 * noise + 9.0)[0][0] == "differs"
    # A sample of the encoder's distribution has its variance, too.
    logvar = {"output.logvar": np.full(SHAPE, math.log(16.0))}
    spread = float(np.ravel(context.latent_scale.spread(np.full(SHAPE, 4.0)))[0])
    wide = clean + math.hypot(3.0, spread) * noise
    assert begins(wide, logvar, rng="torch")[0] == ("equal", "")
    assert begins(wide, logvar)[0][0] == "differs"
    found, context = begins(clean[..., :4])
    assert found is None and first_state(context) == (False, False, True, True)
    assert first_state(begins(clean + 3.0 * noise)[1]) == (True, True, False, False)
    mixture = {"output": clean[..., :4]}  # of another size, as that of a mask
    assert begins(clean + 3.0 * noise, mixture=mixture)[0] == ("equal", "")


def test_a_first_state_of_a_flow_keeps_less_of_the_image():
    context = context_of({}, "flux-tiny")
    channels = context.model.config.vae.latent_channels
    mean, noise = normal(0, 1, channels, 8, 8), normal(1, 1, channels, 8, 8)
    noise /= np.sqrt(np.mean(noise**2))
    calls = {
        "vae.encode.000": {"output.mean": mean},
        "sampler.000": {"input.x": noise, "input.sigma": np.array(0.75)},
    }
    context = context_of(calls, "flux-tiny", params={"steps": 4})
    clean = context.normalize(mean)
    step = entry_of(context, "sampler.000")

    def verdict(state):
        return verdicts(latents._judge_noised(context, step, state))[0][1]

    assert verdict(0.25 * clean + 0.75 * noise) == "equal"
    assert verdict(0.25 * clean + 0.25 * noise) == "differs"
    assert verdict(0.25 * clean + 0.75 * noise + 2.0) == "differs"


def test_a_first_state_is_the_recorded_mixture():
    calls = {
        "add_noise.000": {"output": Z},
        "add_noise.001": {"output": X},
        "sampler.000": {"input.x": X, "input.sigma": np.array(3.0)},
    }
    context = context_of(calls)
    step = entry_of(context, "sampler.000")
    assert first_state(context) == (False, False, False, False)
    assert verdicts(latents._judge_noised(context, step, X))[0][1] == "equal"
    assert first_state(context) == (True, True, False, False)
    assert verdicts(latents._judge_noised(context, step, X + 1.0))[0][1] == "differs"


def test_the_first_step_is_that_of_the_schedule():
    times = np.array([900.0, 600.0])

    def first(attributes=None, **arrays):
        calls = {"sampler.000": {"input.x": X, **arrays}}
        context = context_of(calls, attributes={"sampler.000": attributes or {}})
        return latents._is_first(context, times)

    assert first() and first({"i": 0}) and not first({"i": 1})
    for t, found in ((900.0, True), (899.1, True), (900.9, True), (899.0, False), (901.0, False)):
        assert first(**{"input.timestep": np.array(t)}) == found


@pytest.mark.parametrize("role", ["latents", "input", "z", "sample"])
def test_decoders_of_other_programs(role):
    calls = {
        "sampler.000": {"input.x": X, "output": Y},
        "vae.decode.000": {f"input.{role}": Y},
    }
    assert verdicts(latents._judge_decoder(context_of(calls)))[0][1] == "equal"
    calls["vae.decode.000"] = {f"input.{role}": 3.0 * Y}
    assert verdicts(latents._judge_decoder(context_of(calls)))[0][1] == "differs"
    alone = context_of({"vae.decode.000": {f"input.{role}": Y}})
    assert not [*latents._judge_decoder(alone)]
    assert alone.ledger.has(entry_of(alone, "vae.decode.000"), role)


def test_images_that_are_decoded_one_by_one():
    last = normal(0, 3, 4, 8, 8)

    def rows_of(*parts):
        calls = {f"vae.decode.{i:03}": {"input.latents": x} for i, x in enumerate(parts)}
        context = context_of({"sampler.000": {"input.x": last, "output": last}, **calls})
        return [row[1] for row in verdicts(latents._judge_decoder(context))]

    assert rows_of(last[:1], last[1:2], last[2:]) == ["equal"] * 3
    assert rows_of(last[:2], last[2:]) == rows_of(last[:1], last[1:]) == ["equal"] * 2
    assert rows_of(last[:1], last[2:], last[1:2]) == ["equal", "differs", "differs"]
    assert rows_of(last[:1]) == ["not judged"]


# -- known parts ----------------------------------------------------------------------------------


WHITE = np.zeros((1, 1, 8, 8), bool)
WHITE[..., 5:] = True


def constrained(after, sigma=3.0, known=True, before=X, attributes=None, **params):
    """Return the rows of a state into which the known part of an image was put."""
    calls = {"vae.encode.000": {"output.mean": Y}} if known else {}
    calls |= {
        "sampler.000": {"input.x": X, "input.sigma_next": np.array(sigma), "output": X},
        "sampler.000/constrain": {"input": before, "output": after},
    }
    named = {"sampler.000": attributes or {}}
    context = context_of(calls, attributes=named, params={"steps": 4} | params)
    return [(row.verdict, row.segment) for row in judge_known_parts(context)]


def test_known_parts_are_the_image_with_noise():
    clean = context_of({}).normalize(Y)
    noise = NOISE / np.sqrt(np.mean(np.square(NOISE * WHITE)) / WHITE.mean())
    step = ("equal", "from the step")
    noisy = "the noise of the known part"
    assert constrained(np.where(WHITE, clean + 3.0 * noise, X)) == [step, ("equal", noisy)]
    assert constrained(np.where(WHITE, clean + 9.0 * noise, X)) == [step, ("differs", noisy)]
    assert constrained(np.where(WHITE, 3.0 * noise + 5.0, X)) == [step, ("differs", noisy)]
    moved = constrained(np.where(WHITE, clean + 3.0 * noise, X), before=X + 1.0)
    assert moved[0] == ("differs", "from the step")
    for more in ({"known": False}, {"rng": "torch"}):  # which latents they are is not known
        assert constrained(np.where(WHITE, clean, X), **more) == [step]
    few = np.zeros(WHITE.shape, bool)
    few[..., 0, :3] = True  # twelve values, of which no distribution is judged
    assert constrained(np.where(few, 99.0, X)) == [step]
    few[..., 0, :4] = True
    assert constrained(np.where(few, 99.0, X)) == [step, ("differs", noisy)]


def test_steps_without_known_parts_do_not_end_the_list():
    """A part of the steps may leave the image as it is, or lack a state."""
    calls = {"vae.encode.000": {"output.mean": Y}}
    for i, state in enumerate((None, {"input": X}, {"input": X, "output": X})):
        calls[f"sampler.00{i}"] = {"input.x": X, "input.sigma_next": np.array(3.0), "output": X}
        calls |= {} if state is None else {f"sampler.00{i}/constrain": state}
    rows = [(row.call, row.verdict) for row in judge_known_parts(context_of(calls))]
    assert rows == [("sampler.001", "equal"), ("sampler.002", "equal")]


def test_known_parts_have_no_noise_at_the_end():
    clean = context_of({}).normalize(Y)
    right = np.where(WHITE, clean, X)
    assert constrained(right, 0.0)[1] == ("equal", "")
    assert constrained(right + 1e-3 * WHITE, 0.0)[1] == ("differs", "")
    for apart, verdict in ((0.9e-5, "equal"), (1.1e-5, "differs")):
        moved = right.copy()
        moved[0, 0, 7, 7] += apart * np.abs(right).max()
        assert constrained(moved, 0.0)[1] == (verdict, "")
    before = X.copy()  # one channel of one pixel has the value that is put there already
    before[0, 2, 6, 6] = clean[0, 2, 6, 6]
    rows = constrained(right, 0.0, before=before)
    assert rows[1] == ("equal", "") and np.sum(right != before) < 4 * WHITE.sum()
    last = {"i_next": 4, "n": 4}
    assert constrained(np.where(WHITE, clean + 3.0, X), attributes=last)[1][0] == "differs"
    assert constrained(right, 0.01, attributes={"i_next": 3, "n": 4})[1][1].startswith("the noise")


# -- sizes ----------------------------------------------------------------------------------------


def test_each_call_without_known_sizes_is_passed_over():
    sizes = np.ones((1, 6))
    calls = {
        "unet.000": {"input.sample": X},
        "unet.001": {"input.sample": X, "input.time_ids": sizes[:, :5]},
        "unet.002": {"input.sample": X, "input.time_ids": sizes},
        "unet.003": {"input.sample": X, "input.time_ids": sizes},
        "unet.004": {"input.sample": X, "input.time_ids": 2 * sizes},
    }
    context = replace(context_of(calls), model=Sized())
    rows = [*inputs.judge_sizes(context)]
    assert [row.call for row in rows] == ["unet.002", "unet.004"]
    marked = [c for c in calls if context.ledger.has(entry_of(context, c), "time_ids")]
    assert marked == ["unet.002", "unet.003", "unet.004"]
    ours = replace(context_of(calls, params={"original_width": 3}), model=Sized())
    assert not [*inputs.judge_sizes(ours)]
    explained = {name for name, _, role in ours.ledger.reasons if role == "time_ids"}
    assert explained == {"unet.002/", "unet.003/", "unet.004/"}


def test_each_call_without_positions_is_passed_over():
    x, ids = np.zeros((1, 4, 2, 2)), np.zeros((1, 3))
    calls = {
        "unet.000": {"input.sample": x},
        "unet.001": {"input.sample": x[0], "input.img_ids": ids},
        "unet.002": {"input.sample": x, "input.img_ids": ids[:, :2], "input.txt_ids": ids},
        "unet.003": {"input.sample": x, "input.img_ids": ids + 1.0},
    }
    context = context_of(calls)
    rows = [*inputs.judge_positions(context)]
    assert [(row.call, row.verdict) for row in rows] == [
        ("unet.002", "equal"), ("unet.003", "differs"),
    ]  # fmt: skip


def test_classes_follow_each_other(monkeypatch):
    numbers = {"a": 3.0, "b": 7.0}
    monkeypatch.setattr(classes, "_label", lambda context, request, prompts, x: numbers[prompts[0]])
    monkeypatch.setattr(classes, "roles_of", lambda context, argument: ("class_labels",))
    context, x = context_of({}), SimpleNamespace(argument="labels")

    def labels(images, **request):
        return classes._labels(context, request, "cond", x, images).tolist()

    assert labels(4, prompt=["a", "b"]) == [3.0, 3.0, 7.0, 7.0]
    assert labels(2, prompt="b") == [7.0, 7.0]
    for request in ({"prompt": ["a", "b"]}, {}):
        with pytest.raises(NotKnown):
            labels(3, **request)
