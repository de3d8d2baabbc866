"""FlowEdit and RF inversion of SD3 and Flux against loops over the transformers of diffusers.

The loops follow the algorithms of the papers, with the noise, text and autoencoder of diffusers.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import explore, modes
from ldmref.errors import LdmrefError
from ldmref.models import preset
from ldmref.trace import record_trace

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
from flux_networks import make_fill_pipeline  # noqa: E402
from flux_networks import make_pipeline as make_flux  # noqa: E402
from sd3_networks import make_pipeline as make_sd3  # noqa: E402

PROMPT = "a red dog"
SOURCE = "a cat"
SIZE = {"width": 24, "height": 16}
SEED = 7
STEPS = 6


MAKE = {
    "sd3": lambda: make_sd3("3.5 medium"),
    "flux": lambda: make_flux(True),
    "schnell": lambda: make_flux(False),
    "fill": make_fill_pipeline,
}


@pytest.fixture(scope="module", params=MAKE)
def made(request, tmp_path_factory):
    """(family, diffusers' pipeline, the folder that it writes)."""
    family = request.param
    pipe = MAKE[family]()
    folder = tmp_path_factory.mktemp(family) / "model"
    pipe.save_pretrained(folder)
    return family, pipe, folder


@pytest.fixture(scope="module")
def photo():
    rng = np.random.default_rng(3)
    small = rng.integers(0, 256, (4, 6, 3), np.uint8)
    return Image.fromarray(small).resize((24, 16), Image.Resampling.BICUBIC)


class Theirs:
    """diffusers' pipeline: its levels, the latents of an image, and the velocity of a prompt."""

    def __init__(self, made, steps=STEPS):
        self.family, self.pipe, _ = made
        size = {"num_inference_steps": steps, "output_type": "latent", **SIZE}
        if self.family == "fill":
            size |= {"image": Image.new("RGB", (24, 16)), "mask_image": Image.new("L", (24, 16))}
        self.pipe(PROMPT, **size)  # sets the levels
        self.sigmas = self.pipe.scheduler.sigmas.tolist()

    @torch.no_grad()
    def encode(self, photo):
        return self._encode(self.pipe.image_processor.preprocess(photo))

    def _encode(self, pixels):
        config = self.pipe.vae.config
        mean = self.pipe.vae.encode(pixels).latent_dist.mode()
        return (mean - config.shift_factor) * config.scaling_factor

    @torch.no_grad()
    def decode(self, latents):
        config = self.pipe.vae.config
        image = self.pipe.vae.decode(latents / config.scaling_factor + config.shift_factor).sample
        return self.pipe.image_processor.postprocess(image, output_type="np")[0]

    @torch.no_grad()
    def velocity(self, x, t, prompt, scale):
        return (self._sd3 if self.family == "sd3" else self._flux)(x, t, prompt, scale)

    def _sd3(self, x, t, prompt, scale):
        text = self.pipe.encode_prompt(prompt, None, None)
        embeds, negative, pooled, negative_pooled = text
        found = self.pipe.transformer(
            torch.cat([x, x]),
            torch.cat([negative, embeds]),
            torch.cat([negative_pooled, pooled]),
            timestep=torch.tensor([1000.0 * t] * 2),
        ).sample
        return found[:1] + scale * (found[1:] - found[:1])

    def _flux(self, x, t, prompt, scale):
        shape = x.shape
        embeds, pooled, text_ids = self.pipe.encode_prompt(prompt, None)
        ids = self.pipe._prepare_latent_image_ids(1, shape[2] // 2, shape[3] // 2, None, None)
        guided = self.pipe.transformer.config.guidance_embeds
        tokens = self.pipe._pack_latents(x, *shape)
        if self.family == "fill":  # which repaints all of an image that is grey
            grey = self._encode(torch.zeros(1, 3, SIZE["height"], SIZE["width"]))
            mask = torch.ones(1, tokens.shape[1], 16)  # a channel for each pixel of a token
            tokens = torch.cat([tokens, self.pipe._pack_latents(grey, *shape), mask], 2)
        found = self.pipe.transformer(
            tokens,
            embeds,
            pooled,
            timestep=torch.tensor([t]),
            img_ids=ids,
            txt_ids=text_ids,
            guidance=torch.tensor([scale]) if guided else None,
        ).sample
        return self.pipe._unpack_latents(found, SIZE["height"], SIZE["width"], 2)


def scales_of(family):
    return {"sd3": (2.0, 5.0), "schnell": (1.0, 1.0)}.get(family, (1.5, 5.5))


def compare(theirs, found, want):
    assert np.abs(found.latents - want.numpy()).max() < 1e-4
    image = np.asarray(found.images[0]).astype(int)
    assert np.abs(image - np.round(theirs.decode(want) * 255)).max() <= 1


# -- FlowEdit -------------------------------------------------------------------------------------


def flow_edit(theirs, x, n_max, n_min, n_avg, scales):
    """Algorithm 1 of arXiv:2412.08629."""
    generator = torch.Generator().manual_seed(SEED)

    def noise():
        return torch.randn(x.shape, generator=generator)

    steps = len(theirs.sigmas) - 1
    z = x
    for i, (t, after) in enumerate(pairwise(theirs.sigmas)):
        left = steps - i
        if left > n_max:
            continue
        if left > n_min:
            change = torch.zeros_like(x)
            for _ in range(n_avg):
                z_source = (1 - t) * x + t * noise()
                z_target = z + z_source - x
                change += theirs.velocity(z_target, t, PROMPT, scales[1]) / n_avg
                change -= theirs.velocity(z_source, t, SOURCE, scales[0]) / n_avg
            z = z + (after - t) * change
        else:
            if left == n_min:
                z = z + (1 - t) * x + t * noise() - x
            z = z + (after - t) * theirs.velocity(z, t, PROMPT, scales[1])
    return z


@pytest.mark.parametrize(("n_max", "n_min", "n_avg"), [(3, 0, 2), (6, 0, 1), (5, 2, 1)])
def test_flow_edit_is_that_of_the_paper(made, photo, n_max, n_min, n_avg):
    theirs = Theirs(made)
    scales = scales_of(theirs.family)
    want = flow_edit(theirs, theirs.encode(photo), n_max, n_min, n_avg, scales)
    numbers = {"n_max": n_max, "n_min": n_min, "n_avg": n_avg, "steps": STEPS}
    numbers |= {"source_cfg_scale": scales[0], "cfg_scale": scales[1]}
    for backend in ("numpy", "torch"):
        model = ldmref.load(made[2], backend=backend)
        found = modes.edit(model, PROMPT, photo, SOURCE, seed=SEED, rng="torch", **numbers)
        compare(theirs, found, want)
        assert {name: found.params[name] for name in numbers} == numbers


def latents_of(model, photo):
    pixels = np.asarray(photo, np.float32).transpose(2, 0, 1)[None] / 127.5 - 1.0
    return np.asarray(model.encode_image(model.backend.asarray(pixels)))


def test_equal_prompts_change_nothing(made, photo):
    model = ldmref.load(made[2])
    scales = {"source_cfg_scale": 2.0, "cfg_scale": 2.0, "steps": 3, "seed": 1}
    found = modes.edit(model, SOURCE, photo, SOURCE, **scales)
    assert np.abs(found.latents - latents_of(model, photo)).max() < 1e-5


# -- RF inversion ---------------------------------------------------------------------------------


def rf_inversion(theirs, data, gamma, eta, start, stop, scales):
    """Algorithms 1 and 2 of arXiv:2410.10792; the way up begins at the lowest training level."""
    noise = torch.randn(data.shape, generator=torch.Generator().manual_seed(SEED))
    up = [0.001, *theirs.sigmas[-2::-1]]
    y = data
    for t, after in pairwise(up):
        v = theirs.velocity(y, t, SOURCE, scales[0])
        y = y + (after - t) * (v + gamma * ((noise - y) / (1 - t) - v))
    for i, (t, after) in enumerate(pairwise(theirs.sigmas)):
        v = -theirs.velocity(y, t, PROMPT, scales[1])
        if start <= i < stop:
            v = v + eta * ((data - y) / t - v)
        y = y + (t - after) * v
    return y


@pytest.mark.parametrize(
    ("gamma", "eta", "start", "stop"), [(0.5, 0.9, 0, 2), (0.0, 0.0, 0, 0), (0.8, 0.4, 1, 6)]
)
def test_rf_inversion_is_that_of_the_paper(made, photo, gamma, eta, start, stop):
    theirs = Theirs(made)
    scales = scales_of(theirs.family)
    want = rf_inversion(theirs, theirs.encode(photo), gamma, eta, start, stop, scales)
    numbers = {"gamma": gamma, "keep": eta, "steps": STEPS, "method": "rf_inversion"}
    numbers |= {"keep_start": (start + 0.1) / STEPS, "keep_end": min((stop + 0.1) / STEPS, 1.0)}
    numbers |= {"source_cfg_scale": scales[0], "cfg_scale": scales[1]}
    for backend in ("numpy", "torch"):
        model = ldmref.load(made[2], backend=backend)
        found = modes.edit(model, PROMPT, photo, SOURCE, seed=SEED, rng="torch", **numbers)
        compare(theirs, found, want)


def test_rf_inversion_that_keeps_everything_returns_the_image(made, photo):
    model = ldmref.load(made[2])
    kept = {"method": "rf_inversion", "keep": 1.0, "keep_end": 1.0, "steps": 3, "seed": 1}
    found = modes.edit(model, PROMPT, photo, SOURCE, **kept)
    assert np.abs(found.latents - latents_of(model, photo)).max() < 1e-5


# -- requests -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "scales", "n_max"),
    [
        ("sd3-medium", (3.5, 13.5), 33),
        ("flux-dev", (1.5, 5.5), 43),
        ("flux-schnell", (1.0, 1.0), 43),
    ],
)
def test_defaults_are_those_of_the_published_code(name, scales, n_max, photo):
    request = {"prompt": PROMPT, "image": photo.resize((256, 256)), "seed": 1, "steps": 50}
    params = modes.plan("edit", preset(name), **request).params
    assert (params["source_cfg_scale"], params["cfg_scale"]) == scales
    assert (params["n_max"], params["n_min"], params["n_avg"]) == (n_max, 0, 1)
    inverted = modes.plan("edit", preset(name), method="rf_inversion", **request).params
    assert inverted["source_cfg_scale"] == (0.0 if name == "flux-dev" else 1.0)
    assert inverted["cfg_scale"] == preset(name).defaults.cfg_scale and "n_max" not in inverted


REFUSED = [
    ({"n_max": 9, "steps": 8}, "E-N-MAX", "n_max 9 must be more than n_min 0, and at most the 8"),
    ({"n_max": 3, "n_min": 3, "steps": 8}, "E-N-MAX", "n_max 3 must be more than n_min 3"),
    ({"gamma": 0.5}, "E-GAMMA", "gamma is a parameter of method 'rf_inversion', not of 'flow"),
    ({"method": "rf_inversion", "n_avg": 1}, "E-N-AVG", "of method 'flowedit', not of 'rf_inv"),
    ({"method": "rf_inversion", "keep_start": 0.6, "keep_end": 0.5}, "E-KEEP-START", "0.6 is aft"),
    ({"method": "sdedit"}, "E-METHOD", "method"),
    ({"sampler": "heun"}, "E-USAGE", "edit has no parameter 'sampler'"),
]


@pytest.mark.parametrize(("change", "code", "text"), REFUSED)
def test_wrong_requests_are_refused_in_a_line(change, code, text, photo):
    with pytest.raises(LdmrefError) as refused:
        modes.plan("edit", preset("sd3-tiny"), prompt=PROMPT, image=photo, **change)
    assert refused.value.code == code and text in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["sd15", "tiny", "sd15-inpainting"])
