"""Guidance against diffusers: its guiders number for number, its pipelines by whole images."""

from __future__ import annotations

import numpy as np
import pytest
from closeness import close

import ldmref
from ldmref import math as lm
from ldmref import modes, samplers
from ldmref.differences import read_differences
from ldmref.families.unet import describe_unet
from ldmref.models.unet import unet
from ldmref.samplers import PartsPerturbed

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
from attended import combine  # noqa: E402
from diffusers.guiders.magnitude_aware_guidance import MagnitudeAwareGuidance  # noqa: E402

RNG = np.random.default_rng(0)
UNCOND, COND, THIRD, FOURTH = RNG.standard_normal((4, 3, 4, 6, 5))
ASKED = dict(num_inference_steps=4, guidance_scale=4.0, width=32, height=16)
OURS = dict(steps=4, cfg_scale=4.0, width=32, height=16, rng="torch", seed=3)


def tensors(*arrays):
    return [torch.from_numpy(array) for array in arrays]


@pytest.mark.parametrize("original", [False, True])
@pytest.mark.parametrize("scale", [0.0, 2.5, 7.0])
def test_classifier_free_guidance(scale, original):
    """With `use_original_formulation` the scale is the paper's w = s - 1."""
    guider = diffusers.ClassifierFreeGuidance(
        guidance_scale=scale, use_original_formulation=original
    )
    want = guider.forward(*tensors(COND, UNCOND)).pred
    got = lm.classifier_free_guidance(UNCOND, COND, scale + original)
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("phi", [0.3, 1.0])
def test_rescaled_guidance(phi):
    guider = diffusers.ClassifierFreeGuidance(guidance_scale=5.0, guidance_rescale=phi)
    want = guider.forward(*tensors(COND, UNCOND)).pred
    guided = lm.classifier_free_guidance(UNCOND, COND, 5.0)
    np.testing.assert_allclose(lm.rescale_guidance(guided, COND, phi), want, rtol=1e-12)


@pytest.mark.parametrize("momentum", [None, -0.5, 0.3])
@pytest.mark.parametrize("radius", [0.0, 2.0, 15.0])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_adaptive_projected_guidance(eta, radius, momentum):
    """Three steps. Algorithm 1 is the "original formulation", whose scale is s - 1; radius 0 is
    none."""
    guider = diffusers.AdaptiveProjectedGuidance(
        guidance_scale=4.0,
        adaptive_projected_guidance_momentum=momentum,
        adaptive_projected_guidance_rescale=radius,
        eta=eta,
        use_original_formulation=True,
    )
    pairs = [(COND, UNCOND), (THIRD, FOURTH), (COND, FOURTH)]
    guider.set_state(0, 3, torch.tensor(0))
    guider.prepare_inputs({"x": tensors(COND, UNCOND)})  # makes the buffer of the momentum
    average = None
    for cond, uncond in pairs:
        want = guider.forward(*tensors(cond, uncond)).pred
        got, average = lm.adaptive_projected_guidance(
            uncond, cond, 5.0, eta, radius or np.inf, momentum or 0.0, average
        )
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


def test_diffusers_by_default_adds_the_whole_projected_difference_to_the_unconditional():
    """Without the original formulation the guider is no longer algorithm 1 (for eta < 1)."""
    guider = diffusers.AdaptiveProjectedGuidance(
        guidance_scale=5.0, adaptive_projected_guidance_rescale=0.0, eta=0.0
    )
    want = guider.forward(*tensors(COND, UNCOND)).pred.numpy()
    ours, _ = lm.adaptive_projected_guidance(UNCOND, COND, 5.0)
    difference = COND - UNCOND
    parallel = lm.parallel_part(difference, COND)
    np.testing.assert_allclose(ours - want, parallel, rtol=1e-9, atol=1e-9)


def test_perturbed_attention_guidance():
    guider = diffusers.PerturbedAttentionGuidance(
        guidance_scale=5.0,
        perturbed_guidance_scale=2.0,
        perturbed_guidance_layers=[0],
        perturbed_guidance_start=0.0,
        perturbed_guidance_stop=1.0,
    )
    want = guider.forward(*tensors(COND, UNCOND, THIRD)).pred
    guided = lm.classifier_free_guidance(UNCOND, COND, 5.0)
    got = lm.perturbed_attention_guidance(guided, COND, THIRD, 2.0)
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


