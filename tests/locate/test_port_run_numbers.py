"""How a recorded run is read: its request, its scheduler, its path and its schedule."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from host_units import context_of, entry_of, model_of, normal

from ldmref.locate.pipeline.port_run import PortRun
from ldmref.samplers import SAMPLERS, make_schedule
from ldmref.samplers.flow_spacings import shift_levels
from ldmref.samplers.path import FLOW
from ldmref.samplers.schedule import sampling_sigmas

X = np.zeros((1, 4, 8, 6))
THEIRS = {"input.model_output": X, "input.sample": X}  # a step of diffusers
OWN = {"input.prediction": X, "input.x": X}


def run_of(calls=None, model="tiny", scheduler=None, config=None, attributes=None, **manifest):
    """Return the context of a run of one step of diffusers, by default."""
    calls = {"sampler.000": THEIRS} if calls is None else calls
    if scheduler is not None:
        manifest["scheduler"] = {"class": scheduler, "config": config or {}}
    return context_of(calls, model, attributes=attributes, **manifest)


# -- the request ----------------------------------------------------------------------------------


def test_arguments_of_a_call_come_before_the_request():
    run = run_of(params={"a": 1, "b": 2}, request={"b": 3})
    assert run.params == {"a": 1, "b": 2} and run.request == {"a": 1, "b": 3}
    empty = run_of(params=None, request=None)
    assert empty.params == {} and empty.request == {}


SCALES = [
    ("tiny", THEIRS, {"request": {"guidance_scale": 2}}, 2.0),
    ("tiny", THEIRS, {"params": {"guidance_scale": 2}}, 2.0),
    ("tiny", OWN, {"params": {"cfg_scale": 3.5, "guidance_scale": "2"}}, 3.5),
    ("tiny", OWN, {"params": {"cfg_scale": 3.5, "guidance_scale": 2}}, 2.0),
    ("tiny", OWN, {"params": {"cfg_scale": None}}, None),
    ("z-image-tiny", THEIRS, {"request": {"guidance_scale": 2}}, 3.0),
    ("z-image-tiny", THEIRS, {"params": {"guidance_scale": 2}}, 2.0),
    ("z-image-tiny", OWN, {"request": {"guidance_scale": 2}}, 2.0),
    ("z-image-tiny", THEIRS, {"request": {"cfg_scale": 2}}, 3.0),
    ("flux2-tiny", THEIRS, {"settings": {"is_distilled": True}, "params": {"cfg_scale": 2}}, 1),
    ("flux2-tiny", OWN, {"settings": {"is_distilled": True}, "params": {"cfg_scale": 2}}, 2),
    ("flux2-tiny", THEIRS, {"settings": None, "params": {"cfg_scale": 2}}, 2),
]


def test_the_scale_that_was_asked_for():
    """In diffusers, Z-Image's scale of a call is one less than ours."""
    for model, calls, manifest, scale in SCALES:
        assert run_of({"sampler.000": calls}, model, **manifest).asked_scale == scale


def test_arrays_of_a_request():
    run = run_of({"inputs.000": {"input.a": X}, "inputs.001": {"input.a": X + 1, "input.b": X + 2}})
    assert not run.requested("a").any() and run.requested("b").max() == 2.0
    assert run.requested("c") is None


@pytest.mark.parametrize(
    ("halves", "right"),
    [
        (["cond", "uncond"], ("cond", "uncond")),
        (["uncond", "cond"], ("uncond", "cond")),
        (["cond", "cond"], None),
        (["cond", "uncond", "uncond"], None),
        ("cond", None),
        (None, None),
    ],
)
def test_halves_are_those_that_were_recorded(halves, right):
    for steps, model, usual in (
        (THEIRS, "z-image-tiny", ("cond", "uncond")),
        (OWN, "z-image-tiny", ("uncond", "cond")),
        (THEIRS, "tiny", ("uncond", "cond")),
    ):
        calls = {"guidance.000": {"output": X}, "sampler.000": steps}
        run = run_of(calls, model, attributes={"guidance.000": {"halves": halves}})
        assert run.halves(entry_of(run, "guidance.000")) == (right or usual)
        assert run.halves() == usual


# -- arrays of calls ------------------------------------------------------------------------------


