"""ControlNets of Stable Diffusion 3: networks and whole images against diffusers, and the tools."""

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
from ldmref.families.joint_controls import BlockResiduals
from ldmref.families.sd3.controlnet import MMDiTControlConfig, place_residuals
from ldmref.locate import diff_traces
from ldmref.models import preset
from ldmref.models.conditioning import Conditioning
from ldmref.models.params import tree_map, unflatten
from ldmref.modes import Control
from ldmref.trace import estimate_trace, read_trace, record_trace

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
from diffusers import (  # noqa: E402
    SD3ControlNetModel,
    SD3MultiControlNetModel,
    StableDiffusion3ControlNetPipeline,
)
from sd3_networks import SIZES, in_float64, make_pipeline  # noqa: E402

NETS = {
    "joint": {"num_layers": 2, "force_zeros_for_pooled_projection": False},
    "unshifted": {"num_layers": 1},
    "dual": {
        "num_layers": 2,
        "dual_attention_layers": (0,),
        "qk_norm": "rms_norm",
        "extra_conditioning_channels": 1,
    },
    "image alone": {
        "num_layers": 3,
        "joint_attention_dim": None,
        "use_pos_embed": False,
        "pos_embed_type": None,
        "force_zeros_for_pooled_projection": False,
    },
}


def make_net(kind, seed=1, **changes):
    """Return diffusers' ControlNet, in which no layer is zero and no bias has its first value."""
    torch.manual_seed(seed)
    net = SD3ControlNetModel(**SIZES | {"caption_projection_dim": 16} | NETS[kind] | changes)
    for name, parameter in net.named_parameters():
        if name.startswith(("controlnet_blocks", "pos_embed_input")):
            torch.nn.init.normal_(parameter, std=0.3)
        elif parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return net.eval()


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_the_network_to_the_last_digits(kind, backend, tmp_path):
    net = make_net(kind)
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


PROMPT = "a red cat"
SIZE = {"width": 24, "height": 16}
LATENTS = np.random.default_rng(0).standard_normal((1, 4, 8, 12)).astype(np.float32)
IMAGES = [
    Image.fromarray(pixels)
    for pixels in np.random.default_rng(1).integers(0, 256, (2, 16, 24, 3), np.uint8)
]


@pytest.fixture(scope="module", params=["3.5 medium"])
def made(request, tmp_path_factory):
    """(diffusers' pipeline without ControlNets, the folder that it writes)."""
    pipe = make_pipeline(request.param)
    folder = tmp_path_factory.mktemp("sd3") / "model"
    pipe.save_pretrained(folder)
    return pipe, folder


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    """The folders of ControlNets by kind."""
    root = tmp_path_factory.mktemp("controlnets")
    for kind in NETS:
        make_net(kind).save_pretrained(root / kind)
    make_net("unshifted", seed=2, num_layers=3).save_pretrained(root / "deep")
    return root


@pytest.fixture
def without_posterior_noise(monkeypatch):
    """diffusers samples the control image's latents from PyTorch's global generator."""
    kind = diffusers.models.autoencoders.vae.DiagonalGaussianDistribution
    monkeypatch.setattr(kind, "sample", lambda self, generator=None: self.mode())


def pipe_of(made, nets, *kinds):
    """Return diffusers' pipeline with ControlNets."""
    made_nets = [SD3ControlNetModel.from_pretrained(nets / kind) for kind in kinds]
    net = made_nets[0] if len(kinds) == 1 else SD3MultiControlNetModel(made_nets)
    pipe = StableDiffusion3ControlNetPipeline(**parts_of(made[0]), controlnet=net)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def parts_of(pipe):
    return {name: part for name, part in pipe.components.items() if part is not None}