def perp_neg_of_the_authors(positive, negative, weight):
    """Run the published code of Perp-Neg for one positive and one negative difference."""
    perpendicular = negative - (torch.mul(negative, positive).sum() / positive.norm() ** 2) * (
        positive
    )
    return positive - weight * perpendicular


@pytest.mark.parametrize("weight", [0.5, 1.5])
def test_perpendicular_negative_guidance(weight):
    """One image at a time: over a batch the published code takes one inner product for all."""
    for i in range(3):
        one = slice(i, i + 1)
        positive, negative = tensors((COND - UNCOND)[one], (THIRD - UNCOND)[one])
        want = UNCOND[one] + 6.0 * perp_neg_of_the_authors(positive, negative, weight).numpy()
        got = lm.perpendicular_negative_guidance(UNCOND, COND, THIRD, 6.0, weight)[one]
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


# -- guidance of flow families --------------------------------------------------------------------

ROUNDED = dict(rtol=1e-5, atol=1e-5)  # diffusers' guiders compute in float32


@pytest.mark.parametrize("original", [False, True])
@pytest.mark.parametrize("scale", [0.5, 4.0])
def test_zero_star_guidance(scale, original):
    guider = diffusers.ClassifierFreeZeroStarGuidance(
        guidance_scale=scale, use_original_formulation=original
    )
    guider.set_state(1, 4, torch.tensor(0))
    want = guider.forward(*tensors(COND, UNCOND)).pred
    got = lm.zero_star_guidance(UNCOND, COND, scale + original)
    np.testing.assert_allclose(got, want, **ROUNDED)


def test_zero_star_of_diffusers_begins_with_zero():
    guider = diffusers.ClassifierFreeZeroStarGuidance(guidance_scale=4.0)
    guider.set_state(0, 4, torch.tensor(0))
    assert not guider.forward(*tensors(COND, UNCOND)).pred.any()
    predictions = {"cond": COND}
    assert not samplers.ZeroStar()(predictions, 2.0**40, 4.0, ())[0].any()


def zero_star_of_the_authors(positive, negative, scale):
    """Guide as the pipelines of WeichenFan/CFG-Zero-star do, from the second step on."""
    flat, other = positive.flatten(1), negative.flatten(1)
    alpha = (flat * other).sum(1, keepdim=True) / ((other**2).sum(1, keepdim=True) + 1e-8)
    alpha = alpha.view(-1, 1, 1, 1)
    return negative * alpha + scale * (positive - negative * alpha)


def test_zero_star_of_the_published_code():
    want = zero_star_of_the_authors(*tensors(COND, UNCOND), 4.0)
    np.testing.assert_allclose(lm.zero_star_guidance(UNCOND, COND, 4.0), want, rtol=1e-7)


@pytest.mark.parametrize("scale", [0.5, 4.0])
def test_tangential_guidance(scale):
    guider = diffusers.TangentialClassifierFreeGuidance(guidance_scale=scale)
    uncond = 0.5 * COND + 0.4 * UNCOND
    want = guider.forward(*tensors(COND, uncond)).pred
    got = lm.tangential_guidance(uncond, COND, scale)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strength", [0.3, 8.0])
@pytest.mark.parametrize("scale", [0.5, 4.0])
def test_magnitude_aware_guidance(scale, strength):
    """Of packed latents: torch's norm over the three axes of others is an error."""
    guider = MagnitudeAwareGuidance(guidance_scale=scale, alpha=strength)
    cond, uncond = (x.reshape(3, 4, 30) for x in (COND, COND + 0.2 * UNCOND))
    want = guider.forward(*tensors(cond, uncond)).pred
    got = lm.magnitude_aware_guidance(uncond, cond, scale, strength)
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("tau", [1.2, 2.5])
def test_normalized_attention_guidance(tau, order):
    """As ChenDarYen/Normalized-Attention-Guidance: order 2 in `attention_flux_nag.py` only."""
    want = combine(*tensors(COND, UNCOND), 5.0, tau, 0.25, order)
    got = lm.normalized_attention_guidance(COND, UNCOND, 5.0, tau, 0.25, order)
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)


