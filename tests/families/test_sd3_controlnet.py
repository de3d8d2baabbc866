"""ControlNets of Stable Diffusion 3: networks and whole images against diffusers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.backends import get_backend
from ldmref.errors import UsageError
from ldmref.families.joint_controls import BlockResiduals
from ldmref.families.sd3.controlnet import MMDiTControlConfig, place_residuals
from ldmref.models import preset
from ldmref.models.conditioning import Conditioning
from ldmref.models.params import tree_map, unflatten
from ldmref.modes import Control

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
from control_kits import (  # noqa: E402
    IMAGES,
    LATENTS,
    PROMPT,
    SD3_NETS,
    SIZE,
    difference,
    make_kit,
    make_sd3_net,
)
from sd3_networks import in_float64, make_pipeline  # noqa: E402


@pytest.mark.parametrize("kind", SD3_NETS)
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_the_network_to_the_last_digits(kind, backend, tmp_path):
    net = make_sd3_net(kind)
    net.save_pretrained(tmp_path / "net")
    pipe = make_pipeline("3.5 medium", with_t5=False)
    ops = get_backend(backend, dtype="float64")
    ours = ldmref.load_controlnet(tmp_path / "net", ops)
    if net.pos_embed is None:
        net.pos_embed = net._get_pos_embed_from_transformer(pipe.transformer)
        shared = {f"pos_embed.{name}": x.numpy() for name, x in net.pos_embed.state_dict().items()}
        ours = ours.for_denoiser(tree_map(ops.asarray, unflatten(shared)))
    net = in_float64(net)
    draw = np.random.default_rng(0).standard_normal
    x = draw((2, 4, 8, 12))
    hint = draw((2, ours.config.hint_channels, 8, 12))
    t = np.array([900.0, 20.0])
    states = draw((2, 7, 40))
    pooled = draw((2, 24))
    zeros = net.config.force_zeros_for_pooled_projection
    with torch.no_grad():
        want = net(
            torch.tensor(x),
            torch.tensor(hint),
            encoder_hidden_states=torch.tensor(states) if net.context_embedder else None,
            pooled_projections=torch.tensor(np.zeros_like(pooled) if zeros else pooled),
            timestep=torch.tensor(t),
        ).controlnet_block_samples
    got = ours.residuals(x, t, Conditioning(ops.asarray(states), ops.asarray(pooled)), hint)
    assert len(got.blocks) == len(want) == net.config.num_layers and not got.single_blocks
    for a, b in zip(got.blocks, want, strict=True):
        a, b = ops.to_numpy(a), b.numpy()
        assert np.abs(b).max() > 1e-2
        assert np.abs(a - b).max() <= 1e-10 * np.abs(b).max()


# -- images ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    return make_kit("sd3", tmp_path_factory.mktemp("sd3"))


@pytest.fixture
def without_posterior_noise(monkeypatch):
    """diffusers samples the control image's latents from PyTorch's global generator."""
    kind = diffusers.models.autoencoders.vae.DiagonalGaussianDistribution
    monkeypatch.setattr(kind, "sample", lambda self, generator=None: self.mode())


@pytest.mark.parametrize(
    ("kinds", "weights", "start", "end"),
    [
        (["joint"], [1.0], 0.0, 1.0),
        (["unshifted"], [0.7], 0.0, 1.0),
        (["image alone"], [1.0], 0.0, 1.0),
        (["joint"], [1.0], 0.25, 1.0),
        (["joint"], [1.0], 0.0, 0.6),
        (["unshifted", "unshifted"], [0.7, -0.4], 0.0, 1.0),
    ],
)
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_images_are_those_of_diffusers(
    kit, without_posterior_noise, backend, kinds, weights, start, end
):
    pipe = kit.pipe(*kinds)
    many = len(kinds) > 1
    want = pipe(
        PROMPT,
        negative_prompt="dog",
        control_image=IMAGES[:2] if many else IMAGES[0],
        controlnet_conditioning_scale=weights if many else weights[0],
        control_guidance_start=start,
        control_guidance_end=end,
        latents=torch.tensor(LATENTS),
        guidance_scale=4.0,
        num_inference_steps=4,
        output_type="np",
        **SIZE,
    ).images[0]
    model = ldmref.load(kit.folder, backend=backend)
    control = [
        Control(kit.net(kind), image, weight, start, end)
        for kind, image, weight in zip(kinds, IMAGES, weights, strict=False)
    ]
    options = dict(negative_prompt="dog", latents=LATENTS, steps=4, cfg_scale=4.0, **SIZE)
    found = modes.txt2img(model, PROMPT, control=control, **options)
    assert difference(found, want).max() <= 1
    plain = modes.txt2img(model, PROMPT, **options)
    assert difference(plain, want).max() > 8
    assert [c["weight"] for c in found.params["control"]] == weights


class CannyProcessor(diffusers.image_processor.VaeImageProcessor):
    """The usual processor for Stability's net for canny: 127.5 a + 0.5 instead of 2 a - 1."""

    def preprocess(self, image, **kwargs):
        return super().preprocess(image, **kwargs) * 255 * 0.5 + 0.5

    def postprocess(self, image, do_denormalize=None, **kwargs):
        return super().postprocess(image, do_denormalize=[True] * len(image), **kwargs)


def test_canny_of_35_large_reads_the_image_on_which_it_was_trained(kit, without_posterior_noise):
    pipe = kit.pipe("image alone")
    options = dict(latents=LATENTS, steps=2, cfg_scale=4.0, **SIZE)

    def draw():
        return pipe(
            PROMPT,
            control_image=IMAGES[0],
            latents=torch.tensor(LATENTS),
            guidance_scale=4.0,
            num_inference_steps=2,
            output_type="np",
            **SIZE,
        ).images[0]

    plain = draw()
    pipe.image_processor = CannyProcessor(vae_scale_factor=2, do_normalize=False)
    canny = draw()
    assert np.abs(canny - plain).max() > 8 / 255
    for mode, want in ((0, plain), (1, canny), (2, plain), (None, plain)):
        control = Control(kit.net("image alone"), IMAGES[0], mode=mode)
        found = modes.txt2img(kit.model, PROMPT, control=[control], **options)
        assert difference(found, want).max() <= 1
        assert found.params["control"][0].get("mode") == mode


@pytest.mark.parametrize("mode", [3, 0])
def test_a_kind_that_a_net_does_not_have(kit, mode):
    net = ldmref.load_controlnet(kit.net("image alone" if mode else "joint"), kit.model.backend)
    with pytest.raises(UsageError, match="no kind of images 3" if mode else "takes no mode"):
        modes.plan("txt2img", kit.model, prompt="x", control=[Control(net, IMAGES[0], mode=mode)])


# -- blocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [24, 38])
def test_residuals_follow_the_blocks_that_diffusers_gives_them(blocks):
    """Of K residuals, the interval of diffusers is N / K, a rounded number."""
    config = preset("sd3-medium")
    config = replace(config, denoiser=replace(config.denoiser, num_layers=blocks))
    for count in range(1, blocks + 1):
        residuals = BlockResiduals(tuple(range(count)))
        placed = place_residuals(config, MMDiTControlConfig(), residuals).blocks
        assert [*placed] == [int(i / (blocks / count)) for i in range(blocks)]
        assert (
            place_residuals(config, MMDiTControlConfig(), BlockResiduals(placed)).blocks == placed
        )
