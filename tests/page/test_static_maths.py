"""The JavaScript of the static pages computes as Python does: noise, tokens, steps, schedules."""

from __future__ import annotations

import hashlib
import json
import unicodedata

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from static_site import CORE, run_node

import ldmref
from ldmref.math import interpolation, schedules
from ldmref.prompts.emoji import named_emoji
from ldmref.samplers import SAMPLERS, make_schedule, sample
from ldmref.samplers.denoiser import guided_denoiser
from ldmref.samplers.guidance_registry import get_guidance
from ldmref.samplers.noise import PhiloxStream
from ldmref.samplers.schedule import sampling_sigmas
from ldmref.testing.mixture import three_modes

TABLES = "6db8f113e2b4e3372c64491072528d3a5df08003e8c66bf5b0b3decf98aa1ede"
EDGE = 3.6541528853610088  # where the ziggurat's tail begins
STEPS = """
  const levels = {sigmas: given.sigmas, timesteps: given.timesteps};
  const states = [];
  for await (const {next} of m.sample(denoise, x, levels, given.sampler)) states.push(next);
  return states;
"""


@pytest.fixture(scope="module")
def model():
    return ldmref.load(backend="numpy")


# -- noise --------------------------------------------------------------------------------------


def test_noise_is_that_of_numpy():
    """Bit by bit, except for the tail, whose last bit depends on the C library's logarithm."""
    seeds = [0, 1, 7, 123456789, 2**32, 2**63 + 5, 2**64 - 1, *range(100, 112)]
    script = "return given.map((seed) => m.normalNoise(BigInt(seed), 4096));"
    got = np.asarray(run_node("random", script, [str(seed) for seed in seeds]), np.float32)
    want = np.stack([PhiloxStream(seed).draw((4096,)) for seed in seeds])
    tail = np.abs(want) > EDGE
    assert tail.any()
    assert (got[~tail] == want[~tail]).all()
    assert (np.abs(got - want)[tail] <= np.spacing(np.abs(want[tail]))).all()


def test_the_tables_of_the_ziggurat_are_those_of_numpy():
    """Computed in JavaScript; the digest is that of the tables in ziggurat_constants.h of NumPy."""
    got = run_node("random", "return m.zigguratTables();", None)
    types = {"limits": "<u4", "widths": "<f4", "heights": "<f4"}
    data = b"".join(np.asarray(got[name], kind).tobytes() for name, kind in types.items())
    assert hashlib.sha256(data).hexdigest() == TABLES


def test_philox_of_random123():
    """The known answers of the library Random123 for Philox4x64-10."""
    script = "return m.philox([0n, 0n, 0n, 0n], [0n, 0n]).map((word) => word.toString(16));"
    want = ["16554d9eca36314c", "db20fe9d672d0fdc", "d7e772cee186176b", "7e68b68aec7ba23b"]
    assert run_node("random", script, None) == want


# -- sampling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 12, 20, 50, 333])
def test_noise_levels(model, steps):
    table = sampling_sigmas(model.config.scheduler)
    schedule = make_schedule(model.config.scheduler, SAMPLERS["euler"], None, steps)
    script = "return m.noiseLevels(given.table, given.steps);"
    got = run_node("sampling", script, {"table": table.tolist(), "steps": steps})
    assert got["sigmas"] == schedule.sigmas.tolist()
    assert np.abs(got["timesteps"] - schedule.timesteps).max() < 1e-9


def test_too_many_steps_are_refused(model):
    table = sampling_sigmas(model.config.scheduler).tolist()
    script = """return [0, 1.5, given.length + 1].map((n) => {
      try { m.noiseLevels(given, n); return ""; } catch (error) { return error.message; }
    });"""
    got = run_node("sampling", script, table)
    assert [text.startswith(f"steps must be a whole number from 1 to {len(table)}") for text in got]
    assert all(got)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
