"""ControlNets of Flux.1: networks and whole images against diffusers, and the tools."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from graph_runs import run_graph
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.backends import get_backend
from ldmref.errors import LdmrefError
from ldmref.export import export_onnx
from ldmref.families.flux.controlnet import FluxControlConfig, place_residuals
from ldmref.families.joint_controls import BlockResiduals, name_sample
from ldmref.locate import diff_traces
from ldmref.models import preset
from ldmref.models.conditioning import Conditioning
from ldmref.modes import Control
from ldmref.modes.control import parse_control
from ldmref.trace import estimate_trace, read_trace, record_trace

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
from diffusers import (  # noqa: E402
    FluxControlNetImg2ImgPipeline,
    FluxControlNetInpaintPipeline,
    FluxControlNetModel,
    FluxControlNetPipeline,
    FluxMultiControlNetModel,
)
from flux_networks import SIZES, in_float64, make_pipeline  # noqa: E402

NETS = {
    "plain": {"num_layers": 1, "num_single_layers": 1, "guidance_embeds": True},
    "without scale": {"num_layers": 2, "num_single_layers": 0},
    "union": {"num_layers": 1, "num_single_layers": 2, "guidance_embeds": True, "num_mode": 3},
    "encoder": {
        "num_layers": 1,
        "num_single_layers": 0,
        "conditioning_embedding_channels": 4,
        "patch_size": 2,
    },
}
ZEROS = ("controlnet_blocks", "controlnet_single", "controlnet_x", "input_hint_block.conv_out")


def make_net(kind, seed=1, **changes):
    """Return diffusers' ControlNet, in which no layer is zero and no bias has its first value."""
    torch.manual_seed(seed)
    net = FluxControlNetModel(in_channels=16, **SIZES | NETS[kind] | changes)
    for name, parameter in net.named_parameters():
        if name.startswith(ZEROS):
            torch.nn.init.normal_(parameter, std=0.3)
        elif parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return net.eval()


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    """The folders of ControlNets by kind."""
    root = tmp_path_factory.mktemp("controlnets")
    for kind in NETS:
        make_net(kind).save_pretrained(root / kind)
    return root


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_the_network_to_the_last_digits(nets, kind, backend, monkeypatch):
    """At times that are multiples of 1/1024, of which a product with 1000 is exact."""
    ops = get_backend(backend, dtype="float64")
    ours = ldmref.load_controlnet(nets / kind, ops)
    net = in_float64(FluxControlNetModel.from_pretrained(nets / kind), monkeypatch)
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


