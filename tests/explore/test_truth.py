"""The truth line, against problems whose flow is known in closed form."""

from __future__ import annotations

import math
import threading
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from scipy.integrate import solve_ivp

import ldmref
from ldmref import explore, modes
from ldmref.errors import Cancelled, UsageError
from ldmref.explore import converged
from ldmref.explore.distance import vp_distance
from ldmref.explore.flow import Accuracy, converge, solve_interval
from ldmref.models.model import LatentDiffusion
from ldmref.samplers.schedule import sampling_sigmas
from ldmref.samplers.spacings import sigmas_at
from ldmref.testing.mixture import Mixture, three_modes

GAUSSIAN = Mixture(np.ones(1), np.array([[0.3, -0.2]]), np.array([0.5]))
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8))
HALF = Image.fromarray(np.repeat([[0, 255]], 16, 0).repeat(8, 1).astype(np.uint8))
MEAN, STD = 0.4, 0.6  # of the exact model's latents


# -- the solver -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", [(80.0, 0.0), (80.0, 0.5), (3.0, 1.0), (0.2, 0.0)])
def test_the_solver_reaches_the_exact_flow_at_order_3(ends):
    x = 1.0 + ends[0] * np.random.default_rng(0).standard_normal((5, 2))
    exact = GAUSSIAN.flow(x, *ends)
    errors = [
        np.abs(solve_interval(GAUSSIAN.denoise, x, *ends, n) - exact).max()
        / math.hypot(1.0, ends[1])
        for n in (16, 32, 64)
    ]
    assert errors[-1] < 1e-4
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) > 2.6 or fine < 1e-12


def test_it_agrees_with_scipy_on_a_mixture():
    problem = three_modes()
    x = 10.0 * np.random.default_rng(1).standard_normal((4, 2))

    def slope(sigma, flat):
        points = flat.reshape(4, 2)
        return ((points - problem.denoise(points, sigma)) / sigma).ravel()

    expected = solve_ivp(slope, (10.0, 0.01), x.ravel(), "DOP853", rtol=1e-10, atol=1e-12).y[:, -1]
    found = converge(problem.denoise, x, [10.0, 2.0, 0.5, 0.01], Accuracy(1e-7, 4096), vp_distance)
    np.testing.assert_allclose(found.states[-1], expected.reshape(4, 2), atol=1e-6)
    assert max(found.changes) <= 1e-7 and len(found.substeps) == 3


def test_convergence_is_measured_and_the_limit_is_kept():
    x = 10.0 * np.random.default_rng(1).standard_normal((4, 2))
    loose = converge(three_modes().denoise, x, [10.0, 0.5, 0.0], Accuracy(1e9, 64), vp_distance)
    assert loose.substeps == [2, 2]
    strict = converge(three_modes().denoise, x, [10.0, 0.5, 0.0], Accuracy(1e-12, 8), vp_distance)
    assert strict.substeps == [8, 8] and max(strict.changes) > 1e-12
    for i in (1, 2):  # the reported changes are those of the last doubling
        start = strict.states[i - 1]
        level, after = [10.0, 0.5, 0.0][i - 1 : i + 1]
        coarse = solve_interval(three_modes().denoise, start, level, after, 4)
        change = vp_distance(coarse, strict.states[i], after)
        assert strict.changes[i - 1] == pytest.approx(change)


def test_the_distance_is_that_of_variance_preserving_states():
    a, b = np.zeros((2, 3)), np.full((2, 3), 2.0)
    assert vp_distance(a, b, 0.0) == 2.0
    assert vp_distance(a, b, math.sqrt(3.0)) == pytest.approx(1.0)


# -- a model whose flow is exact ------------------------------------------------------------------


class ExactModel(LatentDiffusion):
    """The eps prediction of latents that are normal with mean MEAN and deviation STD."""

    def predict(self, latents, t, *args, **kwargs):
        table = sampling_sigmas(self.config.scheduler)
        sigma = float(sigmas_at(table, np.asarray(t, np.float64))[0])
        x = latents * math.hypot(1.0, sigma)
        x0 = MEAN + STD**2 / (STD**2 + sigma**2) * (x - MEAN)
        return (x - x0) / sigma


def exact_flow(x, sigma, after):
    return MEAN + (x - MEAN) * math.sqrt((STD**2 + after**2) / (STD**2 + sigma**2))


@pytest.fixture(scope="module")
def exact():
    model = ldmref.random_model("tiny", backend="numpy", dtype="float64")
    model.__class__ = ExactModel
    return model


