"""ControlNets of Flux.1: networks and whole images against diffusers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.backends import get_backend
from ldmref.errors import LdmrefError
from ldmref.families.flux.controlnet import FluxControlConfig, place_residuals
from ldmref.families.joint_controls import BlockResiduals
from ldmref.locate import diff_traces
from ldmref.models import preset
from ldmref.models.conditioning import Conditioning
from ldmref.modes import Control
from ldmref.modes.control import parse_control
from ldmref.trace import read_trace, record_trace

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
from control_kits import (  # noqa: E402
    FLUX_NETS,
    IMAGES,
    MASK,
    OPTIONS,
    PROMPT,
    SIZE,
    difference,
    make_flux_net,
    make_kit,
)
from diffusers import (  # noqa: E402
    FluxControlNetImg2ImgPipeline,
    FluxControlNetInpaintPipeline,
    FluxControlNetModel,
    FluxControlNetPipeline,
)
from flux_networks import in_float64  # noqa: E402


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    return make_kit("flux", tmp_path_factory.mktemp("flux"))


@pytest.mark.parametrize("kind", FLUX_NETS)
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_the_network_to_the_last_digits(kit, kind, backend, monkeypatch):
    """At times that are multiples of 1/1024, of which a product with 1000 is exact."""
    ops = get_backend(backend, dtype="float64")
    ours = ldmref.load_controlnet(kit.net(kind), ops)
    net = in_float64(FluxControlNetModel.from_pretrained(kit.net(kind)), monkeypatch)
    draw = np.random.default_rng(0).standard_normal
    x = draw((2, 4, 8, 12))
    t = np.array([0.875, 0.25])
    states = draw((2, 7, 20))
    pooled = draw((2, 16))
    scales = np.array([2.5, 1.0])
    encodes = ours.hint_encoder is not None
    image = draw((2, 3, 64, 96)) if encodes else draw((2, 4, 8, 12))
    mode = np.array([[2], [0]]) if net.union else None

    def pack(array):
        return FluxControlNetPipeline._pack_latents(torch.tensor(array), 2, 4, 8, 12)

    with torch.no_grad():
        want = net(
            hidden_states=pack(x),
            controlnet_cond=torch.tensor(image) if encodes else pack(image),
            controlnet_mode=None if mode is None else torch.tensor(mode),
            timestep=torch.tensor(t),
            guidance=torch.tensor(scales) if net.config.guidance_embeds else None,
            pooled_projections=torch.tensor(pooled),
            encoder_hidden_states=torch.tensor(states),
            txt_ids=torch.zeros(7, 3),
            img_ids=FluxControlNetPipeline._prepare_latent_image_ids(
                2, 4, 6, torch.device("cpu"), torch.float64
            ),
        )
    more = {"guidance": ops.asarray(scales)}
    conditioning = Conditioning(ops.asarray(states), ops.asarray(pooled), None, more)
    hint = ours.encode_hint(image) if encodes else image
    got = ours.residuals(x, 1000.0 * t, conditioning, hint, mode)
    pairs = [
        (got.blocks, want.controlnet_block_samples),
        (got.single_blocks, want.controlnet_single_block_samples or ()),
    ]
    for ours_, theirs in pairs:
        assert len(ours_) == len(theirs)
        for a, b in zip(ours_, theirs, strict=True):
            a, b = ops.to_numpy(a), b.numpy()
            assert np.abs(b).max() > 1e-2
            assert np.abs(a - b).max() <= 1e-10 * np.abs(b).max()
    assert len(got.blocks) == net.config.num_layers


# -- images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kinds", "weights", "start", "end", "kind"),
    [
        (["plain"], [1.0], 0.0, 1.0, None),
        (["without scale"], [0.7], 0.0, 1.0, None),
        (["union"], [1.0], 0.0, 1.0, 2),
        (["plain"], [1.0], 0.25, 1.0, None),
        (["plain"], [1.0], 0.0, 0.6, None),
        (["plain", "plain"], [0.7, -0.4], 0.0, 1.0, None),
    ],
)
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_images_are_those_of_diffusers(kit, backend, kinds, weights, start, end, kind):
    """With its noise, sampled after that of the control images' latents, one after the other."""
    pipe = kit.pipe(*kinds)
    many = len(kinds) > 1
    want = pipe(
        PROMPT,
        control_image=IMAGES[:2] if many else IMAGES[0],
        control_mode=[kind] * 2 if many else kind,
        controlnet_conditioning_scale=weights if many else weights[0],
        control_guidance_start=start,
        control_guidance_end=end,
        guidance_scale=2.5,
        num_inference_steps=4,
        generator=torch.Generator().manual_seed(5),
        output_type="np",
        **SIZE,
    ).images[0]
    model = ldmref.load(kit.folder, backend=backend)
    control = [
        Control(kit.net(name), image, weight, start, end, kind)
        for name, image, weight in zip(kinds, IMAGES, weights, strict=False)
    ]
    options = dict(steps=4, cfg_scale=2.5, rng="torch", seed=5, **SIZE)
    found = modes.txt2img(model, PROMPT, control=control, **options)
    assert difference(found, want).max() <= 1
    plain = modes.txt2img(model, PROMPT, **options)
    assert difference(plain, want).max() > 8
    assert [c["weight"] for c in found.params["control"]] == weights
    assert [c.get("mode") for c in found.params["control"]] == [kind] * len(kinds)


