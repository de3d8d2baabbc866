"""What holds for the ControlNets of every transformer of image and text, and the tools on them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from graph_runs import run_graph
from unfollowed import of_another_program

import ldmref
from ldmref import modes
from ldmref.errors import LdmrefError
from ldmref.export import export_onnx
from ldmref.families.joint_controls import name_sample
from ldmref.locate import diff_traces
from ldmref.models.conditioning import Conditioning
from ldmref.modes import Control
from ldmref.trace import read_trace, record_trace

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
from control_kits import IMAGES, MASK, OPTIONS, PROMPT, SIZE, make_kit  # noqa: E402

FAMILIES = ("sd3", "flux")
USUAL = {"sd3": "joint", "flux": "plain"}
BETWEEN = ("control image", "kind of control image", "residuals")  # kinds of rows


@pytest.fixture(scope="module")
def kits(tmp_path_factory):
    return {family: make_kit(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


@pytest.fixture(params=FAMILIES)
def kit(request, kits):
    return kits[request.param]


@pytest.fixture
def usual(request, kit):
    """The folder of a ControlNet of one kind of images."""
    return kit.net("joint" if "joint" in kit.kinds else "plain")


def latents_of(kit, *controls, mode=modes.txt2img, given=(), **more):
    return mode(kit.model, PROMPT, *given, control=controls, **OPTIONS | more).latents


@pytest.mark.parametrize(
    ("family", "kind"),
    [("sd3", "joint"), ("sd3", "image alone"), ("flux", "plain"), ("flux", "without scale")],
)
def test_a_weight_of_zero_is_no_control(kits, family, kind):
    """Bit for bit; and another weight is not."""
    kit = kits[family]
    plain = latents_of(kit)
    none, some = (latents_of(kit, Control(kit.net(kind), IMAGES[0], w)) for w in (0.0, 0.5))
    assert (none == plain).all() and (some != plain).any()


@pytest.mark.parametrize(
    ("family", "kinds"),
    [("sd3", ("unshifted", "deep")), ("flux", ("plain", "without scale"))],
)
def test_nets_of_different_blocks_add_up(kits, family, kinds):
    """Of 3 blocks and of 1, whose residual all blocks take; with and without single blocks."""
    kit = kits[family]
    controls = [Control(kit.net(kind), IMAGES[0], 0.5) for kind in kinds]
    both = latents_of(kit, *controls)
    np.testing.assert_allclose(latents_of(kit, *controls[::-1]), both, atol=1e-4)
    assert all((latents_of(kit, control) != both).any() for control in controls)


def test_the_part_of_the_steps(kit, usual):
    def states(start, end):
        seen = []
        control = [Control(usual, IMAGES[0], 1.0, start, end)] if end else []
        latents_of(kit, *control, steps=4, callback=seen.append)
        return [event.x0 for event in seen]

    plain, full, late, early = (states(*part) for part in ((0, 0), (0, 1), (0.5, 1), (0, 0.5)))
    assert [(a == b).all() for a, b in zip(late, plain, strict=True)] == [True, True, False, False]
    assert [(a == b).all() for a, b in zip(early, full, strict=True)] == [True, True, False, False]


@pytest.mark.parametrize(
    ("family", "guidance"),
    [("sd3", {"name": "slg", "layers": [1]}), ("sd3", "nag"), ("flux", "nag")],
)
def test_guidance_that_steers_the_network_takes_a_control(kits, family, guidance):
    kit = kits[family]
    asked = {"guidance": guidance, "negative_prompt": "dog"}
    control = Control(kit.net(USUAL[family]), IMAGES[0])
    found = latents_of(kit, control, **asked)
    assert np.isfinite(found).all() and (found != latents_of(kit, **asked)).any()


@pytest.mark.parametrize(
    ("mode", "more"), [(modes.img2img, {"strength": 0.5}), (modes.inpaint, {"mask": MASK})]
)
def test_other_modes(kit, usual, mode, more):
    options = {"seed": 1, "steps": 4, **more}
    plain, found = (
        mode(kit.model, PROMPT, IMAGES[1], control=control, **options).latents
        for control in ([], [Control(usual, IMAGES[0])])
    )
    assert (found != plain).any()


def test_several_images_do_not_depend_on_the_batch(kit, usual):
    """In Flux.1, each has a sample of the control image's latents of its own."""
    asked = {"count": 2, "rng": "torch"}
    one, two = (latents_of(kit, Control(usual, IMAGES[0]), **asked, batch_size=n) for n in (1, 2))
    np.testing.assert_allclose(two, one, atol=1e-4)