def compare(found, want):
    difference = np.abs(np.asarray(found.images[0]).astype(int) - np.round(want * 255))
    assert difference.max() <= 1


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
    made, nets, without_posterior_noise, backend, kinds, weights, start, end
):
    pipe = pipe_of(made, nets, *kinds)
    many = len(kinds) > 1
    want = pipe(
        PROMPT,
        negative_prompt="dog",
        control_image=IMAGES if many else IMAGES[0],
        controlnet_conditioning_scale=weights if many else weights[0],
        control_guidance_start=start,
        control_guidance_end=end,
        latents=torch.tensor(LATENTS),
        guidance_scale=4.0,
        num_inference_steps=4,
        output_type="np",
        **SIZE,
    ).images[0]
    model = ldmref.load(made[1], backend=backend)
    control = [
        Control(nets / kind, image, weight, start, end)
        for kind, image, weight in zip(kinds, IMAGES, weights, strict=False)
    ]
    options = dict(negative_prompt="dog", latents=LATENTS, steps=4, cfg_scale=4.0, **SIZE)
    found = modes.txt2img(model, PROMPT, control=control, **options)
    compare(found, want)
    plain = modes.txt2img(model, PROMPT, **options)
    assert np.abs(np.asarray(plain.images[0]).astype(int) - np.round(want * 255)).max() > 8
    assert [c["weight"] for c in found.params["control"]] == weights


# -- what holds for any net -----------------------------------------------------------------------


OPTIONS = {"seed": 1, "steps": 2, **SIZE}


@pytest.fixture(scope="module")
def model(made):
    return ldmref.load(made[1])


@pytest.mark.parametrize("kind", ["joint", "image alone"])
def test_a_weight_of_zero_is_no_control(model, nets, kind):
    """Bit for bit; and another weight is not."""
    plain = modes.txt2img(model, PROMPT, **OPTIONS).latents
    image = IMAGES[0]
    none, some = (
        modes.txt2img(model, PROMPT, control=[Control(nets / kind, image, w)], **OPTIONS).latents
        for w in (0.0, 0.5)
    )
    assert (none == plain).all() and (some != plain).any()


def test_nets_of_different_depths_add_up(model, nets):
    """Of 3 blocks, each with a residual of its own, and of 1, whose residual all blocks take."""
    controls = [Control(nets / kind, IMAGES[0], 0.5) for kind in ("unshifted", "deep")]
    both = modes.txt2img(model, PROMPT, control=controls, **OPTIONS).latents
    swapped = modes.txt2img(model, PROMPT, control=controls[::-1], **OPTIONS).latents
    alone = [modes.txt2img(model, PROMPT, control=[c], **OPTIONS).latents for c in controls]
    np.testing.assert_allclose(swapped, both, atol=1e-4)
    assert all((latents != both).any() for latents in alone)


def test_the_part_of_the_steps(model, nets):
    def states(start, end):
        seen = []
        control = [Control(nets / "joint", IMAGES[0], 1.0, start, end)]
        asked = OPTIONS | {"steps": 4, "control": control if end else []}
        modes.txt2img(model, PROMPT, callback=seen.append, **asked)
        return [event.x0 for event in seen]

    plain, full, late, early = (states(*part) for part in ((0, 0), (0, 1), (0.5, 1), (0, 0.5)))
    assert [(a == b).all() for a, b in zip(late, plain, strict=True)] == [True, True, False, False]
    assert [(a == b).all() for a, b in zip(early, full, strict=True)] == [True, True, False, False]


@pytest.mark.parametrize("guidance", [{"name": "slg", "layers": [1]}, "nag"])
def test_guidance_that_steers_the_network_takes_a_control(model, nets, guidance):
    asked = OPTIONS | {"guidance": guidance, "negative_prompt": "dog", "cfg_scale": 3.0}
    plain = modes.txt2img(model, PROMPT, **asked).latents
    control = [Control(nets / "joint", IMAGES[0])]
    found = modes.txt2img(model, PROMPT, control=control, **asked).latents
    assert np.isfinite(found).all() and (found != plain).any()


def test_other_modes(model, nets):
    control = [Control(nets / "joint", IMAGES[0])]
    mask = Image.new("L", (24, 16), 0)
    mask.paste(255, (0, 0, 12, 16))
    options = {"seed": 1, "steps": 4}
    for mode, more in (
        (modes.img2img, {"strength": 0.5}),
        (modes.inpaint, {"mask": mask}),
    ):
        plain = mode(model, PROMPT, IMAGES[1], **more, **options).latents
        found = mode(model, PROMPT, IMAGES[1], control=control, **more, **options).latents
        assert (found != plain).any()


def test_the_latents_of_several_images_do_not_depend_on_the_batch(model, nets):
    control = [Control(nets / "joint", IMAGES[0])]
    asked = OPTIONS | {"control": control, "count": 2, "rng": "torch"}
    one = modes.txt2img(model, PROMPT, **asked, batch_size=1).latents
    two = modes.txt2img(model, PROMPT, **asked, batch_size=2).latents
    np.testing.assert_allclose(two, one, atol=1e-4)


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