MASK.paste(255, (0, 0, 12, 16))


@pytest.mark.parametrize(
    ("mode", "kind", "given"),
    [
        ("img2img", FluxControlNetImg2ImgPipeline, {"image": IMAGES[2]}),
        ("inpaint", FluxControlNetInpaintPipeline, {"image": IMAGES[2], "mask_image": MASK}),
    ],
)
def test_images_from_images_are_those_of_diffusers(kit, mode, kind, given):
    pipe = kit.pipe("plain", pipeline=kind)
    want = pipe(
        PROMPT,
        control_image=IMAGES[0],
        controlnet_conditioning_scale=0.7,
        strength=0.6,
        guidance_scale=2.5,
        num_inference_steps=5,
        generator=torch.Generator().manual_seed(5),
        output_type="np",
        **given,
        **SIZE,
    ).images[0]
    more = {"mask": MASK} if mode == "inpaint" else {}
    options = dict(steps=5, cfg_scale=2.5, strength=0.6, rng="torch", seed=5)
    control = [Control(kit.net("plain"), IMAGES[0], 0.7)]
    generate = getattr(modes, mode)
    found = generate(kit.model, PROMPT, IMAGES[2], control=control, **more, **options)
    repainted = np.s_[:, :10] if mode == "inpaint" else np.s_[:]  # ldmref pastes the rest
    assert difference(found, want)[repainted].max() <= 1
    plain = generate(kit.model, PROMPT, IMAGES[2], **more, **options)
    assert (plain.latents != found.latents).any()


@pytest.fixture(scope="module")
def large(kit, tmp_path_factory):
    """A pipeline whose autoencoder has a factor of 8, as the encoder of the image has."""
    torch.manual_seed(3)
    vae = diffusers.AutoencoderKL(
        **dict(kit.made.vae.config)
        | {
            "block_out_channels": [8] * 4,
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
        }
    )
    parts = {name: part for name, part in kit.made.components.items() if part is not None}
    pipe = diffusers.FluxPipeline(**parts | {"vae": vae.eval()})
    folder = tmp_path_factory.mktemp("large") / "model"
    pipe.save_pretrained(folder)
    return pipe, folder


