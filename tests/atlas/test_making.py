"""The rows of the atlas against diffusers, against ComfyUI's rule in its words, and known facts."""

import math
from dataclasses import replace

import numpy as np
import pytest

from ldmref.atlas import (
    count_tokens,
    find_flow_schedule,
    make_flow_sigmas,
    name_numbers,
    read_flow_schedules,
    shift_mu,
)
from ldmref.atlas.making import shifted
from ldmref.atlas.positions import count_steps, place, place_late
from ldmref.atlas.table import FlowSchedule
from ldmref.differences import read_differences
from ldmref.errors import UsageError
from ldmref.models import preset
from ldmref.samplers.flow_spacings import flow_levels, shift_levels

ROWS = read_flow_schedules()
IDS = [row.name for row in ROWS]


def steps_of(row):
    return [len(row.sigmas)] if row.sigmas else [1, 4, 28, 50]


def test_flow_times_fall_from_noise_to_data():
    lists = [(row, steps) for row in ROWS for steps in steps_of(row)]
    for row, steps in lists:
        if row.terminal and steps == 1:
            continue
        for tokens in (256, 4096, 8100):
            sigmas = make_flow_sigmas(row, steps, tokens)
            assert sigmas[-1] == 0.0 and (np.diff(sigmas) <= 0).all(), row.name
            if row.positions == "strides":
                expected = len(sigmas) >= steps + 1 and 0.0 < sigmas[0] < 1.0
            elif row.positions == "bong_tangent" and steps == 1:
                expected = 0.5 <= sigmas[0] < 0.51  # the middle: its second arctangent begins
            else:
                expected = len(sigmas) == steps + 1 and 0.95 < sigmas[0] <= 1.0
            assert expected, (row.name, steps, tokens)


def test_names_are_unique_and_rules_known():
    assert len(set(IDS)) == len(IDS)
    plain = {"linspace", "open linspace", "table", "strides", "beta", "list", "logit-normal"}
    unshifted = {"karras", "exponential", "arctan", "bong_tangent", "linear-quadratic"}
    assert {row.positions for row in ROWS} == plain | unshifted
    assert all(row.source and row.time and row.rule and row.spacing for row in ROWS)


# -- diffusers' own scheduler ---------------------------------------------------------------------


def diffusers_sigmas(row, steps, tokens):
    """What FlowMatchEulerDiscreteScheduler makes with the configuration of a row's pipeline."""
    diffusers = pytest.importorskip("diffusers")
    dynamic = row.shift.startswith(("tokens", "exponential"))
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
        ("Qwen-Image 2.1", "qwenimage21.pipeline_qwenimage21:calculate_shift"),
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


def comfyui_table(row):
    """ComfyUI's flow times of training, rising: the shift of k / table."""
    t = np.arange(1, row.table + 1) / row.table
    k = math.exp(row.mu) if row.shift == "exponential" else row.factor
    return k * t / (1 + (k - 1) * t)