@pytest.mark.parametrize("steps", [1, 2, 10, 25])
def test_steps_of_a_mixture(sampler, steps):
    """Every state, with a denoiser that is exact in both languages."""
    mixture = three_modes()
    sigmas = [*np.geomspace(20.0, 0.05, steps).tolist(), 0.0]
    x = 20.0 * np.random.default_rng(3).standard_normal((50, 2))
    step = SAMPLERS[sampler].make()
    want = [state.x for state in sample(mixture.denoise, x, sigmas, step)]
    script = """
      const {mixtureDenoiser} = await import(new URL("mixture.js", given.core));
      const denoise = mixtureDenoiser(given.mixture);
      const x = Float64Array.from(given.x);
    """
    parts = zip(mixture.weights, mixture.means, mixture.stds, strict=True)
    values = {
        "core": CORE.as_uri() + "/",
        "mixture": [
            {"weight": float(weight), "mean": mean.tolist(), "std": float(std)}
            for weight, mean, std in parts
        ],
        "x": x.ravel().tolist(),
        "sigmas": sigmas,
        "timesteps": sigmas,
        "sampler": sampler,
    }
    got = run_node("sampling", script + STEPS, values)
    assert len(got) == len(want) == steps
    for ours, theirs in zip(got, want, strict=True):
        assert np.abs(np.reshape(ours, (-1, 2)) - theirs).max() < 1e-10


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
@pytest.mark.parametrize("w", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("kind", ["v", "eps", "x0"])
def test_steps_with_guidance(model, sampler, w, kind):
    """The whole run in float32, with a network that both languages can compute."""
    schedule = make_schedule(model.config.scheduler, SAMPLERS[sampler], None, 12)
    noise = PhiloxStream(5).draw((1, 256))

    def network(xt, sigma, names, interval):
        t = np.float32(schedule.timestep(sigma, interval) / 1000.0)
        return [np.tanh(xt) * np.float32(0.8) + t * NUMBER[name] for name in names]

    denoise = guided_denoiser(network, kind, get_guidance("cfg"), w)
    x = noise * np.float32(schedule.init_noise_sigma)
    states = sample(denoise, x, schedule.sigmas.tolist(), SAMPLERS[sampler].make())
    want = [state.x for state in states]
    script = """
      const number = {uncond: 0.25, cond: -0.5};
      const network = async (xt, t) => Object.fromEntries(Object.entries(number).map(
        ([name, value]) => [name, xt.map((one) => Math.tanh(one) * 0.8 + (t / 1000) * value)]));
      const denoise = m.guidedDenoiser(network, given.kind, given.w);
      const x = m.initialState(Float32Array.from(given.noise), given.sigmas[0]);
    """
    values = {
        "kind": kind,
        "w": w,
        "noise": noise.ravel().tolist(),
        "sigmas": schedule.sigmas.tolist(),
        "timesteps": schedule.timesteps.tolist(),
        "sampler": sampler,
    }
    got = run_node("sampling", script + STEPS, values)
    for ours, theirs in zip(got, want, strict=True):
        size = max(1.0, float(np.abs(theirs).max()))
        assert np.abs(np.asarray(ours) - theirs.ravel()).max() < 1e-5 * size


NUMBER = {"uncond": np.float32(0.25), "cond": np.float32(-0.5)}


def test_pixels_are_those_of_python():
    from ldmref.io.images.pil import to_images

    values = np.linspace(-1.2, 1.2, 3 * 40 * 40, dtype=np.float32).reshape(1, 3, 40, 40)
    values.flat[:510] = (np.arange(510) - 255) / 255  # halves, which are rounded to even
    script = "return m.toPixels(Float32Array.from(given));"
    got = np.reshape(run_node("model", script, values.ravel().tolist()), (40, 40, 4))
    assert (got[..., :3] == np.asarray(to_images(values)[0])).all()
    assert (got[..., 3] == 255).all()


# -- the tokenizer ------------------------------------------------------------------------------

ENGLISH = [
    "a",
    "red",
    "heart",
    "Blue",
    "cat,",
    "on",
    "the",
    "x-ray",
    "don't",
    "#",
    "7",
    "zzz",
    "CAFÉ",
]
EMOJI = [emoji.text for emoji in named_emoji()[::37]]
# Marks, letters and digits of later versions of Unicode differ between tokenizers and browsers.
OLD = unicodedata.ucd_3_2_0.category
LETTERS = st.sampled_from(
    [c for c in map(chr, range(0x3000)) if OLD(c) == unicodedata.category(c) != "Cn"]
)
WORDS = st.sampled_from(ENGLISH) | st.sampled_from(EMOJI) | st.text(LETTERS, max_size=8)
PROMPTS = st.lists(WORDS, max_size=30).map(" ".join) | st.lists(WORDS, max_size=6).map("".join)


@pytest.fixture(scope="module")
def tokenizer_data(model, tmp_path_factory):
    """Return the tokenizer as the pages read it."""
    from make_browser_model import write_tokenizer

    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    write_tokenizer(model, path)
    return json.loads(path.read_text("utf-8"))


@settings(
    max_examples=4,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],  # a list of prompts takes minutes to shrink
)
@given(st.lists(PROMPTS, min_size=60, max_size=120))
@example(
    [
        "",
        " ",
        "a red heart",
        "🐶",
        "🐱🐶 on red",
        "❤️‍🔥",
        "ÀÉÎ",
        "ΟΔΟΣ",
        "İ",
        "ﬁ",
        "한글",
        "²",
        "a" * 3000,
    ]
)
@example([emoji.text for emoji in named_emoji()])
def test_tokens_are_those_of_python(model, tokenizer_data, prompts):
    tokens = model.tokenizer.tokenize(prompts)
    script = """
      const tokenizer = new m.Tokenizer(given.data);
      return given.prompts.map((prompt) => tokenizer.encode(prompt));
    """
    got = run_node("tokenizer", script, {"data": tokenizer_data, "prompts": prompts})
    for prompt, ours, ids, left in zip(
        prompts, got, tokens.ids[:, 0], tokens.truncated, strict=True
    ):
        assert ours["ids"] == ids.tolist(), prompt
        assert len(ours["leftOut"]) == left, prompt


