"""A branch is exact: its trunk is the trunk's, and without changes it is the trunk."""

from __future__ import annotations

import json
import threading
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import explore, modes
from ldmref.errors import Cancelled, UsageError
from ldmref.samplers import SAMPLERS

EVERY_SAMPLER = [  # rk45 chooses its own steps, of which there are many with random weights
    pytest.param(name, marks=[pytest.mark.slow] if name == "rk45" else [])
    for name in sorted(SAMPLERS)
    if not SAMPLERS[name].own_guidance  # made for flow matching
]


PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8))
HALF = Image.fromarray(np.repeat([[0, 255]], 16, 0).repeat(8, 1).astype(np.uint8))
TRUNK = {"mode": "txt2img", "prompt": "a red cat", "seed": 7, "steps": 6}


@pytest.fixture(scope="module")
def trunk(tiny):
    return explore.record_run(tiny, **{k: v for k, v in TRUNK.items() if k != "mode"})


def assert_same_run(a, b):
    for name in ("x", "x0", "x0_uncond", "x0_cond", "sigmas", "attention"):
        left, right = getattr(a, name), getattr(b, name)
        assert (left is None) == (right is None), name
        assert left is None or np.array_equal(left, right, equal_nan=True), name
    assert a.image.tobytes() == b.image.tobytes()
    assert a.meta["timesteps"] == b.meta["timesteps"]


# -- exact without changes ------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", EVERY_SAMPLER)
def test_a_branch_without_changes_is_the_trunk(tiny, sampler):
    n = 2 if sampler == "rk45" else 5  # a step of which is many
    trunk = explore.record_run(tiny, prompt="a red cat", seed=3, steps=n, sampler=sampler)
    branch = explore.branch_run(tiny, trunk, n - 2)
    assert_same_run(branch, trunk)
    assert not branch.meta["warnings"]


@pytest.mark.parametrize("rng", ["philox", "torch", "a1111-gpu"])
@pytest.mark.parametrize(
    "parameters",
    [
        {"guidance": "apg", "sampler": "dpmpp_2m"},
        {"guidance": "apg", "sampler": "euler_a"},
        {"guidance": "pag"},
        {"guidance": "interval"},
        {"mode": "img2img", "image": PHOTO, "strength": 0.7, "sampler": "dpmpp_2m_sde"},
        {"mode": "inpaint", "image": PHOTO, "mask": HALF, "sampler": "euler_a"},
        {"sigmas": [9.0, 5.0, 2.0, 1.0, 0.0], "steps": None},
    ],
    ids=lambda p: " ".join([p.get("mode", ""), *(str(v) for v in p.values() if type(v) is str)]),
)
def test_so_is_one_of_any_guidance_mode_and_noise(tiny, parameters, rng):
    values = {**TRUNK, **parameters, "rng": rng}
    mode = values.pop("mode")
    given = {name: value for name, value in values.items() if value is not None}
    trunk = explore.record_run(tiny, mode, **given)
    read = explore.load_record(trunk.to_bytes())  # with the images that it was given
    for step in (0, 2, trunk.steps - 1):
        assert_same_run(explore.branch_run(tiny, read, step), trunk)


def test_on_torch_too():
    pytest.importorskip("torch")
    model = ldmref.random_model("tiny", backend="torch")
    trunk = explore.record_run(model, prompt="a red cat", seed=3, steps=5, sampler="dpmpp_2m_sde")
    assert_same_run(explore.branch_run(model, trunk, 2), trunk)


# -- changes --------------------------------------------------------------------------------------

