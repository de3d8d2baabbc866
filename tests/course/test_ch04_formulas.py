"""The formulas and counts of chapter 4, computed in two ways."""

import re
from dataclasses import replace

import numpy as np
import pytest

from ldmref.models import preset
from ldmref.models.flops import count_unet_flops


def test_costs_of_layers():
    """Count the multiplications of small layers one by one."""
    channels, side = 3, 4
    n = side**2
    convolution = sum(1 for _ in np.ndindex(channels, channels, 3, 3, side, side))
    assert convolution == 9 * channels**2 * n
    projections = 4 * sum(1 for _ in np.ndindex(n, channels, channels))
    products = 2 * sum(1 for _ in np.ndindex(n, n, channels))
    assert projections + products == 4 * channels**2 * n + 2 * channels * n**2


@pytest.mark.parametrize(("attention", "saved"), [(True, 681), (False, 64)])
def test_savings_of_the_table(attention, saved):
    """The savings are those of f = 8 over pixels, for the U-Net of Stable Diffusion 1.5."""
    sd15 = preset("sd15")
    unet = sd15.unet if attention else replace(sd15.unet, attention_levels=(False,) * 4)
    costs = []
    for levels in (1, 4):
        vae = replace(sd15.vae, block_out_channels=(128,) * levels)
        config = replace(sd15, vae=vae, denoiser=unet)
        costs.append(count_unet_flops(config, 512, 512))
    assert round(costs[0] / costs[1]) == saved


def test_cost_of_the_middle_transformer(pytestconfig):
    """Projections, attention to itself and to 77 tokens, and the gated layer, at f = 2."""
    page = (pytestconfig.rootpath / "docs/course/04-first-stages.md").read_text("utf-8")
    whole, middle = re.search(r"of the ([\d,]+) at .*? takes (\d+)\.", page, re.DOTALL).groups()
    c, n, tokens, width = 1280, (512 // 2 // 8) ** 2, 77, 768
    projections = 2 * c * c * n
    self_attention = 4 * c * c * n + 2 * c * n * n
    cross_attention = 2 * c * c * n + 2 * width * c * tokens + 2 * c * n * tokens
    gated = (2 * 4 + 4) * c * c * n
    total = projections + self_attention + cross_attention + gated
    assert f"{total / 1e9:.0f}" == middle

    sd15 = preset("sd15")
    vae = replace(sd15.vae, block_out_channels=(128,) * 2)
    plain = replace(sd15.unet, attention_levels=(False,) * 4)
    config = replace(sd15, vae=vae, denoiser=plain)
    assert f"{count_unet_flops(config, 512, 512) / 2e9:,.0f}" == whole


def test_change_of_variables_of_a_flow():
    """log p(x) = log p(z) + log |det dz/dx|, for a linear map and its Gaussian."""
    rng = np.random.default_rng(0)
    x, matrix = rng.standard_normal(3), rng.standard_normal((3, 3))
    z = matrix @ x
    log_pz = -0.5 * (z @ z + 3 * np.log(2 * np.pi))
    covariance = np.linalg.inv(matrix.T @ matrix)
    square = x @ np.linalg.inv(covariance) @ x
    log_px = -0.5 * (square + np.linalg.slogdet(2 * np.pi * covariance)[1])
    assert np.isclose(log_px, log_pz + np.linalg.slogdet(matrix)[1])