def levels(n):
    return np.geomspace(12.0, 0.05, n + 1).tolist()


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "euler_a"])
def test_states_distances_and_errors_are_exact(exact, sampler):
    record = explore.record_run(
        exact, prompt="a", seed=1, sampler=sampler, sigmas=levels(8), attention=False
    )
    truth = explore.truth_line(exact, record, tolerance=1e-5, refine=256)
    assert truth.converged and truth.description["change"] <= 1e-5
    assert truth.description["stochastic"] == (sampler == "euler_a")
    sigmas = record.sigmas
    for i, sigma in enumerate(sigmas):
        true = exact_flow(record.x[0].astype(np.float64), sigmas[0], sigma)
        assert vp_distance(truth.states[i], true, sigma) < 1e-5
        expected = vp_distance(record.x[i], true, sigma)
        assert truth.distance[i] == pytest.approx(expected, abs=2e-5)
    for i, (sigma, after) in enumerate(pairwise(sigmas)):
        alone = exact_flow(record.x[i].astype(np.float64), sigma, after)
        expected = vp_distance(record.x[i + 1], alone, after)
        assert truth.local_error[i] == pytest.approx(expected, abs=1e-5)
    assert truth.distance[0] == 0.0
    assert truth.local_error[0] == pytest.approx(truth.distance[1], abs=1e-6)


