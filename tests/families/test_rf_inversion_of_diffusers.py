"""RF inversion in diffusers' community pipeline, which feeds other times than it steps through.

The loops follow what examples/community/pipeline_flux_rf_inversion.py does. Run beside the pipeline
on the small Flux.1 below, they agree with it to 3e-7 on the way up and exactly on the way down.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from ldmref.models import preset
from ldmref.modes.edit_methods import RFInversion
from ldmref.samplers import FLOW, get_sampler, make_schedule, sample


def levels_of(steps):
    """The flow times of Flux.1 [dev] at 1024 x 1024, from noise to data."""
    config = preset("flux-dev")
    tokens = config.count_tokens(1024, 1024)
    sampler = get_sampler("euler")
    return make_schedule(config.scheduler, sampler, "flow", steps, tokens=tokens)


def way_up(sigmas):
    """(the time that diffusers feeds, the state's own, the length) of each step towards noise.

    A step is as long as that of the way down with its number, and the time is i / (n + 1).
    """
    steps = len(sigmas) - 1
    return [(i / (steps + 1), 1.0 - t, t - after) for i, (t, after) in enumerate(pairwise(sigmas))]


def normal_velocity(x, t):
    """E[eps - x0 | x] for data of mean 0 and variance 1."""
    return x * (2.0 * t - 1.0) / ((1.0 - t) ** 2 + t**2)


def normal_x0(x, t):
    return x * (1.0 - t) / ((1.0 - t) ** 2 + t**2)


def invert_as_diffusers(velocity, y, noise, gamma, sigmas):
    for fed, _, length in way_up(sigmas):
        v = velocity(y, fed)
        y = y + length * (v + gamma * ((noise - y) / (1.0 - fed) - v))
    return y


def invert_as_we(denoise, y, noise, gamma, schedule):
    """The way up alone, of the run that `edit` takes."""
    method = RFInversion("", 1.0, len(schedule.timesteps), gamma, 0.0, 0.0, 0.0)
    levels = method.levels(schedule)[: len(schedule.timesteps) + 1]
    step = method.step(schedule, denoise, y, lambda: noise)
    *_, last = sample(denoise, y, levels, step, path=FLOW)
    return last.x


def test_rf_inversion_of_diffusers_feeds_other_times_than_it_steps():
    """Of data of variance 1, the noise that is found has variance 1 in the limit of small steps."""
    schedule = levels_of(28)
    times = way_up(schedule.sigmas)
    fed, own, _ = max(times, key=lambda step: abs(step[0] - step[1]))
    assert (round(fed, 2), round(own, 2)) == (0.62, 0.36)
    one = np.ones(1)
    found = []
    for steps in (28, 1000):
        schedule = levels_of(steps)
        theirs = invert_as_diffusers(normal_velocity, one, 0.0 * one, 0.0, schedule.sigmas)
        ours = invert_as_we(normal_x0, one, 0.0 * one, 0.0, schedule)
        found.append((round(theirs.item(), 2), round(ours.item(), 2)))
    assert found == [(1.45, 0.94), (1.58, 1.0)]


def test_full_control_leads_to_the_noise_only_at_the_right_times():
    """With gamma 1, ours ends at the noise; of theirs the rest is a polynomial in the times."""
    schedule = levels_of(28)
    y, z = np.asarray([2.0]), np.asarray([-0.5])
    assert np.allclose(invert_as_we(normal_x0, y, z, 1.0, schedule), z, atol=1e-12)
    rest = np.prod([1.0 - length / (1.0 - fed) for fed, _, length in way_up(schedule.sigmas)])
    theirs = invert_as_diffusers(normal_velocity, y, z, 1.0, schedule.sigmas)
    assert np.allclose(theirs, z + rest * (y - z), rtol=1e-12) and abs(rest) > 1e-3


def test_the_times_move_the_noise_of_a_small_flux(tmp_path):
    """On the transformer of diffusers: a tenth of a standard deviation after six steps."""
    pytest.importorskip("diffusers")
    torch = pytest.importorskip("torch")
    from flux_networks import make_pipeline
    from test_flow_editing import Theirs

    theirs = Theirs(("flux", make_pipeline(True), tmp_path))
    rng = np.random.default_rng(0)
    data, noise = (
        torch.tensor(rng.standard_normal((1, 4, 8, 12)), dtype=torch.float32) for _ in "ab"
    )

    def velocity(x, t):
        return theirs.velocity(x, t, "a cat", 1.5)

    found = invert_as_diffusers(velocity, data, noise, 0.5, theirs.sigmas)
    y = data
    for t, after in pairwise([0.001, *theirs.sigmas[-2::-1]]):
        v = velocity(y, t)
        y = y + (after - t) * (v + 0.5 * ((noise - y) / (1.0 - t) - v))
    assert (found - y).square().mean().sqrt() > 0.1 * y.std()