def test_arrays_are_read_by_the_first_name_that_they_have():
    calls = {"unet.000": {"input.a": X, "input.b": X + 1, "output": X + 2, "output.c": X + 3}}
    run = run_of(calls)
    entry = entry_of(run, "unet.000")
    assert run.read(entry, "b", "a").max() == 1.0 and run.read(entry, "a", "b").max() == 0.0
    assert run.read(entry, "z", "b").max() == 1.0 and run.read(entry, "z") is None
    assert run.read_output(entry).max() == 2.0 and run.read_output(entry, "c").max() == 3.0
    assert run.read_output(entry, "a") is None and run.read_output(None) is None
    assert run.recorded(entry, "z", "b", "a").names == ((entry.name, "input", "b"),)
    assert run.recorded_output(entry).names == ((entry.name, "output", "output"),)
    assert run.recorded(None, "a") is None and run.recorded_output(None) is None


def test_numbers_are_the_first_of_an_array():
    arrays = {"input.a": np.array([[3, 4]]), "input.b": np.array(5), "input.c": np.zeros(0)}
    run = run_of({"sampler.000": arrays})
    entry = entry_of(run, "sampler.000")
    assert run.number(entry, "x", "a") == 3.0
    assert run.number(entry, "c") is None and run.number(entry, "x") is None
    assert run.read(None, "a") is None and run.read_output(entry) is None
    assert run.number(entry, "a") == 3.0 and run.number(entry, "b") == 5.0
    assert isinstance(run.number(entry, "a"), float)


def test_calls_of_a_part_and_of_the_whole_trace():
    part = run_of({"text_encoder": {"output": X}, "text_encoder/layer": {"output": X}})
    whole = run_of(
        {name: {"output": X} for name in ("text_encoder", "text_encoder~1", "guide.text_encoder")}
    )
    assert [e.call for e in part.calls("text_encoder")] == ["text_encoder"]
    assert [e.call for e in part.texts("text_encoder")] == ["text_encoder"]
    both = replace(part, whole=whole.port)
    assert [e.call for e in both.calls("text_encoder")] == ["text_encoder"]
    every = ["text_encoder", "text_encoder~1"]
    assert [e.call for e in both.texts("text_encoder")] == every
    assert [e.call for e in both.calls_of_all("text_encoder")] == every


def test_names_and_units():
    assert run_of().denoiser == "unet" and run_of(model="flux-tiny").denoiser == "transformer"
    assert run_of().epsilon == 2.0**-23
    assert context_of({}, dtype="bfloat16").epsilon == 2.0**-7


# -- the scheduler --------------------------------------------------------------------------------


DDIM, HEUN, EULER = "DDIMScheduler", "HeunDiscreteScheduler", "EulerDiscreteScheduler"
FLOWS = "FlowMatchEulerDiscreteScheduler"


def test_a_run_without_a_scheduler_has_that_of_the_model():
    for run in (run_of(), run_of(scheduler="Other"), context_of({}, scheduler={"config": {}})):
        assert run.config == run.model.config.scheduler and run.notes == []
    assert run_of().unknown_scheduler == ""
    assert context_of({}, scheduler={"config": {}}).unknown_scheduler == ""
    assert "Other" in run_of(scheduler="Other").unknown_scheduler


def test_a_scheduler_with_a_setting_that_nobody_knows():
    config = {"interpolation_type": "log_linear"}
    run = run_of(scheduler=EULER, config=config)
    assert "log_linear" in run.unknown_scheduler
    assert run.config == run.model.config.scheduler and run.notes == []
    assert run_of(scheduler=EULER).unknown_scheduler == ""
    prk = {"scheduler": "PNDMScheduler", "config": {"skip_prk_steps": False}}
    assert "PNDM" in run_of(**prk).unknown_scheduler
    corrected = run_of(**prk, pipeline="StableDiffusionInpaintPipeline")
    assert corrected.unknown_scheduler == ""


