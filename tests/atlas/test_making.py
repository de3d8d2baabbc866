"""The rows of the atlas against diffusers, against ComfyUI's rule in its words, and known facts."""

import math

import numpy as np
import pytest

from ldmref.atlas import (
    count_tokens,
    find_flow_schedule,
    make_flow_sigmas,
    read_flow_schedules,
    shift_mu,
)
from ldmref.errors import UsageError

ROWS = read_flow_schedules()
IDS = [row.name for row in ROWS]


def steps_of(row):
    return [len(row.sigmas)] if row.sigmas else [1, 4, 28, 50]


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_flow_times_fall_from_noise_to_data(row):
    for steps in steps_of(row):
        if row.terminal and steps == 1:
            continue
        for tokens in (256, 4096, 8100):
            sigmas = make_flow_sigmas(row, steps, tokens)
            assert len(sigmas) == steps + 1 and sigmas[-1] == 0.0
            assert (np.diff(sigmas) <= 0).all() and 0.95 < sigmas[0] <= 1.0


def test_names_are_unique_and_rules_known():
    assert len(set(IDS)) == len(IDS)
    assert {row.positions for row in ROWS} == {"linspace", "table", "list", "logit-normal"}
    assert all(row.source and row.time and row.rule and row.spacing for row in ROWS)


# -- diffusers' own scheduler ---------------------------------------------------------------------


def diffusers_sigmas(row, steps, tokens):
    """What FlowMatchEulerDiscreteScheduler makes with the configuration of a row's pipeline."""
    diffusers = pytest.importorskip("diffusers")
    dynamic = row.shift.startswith("tokens")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        shift=row.factor,
        use_dynamic_shifting=dynamic,
        shift_terminal=row.terminal or None,
    )
    if row.end == "shifted 1/1000":
        scheduler.set_timesteps(steps)
        return scheduler.sigmas.numpy()
    passed = np.linspace(1.0, 1 / steps if row.end == "1/n" else row.end, steps)
    mu = shift_mu(row, steps, tokens) if dynamic else None
    scheduler.set_timesteps(sigmas=passed.tolist(), mu=mu)
    return scheduler.sigmas.numpy()


@pytest.mark.parametrize(
    "row",
    [r for r in ROWS if r.program.startswith("diffusers") and r.positions == "linspace"],
    ids=lambda row: row.name,
)
@pytest.mark.parametrize("steps", [4, 28])
def test_rows_of_diffusers_are_its_schedulers(row, steps):
    for tokens in (1024, 4096, 6144):
        ours = make_flow_sigmas(row, steps, tokens)
        np.testing.assert_allclose(ours, diffusers_sigmas(row, steps, tokens), atol=2e-6)


@pytest.mark.parametrize(
    ("family", "pipeline"),
    [
        ("FLUX.1", "flux.pipeline_flux:calculate_shift"),
        ("Qwen-Image", "qwenimage.pipeline_qwenimage:calculate_shift"),
        ("FLUX.2", "flux2.pipeline_flux2:compute_empirical_mu"),
    ],
)
def test_mu_is_that_of_the_pipelines(family, pipeline):
    pytest.importorskip("diffusers")
    from importlib import import_module

    module, _, name = pipeline.partition(":")
    theirs = getattr(import_module(f"diffusers.pipelines.{module}"), name)
    row = find_flow_schedule(family, "diffusers")
    for tokens in (256, 1024, 4096, 4300, 4301, 16384):
        for steps in (4, 28, 50):
            if family == "FLUX.2":
                mu = theirs(tokens, steps)
            else:
                mu = theirs(tokens, *row.tokens, *row.mus)
            assert shift_mu(row, steps, tokens) == pytest.approx(mu, abs=1e-9)