def test_the_norms_of_attention_guidance_differ_by_network():
    """Tokens of width 64, scale 5: the size of the difference between its two norms."""
    positive, negative = np.random.default_rng(0).standard_normal((2, 1, 100_000, 64))
    sums, euclidean = (
        lm.normalized_attention_guidance(positive, negative, 5.0, 2.5, 0.25, order)
        for order in (1, 2)
    )
    apart = np.linalg.norm(sums - euclidean) / np.linalg.norm(euclidean)
    (row,) = [row for row in read_differences() if "norms_of_attention_guidance" in row.test]
    assert f"outputs {apart:.1%} apart" in row.number


def renormalized_as_published(program, guided, cond):
    """Renormalise (n, c, h, w) as the pipeline of a program does."""
    if program == "Lumina 2":
        axes = tuple(range(1, cond.ndim))
        size = torch.linalg.vector_norm(guided, dim=axes, keepdim=True)
        largest = torch.linalg.vector_norm(cond, dim=axes, keepdim=True)
        return torch.where(size >= largest, guided * (largest / size), guided)
    if program == "Z-Image":
        images = []
        for one, positive in zip(guided, cond, strict=True):
            size, largest = torch.linalg.vector_norm(one), torch.linalg.vector_norm(positive)
            images.append(one * (largest / size) if size > largest else one)
        return torch.stack(images)
    if program == "Qwen-Image":
        packed, other = (
            diffusers.QwenImagePipeline._pack_latents(x[:, None], *x.shape) for x in (guided, cond)
        )
        packed = packed * (other.norm(dim=-1, keepdim=True) / packed.norm(dim=-1, keepdim=True))
        h, w = (8 * size for size in guided.shape[2:])
        return diffusers.QwenImagePipeline._unpack_latents(packed, h, w, 8)[:, :, 0]
    return guided * (cond.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))


@pytest.mark.parametrize(
    ("program", "options"),
    [
        ("Lumina 2", {}),
        ("Z-Image", {}),
        ("Qwen-Image", {"over": "token", "grow": True}),
        ("Lumina 2 of diffusers", {"over": "row", "grow": True}),
    ],
)
def test_renormalized_guidance(program, options):
    cond, uncond = COND[..., :4], UNCOND[..., :4]
    for size in (1.0, 0.2):
        guided = size * lm.classifier_free_guidance(uncond, cond, 4.0)
        want = renormalized_as_published(program, *tensors(guided, cond))
        got = lm.renormalize_guidance(guided, cond, **options)
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)


def test_lumina_2_of_diffusers_renormalizes_rows_in_both_directions():
    """The authors' code takes one norm for an image, and only shrinks."""
    guided = lm.classifier_free_guidance(UNCOND, COND, 4.0)
    theirs = renormalized_as_published("diffusers", *tensors(guided, COND)).numpy()
    ours = lm.renormalize_guidance(guided, COND)
    apart = np.abs(theirs - ours).max() / np.abs(ours).max()
    assert apart > 0.2


# -- the network and whole images -----------------------------------------------------------------

PARTS = {"mid": ["mid"], "down": ["down"], "up": ["up"], "all": ["down", "mid", "up"]}


class IdentityAttention:
    """diffusers' processor of the perturbed half, for a whole batch."""

    def __call__(self, attn, hidden_states, *args, **kwargs):
        return attn.to_out[1](attn.to_out[0](attn.to_v(hidden_states)))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("family", ["sd1", "sd2"], indirect=True)
def test_the_network_with_identity_attention(ours, theirs, ops, part):
    config, params = ours
    x = RNG.standard_normal((2, 4, 8, 8))
    context = RNG.standard_normal((2, 7, config.unet.cross_attention_dim))
    double = theirs.unet.double()
    before = dict(double.attn_processors)
    starts = tuple(f"{name}_block" for name in PARTS[part])
    perturbed = {
        name: IdentityAttention() if name.startswith(starts) and ".attn1." in name else processor
        for name, processor in before.items()
    }
    assert perturbed != before
    double.set_attn_processor(perturbed)
    with torch.no_grad():
        want = double(torch.tensor(x), torch.zeros(2), torch.tensor(context)).sample
    double.set_attn_processor(before)
    theirs.unet.float()
    arrays = [ops.asarray(a) for a in (x, np.zeros(2), context)]
    steered = describe_unet(config.unet).steered
    got = steered(
        ops, params.unet, config.unet, *arrays, steering=(PartsPerturbed(tuple(PARTS[part])),)
    )
    close(got, want, ops, 1e-10)
    plain = unet(ops, params.unet, config.unet, *arrays)
    assert np.abs(ops.to_numpy(plain - got)).max() > 1e-6