PROMPT = "a red cat"
SIZE = {"width": 24, "height": 16}
LATENTS = np.random.default_rng(0).standard_normal((1, 4, 8, 12)).astype(np.float32)
PACKED = FluxControlNetPipeline._pack_latents(torch.tensor(LATENTS), 1, 4, 8, 12)
IMAGES = [
    Image.fromarray(pixels)
    for pixels in np.random.default_rng(1).integers(0, 256, (3, 16, 24, 3), np.uint8)
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(diffusers' pipeline without ControlNets, the folder that it writes)."""
    pipe = make_pipeline(True)
    folder = tmp_path_factory.mktemp("flux") / "model"
    pipe.save_pretrained(folder)
    return pipe, folder


@pytest.fixture(scope="module")
def model(made):
    return ldmref.load(made[1])


def pipe_of(pipe, nets, *kinds, kind=FluxControlNetPipeline):
    """Return diffusers' pipeline with ControlNets."""
    made_nets = [FluxControlNetModel.from_pretrained(nets / name) for name in kinds]
    net = made_nets[0] if len(kinds) == 1 else FluxMultiControlNetModel(made_nets)
    parts = {name: part for name, part in pipe.components.items() if part is not None}
    pipe = kind(**parts, controlnet=net)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def compare(found, want):
    difference = np.abs(np.asarray(found.images[0]).astype(int) - np.round(want * 255))
    assert difference.max() <= 1


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
def test_images_are_those_of_diffusers(made, nets, backend, kinds, weights, start, end, kind):
    """With its noise, sampled after that of the control images' latents, one after the other."""
    pipe = pipe_of(made[0], nets, *kinds)
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
    model = ldmref.load(made[1], backend=backend)
    control = [
        Control(nets / name, image, weight, start, end, kind)
        for name, image, weight in zip(kinds, IMAGES, weights, strict=False)
    ]
    options = dict(steps=4, cfg_scale=2.5, rng="torch", seed=5, **SIZE)
    found = modes.txt2img(model, PROMPT, control=control, **options)
    compare(found, want)
    plain = modes.txt2img(model, PROMPT, **options)
    assert np.abs(np.asarray(plain.images[0]).astype(int) - np.round(want * 255)).max() > 8
    assert [c["weight"] for c in found.params["control"]] == weights
    assert [c.get("mode") for c in found.params["control"]] == [kind] * len(kinds)


MASK = Image.new("L", (24, 16), 0)
MASK.paste(255, (0, 0, 12, 16))


@pytest.mark.parametrize(
    ("mode", "kind", "given"),
    [
        ("img2img", FluxControlNetImg2ImgPipeline, {"image": IMAGES[2]}),
        ("inpaint", FluxControlNetInpaintPipeline, {"image": IMAGES[2], "mask_image": MASK}),
    ],
)
def test_images_from_images_are_those_of_diffusers(made, model, nets, mode, kind, given):
    pipe = pipe_of(made[0], nets, "plain", kind=kind)
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
    control = [Control(nets / "plain", IMAGES[0], 0.7)]
    generate = getattr(modes, mode)
    found = generate(model, PROMPT, IMAGES[2], control=control, **more, **options)
    difference = np.abs(np.asarray(found.images[0]).astype(int) - np.round(want * 255))
    repainted = np.s_[:, :10] if mode == "inpaint" else np.s_[:]  # ldmref pastes the rest
    assert difference[repainted].max() <= 1
    plain = generate(model, PROMPT, IMAGES[2], **more, **options)
    assert (plain.latents != found.latents).any()


@pytest.fixture(scope="module")
def large(made, tmp_path_factory):
    """A pipeline whose autoencoder has a factor of 8, as the encoder of the image has."""
    torch.manual_seed(3)
    vae = diffusers.AutoencoderKL(
        **dict(made[0].vae.config)
        | {
            "block_out_channels": [8] * 4,
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
        }
    )
    parts = {name: part for name, part in made[0].components.items() if part is not None}
    pipe = diffusers.FluxPipeline(**parts | {"vae": vae.eval()})
    folder = tmp_path_factory.mktemp("large") / "model"
    pipe.save_pretrained(folder)
    return pipe, folder


@pytest.mark.parametrize("blocks", [1, 2])
def test_a_net_with_an_encoder_of_the_image(large, tmp_path, blocks):
    """Its residuals follow the blocks in turn."""
    net = make_net("encoder", num_layers=blocks)
    net.save_pretrained(tmp_path / "net")
    pipe = pipe_of(large[0], tmp_path, "net")
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
    compare(modes.txt2img(model, PROMPT, control=control, **options), want)
    plain = modes.txt2img(model, PROMPT, **options)
    assert np.abs(np.asarray(plain.images[0]).astype(int) - np.round(want * 255)).max() > 4
    plan = modes.plan("txt2img", model, prompt=PROMPT, control=control, **options)
    record_trace(plan, model, tmp_path / "trace")
    trace = read_trace(tmp_path / "trace")
    assert {"controlnet.hint", "controlnet.000"} <= set(trace.calls)
    ours = [ldmref.load_controlnet(tmp_path / "net", model.backend)]
    report = diff_traces(trace, model, controlnets=ours)
    assert report.equal, ([row for row in report.rows if row.verdict != "equal"], report.gaps)


# -- what holds for any net -----------------------------------------------------------------------


OPTIONS = {"seed": 1, "steps": 2, **SIZE}


@pytest.mark.parametrize("kind", ["plain", "without scale"])
def test_a_weight_of_zero_is_no_control(model, nets, kind):
    """Bit for bit; and another weight is not."""
    plain = modes.txt2img(model, PROMPT, **OPTIONS).latents
    none, some = (
        modes.txt2img(
            model, PROMPT, control=[Control(nets / kind, IMAGES[0], weight)], **OPTIONS
        ).latents
        for weight in (0.0, 0.5)
    )
    assert (none == plain).all() and (some != plain).any()


def test_nets_of_different_blocks_add_up(model, nets):
    """One without residuals of single blocks, and one with."""
    controls = [Control(nets / kind, IMAGES[0], 0.5) for kind in ("plain", "without scale")]
    both = modes.txt2img(model, PROMPT, control=controls, **OPTIONS).latents
    swapped = modes.txt2img(model, PROMPT, control=controls[::-1], **OPTIONS).latents
    alone = [modes.txt2img(model, PROMPT, control=[c], **OPTIONS).latents for c in controls]
    np.testing.assert_allclose(swapped, both, atol=1e-4)
    assert all((latents != both).any() for latents in alone)


def test_guidance_in_attention_takes_a_control(model, nets):
    """The image has two copies in single blocks, and each takes the residuals."""
    options = OPTIONS | {"count": 2, "batch_size": 2}
    asked = options | {"guidance": "nag", "negative_prompt": "dog"}
    plain = modes.txt2img(model, PROMPT, **asked).latents
    control = [Control(nets / "plain", IMAGES[0])]
    found = modes.txt2img(model, PROMPT, control=control, **asked).latents
    assert np.isfinite(found).all() and (found != plain).any()
    of_one_scale = asked | {"guidance": {"name": "nag", "scale": 1.0}, "negative_prompt": PROMPT}
    same = modes.txt2img(model, PROMPT, control=control, **of_one_scale).latents
    want = modes.txt2img(model, PROMPT, control=control, **options).latents
    np.testing.assert_allclose(same, want, atol=1e-4)


def test_several_images_do_not_depend_on_the_batch(model, nets):
    """Each has a sample of the control image's latents of its own."""
    control = [Control(nets / "plain", IMAGES[0])]
    asked = OPTIONS | {"control": control, "count": 2, "rng": "torch"}
    one = modes.txt2img(model, PROMPT, **asked, batch_size=1).latents
    two = modes.txt2img(model, PROMPT, **asked, batch_size=2).latents
    np.testing.assert_allclose(two, one, atol=1e-4)


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 3}, "width 36, not 24"),
        ({"num_layers": 4}, "num_layers 4, not 2 or fewer"),
        ({"num_single_layers": 5}, "num_single_layers 5, not 2 or fewer"),
        ({"joint_attention_dim": 44}, "joint_attention_dim 44, not 20"),
        ({"pooled_projection_dim": 20}, "pooled_projection_dim 20, not 16"),
    ],
)
def test_a_net_of_another_width_is_refused_without_weights(model, tmp_path, changes, message):
    make_net("plain", **changes).save_pretrained(tmp_path / "net")
    told = refusal(model.config, tmp_path / "net")
    assert f"does not fit the model: it has {message}" in told


