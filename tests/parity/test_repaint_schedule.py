"""RePaint's schedule of places against diffusers."""

from __future__ import annotations

from itertools import pairwise

import pytest

from ldmref.samplers.repaint import repaint_visits


@pytest.mark.parametrize(
    ("steps", "length", "times"), [(20, 5, 3), (21, 5, 3), (10, 1, 4), (9, 9, 2)]
)
def test_the_schedule_is_the_one_of_diffusers(steps, length, times):
    """`RePaintScheduler` follows the authors' `get_schedule_jump`; it jumps level by level."""
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.RePaintScheduler(num_train_timesteps=steps)
    theirs.set_timesteps(steps, length, times)
    ours = [0]
    for here, there in pairwise(repaint_visits(steps, length, times)):
        ours += [there] if there > here else range(here - 1, there - 1, -1)
    assert [steps - 1 - k for k in ours[:-1]] == theirs.timesteps.tolist()
