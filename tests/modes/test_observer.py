"""`RunObserver`: what it is told, in which order, and what it may replace."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.errors import NumericError

PHOTO = Image.linear_gradient("L").resize((16, 16)).convert("RGB")
MASK = np.pad(np.ones((8, 8), bool), 4)
RUNS = {
    "txt2img": {"seed": 1, "count": 3, "batch_size": 2},
    "img2img": {"image": PHOTO, "seed": 1},
    "inpaint": {"image": PHOTO, "mask": MASK, "seed": 1, "resample": (1, 2)},
}


class Log(modes.RunObserver):
    """Notes the name of every call and keeps the arguments."""

    def __init__(self):
        self.names = []
        self.seen = {}

    def note(self, name, value):
        self.names.append(name)
        self.seen.setdefault(name, []).append(value)
        return value

    def watch(self, model):
        return self.note("watch", model)

    def prepared(self, run):
        self.note("prepared", run)

    def started(self, trajectory):
        return self.note("started", trajectory)

    def stepping(self, x, interval):
        self.note("stepping", interval)

    def evaluating(self, x, sigma):
        self.note("evaluating", sigma)

    def evaluated(self, evaluation):
        self.note("evaluated", evaluation)

    def noise_sampled(self, noise):
        return self.note("noise_sampled", noise)

    def stepped(self, step):
        return self.note("stepped", step).x_next

    def finished(self, latents):
        self.note("finished", latents)

    def decoded(self, images):
        self.note("decoded", images)


@pytest.fixture(scope="module")
def model():
    return ldmref.random_model("tiny", backend="numpy")


def plan(model, mode="txt2img", **parameters):
    return modes.plan(mode, model, **{"prompt": "a cat", "steps": 3, **parameters})


@pytest.mark.parametrize("mode", RUNS)
@pytest.mark.parametrize("sampler", ["euler_a", "dpmpp_2s_a"])
def test_an_observer_changes_no_bit(model, mode, sampler):
    planned = plan(model, mode, sampler=sampler, **RUNS[mode])
    observed = planned.run(model, observer=Log())
    plain = planned.run(model)
    np.testing.assert_array_equal(observed.latents, plain.latents)
    assert [image.tobytes() for image in observed] == [image.tobytes() for image in plain]


def test_the_order_of_a_step(model):
    log = Log()
    levels = [3.0, 1.0, 0.5]
    plan(model, sampler="dpmpp_2s_a", seed=1, steps=None, sigmas=levels).run(model, observer=log)
    step = ["stepping", *["evaluating", "evaluated"] * 2, "noise_sampled", "stepped"]
    ends = ["finished", "decoded"]
    assert log.names == ["watch", "prepared", "started", *step, *step, *ends]
    [run] = log.seen["prepared"]
    assert run.text.encoded["a cat"].tokens.ids.ndim == 3
    assert [e.sigma for e in log.seen["evaluated"]] == log.seen["evaluating"]
    first, second = log.seen["stepped"]
    np.testing.assert_array_equal(first.x_next, second.x)
    assert (first.interval.sigma, second.interval.sigma_next) == (3.0, 0.5)


def test_each_batch_is_started_and_decoded(model):
    log = Log()
    plan(model, **RUNS["txt2img"]).run(model, observer=log)
    assert [len(images) for images in log.seen["decoded"]] == [2, 1]
    assert [t.x.shape[0] for t in log.seen["started"]] == [2, 1]


def test_the_noise_of_a_jump_is_drawn_between_two_steps(model):
    log = Log()
    parameters = RUNS["inpaint"] | {"resample": (1, 2)}
    plan(model, "inpaint", sampler="ddim", **parameters).run(model, observer=log)
    between = [names for names in zip(log.names, log.names[1:], log.names[2:], strict=False)]
    assert ("stepped", "noise_sampled", "stepping") in between
    taken = log.seen["stepped"][0]
    assert taken.sampled is not taken.x_next  # the constraint follows the sampler


def test_states_noise_and_initial_latents_may_be_replaced(model):
    class Zeros(modes.RunObserver):
        def __init__(self):
            self.states = []

        def started(self, trajectory):
            return replace(trajectory, x=0.0 * trajectory.x)

        def noise_sampled(self, noise):
            return 0.0 * noise

        def stepped(self, step):
            self.states.append(step.x)
            return 0.0 * step.x_next + 1.0

    zeros = Zeros()
    result = plan(model, sampler="euler_a").run(model, observer=zeros)
    assert [float(np.ptp(x)) for x in zeros.states] == [0.0, 0.0, 0.0]
    np.testing.assert_allclose(result.latents, result.latents[0, 0, 0, 0])


def test_prompts_and_guidance_may_change_before_an_evaluation(model):
    class Swap(modes.RunObserver):
        def started(self, trajectory):
            self.trajectory = trajectory
            self.calls = 0
            return trajectory

        def evaluating(self, x, sigma):
            self.calls += 1
            other = self.trajectory.conditionings
            parts = {"cond": other["uncond"], "uncond": other["cond"]}
            return replace(self.trajectory, conditionings=parts) if self.calls == 1 else None

    swapped = plan(model, negative_prompt="a dog", seed=1).run(model, observer=Swap())
    other = modes.txt2img(model, "a dog", negative_prompt="a cat", seed=1, steps=3)
    np.testing.assert_array_equal(swapped.latents, other.latents)


def test_a_step_that_is_repeated_for_nan_is_not_observed():
    broken = ldmref.random_model("tiny", backend="numpy")
    broken.params["unet"]["conv_in"]["weight"][0, 0, 0, 0] = np.nan
    log = Log()
    with pytest.raises(NumericError, match="conv_in"):
        plan(broken).run(broken, observer=log)
    assert log.names.count("evaluated") == log.names.count("stepped") == 1


def test_an_observer_may_be_given_to_the_steps_alone(model):
    log = Log()
    for _ in plan(model).prepare(model).generate(observer=log):
        pass
    assert log.names[0] == "started" and log.names[-1] == "decoded"


# -- inversions, several observers, previews ------------------------------------------------------


def test_an_inversion_is_observed(model):
    planned = modes.plan("invert", model, prompt="a cat", image=PHOTO, steps=3, iterations=1)
    log = Log()
    *steps, made = planned.prepare(model).generate(observer=log)
    assert (made.latents == planned.run(model).latents[0]).all()
    step = ["stepping", *["evaluating", "evaluated"] * 2, "stepped"]
    assert log.names == ["started", *step * len(steps), "finished"]
    sigmas = [taken.interval.sigma_next for taken in log.seen["stepped"]]
    assert sigmas == [event.sigma for event in steps] == sorted(sigmas)


def test_several_observers_see_everything_and_what_was_replaced(model):
    class Half(modes.RunObserver):
        def stepped(self, step):
            return 0.5 * step.x_next

        def noise_sampled(self, noise):
            return 0.0 * noise

    planned = plan(model, sampler="euler_a", **RUNS["txt2img"])
    alone, first, second = Log(), Log(), Log()
    planned.run(model, observer=alone)
    steered = planned.run(model, observer=modes.Observers(first, Half(), second))
    assert alone.names == first.names == second.names
    for before, after in zip(first.seen["stepped"], second.seen["stepped"], strict=True):
        np.testing.assert_array_equal(0.5 * before.x_next, after.x_next)
    assert not any(noise.any() for noise in second.seen["noise_sampled"])
    np.testing.assert_array_equal(steered.latents, planned.run(model, observer=Half()).latents)


def test_of_several_replaced_trajectories_the_last_counts(model):
    class Scale(modes.RunObserver):
        def __init__(self, scale):
            self.scale = scale

        def started(self, trajectory):
            self.trajectory = replace(trajectory, cfg_scale=self.scale)
            return trajectory

        def evaluating(self, x, sigma):
            return self.trajectory

    observers = modes.Observers(Scale(7.0), modes.RunObserver(), Scale(2.0), modes.RunObserver())
    steered = plan(model, seed=1).run(model, observer=observers)
    want = modes.txt2img(model, "a cat", seed=1, steps=3, cfg_scale=2.0)
    np.testing.assert_array_equal(steered.latents, want.latents)


def test_observers_of_a_guided_run_watch_both_models(model):
    class Guides(Log):
        def watch_guide(self, guide):
            return self.note("watch_guide", guide)

    pair = Guides(), Guides()
    guided = {"guidance": "autoguidance", "guide": model}
    plan(model, **guided).run(model, observer=modes.Observers(*pair))
    assert [log.names[:2] for log in pair] == [["watch", "watch_guide"]] * 2


@pytest.mark.parametrize("mode", RUNS)
def test_a_preview_shows_what_the_progress_of_a_run_predicts(model, mode):
    preview = modes.PreviewObserver()
    steps = 0
    for event in plan(model, mode, **RUNS[mode]).prepare(model).generate(observer=preview):
        if isinstance(event, modes.GeneratedImage):
            continue
        steps += 1
        np.testing.assert_array_equal(preview.x0, event.x0)
        want = [image.tobytes() for image in event.preview()]
        assert [image.tobytes() for image in preview.images()] == want
        assert [image.tobytes() for image in preview.images(most=1)] == want[:1]
    assert steps >= 2


def test_nothing_is_decoded_or_copied_until_a_preview_is_asked_for(model, monkeypatch):
    preview = modes.PreviewObserver()
    run = plan(model, seed=1).prepare(model)
    events = run.generate(observer=preview)
    monkeypatch.setattr(model, "decode", None)
    monkeypatch.setattr(type(preview), "x0", None)
    assert all(isinstance(next(events), modes.Progress) for _ in range(3))
