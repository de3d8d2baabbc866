"""Stable Diffusion 3 and Flux.1 against the numbers that the programs of their makers print.

`STABILITY` are from mmditx.py and sd3_impls.py of Stability-AI/sd3.5, `BFL` from src/flux/model.py
and sampling.py of black-forest-labs/flux: first and last number of the result, and its root mean
square. Both programs ran in float64, without their casts to float32, with the weights of
`draw_weights` under the names of `original_table`.
"""

from __future__ import annotations

import numpy as np
import pytest

from ldmref.backends import get_backend
from ldmref.families.flux import network as flux
from ldmref.families.flux.config import FluxConfig
from ldmref.families.flux.files import original_table as flux_table
from ldmref.families.sd3 import network as sd3
from ldmref.families.sd3.config import MMDiTConfig
from ldmref.families.sd3.files import original_table as sd3_table
from ldmref.io.key_table import to_compvis
from ldmref.models import ModelConfig, preset
from ldmref.models.params import flatten, unflatten
from ldmref.samplers import FLOW, SAMPLERS, configured_step, make_schedule, sample
from ldmref.samplers.flow_spacings import flow_levels
from ldmref.testing.mixture import three_modes

TINY_SD3 = dict(
    sample_size=8,
    num_layers=2,
    num_attention_heads=2,
    joint_attention_dim=40,
    pooled_projection_dim=24,
    pos_embed_max_size=7,
)
TINY_FLUX = dict(
    sample_size=8, num_layers=2, num_single_layers=2, num_attention_heads=3, attention_head_dim=16,
    joint_attention_dim=40, pooled_projection_dim=24, axes_dims_rope=(4, 6, 6),
)  # fmt: skip
SD3 = {
    "3 medium": MMDiTConfig(**TINY_SD3),
    "3.5 large": MMDiTConfig(**TINY_SD3, qk_norm="rms_norm"),
    "3.5 medium": MMDiTConfig(**TINY_SD3, qk_norm="rms_norm", dual_attention_layers=(0,)),
}
FLUX = {
    "schnell": FluxConfig(**TINY_FLUX),
    "dev": FluxConfig(**TINY_FLUX, guidance_embeds=True),
    "canny": FluxConfig(**TINY_FLUX, guidance_embeds=True, in_channels=32),
}


def draw_weights(spec):
    """Return weights whose layers all matter, float64."""
    rng = np.random.Generator(np.random.Philox(7))
    flat = {}
    for name, shape in sorted(flatten(spec).items()):
        x = 0.2 * rng.standard_normal(shape)
        flat[name] = x + 1.0 if ".norm_" in name and len(shape) == 1 and "linear" not in name else x
    return flat


def stored_sd3(config):
    """Return the weights under the names of Stability's program."""
    table = sd3_table(ModelConfig(denoiser=config))
    return to_compvis(draw_weights(sd3.transformer_spec(config)), table)


def stored_flux(config):
    """Return the weights under the names of Black Forest Labs' program."""
    table = flux_table(ModelConfig(denoiser=config))
    return to_compvis(draw_weights(flux.transformer_spec(config)), table)


def draw(channels, pooled):
    """Return latents, times, hidden states, pooled text and scales of two images."""
    rng = np.random.Generator(np.random.Philox(8))
    x = rng.standard_normal((2, channels, 6, 10))
    text = rng.standard_normal((2, 7, 40)), rng.standard_normal((2, pooled))
    return x, np.array([12.5, 873.25]), *text, np.array([3.5, 7.0])


PROBLEM = three_modes()
START = np.random.Generator(np.random.Philox(9)).standard_normal((5, 2))


def denoise(x, s):
    """The exact denoiser of a mixture on the path of flow matching."""
    if s > 1.0 - 1e-12:
        return np.broadcast_to(PROBLEM.mean(), x.shape)
    return PROBLEM.denoise(x / (1.0 - s), s / (1.0 - s))


STABILITY = {
    "3 medium": (22.4487403994, 2.55263617158, 17.8258759892),
    "3.5 large": (17.6887210448, -16.6198295792, 16.2650626841),
    "3.5 medium": (-17.0347047761, 19.8824536699, 18.8351077385),
    "euler": (0.634740848813, 0.601001231342, 0.878793845638),
    "dpmpp_2m": (1.61923331041, 1.01821201338, 1.57495936194),
}
LEVELS = (  # of nine steps with the shift 3
    1, 0.954693877551, 0.900359066427, 0.833998005982, 0.751121076233, 0.644686299616,
    0.502985074627, 0.305008944544, 0.00892857142857, 0,
)  # fmt: skip
BFL = {
    "schnell": (0.0704826004125, 2.92665199958, 3.51404353247),
    "schnell, 4 steps": (-3.42712622816, -0.780964364049, 2.52345458456),
    "dev": (-2.47076155928, 5.21832275284, 4.98288645447),
    "dev, 5 steps": (2.61313128773, -0.852874544013, 4.55207887087),
    "canny": (-2.07028144882, -2.00126006428, 4.78771025504),
}