# -- what is refused ------------------------------------------------------------------------------


def refusal(model, net):
    with pytest.raises(LdmrefError) as caught:
        modes.plan("txt2img", model, prompt=PROMPT, control=[Control(net, IMAGES[0])])
    assert caught.value.code == "E-CONTROL" and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 3, "caption_projection_dim": 24}, "width 24, not 16"),
        ({"num_layers": 4}, "num_layers 4, not 3 or fewer"),
        ({"joint_attention_dim": 44}, "joint_attention_dim 44, not 40"),
        ({"pooled_projection_dim": 20}, "pooled_projection_dim 20, not 24"),
        ({"in_channels": 6}, "in_channels 6, not 4"),
        ({"extra_conditioning_channels": 2}, "extra_conditioning_channels 2, not 0 or 1"),
    ],
)
def test_a_net_of_another_width_is_refused_without_weights(made, tmp_path, changes, message):
    make_net("joint", **changes).save_pretrained(tmp_path / "net")
    config = ldmref.load(made[1]).config
    assert f"does not fit the model: it has {message}" in refusal(config, tmp_path / "net")


def test_a_net_of_another_family_is_refused(model, nets, tmp_path):
    tiny = ldmref.random_model("tiny")
    told = refusal(tiny, nets / "joint")
    assert "it is one of the family sd3, not latent-diffusion" in told
    net = diffusers.ControlNetModel(
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=4,
        conditioning_embedding_out_channels=(4, 8),
    )
    net.save_pretrained(tmp_path / "unet")
    told = refusal(model, tmp_path / "unet")
    assert "it is one of the family latent-diffusion, not sd3" in told


def test_a_damaged_folder_is_refused(nets, tmp_path):
    file = tmp_path / "net" / "config.json"
    shutil.copytree(nets / "joint", tmp_path / "net")
    data = json.loads(file.read_text())
    for change, message in (
        ({"caption_projection_dim": 24}, "both streams must be as wide"),
        ({"pos_embed_type": None}, "pos_embed_type"),
        ({"num_layers": 3}, "missing"),
        ({"qk_norm": "layer_norm"}, "qk_norm"),
        ({"extra_conditioning_channels": -1}, "extra_conditioning_channels"),
    ):
        file.write_text(json.dumps(data | change))
        with pytest.raises(LdmrefError, match=message):
            ldmref.load_controlnet(tmp_path / "net")
    weights = tmp_path / "net" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(LdmrefError, match="misshapen"):
        ldmref.load_controlnet(weights)  # whose heads are 64 wide in a file without a model
    with pytest.raises(LdmrefError, match="is a ControlNet, not a model"):
        ldmref.load(weights)


# -- tools ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kinds", "weights"),
    [(["joint"], [0.7]), (["image alone"], [1.0]), (["unshifted", "unshifted"], [0.7, -0.4])],
)
def test_a_live_pipeline_has_no_fault(made, model, nets, tmp_path, kinds, weights):
    pipe = pipe_of(made, nets, *kinds)
    many = len(kinds) > 1
    with ldmref.recording(pipe, tmp_path / "trace") as trace:
        pipe(
            PROMPT,
            control_image=IMAGES if many else IMAGES[0],
            controlnet_conditioning_scale=weights if many else weights[0],
            generator=torch.Generator().manual_seed(5),
            num_inference_steps=2,
            **SIZE,
        )
    ours = [ldmref.load_controlnet(nets / kind, model.backend) for kind in kinds]
    report = diff_traces(trace.trace, ldmref.load(made[1], dtype="float32"), controlnets=ours)
    assert report.equal, ([row for row in report.rows if row.verdict != "equal"], report.gaps)
    assert {"controlnet.000", "transformer.001"} <= {row.call for row in report.rows}