def test_images_of_compiled_networks(kit, usual):
    pytest.importorskip("onnxruntime")
    one, two = (
        np.asarray(
            modes.txt2img(
                ldmref.load(kit.folder, backend=backend),
                PROMPT,
                control=[Control(usual, IMAGES[0])],
                **OPTIONS,
            ).images[0],
            int,
        )
        for backend in ("numpy", "onnx")
    )
    assert np.abs(one - two).max() <= 1


# -- what is refused ------------------------------------------------------------------------------


def refusal(config, net):
    with pytest.raises(LdmrefError) as caught:
        modes.plan("txt2img", config, prompt=PROMPT, control=[Control(net, IMAGES[0])])
    assert caught.value.code == "E-CONTROL" and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("sd3", {"num_attention_heads": 3, "caption_projection_dim": 24}, "width 24, not 16"),
        ("sd3", {"num_layers": 4}, "num_layers 4, not 3 or fewer"),
        ("sd3", {"joint_attention_dim": 44}, "joint_attention_dim 44, not 40"),
        ("sd3", {"pooled_projection_dim": 20}, "pooled_projection_dim 20, not 24"),
        ("sd3", {"in_channels": 6}, "in_channels 6, not 4"),
        ("sd3", {"extra_conditioning_channels": 2}, "extra_conditioning_channels 2, not 0 or 1"),
        ("flux", {"num_attention_heads": 3}, "width 36, not 24"),
        ("flux", {"num_layers": 4}, "num_layers 4, not 2 or fewer"),
        ("flux", {"num_single_layers": 5}, "num_single_layers 5, not 2 or fewer"),
        ("flux", {"joint_attention_dim": 44}, "joint_attention_dim 44, not 20"),
        ("flux", {"pooled_projection_dim": 20}, "pooled_projection_dim 20, not 16"),
    ],
)
def test_a_net_of_another_width_is_refused_without_weights(
    kits, tmp_path, family, changes, message
):
    kit = kits[family]
    kit.make(USUAL[family], **changes).save_pretrained(tmp_path / "net")
    told = refusal(kit.model.config, tmp_path / "net")
    assert f"does not fit the model: it has {message}" in told


def test_a_net_of_another_family_is_refused(kits, tmp_path):
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
    folders = {"latent-diffusion": tmp_path / "unet"}
    folders |= {family: kit.net(USUAL[family]) for family, kit in kits.items()}
    models = {"latent-diffusion": "tiny", "sd3": "sd3-tiny", "flux": "flux-tiny"}
    for family, name in models.items():
        for other in models.keys() - {family}:
            told = refusal(ldmref.random_model(name).config, folders[other])
            assert f"it is one of the family {other}, not {family}" in told


@pytest.mark.parametrize(
    ("family", "kind", "change", "message"),
    [
        ("sd3", "joint", {"caption_projection_dim": 24}, "both streams must be as wide"),
        ("sd3", "joint", {"pos_embed_type": None}, "pos_embed_type"),
        ("sd3", "joint", {"num_layers": 3}, "missing"),
        ("sd3", "joint", {"qk_norm": "layer_norm"}, "qk_norm"),
        ("sd3", "joint", {"extra_conditioning_channels": -1}, "extra_conditioning_channels"),
        ("flux", "union", {"axes_dims_rope": [2, 4, 8]}, "axes_dims_rope"),
        ("flux", "union", {"in_channels": 10}, "no multiple of 4"),
        ("flux", "union", {"num_layers": 3}, "missing"),
        ("flux", "union", {"num_mode": -1}, "num_mode"),
        ("flux", "union", {"patch_size": 2}, "patch_size"),
        (
            "flux",
            "union",
            {"conditioning_embedding_channels": 16, "patch_size": 2},
            "conditioning_embedding",
        ),
    ],
)
def test_a_damaged_folder_is_refused(kits, tmp_path, family, kind, change, message):
    shutil.copytree(kits[family].net(kind), tmp_path / "net")
    file = tmp_path / "net" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(LdmrefError, match=message):
        ldmref.load_controlnet(tmp_path / "net")


def test_the_file_of_a_net_is_no_model(usual):
    with pytest.raises(LdmrefError, match="is a ControlNet, not a model"):
        ldmref.load(usual / "diffusion_pytorch_model.safetensors")


