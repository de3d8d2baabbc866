"""Hooks record diffusers and any module, change no number, and are removed."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from recorded import own_layers, record  # noqa: E402
from small_pipelines import SD_SCHEDULE, pipeline, unet  # noqa: E402

from ldmref.errors import OutputError, UsageError  # noqa: E402
from ldmref.locate import diff_modules  # noqa: E402
from ldmref.trace import Selection, read_trace, record_module, record_pipeline  # noqa: E402

ROUNDING = 2e-5  # relative to the largest value of a layer, in float32
# Layers that only one program has.
POSITIONS = "text_model.embeddings.position_embedding"  # ldmref reads the table without a layer
INNER = "decoder.mid_block.attentions.0~1"  # diffusers: one module for block and attention
LAST = "text_model.encoder.layers.2"  # SDXL does not use the first encoder's last layer and norm
NORM = "text_model.final_layer_norm"


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    pipe = pipeline(request.param)
    _, trace = record(pipe, folder / "trace", prompt="a red cat")
    return request.param, trace, own_layers(pipe, folder / "model", trace)


def test_layers_match_one_to_one(pair):
    family, trace, own = pair
    for call, layers in own.items():
        port = {entry.layer for entry in trace.of_call(call)} - {""}
        only_ldmref = set(layers) - port
        only_port = port - set(layers) - {POSITIONS}
        if family == "sdxl" and call == "text_encoder":
            only_port = {n for n in only_port - {NORM} if not n.startswith(LAST)}
        assert only_ldmref == ({INNER} if call == "vae.decode" else set())
        assert only_port == set()


def test_inputs_and_outputs_are_equal_to_rounding(pair):
    _, trace, own = pair
    for call, layers in own.items():
        for name, (kind, inputs, output) in layers.items():
            entry = trace.find(call, name)
            if entry is None:
                continue
            recorded = trace.read_inputs(entry) | trace.read_outputs(entry)
            expected = inputs | {"output": output}
            assert (entry.kind, set(recorded)) == (kind, set(expected)), name
            for role, value in expected.items():
                assert recorded[role].shape == value.shape, (name, role)
                error = np.abs(recorded[role].astype(np.float64) - value).max()
                assert error <= ROUNDING * np.abs(value).max(), (name, role)


def test_calls_of_a_run(pair):
    _, trace, _ = pair
    expected = {"tokens", "text_encoder", "schedule", "scale_input.000", "unet.001"}
    assert expected | {"guidance.001", "sampler.001", "vae.decode"} <= set(trace.calls)
    guidance = trace.find("guidance.000")
    given = trace.read_inputs(guidance)
    halves = trace.tensors["unet.000//output"]
    assert np.array_equal(np.concatenate([given["uncond"], given["cond"]]), halves)
    guided = given["uncond"] + given["scale"] * (given["cond"] - given["uncond"])
    assert np.allclose(guided, trace.tensors["guidance.000//output"], atol=1e-5)
    assert np.array_equal(
        trace.tensors["sampler.000//input.model_output"], trace.tensors["guidance.000//output"]
    )
    assert np.array_equal(
        trace.tensors["sampler.000//output"], trace.tensors["sampler.001//input.sample"]
    )


def test_manifest(pair):
    family, trace, _ = pair
    manifest = trace.manifest
    assert manifest["program"].startswith("diffusers ")
    assert manifest["dtype"] == "float32"
    assert manifest["params"]["prompt"] == "a red cat"
    kind = {"sd1": "PNDMScheduler", "sdxl": "EulerDiscreteScheduler"}[family]
    assert manifest["scheduler"]["class"] == kind
    assert manifest["scheduler"]["config"]["beta_start"] == 0.00085
    assert manifest["model"]["config"]["unet"]["layers_per_block"] == 1
    json.dumps(manifest)


def test_a_number_of_noise_levels_and_the_noise_drawn(tmp_path):
    pipe = pipeline("sd1")
    pipe.scheduler = diffusers.EulerAncestralDiscreteScheduler(**SD_SCHEDULE)
    _, trace = record(pipe, tmp_path / "t", prompt="a", guidance_scale=1.0)
    step = trace.read_inputs(trace.find("sampler.000"))
    assert step["noise"].shape == step["sample"].shape
    sigmas = trace.tensors["schedule//output.sigmas"]
    assert (step["sigma"], step["sigma_next"]) == (sigmas[0], sigmas[1])
    assert trace.find("guidance.000") is None
    variance = step["sigma_next"] ** 2 * (step["sigma"] ** 2 - step["sigma_next"] ** 2)
    up = np.sqrt(variance / step["sigma"] ** 2)
    down = np.sqrt(step["sigma_next"] ** 2 - up**2)
    x = step["sample"] + step["model_output"] * (down - step["sigma"]) + up * step["noise"]
    assert np.allclose(trace.tensors["sampler.000//output"], x, rtol=1e-4, atol=1e-4)


def test_half_types_keep_their_type(tmp_path):
    pipe = pipeline("sd1").to(torch.bfloat16)
    with record_pipeline(pipe, tmp_path / "t"):
        pipe("a", num_inference_steps=1, height=16, width=16, output_type="latent")
    trace = read_trace(tmp_path / "t")
    name = "unet.000/mid_block.resnets.0.conv1/output"
    assert trace.kinds[name] == "BF16"
    bits = trace.tensors[name].view(np.uint32)
    assert trace.tensors[name].dtype == np.float32 and not np.any(bits & 0xFFFF) and np.any(bits)
    assert trace.manifest["dtype"] == "bfloat16"
    half = pipeline("sd1").to(torch.float16)
    chosen = Selection(layers=("conv_*",), calls=("unet.*", "sampler.*"), steps=(1,))
    with record_pipeline(half, tmp_path / "h", selection=chosen):
        half("a", num_inference_steps=2, height=16, width=16, output_type="latent")
    trace = read_trace(tmp_path / "h")
    assert {e.layer for e in trace.entries} == {"", "conv_in", "conv_norm_out", "conv_out"}
    assert trace.calls == ["unet.001", "sampler.001"]
    assert trace.kinds["unet.001/conv_in/output"] == "F16"


def test_clip_skip_ends_where_the_pipeline_ends(tmp_path):
    pipe = pipeline("sd1")
    vars(pipe.text_encoder)["text_model"] = pipe.text_encoder  # as in transformers 4
    _, trace = record(pipe, tmp_path / "t", prompt="a", clip_skip=1, guidance_scale=1.0)
    context = trace.tensors["unet.000//input.encoder_hidden_states"]
    assert np.array_equal(trace.tensors["text_encoder//output"], context)
    norm = trace.find("text_encoder", NORM)
    assert np.array_equal(trace.read_outputs(norm)["output"], context)
    before = trace.tensors["text_encoder/text_model.encoder.layers.1/output"]
    assert np.array_equal(trace.read_inputs(norm)["input"], before)


def test_clip_skip_of_sdxl(tmp_path):
    pipe = pipeline("sdxl")
    _, trace = record(pipe, tmp_path / "t", prompt="a", clip_skip=1, guidance_scale=1.0)
    context = trace.tensors["unet.000//input.encoder_hidden_states"]
    states = [trace.tensors[f"{name}//output"] for name in ("text_encoder", "text_encoder_2")]
    assert np.array_equal(np.concatenate(states, axis=2), context)
    pooled = trace.tensors["text_encoder_2//output.pooled"]
    assert np.array_equal(pooled, trace.tensors["unet.000//input.text_embeds"])


def test_image_to_image_and_inpainting(tmp_path):
    image = np.linspace(0, 1, 16 * 16 * 3).reshape(1, 16, 16, 3)
    pipe = diffusers.StableDiffusionImg2ImgPipeline(
        **pipeline("sd1").components, requires_safety_checker=False
    )
    with record_pipeline(pipe, tmp_path / "a"):
        pipe("a", image=image, strength=0.5, num_inference_steps=4, output_type="latent")
    trace = read_trace(tmp_path / "a")
    given = trace.read_inputs(trace.find("add_noise.000"))
    assert set(given) == {"original_samples", "noise", "timestep"}
    encoded = trace.read_outputs(trace.find("vae.encode"))
    assert set(encoded) == {"mean", "logvar"}
    layer = "encoder.down_blocks.0.downsamplers.0.pad_bottom_right"
    assert trace.find("vae.encode", layer) is not None

    pipe = pipeline("sd1-inpainting")
    mask = np.ones((1, 16, 16, 1))
    with record_pipeline(pipe, tmp_path / "b"):
        pipe("a", image=image, mask_image=mask, height=16, width=16, num_inference_steps=2,
             output_type="latent")  # fmt: skip
    trace = read_trace(tmp_path / "b")
    assert trace.tensors["unet.000//input.sample"].shape[1] == 9
    assert "vae.encode" in trace.calls


def test_controlnet(tmp_path):
    parts = pipeline("sd1").components
    net = diffusers.ControlNetModel.from_unet(
        parts["unet"], conditioning_embedding_out_channels=(8, 16), load_weights_from_unet=False
    )
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    pipe = diffusers.StableDiffusionControlNetPipeline(
        **parts, controlnet=net, requires_safety_checker=False
    )
    image = torch.rand(1, 3, 16, 16)
    _, trace = record(pipe, tmp_path / "t", prompt="a", image=image)
    down = trace.read_outputs(trace.find("controlnet.000"))
    used = trace.read_inputs(trace.find("unet.000"))
    assert {"mid", "down.0", "down.1"} <= set(down)
    for role, value in down.items():
        assert np.array_equal(used[f"control.{role}"], value)
    assert trace.find("controlnet.000", "controlnet_down_blocks.0") is not None


def hooks(module):
    return [
        hook
        for part in module.modules()
        for hook in (*part._forward_hooks.values(), *part._forward_pre_hooks.values())
    ]


def test_hooks_are_removed_after_exceptions(tmp_path):
    pipe = pipeline("sd1")
    with pytest.raises(ZeroDivisionError), record_pipeline(pipe, tmp_path / "t"):
        pipe("a", num_inference_steps=1, height=16, width=16, output_type="latent")
        raise ZeroDivisionError
    assert not hooks(pipe.unet) and not hooks(pipe.vae) and not hooks(pipe.text_encoder)
    replaced = {"step", "set_timesteps", "encode", "decode", "encode_prompt"}
    assert not replaced & {*vars(pipe.scheduler), *vars(pipe.vae), *vars(pipe)}
    assert not (tmp_path / "t" / "trace.json").exists()
    assert read_trace(tmp_path / "t").find("unet.000", "conv_in") is not None


def test_a_failed_call_is_left_out_and_the_next_one_recorded(tmp_path):
    net = unet()
    x, t, context = torch.randn(1, 4, 8, 8), torch.tensor([3]), torch.randn(1, 5, 24)
    with record_module(net, tmp_path / "t"):
        with pytest.raises(RuntimeError):
            net(x, t, torch.randn(1, 5, 7))
        net(x, t, context)
    trace = read_trace(tmp_path / "t")
    assert trace.calls == ["unet.001"]
    assert len([e for e in trace.entries if e.layer == "conv_in"]) == 1


class Port(torch.nn.Module):
    """A part of a U-Net as another program may write it."""

    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(4, 8, 3, padding=1)
        self.blocks = torch.nn.ModuleList(torch.nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.act = torch.nn.SiLU()

    def forward(self, latents):
        x = self.stem(latents)
        for block in self.blocks:
            x = self.act(block(x))
        return x


def test_any_module_by_its_names(tmp_path):
    names = {"stem": "conv_in", "blocks.*": "down_blocks.*.resnets.0.conv1"}
    port = Port()
    with record_module(port, tmp_path / "t", names=names):
        y = port(torch.ones(1, 4, 4, 4))
    trace = read_trace(tmp_path / "t")
    layers = [entry.layer for entry in trace.of_call("unet.000")]
    assert sorted(layers) == sorted(
        ["", "conv_in", "down_blocks.0.resnets.0.conv1", "down_blocks.1.resnets.0.conv1",
         "silu", "silu~1"]
    )  # fmt: skip
    assert trace.find("unet.000", "conv_in").attributes == {"stride": 1, "padding": 1}
    assert np.array_equal(trace.tensors["unet.000//output"], y.detach().numpy())
    assert trace.tensors["unet.000//input"].shape == (1, 4, 4, 4)


def test_values_are_those_before_an_operation_in_place(tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(inplace=True))
    torch.nn.init.constant_(net[0].weight, -1.0)
    with record_module(net, tmp_path / "t"):
        net(torch.ones(1, 2))
    trace = read_trace(tmp_path / "t")
    assert np.all(trace.tensors["unet.000/0/output"] < 0)
    assert np.all(trace.tensors["unet.000//output"] == 0)


def test_an_existing_trace_is_kept(tmp_path):
    net = torch.nn.Linear(2, 2)
    with record_module(net, tmp_path / "t"):
        net(torch.ones(1, 2))
    with pytest.raises(OutputError, match="exists"), record_module(net, tmp_path / "t"):
        pass
    assert not hooks(net)
    with record_module(net, tmp_path / "t", overwrite=True):
        net(torch.ones(1, 2))


def test_wrong_names_are_refused_before_anything_is_written(tmp_path):
    net = torch.nn.Linear(2, 2)
    wrong = {"a.*": "b.*.*"}
    with pytest.raises(UsageError, match=r"more `\*`"):
        with record_module(net, tmp_path / "t", names=wrong):
            pass
    assert not (tmp_path / "t").exists()


def compile_by_function(net):
    return torch.compile(net, backend="eager")


def compile_in_place(net):
    net.compile(backend="eager")
    return net


def compile_a_part_by_function(net):
    net[0][1] = torch.compile(net[0][1], backend="eager")
    return net


def compile_a_part_in_place(net):  # as `compile_repeated_blocks` of diffusers
    net[0][1].compile(backend="eager")
    return net


@pytest.mark.parametrize(
    ("compiled", "message"),
    [
        (compile_by_function, r"was compiled with torch\.compile, which hides"),
        (compile_in_place, r"was compiled with module\.compile\(\), which hides"),
        (compile_a_part_by_function, r"0.1 of .* was compiled with torch\.compile, which"),
        (compile_a_part_in_place, r"0.1 of .* was compiled with module\.compile\(\), which"),
    ],
)
def test_compiled_modules_are_refused(compiled, message, tmp_path):
    """When they are recorded, and as the original of a port."""
    inner = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    plain = torch.nn.Sequential(inner)
    with torch.no_grad(), record_module(plain, tmp_path / "port"):
        plain(torch.zeros(1, 2))
    net = compiled(plain)
    with pytest.raises(UsageError, match=message):
        with record_module(net, tmp_path / "t"):
            pass
    assert not (tmp_path / "t").exists()
    port = read_trace(tmp_path / "port")
    if "torch" in message:
        for original in (net, {"unet": net}):
            with pytest.raises(UsageError, match=message):
                diff_modules(port, original)
    else:  # its copies are not compiled
        assert diff_modules(port, net).verdict == "equal"


def test_things_that_are_no_modules_are_refused(tmp_path):
    with pytest.raises(UsageError, match="a pipeline of diffusers is needed, not Linear"):
        with record_pipeline(torch.nn.Linear(2, 2), tmp_path / "t"):
            pass
    with pytest.raises(UsageError, match=r"must be a torch\.nn\.Module, not int"):
        with record_module(3, tmp_path / "t"):
            pass
    assert not (tmp_path / "t").exists()


def test_keys_of_grouped_queries_are_recorded_for_every_head():
    """However torch is told of the groups: `enable_gqa`, or keys that are repeated before."""
    from torch.nn import functional

    from ldmref.trace.torch_operations import identify_operation

    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, heads, 5, 3, generator=generator) for heads in (4, 2, 2))
    result = functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    function, options = functional.scaled_dot_product_attention, {"enable_gqa": True}
    _, inputs, _ = identify_operation(function, (q, k, v), options, result)
    assert inputs["k"].shape == inputs["v"].shape == q.shape
    again = functional.scaled_dot_product_attention(inputs["input"], inputs["k"], inputs["v"])
    assert torch.allclose(again, result, atol=1e-6)


REPLACED = {  # methods that programs replace, by their owner in a pipeline
    "scheduler": ("set_timesteps", "scale_model_input", "step"),
    "pipe": ("encode_prompt", "prepare_latents"),
}


def under_other_names(method):
    """Return a function without the method's signature that does the same."""
    return lambda *args, **kwargs: method(*args, **kwargs)


