"""DiT: parity with diffusers, the original's files, and every tool of ldmref, by its name alone."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
import torch
from ldmref_dit import DIT, transformer_spec
from ldmref_dit.files import original_table
from torch.utils.flop_counter import FlopCounterMode

import ldmref
from ldmref import modes
from ldmref.apps.cli.main import main
from ldmref.errors import LdmrefError, UsageError
from ldmref.io import TensorFile, apply_loras, save_folder
from ldmref.io.adapters.lora_file import Lora
from ldmref.locate import diff_traces
from ldmref.math import timestep_embedding
from ldmref.models import Conditioning, config_from_dict, flatten, preset


def predict(model, x, t, labels):
    """Return the whole output of a model's transformer for host arrays."""
    conditioning = Conditioning(None, more={"labels": model.backend.asarray(labels)})
    output = model.predict_with_variance(x, t, conditioning)
    return model.backend.to_numpy(output)


def run(*arguments):
    """Run a command of ldmref; its output."""
    printed = StringIO()
    with redirect_stdout(printed):
        assert main([str(argument) for argument in arguments]) == 0
    return printed.getvalue()


@pytest.fixture(scope="module")
def arrays():
    """Return latents, timesteps and classes for two examples."""
    x = np.random.default_rng(0).standard_normal((2, 4, 8, 8))
    return x, np.array([7, 301]), np.array([3, 1000])


# -- the network ----------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [8, 16, 4])
def test_the_transformer_is_that_of_diffusers(pipe, folder, side):
    """In float64, with diffusers' sines of the time in float64 as well."""
    theirs = copy.deepcopy(pipe.transformer).double()
    for block in theirs.transformer_blocks:
        block.norm1.emb.time_proj.forward = lambda t: timestep_embedding(
            t.double(), 256, freq_shift=1
        )
    x = torch.randn(2, 4, side, side, dtype=torch.float64)
    t = torch.tensor([7, 301])
    labels = torch.tensor([3, 1000])
    with torch.no_grad():
        want = theirs(x, timestep=t, class_labels=labels).sample.numpy()
    model = ldmref.load(folder, dtype="float64")
    got = predict(model, x.numpy(), t.numpy(), labels.numpy())
    assert np.abs(got - want).max() < 1e-10 * np.abs(want).max()


@pytest.mark.parametrize("backend", ["torch", "onnx", "openvino"])
def test_backends_agree(folder, arrays, backend):
    pytest.importorskip({"onnx": "onnxruntime"}.get(backend, backend))
    got = predict(ldmref.load(folder, backend=backend), *arrays)
    want = predict(ldmref.load(folder, dtype="float64"), *arrays)
    assert np.abs(got - want).max() < 1e-5 * np.abs(want).max()


def test_other_sizes_need_not_be_square(folder):
    model = ldmref.load(folder, dtype="float64")
    x = np.random.default_rng(1).standard_normal((1, 4, 8, 12))
    assert predict(model, x, np.array([5]), np.array([1])).shape == (1, 8, 8, 12)


# -- images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numpy", "torch", "onnx", "openvino"])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_images_are_those_of_diffusers(pipe, folder, backend, scale):
    pytest.importorskip({"onnx": "onnxruntime"}.get(backend, backend))
    options = {"guidance_scale": scale, "num_inference_steps": 5, "output_type": "np"}
    want = pipe([207], generator=torch.Generator().manual_seed(5), **options).images[0]
    model = ldmref.load(folder, backend=backend)
    found = modes.txt2img(model, "207", seed=5, rng="torch", steps=5, cfg_scale=scale)
    difference = np.abs(np.asarray(found.images[0]).astype(int) - np.round(want * 255))
    assert difference.max() <= 1


def test_every_mode_that_a_class_has(folder):
    model = ldmref.load(folder)
    image = modes.txt2img(model, "class 7", seed=1, steps=2).images[0]
    assert modes.img2img(model, "8", image, steps=4, strength=0.5, seed=1).images[0] != image
    mask = image.convert("L").point(lambda level: 255 * (level > 128))
    modes.inpaint(model, "8", image, mask, steps=2, seed=1)
    modes.invert(model, "8", image, steps=2)
    with pytest.raises(UsageError, match="between which there is nothing"):
        modes.interpolate(model, "7", "8", 3)
    with pytest.raises(UsageError, match="classes 0 to 999"):
        modes.txt2img(model, "1000")
    with pytest.raises(UsageError, match="has no U-Net"):
        model.unet(np.zeros((1, 4, 8, 8)), np.array([1]))