# -- tools ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "kinds", "weights", "mode"),
    [
        ("sd3", ["joint"], [0.7], None),
        ("sd3", ["image alone"], [1.0], None),
        ("sd3", ["unshifted", "unshifted"], [0.7, -0.4], None),
        ("flux", ["plain"], [0.7], None),
        ("flux", ["union"], [1.0], 1),
        ("flux", ["plain", "plain"], [0.7, -0.4], None),
    ],
)
def test_a_live_pipeline_has_no_fault(kits, tmp_path, family, kinds, weights, mode):
    kit = kits[family]
    many = len(kinds) > 1
    more = {"control_mode": [mode] * 2 if many else mode} if family == "flux" else {}
    pipe = kit.pipe(*kinds)
    with ldmref.recording(pipe, tmp_path / "trace") as trace:
        pipe(
            PROMPT,
            control_image=IMAGES[:2] if many else IMAGES[0],
            controlnet_conditioning_scale=weights if many else weights[0],
            generator=torch.Generator().manual_seed(5),
            num_inference_steps=2,
            **more,
            **SIZE,
        )
    report = diff_traces(trace.trace, kit.model, controlnets=kit.ours(*kinds))
    assert report.equal, ([row for row in report.rows if row.verdict != "equal"], report.gaps)
    assert {"controlnet.000", "transformer.001"} <= {row.call for row in report.rows}


@pytest.mark.parametrize(
    ("family", "layer"),
    [
        ("sd3", "controlnet_blocks.1"),
        ("sd3", "transformer_blocks.0.attn.to_add_out"),
        ("flux", "controlnet_single_blocks.0"),
        ("flux", "controlnet_x_embedder"),
    ],
)
def test_a_wrong_layer_of_the_controlnet_is_named(kits, tmp_path, family, layer):
    kit = kits[family]
    pipe = kit.pipe(USUAL[family])
    module = pipe.controlnet.get_submodule(layer)
    hook = module.register_forward_hook(lambda module, args, output: 1.01 * output)
    try:
        with ldmref.recording(pipe, tmp_path / "trace") as trace:
            pipe(PROMPT, control_image=IMAGES[0], num_inference_steps=1, **SIZE)
    finally:
        hook.remove()
    report = diff_traces(trace.trace, kit.model, controlnets=kit.ours(USUAL[family]))
    assert {row.layer for row in report.rows if row.verdict == "differs"} == {layer}


@pytest.mark.parametrize(
    ("family", "kinds", "mode"),
    [
        ("sd3", ["joint"], None),
        ("sd3", ["image alone"], None),
        ("sd3", ["deep", "unshifted"], None),
        ("flux", ["plain"], None),
        ("flux", ["union"], 1),
    ],
)
def test_a_trace_agrees_with_the_model(kits, tmp_path, family, kinds, mode):
    kit = kits[family]
    control = [Control(kit.net(kind), IMAGES[0], mode=mode) for kind in kinds]
    plan = modes.plan("txt2img", kit.model, prompt=PROMPT, control=control, **OPTIONS)
    record_trace(plan, kit.model, tmp_path / "trace")
    trace = read_trace(tmp_path / "trace")
    assert set(trace.calls) >= {"controlnet.000", "controlnet.001"}
    report = diff_traces(trace, kit.model, controlnets=kit.ours(*kinds))
    assert report.equal, ([row for row in report.rows if row.verdict != "equal"], report.gaps)


def run_of_two(kit, folder):
    """Return the trace of ldmref's run with two ControlNets of other blocks and weights."""
    kinds = ("deep", "unshifted") if "deep" in kit.kinds else ("union", "plain")
    weights = 0.7, -0.4
    control = [
        Control(kit.net(kind), image, weight, mode=1 if kind == "union" else None)
        for kind, image, weight in zip(kinds, IMAGES, weights, strict=False)
    ]
    plan = modes.plan("txt2img", kit.model, prompt=PROMPT, control=control, **OPTIONS)
    record_trace(plan, kit.model, folder)
    return read_trace(folder), kit.ours(*kinds)


def faults_of(trace, nets, kit, changes=()):
    """Return the faults between the networks by call and kind, after changes of tensors."""
    tensors = {name: np.asarray(trace.tensors[name]) for name in trace.tensors}
    changed = replace(trace, tensors=tensors | dict(changes))
    report = diff_traces(changed, kit.model, controlnets=nets)
    rows = [row for row in report.rows if row.verdict == "differs" and row.kind in BETWEEN]
    return {(row.call, row.kind): row.cause for row in rows}


