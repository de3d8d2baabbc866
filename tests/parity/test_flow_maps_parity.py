"""Flow maps: the steps of diffusers' schedulers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from ldmref import math as lm

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")


def test_a_run_of_the_scheduler_of_sana_sprint():
    """Two steps at its angles, with its noise of the standard deviation 0.5."""
    scheduler = diffusers.SCMScheduler()
    scheduler.set_timesteps(2)
    angles = scheduler.timesteps.tolist()
    x = torch.randn(1, 4, generator=torch.Generator().manual_seed(0))
    state, theirs = x.double().numpy(), x
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    for t, r in pairwise(angles):
        theirs = scheduler.step(theirs.sin(), t, theirs, generator=generators[0]).prev_sample
        noise = 0.5 * torch.randn(1, 4, generator=generators[1]).double().numpy()
        state = lm.trigflow_renoise_step(state, np.sin(state), noise, t, r)
    assert theirs.numpy() == pytest.approx(state, abs=1e-6)
    assert lm.flow_time_from_angle(angles[1]) == pytest.approx(0.783, abs=5e-4)