@pytest.mark.parametrize("blocks", [1, 2])
def test_a_net_with_an_encoder_of_the_image(large, tmp_path, blocks):
    """Its residuals follow the blocks in turn."""
    net = make_flux_net("encoder", num_layers=blocks)
    net.save_pretrained(tmp_path / "net")
    parts = {name: part for name, part in large[0].components.items() if part is not None}
    pipe = FluxControlNetPipeline(**parts, controlnet=net)
    pipe.set_progress_bar_config(disable=True)
    latents = np.random.default_rng(0).standard_normal((1, 4, 6, 4)).astype(np.float32)
    packed = FluxControlNetPipeline._pack_latents(torch.tensor(latents), 1, 4, 6, 4)
    size = {"width": 32, "height": 48}
    want = pipe(
        PROMPT,
        control_image=IMAGES[0].resize((32, 48)),
        controlnet_conditioning_scale=0.9,
        guidance_scale=2.5,
        num_inference_steps=3,
        latents=packed,
        output_type="np",
        **size,
    ).images[0]
    control = [Control(tmp_path / "net", IMAGES[0].resize((32, 48)), 0.9)]
    options = dict(steps=3, cfg_scale=2.5, latents=latents, **size)
    model = ldmref.load(large[1])
    found = modes.txt2img(model, PROMPT, control=control, **options)
    assert difference(found, want).max() <= 1
    plain = modes.txt2img(model, PROMPT, **options)
    assert difference(plain, want).max() > 4
    plan = modes.plan("txt2img", model, prompt=PROMPT, control=control, **options)
    record_trace(plan, model, tmp_path / "trace")
    trace = read_trace(tmp_path / "trace")
    assert {"controlnet.hint", "controlnet.000"} <= set(trace.calls)
    ours = [ldmref.load_controlnet(tmp_path / "net", model.backend)]
    report = diff_traces(trace, model, controlnets=ours)
    assert report.equal, ([row for row in report.rows if row.verdict != "equal"], report.gaps)


# -- what holds for any net -----------------------------------------------------------------------


def test_guidance_in_attention_takes_a_control(kit):
    """The image has two copies in single blocks, and each takes the residuals."""
    options = OPTIONS | {"count": 2, "batch_size": 2}
    asked = options | {"guidance": "nag", "negative_prompt": "dog"}
    model = kit.model
    plain = modes.txt2img(model, PROMPT, **asked).latents
    control = [Control(kit.net("plain"), IMAGES[0])]
    found = modes.txt2img(model, PROMPT, control=control, **asked).latents
    assert np.isfinite(found).all() and (found != plain).any()
    of_one_scale = asked | {"guidance": {"name": "nag", "scale": 1.0}, "negative_prompt": PROMPT}
    same = modes.txt2img(model, PROMPT, control=control, **of_one_scale).latents
    want = modes.txt2img(model, PROMPT, control=control, **options).latents
    np.testing.assert_allclose(same, want, atol=1e-4)


@pytest.mark.parametrize("in_turn", [False, True])
def test_residuals_follow_the_blocks_that_diffusers_gives_them(in_turn):
    net = FluxControlConfig(conditioning_embedding_channels=16 if in_turn else 0)
    config = preset("flux-dev")
    for count in range(20):
        residuals = BlockResiduals(tuple(range(count)), tuple(range(2 * count)))
        placed = place_residuals(config, net, residuals)
        for part, k, n, turn in zip(
            placed, (count, 2 * count), (19, 38), (in_turn, False), strict=True
        ):
            want = [i % k if turn else i // int(np.ceil(n / k)) for i in range(n if k else 0)]
            assert [*part] == want
        assert place_residuals(config, net, placed) == placed


# -- what is refused ------------------------------------------------------------------------------


def refusal(model, net, **more):
    with pytest.raises(LdmrefError) as caught:
        modes.plan("txt2img", model, prompt=PROMPT, control=[Control(net, IMAGES[0], **more)])
    assert caught.value.code == "E-CONTROL" and "\n" not in str(caught.value)
    return str(caught.value)


def test_other_nets_are_refused(kit):
    told = refusal(kit.model, kit.net("encoder"))
    assert "pixels of the hint per latent cell 8, not 2" in told
    schnell = ldmref.random_model("flux-tiny").config
    schnell = replace(schnell, denoiser=replace(schnell.denoiser, guidance_embeds=False))
    assert "guidance_embeds True, not False" in refusal(schnell, kit.net("plain"))


def test_the_kind_of_an_image_is_checked(kit):
    for mode in (None, 3):
        told = refusal(kit.model, kit.net("union"), mode=mode)
        assert "needs the number of its image's kind, from 0 to 2" in told
    assert "takes no mode" in refusal(kit.model, kit.net("plain"), mode=0)
    control = parse_control("union:edges.png:0.8:0-0.5:2")
    assert control == Control("union", "edges.png", 0.8, 0.0, 0.5, 2)
    assert parse_control("union:edges.png:0.8").mode is None
    with pytest.raises(LdmrefError, match="cannot read the control"):
        parse_control("union:edges.png:0.8:0-1:depth")