def test_wires_of_two_controlnets(kit, tmp_path):
    """Of each its own image, kind and weight; and a fault of each wire is found."""
    trace, nets = run_of_two(kit, tmp_path / "trace")
    report = diff_traces(trace, kit.model, controlnets=nets)
    assert report.equal, ([row for row in report.rows if row.verdict != "equal"], report.gaps)
    first, second = (f"controlnet.00{i}//input.hint" for i in range(2))
    hints = {name: np.asarray(trace.tensors[name]) for name in (first, second)}
    found = faults_of(trace, nets, kit, {first: hints[second]})
    assert ("controlnet.000", "control image") in found
    residual = "transformer.000//input.control.blocks.0"
    wrong = {residual: 2.0 * np.asarray(trace.tensors[residual]), first: 0.0 * hints[first]}
    faults = {("controlnet.000", "control image"), ("transformer.000", "residuals")}
    for call in ("controlnet.000", "controlnet.001"):
        mode = f"{call}//input.mode"
        if mode in trace.tensors:
            wrong[mode] = np.asarray(trace.tensors[mode]) + 1
            faults.add((call, "kind of control image"))
    found = faults_of(trace, nets, kit, wrong)
    assert faults == set(found) and "zero" in found["controlnet.000", "control image"]


@pytest.mark.parametrize(
    ("family", "mode", "options"),
    [
        ("flux", "txt2img", {"count": 2, "rng": "torch", "steps": 1, **SIZE}),
        ("sd3", "img2img", {"image": IMAGES[1], "strength": 0.5, "steps": 2}),
    ],
)
def test_hints_of_other_runs(kits, tmp_path, family, mode, options):
    """In the second batch, sampled, and after another image was encoded."""
    kit = kits[family]
    control = [Control(kit.net(USUAL[family]), IMAGES[0], 0.7)]
    plan = modes.plan(mode, kit.model, prompt=PROMPT, control=control, seed=1, **options)
    record_trace(plan, kit.model, tmp_path / "trace")
    trace, nets = read_trace(tmp_path / "trace"), kit.ours(USUAL[family])
    assert diff_traces(trace, kit.model, controlnets=nets).equal
    report = diff_traces(of_another_program(trace), kit.model, controlnets=nets)
    left = [row for row in report.rows if row.verdict != "equal"]
    given = {"no image of the request was recorded"}  # of the images themselves, but not of hints
    assert {row.call.kind for row in left} == {"vae.encode"} and {row.note for row in left} == given
    assert "control image" in {row.kind for row in report.rows} - {row.kind for row in left}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("family", "kind"), [("sd3", "joint"), ("sd3", "image alone"), ("flux", "union")]
)
def test_graphs_of_the_controlnet_and_of_the_transformer(kits, tmp_path, family, kind, runtime):
    """At another number of patches and of tokens than the graphs were made with."""
    pytest.importorskip("onnx")
    pytest.importorskip(runtime)
    kit = kits[family]
    model = kit.model
    [net] = kit.ours(kind)
    files = export_onnx(model, tmp_path / "m", controlnets=[net])
    inputs = {file.network: file.inputs for file in files}
    assert inputs["controlnet"]["controlnet_cond"] == ["batch", 4, "height", "width"]
    draw = np.random.default_rng(0).standard_normal
    width, pooled = (40, 24) if family == "sd3" else (20, 16)
    arrays = {
        "sample": draw((2, 4, 8, 12)),
        "timestep": np.array([900.0, 20.0]),
        "encoder_hidden_states": draw((2, 7, width)),
        "pooled_projections": draw((2, pooled)),
        "guidance": np.array([2.5, 1.0]),
    }
    arrays = {n: a.astype(np.float32) for n, a in arrays.items() if n in inputs["transformer"]}
    x, t, states, text, *scales = arrays.values()
    more = {"guidance": scales[0]} if scales else {}
    conditioning = Conditioning(states, text, None, more)
    hint = draw((2, 4, 8, 12)).astype(np.float32)
    mode = np.array([[2], [0]]) if family == "flux" else None
    bound = net.for_denoiser(model.params["transformer"])
    residuals = bound.residuals(x, t, conditioning, hint, mode)
    feed = {**arrays, "controlnet_cond": hint}
    feed |= {} if mode is None else {"controlnet_mode": mode}
    feed = {name: feed[name] for name in inputs["controlnet"]}
    got = run_graph(tmp_path / "m", "controlnet", runtime, **feed)
    for name, want in name_samples(residuals).items():
        np.testing.assert_allclose(got[name], want, atol=2e-4)
    placed = bound.declared.place(model.config, bound.config, residuals)
    want = model.predict(x, t, conditioning, placed)
    samples = {n: a for n, a in name_samples(placed).items() if n in inputs["transformer"]}
    assert samples
    got = run_graph(tmp_path / "m", "transformer", runtime, **arrays, **samples)
    np.testing.assert_allclose(got["out_sample"], want, atol=2e-4)
    assert np.abs(want - model.predict(x, t, conditioning)).max() > 1e-2


def name_samples(residuals):
    return {
        name_sample(field, i): x
        for field, parts in residuals._asdict().items()
        for i, x in enumerate(parts)
    }