def test_other_nets_are_refused(model, nets):
    told = refusal(model, nets / "encoder")
    assert "pixels of the hint per latent cell 8, not 2" in told
    schnell = ldmref.random_model("flux-tiny").config
    schnell = replace(schnell, denoiser=replace(schnell.denoiser, guidance_embeds=False))
    assert "guidance_embeds True, not False" in refusal(schnell, nets / "plain")
    tiny = ldmref.random_model("sd3-tiny")
    assert "it is one of the family flux, not sd3" in refusal(tiny, nets / "plain")


def test_the_kind_of_an_image_is_checked(model, nets):
    for mode in (None, 3):
        told = refusal(model, nets / "union", mode=mode)
        assert "needs the number of its image's kind, from 0 to 2" in told
    assert "takes no mode" in refusal(model, nets / "plain", mode=0)
    control = parse_control("union:edges.png:0.8:0-0.5:2")
    assert control == Control("union", "edges.png", 0.8, 0.0, 0.5, 2)
    assert parse_control("union:edges.png:0.8").mode is None
    with pytest.raises(LdmrefError, match="cannot read the control"):
        parse_control("union:edges.png:0.8:0-1:depth")


def test_a_damaged_folder_is_refused(nets, tmp_path):
    file = tmp_path / "net" / "config.json"
    shutil.copytree(nets / "union", tmp_path / "net")
    data = json.loads(file.read_text())
    for change, message in (
        ({"axes_dims_rope": [2, 4, 8]}, "axes_dims_rope"),
        ({"in_channels": 10}, "no multiple of 4"),
        ({"num_layers": 3}, "missing"),
        ({"num_mode": -1}, "num_mode"),
        ({"patch_size": 2}, "patch_size"),
        ({"conditioning_embedding_channels": 16, "patch_size": 2}, "conditioning_embedding"),
    ):
        file.write_text(json.dumps(data | change))
        with pytest.raises(LdmrefError, match=message):
            ldmref.load_controlnet(tmp_path / "net")


