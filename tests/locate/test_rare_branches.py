"""Branches of judges that few recorded runs reach, on arrays and calls built by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from host_units import context_of, entry_of, normal

from ldmref.errors import LdmrefError
from ldmref.locate.parts.scheduler_faults import config_faults
from ldmref.locate.pipeline import added_noise, hints, images, residuals, schedule, tokens
from ldmref.locate.pipeline import initial as initial_noise
from ldmref.samplers import SchedulerConfig
from ldmref.samplers.schedule import training_alphas_cumprod

SHAPE = (1, 4, 8, 8)
X, Y, Z = (normal(i, *SHAPE) for i in range(3))
UNHEARD = {"class": "UnheardOfScheduler", "config": {}}


def why_of(context, call, role, side="input"):
    return context.coverage.reasons.get((entry_of(context, call).name, side, role), "")


# -- the first state ------------------------------------------------------------------------------


def initial(model="tiny", noise=X, state=X, first=None, encoded=False, **manifest):
    """Return the verdicts of a run's first state, and why the noise was not compared."""
    calls = {"vae.encode.000": {"output.mean": Y}} if encoded else {}
    calls["initial"] = {} if noise is None else {"output": noise}
    calls["sampler.000"] = {"input.x": state}
    attributes = {"sampler.000": first or {}}
    context = context_of(calls, model, attributes=attributes, **manifest)
    rows = [(x.call, x.kind, x.verdict) for x in initial_noise.judge_initial(context)]
    reason = why_of(context, "initial", "output", "output")
    return rows, reason, context.coverage.has(entry_of(context, "initial"), "output", "output")


def test_the_noise_of_a_flow_is_judged_without_its_scheduler():
    kind = ("initial", "initial noise")
    assert initial("flux-tiny", scheduler=UNHEARD) == ([(*kind, "equal")], "", True)
    assert initial("flux-tiny", 2 * X, scheduler=UNHEARD) == ([(*kind, "differs")], "", True)
    for rows, why, known in (
        initial(scheduler=UNHEARD),  # its noise is multiplied by a level that is not known
        initial("flux-tiny", encoded=True, scheduler=UNHEARD),  # it may be an image with noise
    ):
        assert not rows and "UnheardOfScheduler" in why and not known


# -- schedules ------------------------------------------------------------------------------------


def test_a_schedule_of_an_unknown_scheduler_is_not_judged():
    arrays = {"output.timesteps": np.arange(3.0), "output.sigmas": np.arange(3.0)}
    arrays |= {"input.timesteps": np.arange(3.0), "output.alphas_cumprod": np.ones(4)}
    context = context_of({"schedule.000": arrays, "sampler.000": {}}, scheduler=UNHEARD)
    (row,) = schedule.judge_schedule(context)
    assert (row.kind, row.verdict) == ("schedule", "not judged") and "UnheardOf" in row.note
    assert not [*context.coverage.rest([entry_of(context, "schedule.000")])]


def test_the_last_alpha_bar_of_a_rescaled_table_may_be_zero():
    config = {"beta_schedule": "scaled_linear", "rescale_betas_zero_snr": True,
              "prediction_type": "v_prediction"}  # fmt: skip
    described = {"class": "DDIMScheduler", "config": config}

    def verdict(change):
        context = context_of({"sampler.000": {"input.x": X}}, scheduler=described)
        table = training_alphas_cumprod(context.config)
        assert 0.0 < table[-1] < 1e-6
        calls = {"schedule.000": {"output.alphas_cumprod": change(table)}, "sampler.000": {}}
        context = context_of(calls, scheduler=described)
        rows = [*schedule.judge_schedule(context)]
        return [row.verdict for row in rows if row.kind == "alphas_cumprod"]

    assert verdict(lambda x: x) == ["equal"]
    assert verdict(lambda x: np.append(x[:-1], 0.0)) == ["equal"]
    assert verdict(lambda x: np.append(x[:-1], 1e-3)) == ["differs"]
    assert verdict(lambda x: np.append(x[:-2], 0.0)) == ["differs"]


def test_other_shifts_of_an_empirical_one():
    flow = SchedulerConfig(
        prediction_type="flow", spacing="flow", dynamic_shift=True, shift_rule="empirical"
    )
    found = dict(config_faults(flow))
    line = found["a shift linear in the tokens instead of the empirical one"]
    assert line.shift_rule == "linear" and line.dynamic_shift
    constant = found["mu 2.02 at every size"]
    assert constant.base_shift == constant.max_shift == 2.02 and constant.shift_rule == "linear"
    assert "mu 2.02 at every size" not in dict(
        config_faults(SchedulerConfig(**{**vars(flow), "shift_rule": "linear"}))
    )


# -- images ---------------------------------------------------------------------------------------


def test_the_luminance_of_a_mask_in_colours():
    rows = [[[1.0, 0.2, 1.0], [0.0, 0.9, 0.0]], [[1.0, 0.0, 1.0], [0.1, 0.6, 0.9]]]
    context = context_of({"inputs.000": {"input.mask_image": np.array(rows)}})
    found = images.given_mask(context, (2, 2))
    assert found.tolist() == [[[[1.0, 1.0], [0.0, 0.0]]]]