@pytest.mark.parametrize("sampler,order", [("euler", 1), ("heun", 2)])
def test_local_errors_shrink_with_the_order_of_the_sampler(exact, sampler, order):
    """A method of order p has local errors of h^(p + 1) and distances of h^p."""
    errors = []
    ends = []
    for n in (16, 32):
        run = {"prompt": "a", "seed": 1, "sampler": sampler, "sigmas": levels(n)}
        record = explore.record_run(exact, attention=False, **run)
        truth = explore.truth_line(exact, record, tolerance=1e-7, refine=256)
        errors.append(truth.local_error[n // 2])
        ends.append(truth.distance[-1])
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order + 1, abs=0.45)
    assert math.log2(ends[0] / ends[1]) == pytest.approx(order, abs=0.45)


def test_the_converged_image_is_the_exact_one(exact):
    values = {"prompt": "a", "seed": 1, "sigmas": levels(5), "sampler": "euler"}
    found = explore.converged_image(exact, "txt2img", values, tolerance=1e-6, refine=256)
    start = explore.record_run(exact, attention=False, **values).x[:1]
    true = exact_flow(start.astype(np.float64), 12.0, 0.05) / math.hypot(1.0, 0.05)
    np.testing.assert_allclose(found.latents, true, atol=1e-5)
    assert found.converged and found.params["prompt"] == "a"
    many = modes.txt2img(exact, "a", seed=1, sigmas=levels(64), sampler="heun")
    assert found.distance(many.latents) < 1e-3 < found.distance(many.latents + 0.1)


# -- modes, branches, guidance --------------------------------------------------------------------


@pytest.mark.parametrize(
    "mode,parameters",
    [
        ("txt2img", {"guidance": "apg"}),
        ("txt2img", {"guidance": "perp_neg"}),
        ("img2img", {"image": PHOTO, "strength": 0.6}),
        ("inpaint", {"image": PHOTO, "mask": HALF}),
    ],
    ids=["apg", "perp_neg", "img2img", "inpaint"],
)
def test_more_steps_come_closer_in_every_mode(tiny, mode, parameters):
    ends = []
    for steps in (5, 40) if mode == "img2img" else (4, 16):  # of which strength skips some
        values = {"prompt": "a red cat", "seed": 2, "steps": steps, "sampler": "euler"}
        schedule = {"schedule": "exponential"} | values | parameters
        record = explore.record_run(tiny, mode, attention=False, **schedule)
        truth = explore.truth_line(tiny, record, tolerance=0.05, refine=8)
        assert truth.distance[0] == 0.0 and len(truth.local_error) == record.steps
        ends.append(truth.distance[-1])
    assert ends[1] < 0.6 * ends[0]


def test_known_parts_are_exact(tiny):
    record = explore.record_run(
        tiny, "inpaint", prompt="a", image=PHOTO, mask=HALF, seed=1, steps=4, attention=False
    )
    truth = explore.truth_line(tiny, record, tolerance=0.05)
    kept = np.s_[:, :, :4]  # black in the mask
    np.testing.assert_allclose(truth.states[-1][kept], record.x[-1][kept], atol=1e-4)
    assert not np.allclose(truth.states[-1], record.x[-1], atol=1e-2)


def test_a_branch_has_the_flow_of_its_trunk_up_to_its_step(exact, tiny):
    trunk = explore.record_run(
        tiny, prompt="a", seed=1, sampler="euler", sigmas=levels(6), attention=False
    )
    branch = explore.branch_run(tiny, trunk, 3, prompt="a blue dog", attention=False)
    a = explore.truth_line(tiny, trunk, tolerance=0.02)
    b = explore.truth_line(tiny, branch, tolerance=0.02)
    assert np.array_equal(a.states[:4], b.states[:4]) and not np.array_equal(a.states, b.states)
    assert np.array_equal(a.local_error[:3], b.local_error[:3])
    # the flow does not know of the branch if the model does not know of the prompt
    values = {"prompt": "a", "seed": 1, "sampler": "euler", "sigmas": levels(6)}
    trunk = explore.record_run(exact, attention=False, **values)
    other = explore.branch_run(exact, trunk, 2, prompt="a dog", attention=False)
    true = explore.truth_line(exact, other, tolerance=1e-5, refine=256)
    end = exact_flow(trunk.x[0].astype(np.float64), 12.0, 0.05)
    np.testing.assert_allclose(true.states[-1], end, atol=1e-4)


def test_the_truth_is_saved_with_the_record(tiny):
    record = explore.record_run(tiny, prompt="a", seed=1, steps=3)
    truth = explore.truth_line(tiny, record, tolerance=0.1)
    read = explore.load_record(record.with_truth(truth).to_bytes())
    assert np.array_equal(read.truth.states, truth.states)
    assert read.truth.distance.tolist() == truth.distance.tolist()
    assert read.truth.local_error.tolist() == truth.local_error.tolist()
    assert read.truth.description == truth.description == read.meta["truth"]
    assert explore.load_record(record.to_bytes()).truth is None


# -- the cache of converged images ----------------------------------------------------------------


def test_the_cache_knows_what_counts(tiny, monkeypatch):
    monkeypatch.setattr(converged, "INTERVALS", 1)
    cache = {}
    base = {"prompt": "a red cat", "seed": 1, "schedule": "exponential", "steps": 4}

    def compute(mode="txt2img", **changes):
        values = base | changes
        return explore.converged_image(tiny, mode, values, tolerance=0.5, refine=2, cache=cache)

    first = compute()
    for same in ({"sampler": "heun"}, {"steps": 9}, {"sampler": "euler_a", "eta": 0.5}):
        assert compute(**same) is first
    others = [
        {"seed": 2}, {"prompt": "a blue cat"}, {"cfg_scale": 3.5}, {"guidance": "rescale"},
        {"negative_prompt": "dog"}, {"schedule": "leading"}, {"clip_skip": 1},
        {"rng": "torch"}, {"sigmas": [5.0, 1.0], "steps": None, "schedule": None},
    ]  # fmt: skip
    for other in others:
        assert compute(**other) is not first
    mask = {"mode": "inpaint", "image": PHOTO}
    whole = compute(mask=HALF, **mask)
    assert compute(mask=HALF.rotate(180), **mask) is not whole
    assert compute(mask=HALF, **mask) is whole
    assert len(cache) == len(others) + 3


# -- refusals, progress, cancel -------------------------------------------------------------------


def test_wrong_arguments(tiny):
    record = explore.record_run(tiny, prompt="a", seed=1, steps=2)
    for tolerance in (0.0, -1.0, math.nan, "fine", None):
        with pytest.raises(UsageError, match="tolerance must be a number"):
            explore.truth_line(tiny, record, tolerance=tolerance)
    for refine in (1, 2.5, True):
        with pytest.raises(UsageError, match="refine must be"):
            explore.truth_line(tiny, record, refine=refine)
    with pytest.raises(UsageError, match="one image, not 2"):
        explore.converged_image(tiny, "txt2img", {"prompt": "a", "count": 2})
    repaint = {"prompt": "a", "image": PHOTO, "mask": HALF, "resample": (1, 2)}
    with pytest.raises(UsageError, match="jumps back up"):
        explore.converged_image(tiny, "inpaint", repaint)
    with pytest.raises(UsageError, match="jumps back up"):
        explore.truth_line(tiny, explore.record_run(tiny, "inpaint", **repaint))


def test_progress_reaches_its_end_and_cancel_stops(tiny):
    record = explore.record_run(tiny, prompt="a", seed=1, steps=3, attention=False)
    seen = []
    explore.truth_line(tiny, record, tolerance=0.1, callback=seen.append)
    assert [p.step for p in seen] == [3 * (i + 1) for i in range(len(seen))]
    assert seen[-1].step == seen[-1].steps
    assert all(a.steps <= b.steps for a, b in pairwise(seen))
    stop = threading.Event()
    count = []

    def watch(progress):
        count.append(progress.step)
        if len(count) == 2:
            stop.set()

    with pytest.raises(Cancelled):
        explore.truth_line(tiny, record, callback=watch, cancel=stop)
    assert len(count) == 2
    with pytest.raises(Cancelled):
        explore.converged_image(tiny, "txt2img", {"prompt": "a"}, cancel=stop)
