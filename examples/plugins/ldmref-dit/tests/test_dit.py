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
from ldmref_dit import DIT
from ldmref_dit.files import original_table

import ldmref
from ldmref import modes
from ldmref.apps.cli.main import main
from ldmref.errors import LdmrefError, UsageError
from ldmref.io import TensorFile, apply_loras
from ldmref.io.adapters.lora_file import Lora
from ldmref.locate import diff_traces
from ldmref.math import timestep_embedding
from ldmref.models import Conditioning, config_from_dict, flatten, preset
from ldmref.testing import FAMILY_CHECKS, LivePipeline, Original, assert_family_conforms


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


# -- the family -----------------------------------------------------------------------------------


def call(theirs, x):
    """Return the output of diffusers' transformer."""
    return theirs(x["x"], timestep=x["t"], class_labels=x["labels"]).sample


@pytest.fixture(scope="module")
def original(pipe, folder):
    """Return diffusers' transformer in float64, with its sines of the time in float64 as well."""
    theirs = copy.deepcopy(pipe.transformer).double()
    for block in theirs.transformer_blocks:
        block.norm1.emb.time_proj.forward = lambda t: timestep_embedding(
            t.double(), 256, freq_shift=1
        )
    sides = ((8, 8), (16, 16), (4, 4))  # diffusers rounds the places of others to float32
    return Original(theirs, call, ldmref.load(folder).config, sides=sides)


def live(pipe, folder, scale):
    """Return the pipeline with a guidance scale, and the request for its image."""

    def run(pipe):
        options = {"guidance_scale": scale, "num_inference_steps": 3, "output_type": "np"}
        return pipe([207], generator=torch.Generator().manual_seed(5), **options)

    request = {"prompt": "207", "seed": 5, "rng": "torch", "steps": 3, "cfg_scale": scale}
    return LivePipeline(pipe, run, request, folder=folder)


# 675 million, with one embedding of time and class for all blocks, and the positions (table 1)
PUBLISHED = 675_129_632 - 256 * 1152
EMBEDDING = (256 + 1) * 1152 + (1152 + 1) * 1152 + 1001 * 1152


def positions(config):
    """Return the table of positions, from which a file shows the size of the images."""
    side = config.denoiser.sample_size // config.denoiser.patch_size
    return {"pos_embed": (1, side**2, config.denoiser.width)}


@pytest.mark.parametrize("check", FAMILY_CHECKS)
def test_the_family_conforms(pipe, folder, original, check):
    # no tensor shows how many heads a small model has
    presets = [n for n in DIT.presets if n != "dit-tiny"] if check == "single files" else ()
    report = assert_family_conforms(
        DIT,
        presets=presets,
        originals=[original],
        pipelines=[live(pipe, folder, scale) for scale in (1.0, 4.0)],
        parameters={"dit-xl-2-256": PUBLISHED + 27 * EMBEDDING},
        also_stored=positions,
        only=[check],
    )
    assert report[check].verdict == "holds" or check == "padding", str(report)


def test_what_a_class_has_not_is_refused(folder):
    model = ldmref.load(folder)
    with pytest.raises(UsageError, match="between which there is nothing"):
        modes.interpolate(model, "7", "8", 3)
    with pytest.raises(UsageError, match="classes 0 to 999"):
        modes.txt2img(model, "1000")
    with pytest.raises(UsageError, match="has no U-Net"):
        model.unet(np.zeros((1, 4, 8, 8)), np.array([1]))


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


def test_the_order_of_guidance_is_the_family_s_unless_a_trace_says_it(pipe, folder, tmp_path):
    with ldmref.recording(pipe, tmp_path / "trace") as trace:
        pipe([3], generator=torch.Generator().manual_seed(5), num_inference_steps=3)
    entries = tuple(
        replace(entry, attributes=dict(entry.attributes) | {"halves": 3})
        if entry.call.startswith("guidance")
        else entry
        for entry in trace.trace.entries
    )
    odd = diff_traces(replace(trace.trace, entries=entries), ldmref.load(folder, dtype="float32"))
    assert odd.counts()["differs"] == 0


WRONG = {  # what a transformer is given by a wrong pipeline; by the kind of row that says so
    "classes": ("class_labels", lambda x: x.flip(0)),
    "latents": ("hidden_states", lambda x: 1.01 * x),
}


@pytest.mark.parametrize("wrong", ["", *WRONG])
@pytest.mark.parametrize("classes", [[3], [3, 7]])
def test_all_of_a_recording_is_compared(pipe, folder, classes, wrong):
    """`ldmref diff` ends with exit code 0 for a right recording, and names what is wrong."""

    def change(module, args, kwargs):
        inputs = {**dict(zip(("hidden_states",), args, strict=True)), **kwargs}
        name, function = WRONG.get(wrong, ("hidden_states", lambda x: x))
        return (), {**inputs, name: function(inputs[name])}

    hook = pipe.transformer.register_forward_pre_hook(change, with_kwargs=True)
    try:
        with ldmref.recording(pipe) as run:
            pipe(classes, generator=torch.Generator().manual_seed(5), num_inference_steps=2)
    finally:
        hook.remove()
    report = diff_traces(run.trace, ldmref.load(folder, dtype="float32"))
    if wrong:
        assert {row.kind for row in report.faults} == {wrong}, report
    else:
        assert report.equal and not report.gaps, report


def test_commands_know_the_family(folder, tmp_path):
    run("record", "-m", folder, "207", "--steps", "2", "--seed", "1", "-o", tmp_path / "r")
    assert (tmp_path / "r").stat().st_size > 1000
    assert "dit-xl-2-256" in run("models")
    shown = run("info", folder)
    assert "family: dit" in shown and "num_attention_heads 2" in shown


def test_the_server_offers_what_the_model_can(folder):
    from ldmref.apps.server.native import describe_model

    described = describe_model("dit", ldmref.load(folder))
    assert described["modes"] == ["img2img", "inpaint", "invert", "txt2img"]
    assert described["size_multiple"] == 4


def test_importing_ldmref_does_not_import_the_family():
    code = "import sys, ldmref; ldmref.load('emoji'); print('ldmref_dit' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False"]