def test_the_forward_process_is_that_of_the_checkpoint():
    config = {
        "num_train_timesteps": 500, "beta_schedule": "linear", "beta_start": 0.1, "beta_end": 0.2,
        "prediction_type": "v_prediction", "steps_offset": 3, "clip_sample": False,
    }  # fmt: skip
    run = run_of(scheduler=DDIM, config=config)
    own = run.model.config.scheduler
    kept = ("num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "prediction_type")
    assert [getattr(run.config, x) for x in kept] == [getattr(own, x) for x in kept]
    assert run.config.steps_offset == 3 and run.unknown_scheduler == ""
    betas = run_of(scheduler=DDIM, config={"trained_betas": [0.1] * 1000})
    assert betas.config.trained_betas == ()
    (note,) = run.notes
    assert "steps_offset 3 instead of 1" in note and "beta" not in note
    flux2 = run_of(model="flux2-tiny", scheduler=FLOWS, config={"use_dynamic_shifting": True})
    assert flux2.config.shift_rule == flux2.model.config.scheduler.shift_rule


def test_the_pipeline_may_correct_the_scheduler():
    pipeline = {"pipeline": "StableDiffusionPipeline"}
    assert run_of(scheduler=DDIM, config={"steps_offset": 0}).config.steps_offset == 0
    corrected = run_of(scheduler=DDIM, config={"steps_offset": 0}, **pipeline)
    assert corrected.config.steps_offset == 1


def test_eight_settings_are_listed():
    run = run_of(scheduler=HEUN, config={"clip_sample": True, "use_karras_sigmas": True})
    own, theirs = run.model.config.scheduler, run.config
    differing = [
        name for name in own.__dataclass_fields__ if getattr(own, name) != getattr(theirs, name)
    ]
    assert len(differing) > 8
    (note,) = run.notes
    listed = [name for name in differing if f"{name} {getattr(theirs, name)!r} instead of" in note]
    assert listed == differing[:8]


def test_a_scheduler_that_is_the_models_own_leaves_no_note():
    own = model_of("flux-tiny").config.scheduler
    config = {"shift": own.shift, "use_dynamic_shifting": True}
    run = run_of(model="flux-tiny", scheduler=FLOWS, config=config)
    assert run.config == own and run.notes == [] and run.unknown_scheduler == ""


@pytest.mark.parametrize(
    ("mu", "dynamic", "shift"), [(0.75, True, (0.75, 0.75)), (2, True, (2.0, 2.0)),
                                 (0.75, False, (0.5, 1.15)), ("x", True, (0.5, 1.15))],
)  # fmt: skip
def test_a_shift_that_was_given_does_not_follow_from_the_tokens(mu, dynamic, shift):
    config = {"use_dynamic_shifting": dynamic}
    run = run_of(model="flux-tiny", scheduler=FLOWS, config=config, request={"mu": mu})
    assert (run.config.base_shift, run.config.max_shift) == shift
    assert run.config.shift_rule == "linear"
    assert all(isinstance(x, float) for x in (run.config.base_shift, run.config.max_shift))
    flux2 = run_of(model="flux2-tiny", scheduler=FLOWS, config=config, request={"mu": 0.75})
    rule = flux2.model.config.scheduler.shift_rule
    assert flux2.config.shift_rule == ("linear" if dynamic else rule) and rule != "linear"


def test_schedulers_on_another_path():
    assert FLOWS in run_of(scheduler=FLOWS).unknown_scheduler
    assert EULER in run_of(model="flux-tiny", scheduler=EULER).unknown_scheduler
    assert run_of(model="flux-tiny", scheduler=FLOWS).unknown_scheduler == ""
    assert run_of(scheduler=EULER).unknown_scheduler == ""


# -- the path -------------------------------------------------------------------------------------


STATES = [
    ("tiny", OWN, None, True),
    ("tiny", THEIRS, None, False),
    ("tiny", THEIRS, DDIM, False),
    ("tiny", THEIRS, EULER, True),
    ("tiny", THEIRS, HEUN, True),
    ("tiny", OWN, DDIM, True),
    ("flux-tiny", THEIRS, FLOWS, True),
]


def test_states_of_some_schedulers_are_not_on_the_path():
    for model, calls, scheduler, on_path in STATES:
        assert run_of({"sampler.000": calls}, model, scheduler).states_on_path is on_path


def test_a_flow_is_on_its_path_whichever_sampler_is_named():
    """Of diffusers, the scheduler alone says what the states are."""
    run = run_of(model="flux-tiny", scheduler="Other")
    assert run.path is FLOW and run.states_on_path is True
    own = replace(run.model.config.scheduler, sampler="dpmpp_2m")
    model = SimpleNamespace(config=replace(run.model.config, scheduler=own))
    assert replace(run, model=model).states_on_path is True


# -- latents --------------------------------------------------------------------------------------


def test_latents_of_an_encoder_and_of_a_decoder():
    run = run_of()
    z = normal(0, 1, 4, 3, 5)
    factor = run.model.config.vae.scaling_factor
    np.testing.assert_allclose(run.normalize(z), factor * z, rtol=1e-12)
    np.testing.assert_allclose(run.denormalize(z), z / factor, rtol=1e-12)
    assert run.normalize(z).dtype == run.denormalize(z).dtype == np.float64
    assert run.normalize(z[:, :3]).shape == (1, 3, 3, 5)
    assert run.normalize(None) is None and run.denormalize(None) is None


def test_latents_in_patches():
    run = run_of(model="flux2-tiny")
    channels = run.latent_scale.config.latent_channels
    z = normal(0, 1, channels // 4, 4, 6)
    x = run.normalize(z)
    assert x.shape == (1, channels, 2, 3)
    np.testing.assert_allclose(run.denormalize(x), z, rtol=1e-12, atol=1e-12)  # in float64
    statistics = run.model.params["vae"].bn
    mean, variance = (
        np.asarray(y, np.float64)[:, None, None]
        for y in (statistics.running_mean, statistics.running_var)
    )
    by_hand = np.sqrt(variance + run.latent_scale.config.batch_norm_eps) * x + mean
    np.testing.assert_allclose(run.latent_scale.unfold(by_hand), z, rtol=1e-12, atol=1e-12)
    assert run.normalize(x) is None and run.denormalize(z) is None
    for wrong in (z[:, :, :3], z[..., :5], z[0], z[:, 1:]):
        assert run.normalize(wrong) is None
    odd = normal(0, 1, channels, 3, 5)
    assert run.denormalize(odd).shape == (1, channels // 4, 6, 10)


@pytest.mark.parametrize(
    ("model", "role", "shape", "tokens"),
    [
        ("flux-tiny", "sample", (1, 4, 8, 6), 12),
        ("flux-tiny", "x", (1, 4, 6, 4), 6),
        ("tiny", "x", (1, 4, 8, 6), 48),
        ("flux-tiny", "x", (1, 12, 16), 0),
        ("flux-tiny", "other", (1, 4, 8, 6), 0),
    ],
)
def test_the_number_of_image_tokens(model, role, shape, tokens):
    calls = {"sampler.000": {f"input.{role}": np.zeros(shape)}, "sampler.001": {"input.x": X}}
    assert run_of(calls, model).tokens == tokens
    assert run_of({}, model).tokens == 0


# -- the schedule ---------------------------------------------------------------------------------


def test_the_sampler_is_recorded_or_asked_for():
    calls = {"schedule.000": {"output.sigmas": np.ones(3)}, "sampler.000": OWN}

    def chosen(calls=calls, attributes=None, **params):
        named = {"schedule.000": attributes or {}}
        run = run_of(calls, attributes=named, params=params)
        sampler, spacing = run.choose_sampler(run.config)
        return sampler.name, str(spacing)

    assert chosen() == ("ddim", "leading")
    assert chosen(sampler="euler", schedule="karras") == ("euler", "karras")
    recorded = {"sampler": "heun", "name": "trailing"}
    assert chosen(attributes=recorded, sampler="euler", schedule="karras") == ("heun", "trailing")
    alone = {"sampler.000": OWN}
    assert chosen(alone, sampler="euler", schedule="karras") == ("euler", "karras")
    diffusers = {**calls, "sampler.000": THEIRS}
    assert chosen(diffusers, recorded, sampler="euler", schedule="karras") == ("ddim", "leading")


@pytest.mark.parametrize(
    ("attributes", "params", "steps"),
    [
        ({"steps": 1}, {}, 1),
        ({"steps": 6}, {"steps": 4}, 6),
        ({"steps": "7"}, {"num_inference_steps": 5, "steps": 4}, 5),
        ({}, {"num_inference_steps": -1, "steps": 4}, 4),
        ({}, {"num_inference_steps": 0, "steps": 0}, 3),
    ],
)
def test_the_number_of_steps_that_is_known(attributes, params, steps):
    calls = {
        "schedule.000": {"output.timesteps": np.array([900, 500, 100])},
        "sampler.000": OWN,
    }
    run = run_of(calls, attributes={"schedule.000": attributes}, params=params)
    assert run.steps == steps


def test_the_number_of_steps_without_a_schedule():
    timed = {f"sampler.{i:03}": OWN | {"input.timestep": np.array(t)} for i, t in enumerate((9, 5))}
    assert run_of(timed).steps == 2
    assert run_of({"sampler.000": OWN, "sampler.001": OWN, "sampler.002": OWN}).steps == 3
    assert run_of({}).steps is None and run_of({}).make_schedule() is None
    assert run_of({}).sigma_at(3.0) is None


def test_timesteps_are_those_of_the_schedule_or_of_the_steps():
    steps = {
        f"sampler.{i:03}": OWN | ({} if t is None else {"input.timestep": np.array([t, t])})
        for i, t in enumerate((900, None, 500, 500, 100))
    }
    assert run_of(steps).recorded_timesteps == [900.0, 500.0, 100.0]
    listed = {"schedule.000": {"output.timesteps": np.array([[800, 400, 400]])}}
    found = run_of(listed | steps).recorded_timesteps
    assert found == [800.0, 400.0] and all(isinstance(t, float) for t in found)


def test_every_second_timestep_of_methods_with_two_evaluations():
    times = np.array([900.0, 600.0, 590.0, 300.0, 300.0])
    listed = {"schedule.000": {"output.timesteps": times}}
    theirs = run_of(listed | {"sampler.000": THEIRS}, scheduler=HEUN)
    assert theirs.recorded_timesteps == [900.0, 590.0, 300.0]
    whole = [900.0, 600.0, 590.0, 300.0]
    assert run_of(listed | {"sampler.000": THEIRS}, scheduler=EULER).recorded_timesteps == whole
    own = run_of(listed | {"sampler.000": OWN}, params={"sampler": "heun"})
    assert own.recorded_timesteps == whole


def test_the_schedule_of_a_run():
    run = run_of(
        {"sampler.000": OWN}, params={"steps": 4, "sampler": "euler", "schedule": "karras"}
    )
    config = run.model.config.scheduler
    euler = SAMPLERS["euler"]

    def same(found, right):
        assert np.array_equal(found.sigmas, right.sigmas)
        assert np.array_equal(found.timesteps, right.timesteps)

    same(run.make_schedule(), make_schedule(config, euler, "karras", 4))
    same(run.make_schedule(spacing="trailing"), make_schedule(config, euler, "trailing", 4))
    other = replace(config, beta_end=0.02)
    same(run.make_schedule(other), make_schedule(other, euler, "karras", 4))
    assert run.notes == []


def test_the_schedule_of_a_flow_depends_on_its_tokens():
    state = np.zeros((1, 4, 64, 96))
    calls = {"sampler.000": {"input.prediction": state, "input.x": state}}
    run = run_of(calls, "flux-tiny", params={"steps": 4})
    assert run.tokens == 32 * 48
    right = make_schedule(run.config, SAMPLERS["euler"], "flow", 4, tokens=32 * 48)
    found = run.make_schedule()
    assert np.array_equal(found.sigmas, right.sigmas) and found.path is FLOW


def test_a_schedule_is_on_the_path_of_the_states():
    attributes = {"sampler.000": {"path": "flow"}}
    run = run_of({"sampler.000": OWN}, attributes=attributes, params={"steps": 4})
    found = run.make_schedule()
    right = make_schedule(run.config, SAMPLERS["ddim"], "leading", 4, path=FLOW)
    assert found.path is FLOW and np.array_equal(found.sigmas, right.sigmas)


def test_levels_that_were_asked_for():
    levels = [3.0, 2.0, 0.5, 0.0]
    run = run_of({"sampler.000": OWN}, params={"steps": 8, "sampler": "euler", "sigmas": levels})
    assert run.make_schedule().sigmas.tolist() == levels
    assert len(run.make_schedule(spacing="karras").sigmas) == 9
    assert run.notes == []
    for unknown in ([], "3", None):
        run = run_of({"sampler.000": OWN}, params={"steps": 8, "sigmas": unknown})
        assert len(run.make_schedule().sigmas) == 9


@pytest.mark.parametrize("params", [{"steps": 10**6}, {"steps": 4, "sampler": "no such sampler"},
                                    {"steps": 4, "sigmas": [1.0, 2.0]}])  # fmt: skip
def test_a_schedule_that_cannot_be_computed_leaves_a_note(params):
    run = run_of({"sampler.000": OWN}, params=params)
    assert run.make_schedule() is None
    assert len(run.notes) == 1 and "schedule" in run.notes[0]
    assert run.sigma_at(3.0) is None


def test_recorded_levels_and_their_end():
    """Levels without an end, as many as timesteps, end with 0."""
    times = np.array([900.0, 500.0, 100.0])

    def levels(recorded, steps=OWN, model="tiny", **params):
        schedule = {"input.sigmas": np.array(recorded), "output.timesteps": times}
        calls = {"schedule.000": schedule, "sampler.000": steps}
        run = run_of(calls, model, params=params)
        return run._own_sigmas(run.config)

    assert levels([[3.0, 2.0, 1.0]]) == [3.0, 2.0, 1.0, 0.0]
    assert levels([3.0, 2.0, 1.0, 0.5]) == [3.0, 2.0, 1.0, 0.5]
    assert levels([3.0, 2.0]) == [3.0, 2.0, 0.0]
    assert levels([3.0, 2.0, 1.0], sigmas=[5, 4]) == [5.0, 4.0]
    assert all(isinstance(x, float) for x in levels([3.0, 2.0, 1.0], sigmas=[5, 4]))
    assert levels([3.0, 2.0, 1.0], THEIRS, sigmas=[5, 4]) == [3.0, 2.0, 1.0, 0.0]


def test_levels_of_timesteps_that_were_given():
    times = np.array([900.0, 500.0])

    def levels(model="tiny"):
        schedule = {"input.timesteps": times, "output.timesteps": times}
        run = run_of({"schedule.000": schedule, "sampler.000": THEIRS}, model)
        return run._own_sigmas(run.config)

    table = sampling_sigmas(model_of("tiny").config.scheduler)
    assert levels() == [*table[[900, 500]].tolist(), 0.0]
    assert levels("flux-tiny") is None
    assert run_of()._own_sigmas(run_of().config) is None


def test_a_scheduler_of_a_flow_shifts_the_levels_that_it_is_given():
    times = np.array([900.0, 500.0])
    for steps, shifted in ((THEIRS, True), (OWN, False)):
        schedule = {"input.sigmas": np.array([1.0, 0.5]), "output.timesteps": times}
        run = run_of({"schedule.000": schedule, "sampler.000": steps}, "flux-tiny")
        right = shift_levels(run.config, np.array([1.0, 0.5]), 12).tolist()
        assert run._own_sigmas(run.config) == [*(right if shifted else [1.0, 0.5]), 0.0]
        assert right[1] != 0.5
    schedule["input.sigmas"] = np.array([3.0, 2.0])
    run = run_of({"schedule.000": schedule, "sampler.000": THEIRS})
    assert run._own_sigmas(run.config) == [3.0, 2.0, 0.0]


LEVELS = [
    (500.0, 2.0),
    (500.4, 2.0),
    (499.6, 2.0),
    (500.6, None),
    (499.4, None),
    (900.0, 3.0),
    (0.5, 1.0),
    (0.5009, 1.0),
    (0.4991, 1.0),
    (0.5011, None),
    (0.4989, None),
    (-1.0, None),
]


def test_levels_of_times_near_those_of_a_schedule():
    for t, sigma in LEVELS:
        schedule = SimpleNamespace(
            timesteps=np.array([900.0, 500.0, 0.5]), sigmas=np.array([3.0, 2.0, 1.0, 0.0])
        )
        found = PortRun.sigma_at(SimpleNamespace(), t, schedule)
        assert found == sigma and (found is None or isinstance(found, float))
        own = SimpleNamespace(make_schedule=lambda made=schedule: made)
        assert PortRun.sigma_at(own, t) == sigma


def test_a_time_at_the_limit_is_another_one():
    schedule = SimpleNamespace(timesteps=np.array([1e-3]), sigmas=np.array([2.0, 0.0]))
    assert PortRun.sigma_at(SimpleNamespace(), 0.0, schedule) is None
    assert PortRun.sigma_at(SimpleNamespace(), 1e-6, schedule) == 2.0


def test_recipes_of_a_training():
    def stage(**params):
        run = context_of({}, params=params)
        return run.diffusion_stage, run.notes

    tables = {"objective": {"loss": "x"}, "optimizer": {"name": "y"}}
    assert stage(diffusion=tables | {"steps": 3}) == (tables, [])
    text = "[diffusion.objective]\nloss = 'x'\n[diffusion.optimizer]\nname = 'y'"
    assert stage(recipe=text, diffusion={"other": {}}) == (tables, [])
    found, notes = stage(recipe="= no table", diffusion=tables)
    assert found == tables and len(notes) == 1
    assert stage(recipe=3, diffusion=tables) == (tables, [])
