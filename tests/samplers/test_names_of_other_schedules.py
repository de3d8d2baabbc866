"""Schedules of ComfyUI and A1111 that ldmref has not: what the refusal says is computed here."""

from __future__ import annotations

import numpy as np
import pytest

from ldmref.atlas import find_flow_schedule, make_flow_sigmas
from ldmref.errors import UsageError
from ldmref.samplers import SPACINGS, SchedulerConfig, get_spacing, sigma_grid
from ldmref.samplers.flow_spacings import flow_levels
from ldmref.samplers.schedule import sampling_sigmas
from ldmref.samplers.spacings import FLOW_SPACINGS, OF_OTHERS

TABLE = sampling_sigmas(SchedulerConfig())  # of Stable Diffusion
FLOW = SchedulerConfig(prediction_type="flow", shift=3.0)


def timesteps(name, n):
    """The timesteps of 1000 in ComfyUI, largest first."""
    if name == "simple":
        return [999 - int(i * 1000 / n) for i in range(n)]
    if name == "ddim_uniform":
        return [*range(1, 1000, 1000 // n)][::-1]
    return [999 * (1 - i / (n if name == "sgm_uniform" else n - 1)) for i in range(n)]


def levels(name, n):
    return np.exp(np.interp(timesteps(name, n), np.arange(1000), np.log(TABLE)))


def is_same(found, want):
    return len(found) == len(want) and np.allclose(found, want, rtol=1e-12)


@pytest.mark.parametrize("name", ["normal", "simple", "ddim_uniform", "sgm_uniform", "SGM Uniform"])
def test_a_schedule_of_comfyui_is_refused_with_the_nearest(name):
    with pytest.raises(UsageError) as caught:
        get_spacing(name)
    known = {*SPACINGS, *FLOW_SPACINGS}
    assert caught.value.code == "E-SCHEDULE" and known & {*str(caught.value.hint).split()}


@pytest.mark.parametrize(("name", "ours"), [("simple", "trailing"), ("ddim_uniform", "leading")])
def test_the_timesteps_are_ours_where_the_steps_divide(name, ours):
    for steps in (4, 20, 50):
        assert is_same(sigma_grid(TABLE, ours, steps, offset=1)[:-1], levels(name, steps))
    assert not is_same(sigma_grid(TABLE, ours, 28, offset=1)[:-1], levels(name, 28))


@pytest.mark.parametrize(("name", "ours"), [("normal", "linspace"), ("sgm_uniform", "trailing")])
def test_the_nearest_is_nearest(name, ours):
    want = np.log(levels(name, 20))
    distances = {
        spacing: np.abs(np.log(sigma_grid(TABLE, spacing, 20, offset=1)[:-1]) - want).max()
        for spacing in ("leading", "linspace", "trailing", "karras", "exponential", "beta")
    }
    assert min(distances, key=distances.__getitem__) == ours and distances[ours] > 0
    assert ours in OF_OTHERS[name].split()


def test_levels_of_a_flow():
    def comfyui(name, steps):
        return make_flow_sigmas(find_flow_schedule("SD3", f"ComfyUI {name}".strip()), steps)

    for steps in (4, 20, 28):
        assert is_same(flow_levels(FLOW, "flow_table", steps), comfyui("normal", steps))
    assert is_same(flow_levels(FLOW, "flow", 20), comfyui("", 20))
    assert not is_same(flow_levels(FLOW, "flow", 28), comfyui("", 28))
    near = [
        np.abs(flow_levels(FLOW, s, 20) - comfyui("sgm_uniform", 20)).max() for s in FLOW_SPACINGS
    ]
    assert FLOW_SPACINGS[int(np.argmin(near))] == "flow" and min(near) > 0