def test_the_reference_images_of_an_encoder():
    photos = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    right = [photo.transpose(2, 0, 1)[None] / 127.5 - 1.0 for photo in photos]

    def verdicts(model="flux2-tiny", shown=photos, method="prepare_image_latents"):
        calls = {"inputs.000": {f"input.image.{i}": x for i, x in enumerate(shown)}}
        calls["sampler.000"] = {"input.model_output": np.zeros(1)}
        attributes = {}
        for i, x in enumerate(right):
            calls |= {f"vae.encode.00{i}": {"input.sample": x}, f"posterior.00{i}": {"output": X}}
            attributes[f"posterior.00{i}"] = {"encoder": f"vae.encode.00{i}", "for": method}
        rows = images.judge_images(context_of(calls, model, attributes=attributes))
        return [(row.verdict, row.cause) for row in rows if row.kind == "image"]

    clear = np.concatenate([photos, photos[..., :1]], axis=-1)
    for shown, method in ((photos, "prepare_image_latents"), (photos, ""), (clear, "")):
        assert verdicts(shown=shown, method=method) == [("equal", "")] * 2
    other = ("differs", "the references are in another order")
    assert verdicts(shown=photos[::-1]) == [other] * 2
    for rest in ({"model": "tiny"}, {"shown": photos[:1]}):
        assert other not in verdicts(**rest)


# -- what was asked for ---------------------------------------------------------------------------


def test_prompts_that_cannot_be_tokenized_leave_a_note(monkeypatch):
    def refuse(*values):
        raise LdmrefError("no vocabulary", code="E-X")

    context = context_of({})
    monkeypatch.setattr(tokens, "tokenize", refuse)
    assert tokens.expected_tokens(context, 0, ["a"], 0) is None
    assert context.notes == ["the prompts cannot be tokenized: no vocabulary"]


# -- ControlNets ----------------------------------------------------------------------------------


def residual_of(nets, got, model="tiny", **manifest):
    """Return the rows of residuals, and why they were not compared."""
    calls = {f"controlnet.00{i}": net for i, net in enumerate(nets)}
    calls["unet.000"] = {f"input.control.{name}": x for name, x in got.items()}
    context = context_of(calls, model, **manifest)
    of = [entry_of(context, f"controlnet.00{i}") for i in range(len(nets))]
    rows = [*residuals.judge_residuals(context, entry_of(context, "unet.000"), of)]
    why = {role.removeprefix("control."): x for (_, _, role), x in context.coverage.reasons.items()}
    return [row.verdict for row in rows], why


def test_residuals_of_which_something_is_unknown_have_a_reason():
    whole = {"output.mid": X, "output.down.0": Y, "output.down.1": Z}
    got = {"mid": 2 * X, "down.0": 2 * Y, "down.1": 2 * Z}
    assert residual_of([whole, whole], got) == (["equal"], {})
    unheard = "no ControlNet that returns it was recorded"
    assert residual_of([whole, whole], {"up.0": X, **got}) == (["equal"], {"up.0": unheard})
    gap = {name: x for name, x in whole.items() if name != "output.down.0"}
    lost = "an output of a ControlNet was not recorded"
    assert residual_of([whole, gap], got) == ([], dict.fromkeys(got, lost))
    short = {name: x for name, x in whole.items() if name != "output.down.1"}
    first = {"down.1": got["down.1"], **got}  # those after it are compared
    assert residual_of([whole, short], first) == (["equal"], {"down.1": lost})
    verdicts, why = residual_of([whole, short], got)
    assert verdicts == ["equal"] and why == {"down.1": lost}
    steered = {"params": {"control": [{"end": 0.5, "weight": 2.0}, {"weight": 1.0}]}}
    unknown = "the weights of its ControlNets are not known"
    verdicts, why = residual_of([whole, whole], got, **steered)
    assert not verdicts and why == dict.fromkeys(got, unknown)


def test_a_hint_that_was_not_prepared_has_a_reason():
    calls = {
        "controlnet.000": {"input.hint": X}, "control.000": {"output": X},
        "controlnet.hint.000": {"input.image": Y},
    }  # fmt: skip
    context = context_of(calls)
    assert not [*hints.judge_hint(context, entry_of(context, "controlnet.000"))]
    words = "what was prepared of a control image was not recorded"
    assert why_of(context, "controlnet.000", "hint") == words


# -- guidance and noise ---------------------------------------------------------------------------


@pytest.mark.parametrize(("t", "scheduler"), [(math.nan, None), (math.inf, None), (7.0, UNHEARD)])
def test_noise_that_is_added_at_no_known_time_is_not_judged(t, scheduler):
    arrays = {"input.x0": X, "input.noise": Y, "input.timestep": np.array(t), "output": Z}
    more = {} if scheduler is None else {"scheduler": scheduler}
    context = context_of({"add_noise.000": arrays}, **more)
    rows = [x for x in added_noise.judge_added_noise(context) if x.kind == "add_noise"]
    assert [row.verdict for row in rows] == ["not judged"]
    assert (str(t) if scheduler is None else "UnheardOf") in rows[0].note
    assert context.coverage.has(entry_of(context, "add_noise.000"), "output", "output")


def test_latents_to_which_noise_is_added_may_be_given():
    def verdicts(x0, image):
        calls = {"inputs.000": {"input.image": image}, "add_noise.000": {"input.x0": x0}}
        context = context_of(calls)
        rows = [*added_noise._judge_sources(context, entry_of(context, "add_noise.000"))]
        assert context.coverage.has(entry_of(context, "add_noise.000"), "x0")
        return [row.verdict for row in rows if row.kind == "encoded latents"]

    assert verdicts(X, X) == verdicts(np.concatenate([X, X]), X) == ["equal"]
    assert verdicts(Y, X) == ["differs"] and verdicts(X, X[:, :3]) == []