def ddim_uniform(table, n):
    """Every (N // n)-th of the table from its second, however many these are."""
    return table[1 :: max(len(table) // n, 1)][::-1]


def beta(table, n):
    from scipy import stats

    quantiles = stats.beta.ppf([1 - i / n for i in range(n)], 0.6, 0.6)
    chosen = [table[round(q * (len(table) - 1))] for q in quantiles]
    return [s for s, before in zip(chosen, [None, *chosen], strict=False) if s != before]


def karras(table, n):
    low, high = (end ** (1 / 7) for end in (table[0], table[-1]))
    return [(high + i / (n - 1) * (low - high)) ** 7 for i in range(n)]


def exponential(table, n):
    return [table[-1] * (table[0] / table[-1]) ** (i / (n - 1)) for i in range(n)]


def kl_optimal(table, n):
    low, high = math.atan(table[0]), math.atan(table[-1])
    return [math.tan(high + i / (n - 1) * (low - high)) for i in range(n)]


def linear_quadratic(table, n):
    """1 minus a line to 0.025 in half of the steps and a polynomial of degree 2 to 1.

    The polynomial is solved for here: it meets the line in value and slope, and is 1 at n.
    """
    half = n // 2
    slope = 0.025 / half
    matrix = [[1, half, half**2], [0, 1, 2 * half], [1, n, n**2]]
    parabola = np.linalg.solve(matrix, [0.025, slope, 1.0])
    return [1 - (slope * i if i < half else float(np.polyval(parabola[::-1], i))) for i in range(n)]


def uniform(row, n, count):
    """Evenly spaced shifted flow times from the largest to the smallest, shifted once more."""
    table = comfyui_table(row)
    k = math.exp(row.mu) if row.shift == "exponential" else row.factor
    s = np.asarray([table[-1] + i / (count - 1) * (table[0] - table[-1]) for i in range(n)])
    return k * s / (1 + (k - 1) * s)


def arctangent(steps, slope, pivot, start, end):
    """RES4LYF's `get_bong_tangent_sigmas`, a number at a time."""
    curve = [(2 / math.pi * math.atan(-slope * (x - pivot)) + 1) / 2 for x in range(steps)]
    return [(v - curve[-1]) / (curve[0] - curve[-1]) * (start - end) + end for v in curve]


def bong_tangent(n, largest, smallest):
    """RES4LYF's `bong_tangent_scheduler`, without its last number, which programs replace by 0."""
    n += 2
    slope, turn = 0.2 / (n / 40), int(n * 0.6)
    middle = smallest + (largest - smallest) / 2
    first = arctangent(turn, slope, turn, largest, middle) if turn > 1 else []
    return [*first[:-1], *arctangent(n - turn, slope, 0, middle, smallest)][: n - 2]


COMFYUI = {
    "bong_tangent": lambda row, n: bong_tangent(n, 1.0, 0.0),
    "ddim_uniform": lambda row, n: ddim_uniform(comfyui_table(row), n),
    "beta": lambda row, n: beta(comfyui_table(row), n),
    "karras": lambda row, n: karras(comfyui_table(row), n),
    "exponential": lambda row, n: exponential(comfyui_table(row), n),
    "kl_optimal": lambda row, n: kl_optimal(comfyui_table(row), n),
    "linear_quadratic": lambda row, n: linear_quadratic(comfyui_table(row), n),
    "normal": lambda row, n: uniform(row, n, n),
    "sgm_uniform": lambda row, n: uniform(row, n, n + 1),
}


@pytest.mark.parametrize("scheduler", COMFYUI)
def test_other_schedulers_of_comfyui_are_its_rules(scheduler):
    rows = [row for row in ROWS if row.program == f"ComfyUI {scheduler}"]
    assert {row.family for row in rows} == {r.family for r in ROWS if r.program == "ComfyUI"}
    for row in rows:
        for steps in (2, 4, 7, 20, 28, 50):
            expected = [*COMFYUI[scheduler](row, steps), 0.0]
            made = make_flow_sigmas(row, steps)
            assert len(made) == len(expected)
            np.testing.assert_allclose(made, expected, rtol=1e-10, atol=1e-14)


def test_ddim_uniform_takes_more_steps_than_it_is_asked_for():
    """28 steps of 1000 are strides of 35, of which 29 fit."""
    row = find_flow_schedule("SD3", "ComfyUI ddim_uniform")
    assert len(make_flow_sigmas(row, 28)) == 30


# -- stable-diffusion.cpp's schedulers between two levels -----------------------------------------

BETWEEN = {
    "karras": karras,
    "exponential": exponential,
    "kl_optimal": kl_optimal,
    "bong_tangent": lambda ends, n: bong_tangent(n, ends[-1], ends[0]),
}
PRINTED = {  # 8 steps of Z-Image in its pull request 1372
    "before": "1.00033, 0.971839, 0.930154, 0.863995, 0.746076, 0.503155, 0.217895, 0.0752291, 0",
    "after": "1, 0.97143, 0.929634, 0.863298, 0.745065, 0.501497, 0.215478, 0.0724315, 0",
}


def sigma_of_timestep(row, t):
    """Its `t_to_sigma`, which adds 1 to the timestep."""
    k = math.exp(row.mu) if row.shift == "exponential" else row.factor
    s = (t + 1) / 1000
    return k * s / (1 + (k - 1) * s)


def ends_of(row, late):
    """The levels between which schedulers are: t = 999 and 0, or 1 more before it was repaired."""
    return [sigma_of_timestep(row, late), sigma_of_timestep(row, 999 + late)]


@pytest.mark.parametrize("scheduler", BETWEEN)
@pytest.mark.parametrize("late", [0, 1])
def test_schedulers_of_stable_diffusion_cpp_are_its_rules(scheduler, late):
    rows = [row for row in ROWS if row.program == f"stable-diffusion.cpp {scheduler}"]
    assert {row.family for row in rows} == {"SD3", "FLUX.1", "Z-Image"}
    for row in rows:
        for steps in (2, 4, 8, 20, 50):
            expected = BETWEEN[scheduler](ends_of(row, late), steps)
            made = (place_late if late else place)(row, steps, shift_mu(row, steps, 4096))
            np.testing.assert_allclose(made, expected, rtol=1e-9, atol=1e-13)
            text = " ".join(f"{time:.6g}" for time in [*expected, 0.0])
            named = " ".join(name_numbers(text).same)
            assert f"stable-diffusion.cpp {scheduler}" in named or steps == 2
            assert ("at t + 1" in named) == bool(late) or steps == 2


@pytest.mark.parametrize("when", PRINTED)
def test_lists_of_the_pull_request_are_named(when):
    (same,) = name_numbers(PRINTED[when]).same
    late = ", at t + 1" if when == "before" else ""
    assert same == f"SD3 and Z-Image, constant shift 3{late}: stable-diffusion.cpp bong_tangent"


@pytest.mark.parametrize("scheduler", [*COMFYUI])
@pytest.mark.parametrize("family", ["SD3", "FLUX.1"])
def test_lists_of_comfyuis_schedulers_are_named_as_they_are_printed(family, scheduler):
    row = find_flow_schedule(family, f"ComfyUI {scheduler}")
    for steps in (4, 9, 20):
        text = " ".join(f"{time:.4f}" for time in make_flow_sigmas(row, steps))
        assert any(f"ComfyUI {scheduler}" in same for same in name_numbers(text).same)


def test_what_needs_no_other_size_and_is_best_known_is_named_first():
    """Of programs that make the same numbers."""
    for text, first in (
        ("1.0 0.9 0.75 0.5", "Z-Image, constant shift 3: Tongyi, diffusers, ComfyUI"),
        ("1.0 0.90453 0.75951 0.51284 0.0", "FLUX.1, mu by tokens, 4096 tokens: BFL, diffusers"),
    ):
        same = name_numbers(text).same
        assert same[0].startswith(first) and "ComfyUI" in same[0] + same[1]


# -- stable-diffusion.cpp, mflux and Krea ---------------------------------------------------------


def test_stable_diffusion_cpp_counts_latent_pixels_as_tokens():
    """1024 x 1024 pixels are 128 x 128 in its latents: mu 3.23 instead of 1.15."""
    latent_pixels = 128 * 128
    mu = 0.5 + 0.65 * (latent_pixels - 256) / (4096 - 256)
    for family in ("FLUX.1", "FLUX.1-schnell"):
        row = find_flow_schedule(family, "stable-diffusion.cpp")
        assert shift_mu(row, 20, 4096) == pytest.approx(mu, rel=1e-12)
    (row,) = [row for row in read_differences() if "counts_latent_pixels" in row.test]
    own = shift_mu(find_flow_schedule("FLUX.1", "BFL"), 20, 4096)
    assert f"= {mu:.2f} instead of {own:.2f}" in row.number


@pytest.mark.parametrize(
    ("family", "shift"),
    [("SD3", 3), ("Z-Image", 3), ("Qwen-Image", 3), ("Wan", 5), ("HunyuanVideo", 7)],
)
def test_discrete_of_stable_diffusion_cpp_is_spaced_in_timesteps(family, shift):
    row = find_flow_schedule(family, "stable-diffusion.cpp")
    for steps in (4, 20):
        t = np.asarray([999 - i * 999 / (steps - 1) for i in range(steps)])
        s = (t + 1) / 1000
        made = make_flow_sigmas(row, steps)[:-1]
        np.testing.assert_allclose(made, shift * s / (1 + (shift - 1) * s), rtol=1e-12)


def test_mu_of_qwen_image_21():
    """The same line as in ldmref's model, FLUX.1's without its numbers, and ComfyUI's constant."""
    own = find_flow_schedule("Qwen-Image 2.1", "diffusers")
    made = make_flow_sigmas(own, 40, 16384)
    scheduler = preset("qwen-image-2.1").scheduler
    np.testing.assert_allclose(made, flow_levels(scheduler, "flow", 40, 16384), rtol=1e-12)
    mus = [shift_mu(row, 40, 16384) for row in (own, find_flow_schedule("FLUX.1", "diffusers"))]
    comfyui = [
        shift_mu(find_flow_schedule("Qwen-Image 2.1", "ComfyUI"), 40, n) for n in (64, 16384)
    ]
    (row,) = [row for row in read_differences() if "mu_of_qwen_image_21" in row.test]
    assert comfyui == [0.69, 0.69]
    assert f"= {mus[0]:.2f}, {mus[1]:.2f} and {comfyui[0]}" in row.number


def test_a_scheduler_would_shift_the_list_of_turbo():
    """That of the base model, which diffusers takes if the folder says so."""
    turbo = preset("qwen-image-2.1-turbo").scheduler
    base = preset("qwen-image-2.1").scheduler
    listed = flow_levels(turbo, "flow", 8, 4096)
    assert listed.tolist() == [*find_flow_schedule("Qwen-Image 2.1 Turbo", "diffusers").sigmas, 0.0]
    shifted_last = shift_levels(base, listed[:-1], 4096)[-1]
    (row,) = [row for row in read_differences() if "shift_the_list_of_turbo" in row.test]
    assert f"{shifted_last:.2f} instead of {listed[7]:.3f}" in row.number


def test_mflux_takes_the_mu_of_krea_for_a_shift():
    s = np.linspace(1, 0, 9)
    theirs = make_flow_sigmas(find_flow_schedule("Krea 2", "mflux"), 8)
    np.testing.assert_allclose(theirs, 1.15 * s / (1 + 0.15 * s), rtol=1e-12)
    maker = make_flow_sigmas(find_flow_schedule("Krea 2", "Krea Turbo"), 8)
    k = math.exp(1.15)
    np.testing.assert_allclose(maker, k * s / (1 + (k - 1) * s), rtol=1e-12)
    (row,) = [row for row in read_differences() if "test_mflux_takes_the_mu" in row.test]
    assert f"{theirs[-2]:.3f} instead of {maker[-2]:.3f}" in row.number


def test_mflux_shifts_z_image_by_tokens():
    assert shift_mu(find_flow_schedule("Z-Image", "mflux"), 9, 4096) == pytest.approx(1.15)
    flux2 = find_flow_schedule("FLUX.2")
    base = find_flow_schedule("Z-Image", "mflux base")
    assert shift_mu(base, 50, 4096) == shift_mu(flux2, 50, 4096)


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


def test_flux2_has_one_mu_in_comfyui_and_invokeai():
    for program in ("ComfyUI", "InvokeAI"):
        row = find_flow_schedule("FLUX.2", program)
        assert {shift_mu(row, 4, tokens) for tokens in (256, 4096, 16384)} == {2.02}
    own = find_flow_schedule("FLUX.2", "diffusers")
    mus = [f"{shift_mu(own, 4, tokens):.3f}" for tokens in (4096, 16384)]
    seconds = [
        f"{make_flow_sigmas(row, 4)[1]:.4f}"
        for row in (own, find_flow_schedule("FLUX.2", "InvokeAI"))
    ]
    assert mus == ["2.291", "3.230"] and seconds == ["0.9674", "0.9577"]


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


# -- ends of ranges -------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 10_001])
def test_steps_are_from_1_to_10000(steps):
    row = find_flow_schedule("SD3")
    with pytest.raises(UsageError) as caught:
        make_flow_sigmas(row, steps)
    assert caught.value.code == "E-STEPS"
    nearest = min(max(steps, 1), 10_000)
    assert len(make_flow_sigmas(row, nearest)) == nearest + 1


@pytest.mark.parametrize("tokens", [0, 2**20 + 1])
def test_tokens_are_from_1_to_those_of_16384_pixels(tokens):
    row = find_flow_schedule("FLUX.1", "BFL")
    with pytest.raises(UsageError) as caught:
        make_flow_sigmas(row, 4, tokens)
    assert caught.value.code == "E-SIZE"
    assert make_flow_sigmas(row, 4, min(max(tokens, 1), 2**20))[0] == 1.0


def test_tokens_are_whole_squares_of_16_pixels():
    assert count_tokens(16, 16) == 1
    assert count_tokens(31, 47) == 2
    assert count_tokens(16384, 16384) == 2**20
    for size in ((15, 16), (16, 15), (16384, 16400)):
        with pytest.raises(UsageError) as caught:
            count_tokens(*size)
        assert caught.value.code == "E-SIZE"


def test_one_step_of_mochi_begins_at_noise():
    row = find_flow_schedule("SD3", "ComfyUI linear_quadratic")
    assert make_flow_sigmas(row, 1).tolist() == [1.0, 0.0]


def test_a_logit_normal_law_is_clamped():
    """As Ideogram's code and diffusers do: 1 - s is from 1 / (1 + e^9) to 1 / (1 + e^-7.5)."""
    row = find_flow_schedule("Ideogram 4")
    first = make_flow_sigmas(row, 20)[0]
    assert 1 - first == pytest.approx(1 / (1 + math.exp(9.0)), rel=1e-9)
    last = shifted(row, 20, -20.0)[-1]
    assert 1 - last == pytest.approx(1 / (1 + math.exp(-7.5)), rel=1e-12)


def test_a_row_has_no_shift_and_a_plain_law_of_its_own():
    row = FlowSchedule("A", "B", "linspace", "linear", 4, "source", "sigma")
    assert shift_mu(row, 4, 4096) == 0.0
    assert make_flow_sigmas(row, 4).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    plain = make_flow_sigmas(replace(row, positions="logit-normal", shift="none", pixels=2**20), 4)
    z = 0.6744897501960817  # the upper quartile of a normal law
    np.testing.assert_allclose(plain[1:4], 1 / (1 + np.exp([-z, 0, z])), rtol=1e-12)


def test_strides_are_counted_back():
    row = find_flow_schedule("SD3", "ComfyUI ddim_uniform")
    for count in (1, 2, 5, 29, 30, 300):
        for steps in count_steps(row, count):
            assert len(make_flow_sigmas(row, steps)) == count + 1
    for steps in (1, 2, 5, 28, 30, 250):
        count = len(make_flow_sigmas(row, steps)) - 1
        assert steps in count_steps(row, count)


def test_the_shift_of_flux3_is_that_of_its_model():
    for program in ("diffusers", "flux3-mlx"):
        made = make_flow_sigmas(find_flow_schedule("FLUX.3", program), 50, 4096)
        scheduler = preset("flux3-klein-base").scheduler
        wanted = flow_levels(scheduler, "flow", 50, 4096)
        np.testing.assert_allclose(made, wanted[: len(made)], rtol=1e-12, atol=1e-15)