def test_variance_preserving_models_are_refused(name, photo):
    with pytest.raises(LdmrefError, match="edit needs a model of flow matching, which"):
        modes.plan("edit", preset(name), prompt=PROMPT, image=photo)


@pytest.mark.parametrize("method", ["flowedit", "rf_inversion"])
def test_an_image_of_a_batch_is_that_of_its_seed_alone(method, photo):
    model = ldmref.random_model("flux-tiny", backend="numpy")
    request = {"source_prompt": SOURCE, "method": method, "steps": 3}
    together = modes.edit(model, [PROMPT, "a hat"], photo, seed=[4, 9], batch_size=2, **request)
    alone = modes.edit(model, "a hat", photo, seed=9, **request)
    np.testing.assert_allclose(together.latents[1:], alone.latents, atol=1e-5)
    again = modes.edit(model, [PROMPT, "a hat"], photo, seed=[4, 9], batch_size=2, **request)
    assert np.array_equal(again.latents, together.latents)
    other = modes.edit(model, "a hat", photo, seed=10, **request)
    assert np.abs(other.latents - alone.latents).max() > 1e-3


@pytest.mark.parametrize("name", ["flux-tiny", "sd3-tiny"])
@pytest.mark.parametrize("more", [{"n_max": 3, "n_min": 1, "n_avg": 2}, {"method": "rf_inversion"}])
def test_the_estimate_counts_every_evaluation(name, more, photo, monkeypatch):
    model = ldmref.random_model(name, backend="numpy")
    plan = modes.plan("edit", model, prompt=PROMPT, image=photo, steps=4, seed=1, **more)
    rows = []
    predict = type(model).predict

    def counting(self, x, *arguments, **options):
        rows.append(x.shape[0])
        return predict(self, x, *arguments, **options)

    monkeypatch.setattr(type(model), "predict", counting)
    plan.run(model)
    assert sum(rows) == plan.estimate(model).evaluations


