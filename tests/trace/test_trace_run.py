"""A traced run: the image does not change, every layer is there, and layers can be replayed."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.errors import Cancelled, NumericError, OutputError
from ldmref.models.control import ControlNet
from ldmref.models.controlnet import ControlNetConfig, controlnet_spec
from ldmref.models.model import LatentDiffusion, model_spec
from ldmref.models.params import flatten, init
from ldmref.models.presets import preset
from ldmref.models.taesd import TinyAutoencoder, TinyConfig, tiny_spec
from ldmref.samplers.interfaces import Interval
from ldmref.trace import Selection, read_trace, record_trace

OPERATIONS = ("linear", "conv2d", "group_norm", "layer_norm", "silu", "gelu", "attention", "add")
HALF = Image.new("L", (16, 16), "white")
HALF.paste("black", (0, 0, 8, 16))
TEAL = Image.new("RGB", (16, 16), "teal")


def model_of(**options):
    return ldmref.random_model("tiny", **({"backend": "numpy", "dtype": "float64"} | options))


def plan_of(model, mode="txt2img", **parameters):
    values = {"prompt": "a red cat", "seed": 1, "steps": 3} | parameters
    if mode in ("superres", "seg2img"):
        values.pop("prompt")
    return modes.plan(mode, model, **values)


def trace_of(folder, model, mode="txt2img", selection=None, **parameters):
    record_trace(plan_of(model, mode, **parameters), model, folder, selection=selection)
    return read_trace(folder)


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "float64"},
        {"dtype": "float32", "speed": "fast"},
        {"backend": "torch", "dtype": "float32"},
        {"backend": "torch", "dtype": "float32", "speed": "exact"},
        {"backend": "torch", "dtype": "bfloat16"},
    ],
    ids=str,
)
def test_recording_changes_no_bit(options, tmp_path):
    if options.get("backend") == "torch":
        pytest.importorskip("torch")
    model = model_of(**options)
    plan = plan_of(model)
    plain = plan.run(model)
    traced = record_trace(plan, model, tmp_path / "t")
    assert np.array_equal(plain.latents, traced.latents)
    assert plain.images[0].tobytes() == traced.images[0].tobytes()
    trace = read_trace(tmp_path / "t")
    assert trace.manifest["complete"] and trace.manifest["dtype"] == options["dtype"]
    kind = {"float64": "F64", "float32": "F32", "bfloat16": "BF16"}[options["dtype"]]
    entry = trace.find("unet.001", "conv_in")
    assert {trace.kinds[name] for name in (*entry.inputs.values(), *entry.outputs.values())} == {
        kind
    }


def test_of_compiled_networks_only_inputs_and_outputs_are_recorded(tmp_path):
    pytest.importorskip("onnxruntime")
    model = model_of(backend="onnx", dtype="float32")
    plan = plan_of(model)
    plain = plan.run(model)
    traced = record_trace(plan, model, tmp_path / "t")
    assert np.array_equal(plain.latents, traced.latents)
    trace = read_trace(tmp_path / "t")
    assert not any(entry.layer for entry in trace.entries) and not trace.manifest["layers"]
    outputs = trace.read_outputs(trace.find("unet.002"))
    assert outputs["output"].shape == (2, 4, 8, 8)


def test_calls_of_a_run_and_the_names_of_their_tensors(tmp_path):
    trace = trace_of(tmp_path / "t", model_of())
    steps = [f"{kind}.{i:03}" for i in range(3) for kind in ("unet", "guidance", "sampler")]
    first = ["text_encoder", "text_encoder~1", "tokens", "tokens~1", "schedule"]
    assert trace.calls == [*first, *steps, "vae.decode"]
    roles = {call: trace.find(call) for call in trace.calls}
    assert {*roles["unet.000"].inputs} == {"sample", "timestep", "encoder_hidden_states"}
    assert {*roles["guidance.000"].inputs} == {"uncond", "cond", "scale", "sigma"}
    expected = {"x", "prediction", "x0", "sigma", "sigma_next"}
    assert {*roles["sampler.000"].inputs} == expected
    assert {*roles["schedule"].outputs} == {"sigmas", "timesteps", "alphas_cumprod"}
    assert {*roles["text_encoder"].inputs} == {"input_ids"}
    assert {*roles["vae.decode"].inputs} == {"latents"}
    assert roles["tokens"].attributes["prompt"] == "a red cat"
    assert np.array_equal(
        trace.read_outputs(roles["tokens"])["ids"].reshape(1, -1),
        trace.read_inputs(roles["text_encoder"])["input_ids"],
    )
    assert trace.manifest["seeds"] == [1] and trace.manifest["params"]["seed"] == 1


def test_every_layer_of_the_checkpoint_appears(tmp_path):
    model = model_of()
    trace = trace_of(tmp_path / "t", model)
    for call, network, part in (
        ("unet.002", "unet", ""),
        ("text_encoder", "text_encoder", ""),
        ("vae.decode", "vae", ("decoder.", "post_quant_conv")),
    ):
        layers = {name.rpartition(".")[0] for name in flatten(model.params[network])}
        found = {entry.layer for entry in trace.of_call(call)}
        layers = {layer for layer in layers if layer.startswith(part)}
        if network == "unet":
            layers |= {"up_blocks.0.upsamplers.0", "up_blocks.0.upsamplers.0.upsample2x"}
        assert layers - found <= {"text_model.embeddings.position_embedding"}  # is only sliced


def test_each_operation_is_computed_again_from_the_trace(tmp_path):
    """Names, inputs and attributes are enough to compute the recorded output.

    Sums of views, which are stored in C order, are taken in another order.
    """
    model = model_of()
    ops = model.backend
    trace = trace_of(tmp_path / "t", model)
    weights = flatten(model.params["unet"])
    replayed = set()
    for entry in trace.of_call("unet.001"):
        if entry.kind not in OPERATIONS or "num_heads" in entry.attributes:
            continue
        inputs = trace.read_inputs(entry)
        first, *others = inputs.values()
        own = {
            role: weights[f"{entry.layer}.{role}"]
            for role in ("weight", "bias")
            if f"{entry.layer}.{role}" in weights
        }
        computed = getattr(ops, entry.kind)(first, *others, **own, **entry.attributes)
        found = trace.read_outputs(entry)["output"]
        assert np.allclose(computed, found, rtol=1e-12, atol=1e-12), entry.name
        replayed.add(entry.kind)
    assert replayed == {*OPERATIONS}


def test_guidance_and_steps_are_computed_again_from_the_trace(tmp_path):
    model = model_of()
    plan = plan_of(model, sampler="ddim", eta=0.7, cfg_scale=3.0)
    record_trace(plan, model, tmp_path / "t")
    trace = read_trace(tmp_path / "t")
    step = plan.prepare(model).trajectory(slice(0, 1)).step
    for i in range(3):
        guidance = trace.find(f"guidance.{i:03}")
        given = trace.read_inputs(guidance)
        guided = given["uncond"] + given["scale"] * (given["cond"] - given["uncond"])
        found = trace.read_outputs(guidance)["output"]
        assert np.allclose(guided, found, rtol=1e-12, atol=1e-12)
        entry = trace.find(f"sampler.{i:03}")
        state = trace.read_inputs(entry)
        assert np.array_equal(state["prediction"], found)
        keys = (entry.attributes[key] for key in ("i", "i_next", "n"))
        interval = Interval(*keys, float(state["sigma"]), float(state["sigma_next"]))
        x, _, _ = step(
            lambda x, sigma, known=state["x0"]: known,
            state["x"],
            interval,
            (),
            lambda noise=state["noise"]: noise,
        )
        assert np.array_equal(x, trace.read_outputs(entry)["output"])


def test_a_step_of_several_evaluations_numbers_them(tmp_path):
    trace = trace_of(tmp_path / "t", model_of(), sampler="heun")
    entry = trace.find("sampler.000")
    assert entry.attributes["evaluations"] == ["guidance.000", "guidance.001"]
    assert {"prediction", "prediction.1", "x0.1", "x_at.1", "sigma_at.1"} <= {*entry.inputs}


def test_equal_tensors_are_stored_once(tmp_path):
    trace = trace_of(tmp_path / "t", model_of())
    query, key = (
        trace.find("unet.000", f"mid_block.attentions.0.transformer_blocks.0.attn1.{name}")
        for name in ("to_q", "to_k")
    )
    if query is None:
        attention = next(e.layer for e in trace.entries if e.layer.endswith("attn1.to_q"))
        query, key = (
            trace.find("unet.000", attention.replace("to_q", name)) for name in ("to_q", "to_k")
        )
    assert query.inputs["input"] == key.inputs["input"]
    (tmp_path / "t" / "trace.json").unlink()
    bare = read_trace(tmp_path / "t")  # the names in the files are enough
    again = bare.find("unet.000", key.layer)
    assert np.array_equal(bare.read_inputs(again)["input"], trace.read_inputs(key)["input"])


def test_digests_and_metadata_are_of_the_files(tmp_path):
    import hashlib

    trace_of(tmp_path / "t", model_of())
    manifest = json.loads((tmp_path / "t" / "trace.json").read_text())
    files = sorted(path.name for path in (tmp_path / "t").glob("*.safetensors"))
    assert sorted(manifest["digests"]) == files
    for name, digest in manifest["digests"].items():
        data = (tmp_path / "t" / name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == digest


@pytest.mark.parametrize(
    ("mode", "given", "calls"),
    [
        ("img2img", {"image": TEAL, "strength": 0.7}, {"vae.encode"}),
        ("inpaint", {"image": TEAL, "mask": HALF}, {"vae.encode"}),
        ("inpaint", {"image": TEAL, "mask": HALF, "resample": (2, 2)}, {"jump.000"}),
        ("interpolate", {"prompt_b": "a dog", "positions": 2}, {"text_encoder~2"}),
    ],
)
def test_other_modes(mode, given, calls, tmp_path):
    model = model_of()
    plan = plan_of(model, mode, **given)
    plain = plan.run(model)
    traced = record_trace(plan, model, tmp_path / "t")
    assert [i.tobytes() for i in plain.images] == [i.tobytes() for i in traced.images]
    trace = read_trace(tmp_path / "t")
    assert calls <= {*trace.calls}
    if mode == "inpaint":
        assert trace.find("sampler.000", "constrain") is not None
    if "vae.encode" in calls:
        assert {*trace.find("vae.encode").outputs} == {"mean", "logvar"}


def test_controlnets_and_the_tiny_autoencoder_are_recorded(tmp_path):
    model = model_of()
    config = ControlNetConfig(model.config.unet, conditioning_embedding_out_channels=(4, 8))
    net = ControlNet(model.backend, config, init(controlnet_spec(config), 3), "edges")
    tiny = TinyConfig(
        encoder_channels=8, decoder_channels=8, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1)
    )
    model.tiny_autoencoder = TinyAutoencoder(model.backend, tiny, init(tiny_spec(tiny), 1))
    plan = plan_of(model, control=[modes.Control(net, TEAL)])
    plain = plan.run(model)
    traced = record_trace(plan, model, tmp_path / "t")
    assert plain.images[0].tobytes() == traced.images[0].tobytes()
    trace = read_trace(tmp_path / "t")
    assert {"controlnet.hint", "controlnet.002", "taesd.decode"} <= {*trace.calls}
    outputs = trace.find("controlnet.000").outputs
    assert "mid" in outputs and "down.0" in outputs
    assert {"control.mid", "control.down.0"} <= {*trace.find("unet.000").inputs}


def test_two_text_encoders_are_told_apart(tmp_path):
    config = preset("tiny")
    second = dataclasses.replace(config.text_encoder, projection_dim=24, eos_token_id=2)
    unet = dataclasses.replace(
        config.unet,
        cross_attention_dim=64,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24 + 48,
    )
    config = dataclasses.replace(config, denoiser=unet, text_encoder_2=second)
    small = model_of()
    model = LatentDiffusion(small.backend, config, init(model_spec(config)), small.tokenizer)
    trace = trace_of(tmp_path / "t", model)
    assert {*trace.find("text_encoder_2").outputs} == {"output", "pooled"}
    assert {*trace.find("text_encoder~1").outputs} == {"output"}
    assert {"text_embeds", "time_ids"} <= {*trace.find("unet.000").inputs}


def test_a_selection_records_a_part(tmp_path):
    chosen = Selection(layers=("mid_block.*",), calls=("unet.*", "sampler.*"), steps=(1,))
    trace = trace_of(tmp_path / "t", model_of(), selection=chosen)
    assert trace.calls == ["unet.001", "sampler.001"]
    layers = {entry.layer for entry in trace.entries} - {""}
    assert layers and all(layer.startswith("mid_block.") for layer in layers)
    assert trace.find("unet.001").outputs
    assert trace.manifest["selection"]["steps"] == [1]


def test_a_cancelled_run_leaves_its_calls(tmp_path):
    stop = threading.Event()
    model = model_of()

    def stop_after_two(progress):
        if progress.step == 1:
            stop.set()

    with pytest.raises(Cancelled):
        record_trace(plan_of(model), model, tmp_path / "t", callback=stop_after_two, cancel=stop)
    trace = read_trace(tmp_path / "t")
    assert "sampler.001" in trace.calls and "unet.002" not in trace.calls
    assert trace.manifest["complete"] is False
    assert not [path for path in (tmp_path / "t").iterdir() if path.name.startswith(".")]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_run_that_fails_keeps_the_calls_until_then(tmp_path, monkeypatch):
    model = model_of()
    inner = type(model.backend).silu
    calls = []

    def overflow(self, x):
        calls.append(0)
        return inner(self, x) * (np.inf if len(calls) > 60 else 1.0)

    monkeypatch.setattr(type(model.backend), "silu", overflow)
    with pytest.raises(NumericError):
        record_trace(plan_of(model), model, tmp_path / "t")
    trace = read_trace(tmp_path / "t")
    numbers = [call for call in trace.calls if call.startswith("sampler")]
    assert (
        numbers == sorted(set(numbers))
        and not np.isfinite(trace.read_outputs(trace.find(numbers[-1]))["output"]).all()
    )


def test_refusals(tmp_path):
    model = model_of()
    plan = plan_of(model)
    record_trace(plan, model, tmp_path / "t")
    with pytest.raises(OutputError):
        record_trace(plan, model, tmp_path / "t")
    other = Path(tmp_path / "t" / "mine.safetensors")
    other.write_bytes((tmp_path / "t" / "tokens.safetensors").read_bytes())
    record_trace(plan_of(model, steps=2), model, tmp_path / "t", overwrite=True)
    assert other.exists() and not (tmp_path / "t" / "unet.002.safetensors").exists()
