"""Schedules are float64; data may be float32. Levels never change the data's dtype or library."""

import pytest

from ldmref import math as m

TWO = {
    "q_sample": lambda a, x: m.q_sample(x, a, x),
    "x0_from_eps": lambda a, x: m.x0_from_eps(x, x, a),
    "eps_from_x0": lambda a, x: m.eps_from_x0(x, x, a),
    "v_from_x0_eps": lambda a, x: m.v_from_x0_eps(x, x, a),
    "x0_from_v": lambda a, x: m.x0_from_v(x, x, a),
    "eps_from_v": lambda a, x: m.eps_from_v(x, x, a),
    "score_from_eps": lambda a, x: m.score_from_eps(x, a),
    "eps_from_score": lambda a, x: m.eps_from_score(x, a),
    "x0_from_score": lambda a, x: m.x0_from_score(x, x, a),
    "score_from_x0": lambda a, x: m.score_from_x0(x, x, a),
    "q_step": lambda a, x: m.q_step(x, a, x),
    "flow_sample": lambda a, x: m.flow_sample(x, 2 * x, a),
    "x0_from_velocity": lambda a, x: m.x0_from_velocity(x, x, a),
    "eps_from_velocity": lambda a, x: m.eps_from_velocity(x, x, a),
    "edm_denoise": lambda a, x: m.edm_denoise(lambda y, c: y, x, a),
    "edm_target": lambda a, x: m.edm_target(x, 2 * x, a),
    "replace_known": lambda a, x: m.replace_known(x, 2 * x, 0.5 + 0 * x, a, x),
    "classifier_guidance_eps": lambda a, x: m.classifier_guidance_eps(x, x, a),
    "mean": lambda a, x: m.q_posterior(x, x, a, a + (1.0 - a) / 2)[0],
    "variance": lambda a, x: m.q_posterior(x, x, a, a + (1.0 - a) / 2)[1] + 0 * x,
}


@pytest.mark.parametrize("name", TWO)
@pytest.mark.parametrize("shape", [(), (2,)])
def test_float64_levels_leave_float32_data_float32(xp, name, shape):
    levels = xp.reshape(xp.asarray([0.3, 0.7], dtype=xp.float64)[: 2 if shape else 1], shape)
    data = xp.reshape(xp.asarray([1.0, -2.0, 0.5, 3.0], dtype=xp.float32), (2, 2))
    got = TWO[name](levels, data)
    assert got.dtype == xp.float32 and got.shape == data.shape
    alone = TWO[name](float(levels[1] if shape else levels), data)
    assert float(xp.max(xp.abs(got[1, :] - alone[1, :]))) < 1e-6