def describe(y):
    y = np.asarray(y).ravel()
    return y[0], y[-1], np.sqrt(np.mean(y**2))


@pytest.fixture(scope="module", params=["numpy", "torch"])
def ops(request):
    if request.param == "torch":
        pytest.importorskip("torch")
    return get_backend(request.param, dtype="float64")


def predict_with(ops, network, config, arrays):
    params = unflatten(
        {k: ops.asarray(x) for k, x in draw_weights(network.transformer_spec(config)).items()}
    )
    with ops.inference():
        return ops.to_numpy(
            network.transformer(ops, params, config, *(ops.asarray(x) for x in arrays))
        )


@pytest.mark.parametrize("kind", SD3)
def test_the_transformer_of_stability(kind, ops):
    got = predict_with(ops, sd3, SD3[kind], draw(16, 24)[:4])
    np.testing.assert_allclose(describe(got), STABILITY[kind], rtol=1e-10)


@pytest.mark.parametrize("kind", FLUX)
def test_the_transformer_of_black_forest_labs(kind, ops):
    config = FLUX[kind]
    arrays = draw(config.in_channels, 24)[: 5 if config.guidance_embeds else 4]
    np.testing.assert_allclose(
        describe(predict_with(ops, flux, config, arrays)), BFL[kind], rtol=1e-10
    )


@pytest.mark.parametrize(
    ("kind", "steps", "name"), [("schnell", 4, "flux-schnell"), ("dev", 5, "flux-dev")]
)
def test_the_sampler_of_black_forest_labs(kind, steps, name, ops):
    """Its schedule for 15 tokens, and its loop."""
    config = FLUX[kind]
    x, _, context, pooled, _ = draw(16, 24)
    levels = flow_levels(preset(name).scheduler, "flow", steps, tokens=15)
    scales = (np.full(2, 3.5),) if config.guidance_embeds else ()

    def predict(x, s):
        arrays = (x, np.full(2, 1000.0 * s), context, pooled, *scales)
        return x - s * predict_with(ops, flux, config, arrays)

    *_, last = sample(predict, x, list(levels), SAMPLERS["euler"].make(), path=FLOW)
    np.testing.assert_allclose(describe(last.x), BFL[f"{kind}, {steps} steps"], rtol=1e-9)


def run_of_sd3(name, steps, start=START):
    """Return the levels and the end of a run as a request has them."""
    scheduler = preset("sd35-medium").scheduler
    sampler = SAMPLERS[name]
    schedule = make_schedule(scheduler, sampler, scheduler.spacing, steps)
    step, _ = configured_step(scheduler, sampler, schedule)
    *_, last = sample(denoise, start, schedule.sigmas.tolist(), step, path=schedule.path)
    return schedule.sigmas, last.x


@pytest.mark.parametrize(("theirs", "name"), [("euler", "euler"), ("dpmpp_2m", "dpmpp_2m_sigma")])
def test_the_samplers_of_stability(theirs, name):
    levels, end = run_of_sd3(name, 9)
    np.testing.assert_allclose(levels, LEVELS, rtol=0, atol=1e-12)
    np.testing.assert_allclose(describe(end), STABILITY[theirs], rtol=1e-10)


def test_dpmpp_2m_of_stability_is_another_on_flows():
    start = np.random.default_rng(0).standard_normal((2000, 2))
    ends = [run_of_sd3(name, 28, start)[1] for name in ("dpmpp_2m_sigma", "dpmpp_2m")]
    assert round(float(np.sqrt(np.mean((ends[0] - ends[1]) ** 2))), 3) == 0.020


def test_on_the_other_path_both_are_one():
    """On x0 + sigma eps the two samplers have the same steps."""
    make = (SAMPLERS["dpmpp_2m"].make(), SAMPLERS["dpmpp_2m_sigma"].make())
    levels = [9.0, 3.0, 1.0, 0.0]
    ends = [list(sample(PROBLEM.denoise, 9.0 * START, levels, step))[-1].x for step in make]
    np.testing.assert_array_equal(*ends)