CHANGES = [
    {"prompt": "a blue heart"},
    {"negative_prompt": "cat"},
    {"cfg_scale": 7.0},
    {"cfg_scale": 1.0},
    {"guidance": "perp_neg", "negative_prompt": "cat"},
    {"guidance": {"name": "apg", "momentum": -0.3}},
    {"sampler": "euler_a"},
    {"sampler": "dpmpp_3m"},
    {"schedule": "karras"},
    {"steps": 12},
    {"steps": 2},
    {"sampler": "euler_a", "schedule": "exponential", "steps": 9, "prompt": "a dog"},
    {"sigmas": [5.0, 0.5, 0.1, 0.0]},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_a_branch_leaves_the_trunk_at_its_step(tiny, trunk, changes):
    branch = explore.branch_run(tiny, trunk, 3, **changes)
    assert np.array_equal(branch.x[:4], trunk.x[:4])
    assert np.array_equal(branch.x0[:3], trunk.x0[:3])
    assert branch.sigmas[:4].tolist() == trunk.sigmas[:4].tolist()
    assert not np.array_equal(branch.x[-1], trunk.x[-1])
    assert (np.diff(branch.sigmas) < 0).all() and len(branch.x) == len(branch.sigmas)
    assert branch.steps == len(branch.meta["timesteps"]) == len(branch.x0)


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_a_branch_is_repeated_from_its_json(tiny, trunk, changes):
    branch = explore.branch_run(tiny, trunk, 3, **changes)
    described = json.loads(json.dumps(branch.meta["branch"]))
    again = explore.branch_run(tiny, described["trunk"], described["step"], **described["changes"])
    assert_same_run(again, branch)
    assert again.meta == branch.meta
    assert described["trunk"] == trunk.params and {*described["changes"]} == {*changes}


def test_a_trunk_may_be_parameters(tiny, trunk):
    branch = explore.branch_run(tiny, TRUNK, 2, cfg_scale=5.0)
    assert_same_run(branch, explore.branch_run(tiny, trunk, 2, cfg_scale=5.0))


def test_a_changed_run_is_the_denoiser_of_the_new_parameters(tiny, trunk):
    """Euler from the state on, computed by hand with the public denoiser."""
    branch = explore.branch_run(
        tiny, trunk, 3, prompt="a dog", cfg_scale=4.0, sampler="euler", sigmas=[5.0, 0.5, 0.2, 0.0]
    )
    denoise = ldmref.denoiser(tiny, "a dog", cfg_scale=4.0)
    levels = [float(trunk.sigmas[3]), *(s for s in (5.0, 0.5, 0.2, 0.0) if s < trunk.sigmas[3])]
    assert branch.sigmas[3:].tolist() == levels
    x = trunk.x[3][None]
    for sigma, after in pairwise(levels):
        x0 = denoise(x, sigma)
        x = x0 + (after / sigma) * (x - x0)
    np.testing.assert_allclose(branch.x[-1], x[0], atol=1e-4)


def test_new_levels_are_those_of_the_new_schedule_below_the_state(tiny, trunk):
    branch = explore.branch_run(tiny, trunk, 2, schedule="karras", steps=10)
    full = explore.record_run(tiny, prompt="a red cat", schedule="karras", steps=10).sigmas
    expected = [s for s in full if s < trunk.sigmas[2]]
    assert branch.sigmas[3:].tolist() == expected


def test_branching_at_0_is_the_changed_run_from_the_trunks_noise(tiny, trunk):
    branch = explore.branch_run(tiny, trunk, 0, prompt="a blue dog", sampler="heun")
    run = explore.record_run(tiny, prompt="a blue dog", sampler="heun", seed=7, steps=6)
    assert_same_run(branch, run)


def test_a_branch_of_a_branch(tiny, trunk):
    first = explore.branch_run(tiny, trunk, 2, prompt="a dog", sampler="dpmpp_2m_sde")
    second = explore.branch_run(tiny, first, 4, cfg_scale=6.0)
    assert np.array_equal(second.x[:5], first.x[:5]) and second.meta["branch"]["step"] == 4
    assert second.meta["branch"]["trunk"] == first.meta["branch"]
    assert_same_run(explore.branch_run(tiny, first, 4), first)
    # a step before the first branch belongs to the trunk, with the changes of both
    early = explore.branch_run(tiny, first, 1, sampler="euler")
    direct = explore.branch_run(tiny, trunk, 1, prompt="a dog", sampler="euler")
    assert_same_run(early, direct)
    assert early.meta["branch"] == direct.meta["branch"]


def test_maps_before_the_branch_are_those_of_the_trunks_words(tiny, trunk):
    branch = explore.branch_run(tiny, trunk, 3, prompt="a blue cat")
    assert [word.text for word in branch.words] == ["a", "blue", "cat"]
    assert np.array_equal(branch.word_map("cat")[:3], trunk.word_map("cat")[:3])
    assert not branch.word_map("blue")[:3].any() and branch.word_map("blue")[3:].any()
    none = explore.branch_run(tiny, trunk, 3, cfg_scale=0.0)
    assert none.attention[:3].any() and not none.attention[3:].any()


# -- refusals, progress, cancel -------------------------------------------------------------------


@pytest.mark.parametrize("step", [-1, 6, 2.0, True, None, "2"])
def test_a_step_that_does_not_exist(tiny, trunk, step):
    with pytest.raises(UsageError, match="the step of a branch must be from 0 to 5"):
        explore.branch_run(tiny, trunk, step)


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"width": 32}, "a branch cannot change 'width'"),
        ({"seed": 3}, "a branch cannot change 'seed'"),
        ({"samplr": "euler"}, "did you mean 'sampler'"),
        ({"sampler": "eulr"}, "unknown sampler"),
        ({"cfg_scale": "high"}, "cfg_scale must be a number"),
        ({"sigmas": [10.0, 8.0]}, "the new schedule ends at sigma 8"),
        ({"prompt": ["a", "b"]}, "one image, not 2"),
    ],
)
def test_changes_that_are_refused(tiny, trunk, changes, message):
    with pytest.raises(UsageError, match=message):
        explore.branch_run(tiny, trunk, 3, **changes)