def test_operations_are_those_that_torch_counts(pipe, folder):
    config = ldmref.load(folder).config
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        pipe.transformer(torch.zeros(1, 4, 8, 8), torch.tensor([1]), torch.tensor([1]))
    ours = DIT.work.flops(config, 16, 16)
    last = 2 * (256 + 3 * 16) * 16  # embedding of the time and modulation of the last layer
    attention = 2 * 4 * 16 * 16 * 16  # two layers, which torch does not count on a CPU
    assert counter.get_total_flops() == ours + last - attention


# -- files ----------------------------------------------------------------------------------------


def write_original(model, path):
    """Write the transformer of a model under the original's names, as `torch.save` does."""
    config = model.config
    ours = flatten(model.params[config.denoiser.network])
    stored = {}
    for name, entry in original_table(config).items():
        stored.setdefault(entry.name, {})[entry.third or 0] = torch.tensor(np.asarray(ours[name]))
    state = {
        name: torch.cat([thirds[i] for i in sorted(thirds)]) for name, thirds in stored.items()
    }
    tokens = (config.denoiser.sample_size // config.denoiser.patch_size) ** 2
    torch.save(state | {"pos_embed": torch.zeros(1, tokens, config.denoiser.width)}, path)


def test_files_of_the_original(tmp_path, arrays, pipe):
    """The embeddings of time and class are shared by all blocks there."""
    model = ldmref.random_model("dit-tiny", dtype="float64")
    blocks = model.params["transformer"].transformer_blocks
    blocks["1"]["norm1"]["emb"] = blocks["0"]["norm1"]["emb"]
    write_original(model, tmp_path / "dit.pt")
    run("convert", tmp_path / "dit.pt", tmp_path / "dit.safetensors")
    with pytest.raises(UsageError, match="without an autoencoder"):
        ldmref.load(tmp_path / "dit.safetensors")
    pipe.vae.save_pretrained(tmp_path / "vae")
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"schema": 1} | model.config.to_dict()))
    options = {"vae": tmp_path / "vae", "config": config, "dtype": "float64"}
    with pytest.raises(UsageError, match="no averaged weights"):
        ldmref.load(tmp_path / "dit.safetensors", ema=True, **options)
    loaded = ldmref.load(tmp_path / "dit.safetensors", **options)
    x, t, _ = arrays
    labels = np.array([2, 5])
    same = predict(loaded, x, t, labels) == predict(model, x, t, labels)
    assert same.all() and loaded.config.denoiser.freq_shift == 0
    found = DIT.files[0].recognise(TensorFile(tmp_path / "dit.safetensors").shapes)
    assert (found.denoiser.num_layers, found.denoiser.num_classes) == (2, 5)


def test_a_lora_under_the_names_of_the_original(folder):
    """Queries, keys and values are one layer there, and all blocks share the embeddings."""
    model = ldmref.load(folder, dtype="float64")
    flat = {name: np.asarray(x) for name, x in flatten(dict(model.params)).items()}
    draw = np.random.default_rng(0).standard_normal
    width = model.config.denoiser.width
    tensors = {}
    for layer, rows in (("blocks.1.attn.qkv", 3 * width), ("t_embedder.mlp.2", width)):
        name = "lora_unet_" + layer.replace(".", "_")
        tensors |= {f"{name}.lora_down.weight": draw((2, width))}
        tensors |= {f"{name}.lora_up.weight": draw((rows, 2)), f"{name}.alpha": np.ones(1)}
    merged = apply_loras(model.config, flat, [Lora("style", tensors, 0.7)])
    changed = {name for name in flat if not np.array_equal(merged[name], flat[name])}
    time = "transformer.transformer_blocks.{}.norm1.emb.timestep_embedder.linear_2.weight"
    attention = "transformer.transformer_blocks.1.attn1.to_{}.weight"
    assert changed == {time.format(0), time.format(1), *(attention.format(x) for x in "qkv")}
    down, up, _ = list(tensors.values())[:3]
    for third, letter in enumerate("qkv"):
        name = attention.format(letter)
        want = flat[name] + 0.35 * up[third * width : (third + 1) * width] @ down
        assert np.abs(merged[name] - want).max() < 1e-14


def test_folders_of_ldmref(tmp_path, folder, arrays):
    one = ldmref.load(folder)
    save_folder(tmp_path / "native", one.config, one.params, [one.tokenizer], np.float32)
    two = ldmref.load(tmp_path / "native")
    assert np.array_equal(predict(one, *arrays), predict(two, *arrays))
    assert json.loads((tmp_path / "native" / "config.json").read_text())["family"] == "dit"