def test_diffusers_shifts_explicit_timesteps_and_we_do_not():
    """diffusers#14461: a list that is passed as timesteps is shifted on its way to sigmas."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    wanted = make_flow_sigmas(find_flow_schedule("Z-Image"), 4)[:-1]
    scheduler.set_timesteps(timesteps=(1000 * wanted).tolist())
    theirs = scheduler.sigmas.numpy()[:-1]
    np.testing.assert_allclose(theirs, 3 * wanted / (1 + 2 * wanted), atol=1e-6)
    np.testing.assert_allclose(scheduler.timesteps.numpy(), 1000 * wanted, rtol=1e-6)
    assert abs(theirs[-1] - wanted[-1]) > 0.2


@pytest.mark.parametrize("row", [r for r in ROWS if r.sigmas], ids=lambda row: row.name)
def test_explicit_lists_are_never_shifted(row):
    assert row.shift == "none"
    for tokens in (256, 16384):
        sigmas = make_flow_sigmas(row, len(row.sigmas), tokens)
        assert sigmas.tolist() == [*row.sigmas, 0.0]
    with pytest.raises(UsageError, match="a list of"):
        make_flow_sigmas(row, len(row.sigmas) + 1)


# -- ComfyUI: a buffer of shifted values, read from its end ---------------------------------------


@pytest.mark.parametrize(
    "row", [r for r in ROWS if r.program == "ComfyUI"], ids=lambda row: row.family
)
def test_simple_scheduler_of_comfyui_reads_its_buffer_backwards(row):
    t = np.arange(1, row.table + 1) / row.table
    k = math.exp(row.mu) if row.shift == "exponential" else row.factor
    buffer = k * t / (1 + (k - 1) * t)
    for steps in (4, 20, 28, 50):
        stride = len(buffer) / steps
        expected = [buffer[-(1 + int(x * stride))] for x in range(steps)]
        np.testing.assert_allclose(make_flow_sigmas(row, steps)[:-1], expected, rtol=1e-12)


# -- known facts ----------------------------------------------------------------------------------


def last(family, program, steps, tokens=4096):
    return make_flow_sigmas(find_flow_schedule(family, program), steps, tokens)[steps - 1]


def test_stable_diffusion_3_has_three_ends():
    ends = [last("SD3", p, 28) for p in ("Stability", "shifted once", "to 1/n")]
    assert [f"{end:.5f}" for end in ends] == ["0.00893", "0.00299", "0.10000"]
    assert last("SD3", "diffusers", 28) == ends[0]


def test_shift_of_flux2_jumps_between_4300_and_4301_tokens():
    row = find_flow_schedule("FLUX.2")
    shifts = [math.exp(shift_mu(row, 50, tokens)) for tokens in (4300, 4301)]
    assert [f"{shift:.2f}" for shift in shifts] == ["7.73", "3.27"]
    sizes = [count_tokens(1040, height) for height in (1056, 1072)]
    assert sizes[0] <= 4300 < sizes[1]


def test_z_image_wasted_its_last_step():
    """diffusers#13730: of 8 steps the last went from 0 to 0."""
    before = make_flow_sigmas(find_flow_schedule("Z-Image", "diffusers before #13730"), 8)
    now = make_flow_sigmas(find_flow_schedule("Z-Image", "diffusers"), 8)
    assert before[-2:].tolist() == [0.0, 0.0]
    assert now[-2] == pytest.approx(0.3)
    assert f"{before[1]:.5f} {now[1]:.5f}" == "0.94737 0.95455"


def test_flux_of_comfyui_does_not_depend_on_the_size():
    row = find_flow_schedule("FLUX.1", "ComfyUI")
    assert shift_mu(row, 28, 1024) == shift_mu(row, 28, 4096) == 1.15
    assert shift_mu(find_flow_schedule("FLUX.1", "BFL"), 28, 1024) == pytest.approx(0.63)


@pytest.mark.parametrize(
    ("family", "program", "steps", "tokens", "texts"),
    [
        ("FLUX.1", "BFL", 28, 4096, ".98841 .75951 .10472"),
        ("FLUX.1", "DiffSynth", 28, 4096, ".98738 .73706 .00893"),
        ("FLUX.1", "BFL", 28, 1024, ".98066 .65249 .06502"),
        ("FLUX.1", "ComfyUI", 28, 1024, ".98841 .75951 .10495"),
        ("Qwen-Image", "diffusers", 50, 4096, ".98970 .66009 .02000"),
        ("Qwen-Image", "DiffSynth", 50, 4096, ".99069 .68238 .02000"),
        ("Qwen-Image", "ComfyUI", 50, 4096, ".99358 .75951 .06055"),
        ("Qwen-Image", "Lightning", 50, 4096, ".99324 .75000 .05769"),
    ],
)
def test_second_middle_and_last_flow_time(family, program, steps, tokens, texts):
    sigmas = make_flow_sigmas(find_flow_schedule(family, program), steps, tokens)
    got = [sigmas[1], sigmas[steps // 2], sigmas[steps - 1]]
    assert [f"{v:.5f}".removeprefix("0") for v in got] == texts.split()


def test_logit_normal_schedule_has_its_quantiles():
    """The share of flow times below s is the normal distribution function of the logit."""
    from scipy import stats

    row = find_flow_schedule("Ideogram 4")
    sigmas = make_flow_sigmas(row, 20, 4096)[1:-1]
    mean = 0.5 * math.log(4)
    shares = stats.norm.cdf((np.log(sigmas / (1 - sigmas)) - mean) / 1.5)
    np.testing.assert_allclose(shares, 1 - np.arange(1, 20) / 20, atol=1e-9)


@pytest.mark.parametrize(
    ("family", "program", "message"),
    [("FLUX.9", None, "no family"), ("FLUX.1", "A1111", "no schedule of FLUX.1")],
)
def test_unknown_names_are_refused(family, program, message):
    with pytest.raises(UsageError, match=message) as caught:
        find_flow_schedule(family, program)
    assert caught.value.hint


def test_at_least_one_step():
    with pytest.raises(UsageError, match="at least 1"):
        make_flow_sigmas(find_flow_schedule("SD3"), 0)