def test_unknown_words_are_named(model, tokenizer_data):
    prompt = "a red zzyzx, and a zzyzx qwop"
    script = "return new m.Tokenizer(given.data).encode(given.prompt).unknown;"
    got = run_node("tokenizer", script, {"data": tokenizer_data, "prompt": prompt})
    assert got == ["zzyzx", "qwop"]
    assert model.tokenizer.encode([prompt])[1] == ["words the model never saw: zzyzx, qwop"]


# -- the widgets --------------------------------------------------------------------------------


def test_schedules_of_the_widgets():
    script = """return [
      m.linearSchedule(1000, 1e-4, 0.02), m.scaledLinearSchedule(1000, 0.00085, 0.012),
      m.cosineSchedule(1000, 0.008), m.cosineSchedule(1000, 0.1),
    ];"""
    betas = [
        schedules.linear_betas(1000, 1e-4, 0.02),
        schedules.scaled_linear_betas(1000, 0.00085, 0.012),
        schedules.cosine_betas(1000),
        schedules.cosine_betas(1000, s=0.1),
    ]
    got = run_node("schedules", script, None)
    for ours, theirs in zip(got, betas, strict=True):
        np.testing.assert_allclose(ours, schedules.alphas_cumprod(theirs), rtol=1e-10)


@pytest.mark.parametrize("name", ["lerp", "slerp"])
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_between_two_arrays(name, t):
    a, b = np.random.default_rng(0).standard_normal((2, 64))
    script = "return m[given.name](given.a, given.b, given.t);"
    values = {"name": name, "a": a.tolist(), "b": b.tolist(), "t": t}
    want = getattr(interpolation, name)(a[None], b[None], t)[0]
    np.testing.assert_allclose(run_node("schedules", script, values), want, rtol=1e-12, atol=1e-14)


def test_the_density_of_a_mixture():
    mixture = three_modes()
    points = np.random.default_rng(1).standard_normal((20, 2))
    parts = zip(mixture.weights, mixture.means, mixture.stds, strict=True)
    values = {
        "mixture": [
            {"weight": float(weight), "mean": mean.tolist(), "std": float(std)}
            for weight, mean, std in parts
        ],
        "points": points.tolist(),
    }
    script = "return given.points.map((point) => m.density(given.mixture, point, 0.7));"
    np.testing.assert_allclose(
        run_node("mixture", script, values), mixture.density(points, 0.7), rtol=1e-12
    )