def test_trunks_that_are_refused(tiny, trunk):
    with pytest.raises(UsageError, match="must be a record or parameters, not 3"):
        explore.branch_run(tiny, 3, 0)
    jumping = {"mode": "inpaint", "prompt": "a", "image": PHOTO, "mask": HALF, "resample": (1, 2)}
    with pytest.raises(UsageError, match="jumps back up"):
        explore.branch_run(tiny, jumping, 1)
    made = explore.record_run(tiny, "img2img", prompt="a", image=PHOTO, steps=4)
    with pytest.raises(UsageError, match="made with 'image', which its record does not hold"):
        explore.branch_run(tiny, made.params, 1)
    assert_same_run(explore.branch_run(tiny, made.params | {"image": PHOTO}, 1), made)
    with pytest.raises(UsageError, match="no parameter 'promt'"):
        explore.branch_run(tiny, {"mode": "txt2img", "promt": "a"}, 1)


def test_a_trunk_from_elsewhere_is_announced(tiny, trunk):
    other = ldmref.random_model("tiny", seed=1, backend="numpy")
    branch = explore.branch_run(other, trunk, 3)
    assert any("differ from the recorded ones" in line for line in branch.meta["warnings"])


def test_progress_counts_all_steps_and_cancel_stops(tiny, trunk):
    seen = []
    explore.branch_run(tiny, trunk, 2, steps=12, callback=lambda p: seen.append((p.step, p.steps)))
    own = seen[-1][1] - 2
    assert seen == [(0, 6), (1, 6), *((i, own + 2) for i in range(2, own + 2))]
    for stop_at in (0, 4):
        stop = threading.Event()
        count = []

        def watch(progress, stop=stop, count=count, stop_at=stop_at):
            count.append(progress.step)
            if progress.step == stop_at:
                stop.set()

        with pytest.raises(Cancelled):
            explore.branch_run(tiny, trunk, 2, callback=watch, cancel=stop)
        assert count == [*range(stop_at + 1)]


def test_the_image_is_decoded_as_the_mode_does(tiny):
    """only_masked pastes the region back; a branch without changes keeps the rest bit for bit."""
    large = PHOTO.resize((32, 32))
    parameters = {
        "prompt": "a cat",
        "image": large,
        "mask": HALF.resize((32, 32)),
        "only_masked": True,
        "seed": 1,
        "steps": 3,
    }
    expected = modes.inpaint(tiny, **parameters)
    trunk = explore.record_run(tiny, "inpaint", **parameters)
    branch = explore.branch_run(tiny, trunk, 1)
    assert branch.image.tobytes() == expected[0].tobytes()


def test_the_natural_name_is_answered_with_the_functions_name():
    with pytest.raises(AttributeError, match="'branch': branch_run continues a run"):
        explore.branch(None)  # pyright: ignore
    with pytest.raises(AttributeError, match=r"no attribute 'brunch'$"):
        explore.brunch  # noqa: B018  # pyright: ignore