def test_methods_that_a_program_replaced_are_recorded_under_their_names(tmp_path):
    _, expected = record(pipeline("sd1"), tmp_path / "own", prompt="a red cat")
    pipe = pipeline("sd1")
    for owner, names in REPLACED.items():
        owned = pipe if owner == "pipe" else pipe.scheduler
        for name in names:
            setattr(owned, name, under_other_names(getattr(owned, name)))
    _, found = record(pipe, tmp_path / "replaced", prompt="a red cat")
    assert [entry.name for entry in found.entries] == [entry.name for entry in expected.entries]
    assert set(found.tensors) == set(expected.tensors)
    for name in expected.tensors:
        assert np.array_equal(found.tensors[name], expected.tensors[name]), name
    assert found.manifest["params"] == expected.manifest["params"]


class Attention(torch.nn.Module):
    """Attention of a program that gives the class of diffusers' name other attributes."""

    def __init__(self):
        super().__init__()
        self.num_heads = 2
        self.to_q = torch.nn.Linear(4, 4)

    def forward(self, x):
        return self.to_q(x)


def test_attention_of_another_program_is_recorded(tmp_path, recwarn):
    """Before, the layer was left out: it has no attribute `heads`."""
    net = torch.nn.Sequential(Attention())
    with record_module(net, tmp_path / "trace"):
        net(torch.zeros(1, 3, 4))
    entry = read_trace(tmp_path / "trace").find("unet.000", "0")
    assert entry is not None and entry.outputs and not entry.kind
    assert not [w for w in recwarn if "not recorded" in str(w.message)]
