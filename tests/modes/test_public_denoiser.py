"""`ldmref.denoiser`: its arguments, and gradients through it."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
from rounding import ROUNDING
from test_junk import JUNK

import ldmref
from ldmref.errors import LdmrefError, UsageError
from ldmref.modes.denoiser import DenoiserOptions
from ldmref.modes.registry import MODES
from ldmref.samplers.spacings import timesteps_at


def noise(n=1, seed=0, size=8):
    return np.random.default_rng(seed).standard_normal((n, 4, size, size))


def code_of(function, *args, **kwargs):
    with pytest.raises(LdmrefError) as caught:
        function(*args, **kwargs)
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)
    return caught.value.code


# -- arguments ------------------------------------------------------------------------------------

ARGUMENTS = """
    prompt negative_prompt cfg_scale clip_skip long_prompts prompt_weights prompt_embeds
    negative_prompt_embeds pooled_prompt_embeds negative_pooled_prompt_embeds grad model
""".split()


@pytest.mark.parametrize("name", ARGUMENTS)
def test_no_value_of_any_argument_raises_an_error_that_is_not_ours(tiny, name):
    refused = 0
    for kind, value in JUNK.items():
        arguments = {"model": tiny, "prompt": "a"} | {name: value}
        try:
            ldmref.denoiser(**arguments)(noise(), 1.0)
        except LdmrefError as error:
            refused += 1
            assert len(str(error)) < 300 and "\n" not in str(error), kind
        except Exception as error:
            pytest.fail(f"{name}={kind} raised {error!r}")
    assert refused > 15


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prompt", 5),
        ("prompt", b"red"),
        ("prompt", []),
        ("cfg_scale", "7"),
        ("cfg_scale", True),
        ("cfg_scale", float("nan")),
        ("negative_prompt", ["a", "b"]),
        ("clip_skip", 1.5),
        ("prompt_weights", "A1111"),
        ("grad", 1),
        ("prompt", None),
    ],
)
def test_an_argument_has_the_error_that_it_has_in_txt2img(tiny, name, value):
    code = code_of(ldmref.denoiser, **{"model": tiny, "prompt": "a"} | {name: value})
    if name in MODES["txt2img"].parameters:
        plan = {"prompt": "a"} | {name: value}
        assert code == code_of(ldmref.modes.plan, "txt2img", tiny, **plan)


def test_it_takes_parameters_of_txt2img_and_no_other(tiny):
    assert {*DenoiserOptions.__annotations__} <= {*MODES["txt2img"].parameters}
    for name, hint in {"clip_skp": "clip_skip", "steps": ""}.items():
        with pytest.raises(UsageError, match=f"denoiser has no parameter '{name}'") as caught:
            ldmref.denoiser(tiny, "a", **{name: 3})
        assert caught.value.code == "E-USAGE" and hint in caught.value.hint


@pytest.mark.parametrize("wrong", ["emoji", None, 3, "x" * 5000])
def test_a_name_is_no_model(wrong):
    with pytest.raises(UsageError, match="denoiser needs a model") as caught:
        ldmref.denoiser(wrong, "a")
    assert caught.value.code == "E-MODEL" and "ldmref.load(" in caught.value.hint
    assert len(caught.value.hint) < 120 and ("'emoji'" in caught.value.hint) == (wrong == "emoji")


@pytest.mark.parametrize(
    ("shape", "code"),
    [
        ((0, 4, 8, 8), "E-LATENTS"),
        ((4, 8, 8), "E-LATENTS"),
        ((1, 7, 8, 8), "E-LATENTS"),
        ((1, 4, 0, 8), "E-LATENTS"),
        ((1, 4, 8, 0), "E-LATENTS"),
        ((1, 3, 16, 16), "E-LATENTS"),
        ((1, 1, 4, 8, 8), "E-LATENTS"),
        ((), "E-LATENTS"),
        ((1, 4, 2, 6), None),
    ],
)
def test_what_has_the_shape_of_latents_is_denoised(tiny, shape, code):
    denoise = ldmref.denoiser(tiny, "a")
    if code is None:
        assert denoise(np.zeros(shape), 1.0).shape == shape
    else:
        assert code_of(denoise, np.zeros(shape), 1.0) == code


def test_every_level_of_the_network_must_halve(tiny):
    unet = dataclasses.replace(tiny.config.unet, resnet_updown=True)
    config = dataclasses.replace(tiny.config, denoiser=unet)
    model = ldmref.random_model("tiny", backend="numpy")
    model.config = config
    with pytest.raises(UsageError, match="multiples of 2"):
        ldmref.denoiser(model, "a")(noise(size=7), 1.0)


@pytest.mark.parametrize("x", [None, [[1.0]], "x", 3.0, np.zeros((1, 4, 8, 8), int)])
def test_what_is_no_array_of_floats_is_refused(tiny, x):
    assert code_of(ldmref.denoiser(tiny, "a"), x, 1.0) in ("E-ARRAY", "E-LATENTS")


@pytest.mark.parametrize(
    "sigma",
    [
        -1.0,
        float("inf"),
        float("nan"),
        "1",
        None,
        True,
        1j,
        [1.0],
        np.ones(2),
        np.ones((1, 1)),
        1e7,
        np.array("x"),
    ],
)
def test_what_is_no_noise_level_is_refused(tiny, sigma):
    assert code_of(ldmref.denoiser(tiny, "a"), noise(), sigma) == "E-SIGMA"


def test_every_number_is_a_noise_level(tiny64):
    denoise = ldmref.denoiser(tiny64, "a")
    x = noise()
    want = denoise(x, 2.0)
    for sigma in (2, np.float32(2), np.int64(2), np.array(2.0)):
        np.testing.assert_array_equal(denoise(x, sigma), want)


def test_at_sigma_0_nothing_is_noise_and_nothing_is_warned_of(tiny64):
    x = noise()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(ldmref.denoiser(tiny64, "a")(x, 0.0), x, rtol=0, atol=1e-15)
        assert timesteps_at(np.array([0.1, 1.0]), np.array([0.0, 0.1])).tolist() == [0.0, 0.0]


# -- several prompts, embeddings ------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"long_prompts": "chunk"}])
def test_a_list_has_a_prompt_for_each(tiny64, options):
    """Prompts of another number of chunks go through the network apart."""
    prompts = ["a cat", "red " * 60, "a cat", "dog"]
    x = noise(4)
    got = ldmref.denoiser(tiny64, prompts, "hat", 3.0, **options)(x, 1.3)
    for i, prompt in enumerate(prompts):
        alone = ldmref.denoiser(tiny64, prompt, "hat", 3.0, **options)(x[i : i + 1], 1.3)
        np.testing.assert_allclose(got[i : i + 1], alone, rtol=0, atol=ROUNDING)
    denoise = ldmref.denoiser(tiny64, prompts, ["a", "b", "c", "d"], 3.0)
    want = ldmref.denoiser(tiny64, "dog", "d", 3.0)(x[3:], 1.3)
    np.testing.assert_allclose(denoise(x, 1.3)[3:], want, rtol=0, atol=ROUNDING)
    assert code_of(denoise, x[:3], 1.0) == code_of(denoise, x[:1], 1.0) == "E-PROMPT"


def test_embeddings_are_as_their_prompts(tiny64):
    x = noise(3)
    states = np.asarray(tiny64.encode_text(["a cat"]))
    want = ldmref.denoiser(tiny64, "a cat", "", 2.0)(x, 1.3)
    got = ldmref.denoiser(tiny64, None, cfg_scale=2.0, prompt_embeds=states)(x, 1.3)
    np.testing.assert_allclose(got, want, rtol=0, atol=ROUNDING)
    three = np.concatenate([states, *(np.asarray(tiny64.encode_text([p])) for p in ("a", "dog"))])
    got = ldmref.denoiser(tiny64, None, cfg_scale=2.0, prompt_embeds=three)(x, 1.3)
    np.testing.assert_allclose(got[0], want[0], rtol=0, atol=ROUNDING)
    want = ldmref.denoiser(tiny64, "dog", "", 2.0)(x[2:], 1.3)
    np.testing.assert_allclose(got[2:], want, rtol=0, atol=ROUNDING)


def test_options_of_the_prompt_have_an_effect(tiny64):
    x = noise()
    plain = ldmref.denoiser(tiny64, "(a:1.5) cat", cfg_scale=1.0)(noise(), 1.0)
    for options in ({"prompt_weights": "a1111"}, {"clip_skip": 1}):
        other = ldmref.denoiser(tiny64, "(a:1.5) cat", cfg_scale=1.0, **options)(x, 1.0)
        assert np.abs(other - plain).max() > 1e-6


# -- gradients ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def torch64(torch):
    return ldmref.random_model("tiny", backend="torch", dtype="float64")


@pytest.mark.parametrize("cfg_scale", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("sigma", [0.3, 4.0])
def test_the_gradient_is_that_of_finite_differences(torch, torch64, cfg_scale, sigma):
    """The function is linear in x0 and fixed; the directions are random, of unit length.

    A central difference D(h) errs by c h^2 + O(h^4), so (4 D(h/2) - D(h)) / 3 errs by O(h^4), less
    than what the two differ by. Rounding adds about 1e-16 |f| / h = 1e-16 100 / 1e-3.
    """
    denoise = ldmref.denoiser(torch64, "a cat", "dog", cfg_scale, grad=True)
    x, weights, *directions = torch.as_tensor(np.stack([noise(2, i) for i in range(5)]))
    x = x.clone().requires_grad_()
    x0 = denoise(x, sigma)
    assert x0.requires_grad and x.requires_grad and x.grad is None
    (x0 * weights).sum().backward()

    def difference(v, h):
        with torch.no_grad():
            above, below = ((denoise(x + s * h * v, sigma) * weights).sum() for s in (1, -1))
        return float(above - below) / (2 * h)

    for v in (v / v.norm() for v in directions):
        coarse = difference(v, 2e-3)
        fine = difference(v, 1e-3)
        slope = (4 * fine - coarse) / 3
        bound = abs(coarse - fine) + 1e-10
        assert abs(float((x.grad * v).sum()) - slope) < bound < 1e-5, bound
    assert x.grad.norm() > 1e-2


def test_with_and_without_gradients_the_values_are_the_same(torch, torch64):
    x = torch.as_tensor(noise(2))
    plain = ldmref.denoiser(torch64, "a cat", "dog", 2.0)
    graded = ldmref.denoiser(torch64, "a cat", "dog", 2.0, grad=True)
    torch.testing.assert_close(graded(x, 1.0), plain(x, 1.0), rtol=0, atol=1e-12)
    assert not plain(x.clone().requires_grad_(), 1.0).requires_grad
    assert not graded(x, 1.0).requires_grad  # nothing to differentiate
    with torch.no_grad():  # the caller's own wish
        assert not graded(x.clone().requires_grad_(), 1.0).requires_grad


@pytest.mark.parametrize("speed", ["exact", "fast", "fastest"])
def test_gradients_after_anything_that_ran_without_them(torch, speed, tmp_path):
    """Weights that were brought to the backend, and states that were encoded, in inference mode."""
    from ldmref.io.native import save_folder

    tiny = ldmref.random_model("tiny", backend="numpy")
    trees = {name: tiny.params[name] for name in tiny.params}
    save_folder(tmp_path / "m", tiny.config, trees, [tiny.tokenizer], np.float32)
    model = ldmref.load(tmp_path / "m", backend="torch", speed=speed, max_memory="4GB")
    x = torch.as_tensor(noise(1).astype(np.float32)).requires_grad_()
    with torch.inference_mode():
        if speed != "fastest":  # compiles for minutes
            model.unet(x, torch.ones(1), model.encode_text(["a"]))
        denoise = ldmref.denoiser(model, "a", cfg_scale=2.0, grad=True)
        denoise(x, 1.0)
    denoise(x, 1.0).sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad.abs().max() > 0


def test_a_differentiable_model_decodes_and_encodes_with_gradients(torch, torch64):
    model = torch64.differentiable()
    x = torch.as_tensor(noise()).requires_grad_()
    image = model.decode(x)
    image.square().sum().backward()
    assert x.grad.abs().max() > 0
    pixels = image.detach().clone().requires_grad_()
    model.encode_image(pixels).sum().backward()
    assert pixels.grad.abs().max() > 0
    assert not torch64.decode(torch.as_tensor(noise())).requires_grad
    assert model.params is not torch64.params and repr(model) == repr(torch64)


def test_tracing_goes_on_through_gradients(torch):
    from ldmref.backends import get_backend
    from ldmref.backends.traced import TracedBackend

    ops = TracedBackend(get_backend("torch"))
    denoise = ldmref.denoiser(ldmref.random_model("tiny", backend=ops), "a", grad=True)
    before = len(ops.records)
    x = torch.zeros(1, 4, 8, 8, requires_grad=True)
    denoise(x, 1.0).sum().backward()
    assert len(ops.records) > before + 50 and x.grad is not None


def test_a_backend_without_gradients_says_so(tiny):
    with pytest.raises(UsageError, match="does not differentiate") as caught:
        ldmref.denoiser(tiny, "a", grad=True)
    assert caught.value.code == "E-GRAD" and 'backend="torch"' in caught.value.hint