def test_the_source_prompt_is_read_like_the_prompt(photo):
    model = ldmref.random_model("sd3-tiny", backend="numpy")
    long = "red " * 600
    found = modes.edit(model, PROMPT, photo, long, steps=2, seed=1)
    assert any("the prompt has 600 words" in warning for warning in found.warnings)
    assert found.params["truncated"] > 0
    with pytest.raises(LdmrefError):
        modes.edit(model, PROMPT, photo, long, steps=2, strict_prompt=True)


def test_nan_is_found_in_the_flow_of_the_source(photo):
    model = ldmref.random_model("flux-tiny", backend="numpy")
    model.params["transformer"]["x_embedder"]["bias"][:] = np.nan
    with pytest.raises(LdmrefError, match="NaN") as refused:
        modes.edit(model, PROMPT, photo, SOURCE, steps=2, seed=1)
    assert "x_embedder" in str(refused.value)


def test_an_edit_continued_from_a_state_still_follows_the_given_image(photo):
    """So a step that is taken again, to find the origin of NaN, is the step that failed."""
    model = ldmref.random_model("flux-tiny", backend="numpy")
    run = modes.plan("edit", model, prompt=PROMPT, image=photo, steps=6, seed=1).prepare(model)
    trajectory, other = (run.trajectory(slice(0, 1)) for _ in range(2))
    drawn = []
    counted = replace(trajectory, noise=lambda: drawn.append(1) or trajectory.noise())
    states = counted.states()
    first = next(states)
    for _ in drawn:
        other.noise()
    later = replace(other, x=first.x, visits=other.visits[1:], history=first.history)
    assert (later.x != later.image).any()
    np.testing.assert_array_equal(next(later.states()).x, next(states).x)


def test_an_edit_is_not_traced(photo, tmp_path):
    model = ldmref.random_model("flux-tiny", backend="numpy")
    plan = modes.plan("edit", model, prompt=PROMPT, image=photo, steps=2, seed=1)
    for tool in (
        lambda: record_trace(plan, model, tmp_path / "trace"),
        lambda: explore.record_run(model, "edit", prompt=PROMPT, image=photo, steps=2, seed=1),
    ):
        with pytest.raises(LdmrefError, match="an edit follows two"):
            tool()