# -- tools ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kinds", "weights", "mode"),
    [
        (["plain"], [0.7], None),
        (["union"], [1.0], 1),
        (["plain", "plain"], [0.7, -0.4], None),
    ],
)
def test_a_live_pipeline_has_no_fault(made, model, nets, tmp_path, kinds, weights, mode):
    pipe = pipe_of(made[0], nets, *kinds)
    many = len(kinds) > 1
    with ldmref.recording(pipe, tmp_path / "trace") as trace:
        pipe(
            PROMPT,
            control_image=IMAGES[:2] if many else IMAGES[0],
            control_mode=[mode] * 2 if many else mode,
            controlnet_conditioning_scale=weights if many else weights[0],
            generator=torch.Generator().manual_seed(5),
            num_inference_steps=2,
            **SIZE,
        )
    ours = [ldmref.load_controlnet(nets / kind, model.backend) for kind in kinds]
    report = diff_traces(trace.trace, model, controlnets=ours)
    assert report.equal, ([row for row in report.rows if row.verdict != "equal"], report.gaps)
    assert {"controlnet.000", "transformer.001"} <= {row.call for row in report.rows}


@pytest.mark.parametrize("layer", ["controlnet_single_blocks.0", "controlnet_x_embedder"])
def test_a_wrong_layer_of_the_controlnet_is_named(made, model, nets, tmp_path, layer):
    pipe = pipe_of(made[0], nets, "plain")
    module = pipe.controlnet.get_submodule(layer)
    hook = module.register_forward_hook(lambda module, args, output: 1.01 * output)
    try:
        with ldmref.recording(pipe, tmp_path / "trace") as trace:
            pipe(PROMPT, control_image=IMAGES[0], num_inference_steps=1, **SIZE)
    finally:
        hook.remove()
    ours = [ldmref.load_controlnet(nets / "plain", model.backend)]
    report = diff_traces(trace.trace, model, controlnets=ours)
    assert {row.layer for row in report.rows if row.verdict == "differs"} == {layer}


@pytest.mark.parametrize("kind", ["plain", "union"])
def test_a_trace_agrees_with_the_model_and_its_estimate(model, nets, tmp_path, kind):
    control = [Control(nets / kind, IMAGES[0], mode=1 if kind == "union" else None)]
    plan = modes.plan("txt2img", model, prompt=PROMPT, control=control, **OPTIONS)
    estimate = estimate_trace(plan, model)
    record_trace(plan, model, tmp_path / "trace")
    trace = read_trace(tmp_path / "trace")
    assert set(estimate.calls) == set(trace.calls) >= {"controlnet.000", "controlnet.001"}
    ours = [ldmref.load_controlnet(nets / kind, model.backend)]
    report = diff_traces(trace, model, controlnets=ours)
    assert report.equal, ([row for row in report.rows if row.verdict != "equal"], report.gaps)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_graphs_of_the_controlnet_and_of_the_transformer(model, nets, tmp_path, runtime):
    """At another number of patches and of tokens than the graphs were made with."""
    pytest.importorskip("onnx")
    pytest.importorskip(runtime)
    net = ldmref.load_controlnet(nets / "union", model.backend)
    export_onnx(model, tmp_path / "m", controlnets=[net])
    draw = np.random.default_rng(0).standard_normal
    arrays = {
        "sample": draw((2, 4, 8, 12)),
        "timestep": np.array([900.0, 20.0]),
        "encoder_hidden_states": draw((2, 7, 20)),
        "pooled_projections": draw((2, 16)),
        "guidance": np.array([2.5, 1.0]),
    }
    arrays = {name: x.astype(np.float32) for name, x in arrays.items()}
    x, t, states, pooled, scales = arrays.values()
    conditioning = Conditioning(states, pooled, None, {"guidance": scales})
    hint = draw((2, 4, 8, 12)).astype(np.float32)
    mode = np.array([[2], [0]])
    residuals = net.residuals(x, t, conditioning, hint, mode)
    feed = {"controlnet_cond": hint, "controlnet_mode": mode, **arrays}
    got = run_graph(tmp_path / "m", "controlnet", runtime, **feed)
    samples = name_samples(residuals)
    for name, want in samples.items():
        np.testing.assert_allclose(got[name], want, atol=2e-4)
    placed = net.declared.place(model.config, net.config, residuals)
    want = model.predict(x, t, conditioning, placed)
    got = run_graph(tmp_path / "m", "transformer", runtime, **arrays, **name_samples(placed))
    np.testing.assert_allclose(got["out_sample"], want, atol=2e-4)
    assert np.abs(want - model.predict(x, t, conditioning)).max() > 1e-2


def name_samples(residuals):
    return {
        name_sample(field, i): x
        for field, parts in residuals._asdict().items()
        for i, x in enumerate(parts)
    }