def difference(result, image):
    return int(np.abs(np.asarray(result[0]).astype(int) - np.asarray(image).astype(int)).max())


@pytest.mark.parametrize("part", ["mid", "all"])
@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("family", ["sd1"], indirect=True)
def test_images_of_the_pipeline_with_perturbed_attention(theirs, folder, scale, part):
    pipe = diffusers.StableDiffusionPAGPipeline(**theirs.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    pipe.set_pag_applied_layers(PARTS[part])
    before = dict(theirs.unet.attn_processors)
    seed = torch.Generator("cpu").manual_seed(3)
    asked = ASKED | {"guidance_scale": scale}
    want = pipe("red cat", pag_scale=3.0, generator=seed, **asked).images[0]
    theirs.unet.set_attn_processor(before)
    guidance = {"name": "pag", "scale": 3.0, "layers": part}
    ours = OURS | {"cfg_scale": scale}
    got = modes.txt2img(ldmref.load(folder), "red cat", guidance=guidance, **ours)
    assert difference(got, want) <= 2


@pytest.mark.parametrize("phi", [0.7, 1.0])
@pytest.mark.parametrize("family", ["sd1", "sd2"], indirect=True)
def test_images_of_the_pipeline_with_rescaled_guidance(theirs, folder, phi):
    seed = torch.Generator("cpu").manual_seed(3)
    want = theirs("red cat", generator=seed, guidance_rescale=phi, **ASKED).images[0]
    guidance = {"name": "rescale", "phi": phi}
    got = modes.txt2img(ldmref.load(folder), "red cat", guidance=guidance, **OURS)
    assert difference(got, want) <= 2


# -- CFG++ ----------------------------------------------------------------------------------------


def ddim_cfgpp_of_the_authors(predict, x, alphas_cumprod, timesteps, scale):
    """The loop of the published code (`ddim_cfg++`): noise of the unconditional prediction."""
    z = x
    z0 = z
    for i, t in enumerate(timesteps):
        at = alphas_cumprod[t]
        after = alphas_cumprod[timesteps[i + 1]] if i + 1 < len(timesteps) else alphas_cumprod[0]
        uncond, cond = predict(z, t)
        guided = uncond + scale * (cond - uncond)
        z0 = (z - np.sqrt(1 - at) * guided) / np.sqrt(at)
        z = np.sqrt(after) * z0 + np.sqrt(1 - after) * uncond
    return z0


@pytest.mark.parametrize("family", ["sd1"], indirect=True)
def test_latents_of_the_published_loop_of_cfgpp(theirs, folder):
    """The same random network, with the authors' loop on its own noise predictions."""
    model = ldmref.load(folder, backend="numpy", dtype="float64")
    schedule = lm.alphas_cumprod(lm.scaled_linear_betas(1000, 0.00085, 0.012))
    timesteps = [801, 601, 401, 201, 1]
    sigmas = [float(lm.sigma_from_alpha_bar(schedule[t])) for t in timesteps]
    context = model.encode_text(["", "red cat"])
    x = np.random.default_rng(5).standard_normal((1, 4, 8, 8))

    def predict(z, t):
        both = model.unet(np.concatenate([z, z]), np.full(2, float(t)), context)
        return both[:1], both[1:]

    want = ddim_cfgpp_of_the_authors(predict, x, schedule, timesteps, 0.6)
    denoise = ldmref.denoiser(model, "red cat", cfg_scale=0.6)
    start = x * np.sqrt(1 + sigmas[0] ** 2)
    states = ldmref.samplers.sample(denoise, start, [*sigmas, 0.0], ldmref.samplers.cfgpp())
    np.testing.assert_allclose(list(states)[-1].x, want, rtol=0, atol=1e-5 * np.abs(want).max())