@pytest.mark.parametrize("layer", ["controlnet_blocks.1", "transformer_blocks.0.attn.to_add_out"])
def test_a_wrong_layer_of_the_controlnet_is_named(made, model, nets, tmp_path, layer):
    pipe = pipe_of(made, nets, "joint")
    module = pipe.controlnet.get_submodule(layer)
    hook = module.register_forward_hook(lambda module, args, output: 1.01 * output)
    try:
        with ldmref.recording(pipe, tmp_path / "trace") as trace:
            pipe(PROMPT, control_image=IMAGES[0], num_inference_steps=1, **SIZE)
    finally:
        hook.remove()
    ours = [ldmref.load_controlnet(nets / "joint", model.backend)]
    report = diff_traces(trace.trace, ldmref.load(made[1], dtype="float32"), controlnets=ours)
    assert {row.layer for row in report.rows if row.verdict == "differs"} == {layer}


@pytest.mark.parametrize("kinds", [["joint"], ["image alone"], ["deep", "unshifted"]], ids=str)
def test_a_trace_agrees_with_the_model_and_its_estimate(model, nets, tmp_path, kinds):
    control = [Control(nets / kind, IMAGES[0]) for kind in kinds]
    plan = modes.plan("txt2img", model, prompt=PROMPT, control=control, **OPTIONS)
    estimate = estimate_trace(plan, model)
    record_trace(plan, model, tmp_path / "trace")
    trace = read_trace(tmp_path / "trace")
    size = sum(file.stat().st_size for file in (tmp_path / "trace").rglob("*") if file.is_file())
    assert 0.9 * estimate.bytes <= size <= estimate.bytes
    assert set(estimate.calls) == set(trace.calls) >= {"controlnet.000", "controlnet.001"}
    ours = [ldmref.load_controlnet(nets / kind, model.backend) for kind in kinds]
    report = diff_traces(trace, model, controlnets=ours)
    assert report.equal, ([row for row in report.rows if row.verdict != "equal"], report.gaps)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("kind", ["joint", "image alone"])
def test_graphs_of_the_controlnet_and_of_the_transformer(model, nets, tmp_path, kind, runtime):
    """At another number of patches and of tokens than the graphs were made with."""
    pytest.importorskip("onnx")
    pytest.importorskip(runtime)
    net = ldmref.load_controlnet(nets / kind, model.backend)
    files = export_onnx(model, tmp_path / "m", controlnets=[net])
    inputs = {file.network: file.inputs for file in files}
    assert inputs["controlnet"]["controlnet_cond"] == ["batch", 4, "height", "width"]
    assert inputs["transformer"]["controlnet_block_samples.1"] == ["batch", "patches", 16]
    draw = np.random.default_rng(0).standard_normal
    arrays = {
        "sample": draw((2, 4, 8, 12)),
        "timestep": np.array([900.0, 20.0]),
        "encoder_hidden_states": draw((2, 7, 40)),
        "pooled_projections": draw((2, 24)),
    }
    arrays = {name: x.astype(np.float32) for name, x in arrays.items()}
    x, t, *texts = arrays.values()
    conditioning = Conditioning(*texts)
    hint = draw((2, 4, 8, 12)).astype(np.float32)
    bound = net.for_denoiser(model.params["transformer"])
    residuals = bound.residuals(x, t, conditioning, hint)
    feed = {name: arrays[name] for name in inputs["controlnet"] if name in arrays}
    got = run_graph(tmp_path / "m", "controlnet", runtime, controlnet_cond=hint, **feed)
    for i, want in enumerate(residuals.blocks):
        np.testing.assert_allclose(got[f"controlnet_block_samples.{i}"], want, atol=2e-4)
    placed = bound.declared.place(model.config, bound.config, residuals)
    want = model.predict(x, t, conditioning, placed)
    samples = {f"controlnet_block_samples.{i}": placed.blocks[i] for i in range(2)}
    got = run_graph(tmp_path / "m", "transformer", runtime, **arrays, **samples)
    np.testing.assert_allclose(got["out_sample"], want, atol=2e-4)
    assert np.abs(want - model.predict(x, t, conditioning)).max() > 1e-2


def test_images_of_compiled_networks(made, nets):
    pytest.importorskip("onnxruntime")
    images = [
        modes.txt2img(
            ldmref.load(made[1], backend=backend),
            PROMPT,
            control=[Control(nets / "joint", IMAGES[0])],
            **OPTIONS,
        ).images[0]
        for backend in ("numpy", "onnx")
    ]
    one, two = (np.asarray(image, int) for image in images)
    assert np.abs(one - two).max() <= 1
