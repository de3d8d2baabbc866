"""Guidance in joint attention, against diffusers' transformers with a processor like the authors'.

The image's norms read the embedding of the prompts alone, and from the first block of one stream on
Flux.1 has two images: the same as in the published code.
"""

from __future__ import annotations

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.backends import get_backend
from ldmref.errors import UsageError
from ldmref.families import flux, sd3
from ldmref.models import preset
from ldmref.models.params import unflatten
from ldmref.models.steering import SteeredNetwork
from ldmref.samplers import AttentionGuided

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
import flux_networks  # noqa: E402
import sd3_networks  # noqa: E402
from attended import Attended, AttendedSingle, shorten_embedding  # noqa: E402

RNG = np.random.default_rng(0)
TIMES = np.array([35.0, 700.0])
TEXT = 5  # tokens
NUMBERS = [(5.0, 2.5, 0.3), (4.0, 1.2)]
NAG = {"name": "nag", "scale": 8.0, "alpha": 0.8}


def predict(ops, family, config, theirs, arrays, numbers):
    network = SteeredNetwork(family.transformer, family.STEERABLE)
    params = {name: ops.asarray(x.numpy()) for name, x in theirs.state_dict().items()}
    with ops.inference():
        arrays = [ops.asarray(x) for x in arrays]
        got = network(
            ops, unflatten(params), config, *arrays, steering=(AttentionGuided(*numbers),)
        )
    return ops.to_numpy(got)


@pytest.mark.parametrize("numbers", NUMBERS)
@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("kind", sd3_networks.KINDS)
def test_sd3(kind, backend, numbers):
    theirs = sd3_networks.in_float64(sd3_networks.make_transformer(kind))
    x, states = RNG.standard_normal((2, 4, 6, 8)), RNG.standard_normal((4, TEXT, 40))
    pooled = RNG.standard_normal((4, 24))
    ops = get_backend(backend, dtype="float64")
    arrays = x, TIMES, states, pooled
    got = predict(ops, sd3, sd3_networks.config_of(kind), theirs, arrays, numbers)
    for block in theirs.transformer_blocks:
        block.attn.processor = Attended(block.attn.processor, (*numbers, 0.125)[:3], 1)
        shorten_embedding(block.norm1)
    shorten_embedding(theirs.norm_out)
    times = np.concatenate([TIMES, TIMES])
    with torch.no_grad():
        want = theirs(*map(torch.tensor, (x, states, pooled, times))).sample.numpy()
    assert np.abs(got - want).max() < 1e-10 * np.abs(want).max()


@pytest.mark.parametrize("numbers", NUMBERS)
@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("guidance", [True, False])
def test_flux(guidance, backend, numbers, monkeypatch):
    theirs = flux_networks.in_float64(flux_networks.make_transformer(guidance), monkeypatch)
    x, states = RNG.standard_normal((2, 4, 4, 6)), RNG.standard_normal((4, TEXT, 20))
    pooled, scales = RNG.standard_normal((4, 16)), np.array([3.5, 1.0, 3.5, 1.0])
    ops = get_backend(backend, dtype="float64")
    arrays = x, TIMES, states, pooled, scales
    arrays = arrays if guidance else arrays[:4]
    got = predict(ops, flux, flux_networks.config_of(guidance), theirs, arrays, numbers)
    whole = (*numbers, 0.25)[:3]
    for block in theirs.transformer_blocks:
        block.attn.processor = Attended(block.attn.processor, whole, 2)
        shorten_embedding(block.norm1)
    for block in theirs.single_transformer_blocks:
        block.attn.processor = AttendedSingle(block.attn.processor, whole, 2, TEXT)
    first = theirs.single_transformer_blocks[0]
    alone = first.forward
    first.forward = lambda hidden_states, **others: alone(
        hidden_states=torch.cat([hidden_states] * 2), **others
    )
    pipeline = diffusers.FluxPipeline
    ids = pipeline._prepare_latent_image_ids(2, 2, 3, "cpu", torch.float64)
    times = torch.tensor(np.concatenate([TIMES, TIMES])) / 1000.0
    with torch.no_grad():
        packed = theirs(
            pipeline._pack_latents(torch.tensor(x), 2, 4, 4, 6),
            torch.tensor(states),
            torch.tensor(pooled),
            times,
            ids,
            torch.zeros(TEXT, 3),
            torch.tensor(scales) if guidance else None,
        ).sample[2:]
    want = pipeline._unpack_latents(packed, 32, 48, 8).numpy()
    assert np.abs(got - want).max() < 1e-10 * np.abs(want).max()


# -- requests -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny", "sd3-tiny", "flux-tiny"])
def test_a_request_and_its_record(name):
    """The negative prompt acts at scale 1, and in a network that reads the scale itself."""
    model = ldmref.random_model(name, backend="numpy")

    def latents(negative="dog", **asked):
        options = {"seed": 1, "steps": 2, "negative_prompt": negative, "cfg_scale": 1.0}
        result = modes.txt2img(model, "a cat", **options | asked)
        assert np.isfinite(result.latents).all()
        return result

    guided = latents(guidance=NAG)
    record = guided.params["guidance"]
    assert record == {**NAG, "tau": 2.5}
    np.testing.assert_array_equal(latents(guidance=record).latents, guided.latents)
    others = [latents("house", guidance=NAG), latents("", guidance={**NAG, "scale": 1.0})]
    for other in others:
        assert np.abs(other.latents - guided.latents).max() > 1e-5


def test_with_classifier_free_guidance_it_is_the_conditional_prediction():
    model = ldmref.random_model("sd3-tiny", backend="numpy")
    x = RNG.standard_normal((1, 4, 8, 8)).astype(np.float32)
    denoise = [
        ldmref.denoiser(model, "cat", "dog", scale, guidance=guidance)(x, 0.6)
        for scale, guidance in ((3.0, NAG), (1.0, NAG), (0.0, None))
    ]
    want = denoise[2] + 3.0 * (denoise[1] - denoise[2])
    np.testing.assert_allclose(denoise[0], want, atol=1e-4 * np.abs(want).max())


def test_images_of_a_batch_do_not_mix():
    model = ldmref.random_model("sd3-tiny", backend="numpy")
    asked = {"steps": 2, "cfg_scale": 1.0, "guidance": NAG, "negative_prompt": ["dog", "house"]}
    both = modes.txt2img(model, ["a cat", "a tree"], seed=5, batch_size=2, **asked).latents
    one = modes.txt2img(model, "a tree", seed=6, **asked | {"negative_prompt": "house"}).latents
    np.testing.assert_allclose(both[1], one[0], atol=1e-4 * np.abs(one).max())


@pytest.mark.parametrize(
    ("model", "asked", "says"),
    [
        ("ldm-unconditional", {}, "does not read its text by attention"),
        ("flux-dev", {"sampler": "euler_cfgpp"}, "takes no sampler 'euler_cfgpp'"),
        ("sd15", {"guidance": {"name": "nag", "tau": 0.0}}, "nag.tau must be"),
    ],
)
def test_what_is_refused_before_weights_are_loaded(model, asked, says):
    prompt = "" if model == "ldm-unconditional" else "cat"
    with pytest.raises(UsageError, match=says):
        modes.plan("txt2img", preset(model), **{"prompt": prompt, "guidance": "nag"} | asked)