def test_published_sizes():
    """675 million parameters, with one embedding of time and class, and the positions (table 1)."""
    spec = flatten(transformer_spec(preset("dit-xl-2-256").denoiser))
    shared = [n for n in spec if ".emb." in n and not n.startswith("transformer_blocks.0.")]
    count = sum(np.prod(shape) for name, shape in spec.items() if name not in shared)
    assert count + 256 * 1152 == 675_129_632


def test_a_configuration_is_checked():
    data = preset("dit-tiny").to_dict()
    assert config_from_dict(data) == preset("dit-tiny")
    for change, rule in (
        ({"transformer": data["transformer"] | {"patch_size": 3}}, "must divide"),
        ({"transformer": data["transformer"] | {"patch": 3}}, "unknown key"),
        ({"text_encoder": data["text_encoder"] | {"vocab_size": 9}}, "null class"),
        ({"family": "ditt"}, "no family"),
    ):
        with pytest.raises(LdmrefError, match=rule):
            config_from_dict(data | change)


# -- tools ----------------------------------------------------------------------------------------


def test_a_live_pipeline_has_no_fault(pipe, folder, tmp_path):
    model = ldmref.load(folder, dtype="float32")
    with ldmref.recording(pipe, tmp_path / "trace") as trace:
        pipe([3], generator=torch.Generator().manual_seed(5), num_inference_steps=3)
    report = diff_traces(trace.trace, model)
    assert report.counts()["differs"] == 0 and report.counts()["equal"] > 150
    assert {"transformer.000", "guidance.000", "vae.decode"} <= set(trace.trace.calls)
    entries = tuple(
        replace(entry, attributes=dict(entry.attributes) | {"halves": 3})
        if entry.call.startswith("guidance")
        else entry
        for entry in trace.trace.entries
    )
    odd = diff_traces(replace(trace.trace, entries=entries), model)  # no order: the family's
    assert odd.counts()["differs"] == 0


@pytest.mark.parametrize(
    ("layer", "change"),
    [
        ("transformer_blocks.1.ff", lambda x: x * 1.01),
        ("transformer_blocks.0.attn1", lambda x: -x),
        ("proj_out_2", lambda x: x + 0.1),
    ],
)
def test_a_wrong_layer_of_a_pipeline_is_named(pipe, folder, tmp_path, layer, change):
    module = pipe.transformer.get_submodule(layer)
    hook = module.register_forward_hook(lambda module, args, output: change(output))
    try:
        with ldmref.recording(pipe, tmp_path / "trace") as trace:
            pipe([3], generator=torch.Generator().manual_seed(5), num_inference_steps=1)
    finally:
        hook.remove()
    report = diff_traces(trace.trace, ldmref.load(folder, dtype="float32"))
    assert {row.layer for row in report.rows if row.verdict == "differs"} == {layer}


def test_traces_exports_and_cases(folder, tmp_path):
    pytest.importorskip("onnxruntime")
    trace = tmp_path / "trace"
    run("trace", "-m", folder, "207", "--steps", "2", "--seed", "1", "-o", trace)
    assert "agree" in run("diff", trace, "-m", folder)
    run("export", "onnx", folder, "-o", tmp_path / "onnx")
    assert (tmp_path / "onnx" / "transformer" / "model.onnx").is_file()
    cases = tmp_path / "cases"
    run("cases", "make", "-o", cases, "--family", "dit-tiny", "--part", "networks")
    assert "passes" in run("cases", "run", cases, "--runtime", "onnxruntime")
    run("record", "-m", folder, "207", "--steps", "2", "--seed", "1", "-o", tmp_path / "r")
    assert (tmp_path / "r").stat().st_size > 1000


def test_commands_know_the_family(folder):
    assert "dit-xl-2-256" in run("models")
    shown = run("info", folder)
    assert "family: dit" in shown and "num_attention_heads 2" in shown


def test_the_server_offers_what_the_model_can(folder):
    from ldmref.apps.server.capabilities import describe_model

    described = describe_model("dit", ldmref.load(folder))
    assert described["modes"] == ["img2img", "inpaint", "invert", "txt2img"]
    assert described["size_multiple"] == 4


def test_importing_ldmref_does_not_import_the_family():
    code = "import sys, ldmref; ldmref.load('emoji'); print('ldmref_dit' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False"]
