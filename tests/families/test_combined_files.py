"""Single files that hold text encoders and autoencoder beside a transformer."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.apps.cli.main import main
from ldmref.errors import KeyMismatchError, UsageError
from ldmref.families import transformer_files
from ldmref.families.flux import files as flux_files
from ldmref.families.sd3 import files as sd3_files
from ldmref.io import open_checkpoint, read_model_config, save_folder
from ldmref.io.compvis.keys import autoencoder_table
from ldmref.io.key_table import KeyEntry, add_prefixes, list_stored_shapes, to_compvis
from ldmref.io.single_file import recognise_file
from ldmref.io.tensors.open_file import open_model_file
from ldmref.models import preset
from ldmref.models.params import flatten
from ldmref.training import FineTuneRecipe, read_recipe

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
from diffusers.loaders import single_file_utils as theirs  # noqa: E402
from flux_networks import make_pipeline as make_flux  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from sd3_networks import make_pipeline as make_sd3  # noqa: E402

PREFIX = "first_stage_model."
NAMES = {"text_encoder": "clip_l", "text_encoder_2": "clip_g", "text_encoder_3": "t5xxl"}
LEFT = {  # what programs leave in such files
    "text_encoders.clip_l.logit_scale": torch.ones(1),
    "text_encoders.clip_g.logit_scale": torch.ones(1),
    "text_encoders.t5xxl.logit_scale": torch.ones(1),
    "text_encoders.clip_l.transformer.text_projection.weight": torch.ones(16, 16),
    "text_encoders.t5xxl.transformer.encoder.embed_tokens.weight": torch.ones(420, 40),
}


def change_weights(pipe, seed):
    """Add noise to the networks beside the transformer."""
    torch.manual_seed(seed)
    for name in ("vae", *NAMES):
        network = getattr(pipe, name, None)
        for parameter in network.parameters() if network is not None else ():
            parameter.data += 0.1 * torch.randn_like(parameter)


def save_pipeline(folder, seed=0):
    """Write a small pipeline whose first text encoder projects nothing; return it."""
    pipe = make_sd3("3.5 medium")
    change_weights(pipe, seed)
    pipe.text_encoder.text_projection.weight.data = torch.eye(16)
    pipe.save_pretrained(folder)
    return pipe


def combine(pipe, config, table=sd3_files.original_table, prefix=PREFIX, names=NAMES):
    """Return the tensors of a pipeline under the names of such a file."""

    def stored(network, table):
        flat = {name: x.detach().numpy() for name, x in network.state_dict().items()}
        return {name: torch.tensor(x) for name, x in to_compvis(flat, table).items()}

    tensors = stored(pipe.transformer, table(config))
    tensors |= stored(pipe.vae, add_prefixes("", prefix, autoencoder_table(config.vae)))
    for network, name in names.items():
        for key, x in getattr(pipe, network).state_dict().items():
            bare = name == "clip_l" and not key.startswith("text_")  # newer transformers
            tensors[f"text_encoders.{name}.transformer.{'text_model.' * bare}{key}"] = x.clone()
    return {name: x.contiguous() for name, x in (tensors | LEFT).items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(the pipeline, its folder, a folder of other weights, the tensors of the file)."""
    place = tmp_path_factory.mktemp("combined")
    pipe = save_pipeline(place / "model")
    save_pipeline(place / "other", 1)
    return pipe, place / "model", place / "other", combine(pipe, read_model_config(place / "model"))


def generate(model):
    return modes.txt2img(model, "a cat", seed=1, steps=1, width=16, height=16).images[0]


def without_t5(tensors):
    return {name: x for name, x in tensors.items() if ".t5xxl." not in name}


def test_every_network_of_the_file_is_read(made, tmp_path):
    """Weights of the folder beside it, which differ, are used for none."""
    _, folder, other, tensors = made
    file = tmp_path / "all.safetensors"
    save_file(tensors, str(file))
    want = generate(ldmref.load(folder))
    assert generate(ldmref.load(other)) != want
    assert generate(ldmref.load(file, config=other)) == want
    unused = recognise_file(open_model_file(file), read_model_config(folder)).unused
    assert set(unused) == {*LEFT}


def test_the_tensors_are_those_of_the_conversion_of_diffusers(made, tmp_path):
    pipe, _, other, tensors = made
    file = tmp_path / "all.safetensors"
    save_file(tensors, str(file))
    got = open_checkpoint(file, config=other).tensors
    parts = {
        f"text_encoder{end}": theirs.convert_ldm_clip_checkpoint(
            dict(tensors), f"text_encoders.{name}.transformer."
        )
        for end, name in (("", "clip_l"), ("_2", "clip_g"))
    }
    # what diffusers' create_diffusers_clip_model_from_ldm does
    parts["text_encoder"]["text_projection.weight"] = torch.eye(16)
    parts["text_encoder_3"] = theirs.convert_sd3_t5_checkpoint_to_diffusers(dict(tensors))
    parts["vae"] = theirs.convert_ldm_vae_checkpoint(dict(tensors), pipe.vae.config)
    count = 0
    for network, converted in parts.items():
        for name, x in converted.items():
            if f"{network}.{name}" in got:
                assert np.array_equal(got[f"{network}.{name}"], x.numpy()), name
                count += 1
    others = [name for name in got if not name.startswith("transformer.")]
    assert count == len(others)


def test_a_file_is_fine_tuned_with_the_configuration_of_a_folder(made, tmp_path, capsys):
    """Without one it fits no known size; the recipe records which it was."""
    _, folder, _, tensors = made
    file = tmp_path / "all.safetensors"
    save_file(tensors, str(file))
    Image.new("RGB", (16, 16), "red").save(tmp_path / "red.png")
    command = ["finetune", "--base", file, "--data", tmp_path, "-o", tmp_path / "out", "--no-plots"]
    command += ["--size", 16, "--steps", 1, "--batch", 1]
    command = [str(word) for word in command]
    assert main(command) != 0
    assert main([*command, "--model-config", str(folder)]) == 0
    assert f"--model-config {folder} --lora" in capsys.readouterr().err
    recipe = read_recipe(tmp_path / "out" / "recipe.toml")
    assert isinstance(recipe, FineTuneRecipe) and recipe.base_config == str(folder)


def test_a_network_that_the_file_lacks_is_taken_from_the_folder(made, tmp_path):
    _, folder, _, tensors = made
    file = tmp_path / "incl_clips.safetensors"
    save_file(without_t5(tensors), str(file))
    assert generate(ldmref.load(file, config=folder)) == generate(ldmref.load(folder))
    bare = {name: x for name, x in tensors.items() if "first_stage" not in name}
    save_file(bare, str(file))
    assert generate(ldmref.load(file, config=folder)) == generate(ldmref.load(folder))


def test_a_file_without_t5_is_a_model_without_it(made, tmp_path, monkeypatch):
    pipe, folder, _, tensors = made
    file = tmp_path / "incl_clips.safetensors"
    save_file(without_t5(tensors), str(file))
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare)
    pipe.register_modules(text_encoder_3=None, tokenizer_3=None)
    pipe.save_config(bare)
    small = read_model_config(folder)
    # a file does not say for which size its model was trained
    small = replace(small, denoiser=replace(small.denoiser, sample_size=14))
    monkeypatch.setattr(sd3_files, "make_presets", lambda: {"small": small})
    found = read_model_config(file)
    assert found.text_encoder_3 is None and found.text_encoder_2 == small.text_encoder_2
    want = ldmref.load(bare)
    model = ldmref.load(file, tokenizer=folder)
    assert generate(model) == generate(want)
    save_file(tensors, str(file))
    assert read_model_config(file) == small


def test_a_configuration_with_t5_asks_for_it_and_a_folder_has_it(made, tmp_path):
    _, folder, _, tensors = made
    save_file(without_t5(tensors), str(tmp_path / "incl_clips.safetensors"))
    one = ldmref.load(folder)
    tokenizers = [one.tokenizer, one.tokenizer_2, one.tokenizer_3]
    save_folder(tmp_path / "native", one.config, one.params, tokenizers, np.float32)
    file = tmp_path / "incl_clips.safetensors"
    with pytest.raises(UsageError, match="safetensors is without text_encoder_3"):
        ldmref.load(file, config=tmp_path / "native" / "config.json", tokenizer=folder)
    assert generate(ldmref.load(file, config=tmp_path / "native")) == generate(one)


def test_an_incomplete_network_is_refused(made, tmp_path):
    _, folder, _, tensors = made
    file = tmp_path / "damaged.safetensors"
    prefix = "text_encoders.clip_g.transformer.text_model."
    short = dict(tensors)
    short.pop(f"{prefix}final_layer_norm.bias")
    save_file(short, str(file))
    with pytest.raises(KeyMismatchError, match=r"1 missing \(text_encoders.clip_g.*norm.bias\)"):
        ldmref.load(file, config=folder)
    save_file(tensors | {f"{prefix}extra": torch.ones(1)}, str(file))
    with pytest.raises(KeyMismatchError, match=r"1 unexpected \(text_encoders.clip_g.*extra\)"):
        ldmref.load(file, config=folder)


@pytest.mark.parametrize("kind", [torch.float16, torch.float8_e4m3fn])
def test_t5_may_have_fewer_bits(kind, made, tmp_path):
    """As in the files with t5xxlfp16 and t5xxlfp8 in their names."""
    _, _, other, tensors = made
    stored = {n: x.to(kind) if ".t5xxl." in n else x for n, x in tensors.items()}
    file = tmp_path / "file.safetensors"
    save_file(stored, str(file))
    model = ldmref.load(file, config=other)
    for name in ("shared.weight", "encoder.block.0.layer.1.DenseReluDense.wo.weight"):
        want = stored[f"text_encoders.t5xxl.transformer.{name}"].float().numpy()
        got = flatten(model.params["text_encoder_3"])[name]
        assert np.array_equal(np.asarray(got), want)


def test_published_files_are_recognised():
    """sd3_medium with and without T5, and with the autoencoder alone."""
    config = preset("sd3-medium")
    layout = sd3_files.ORIGINALS[0]
    shapes = {name: list_stored(table) for name, table in layout.others(config).items()}
    alone = list_stored(layout.table(config)) | shapes["vae"]
    clips = alone | shapes["text_encoder"] | shapes["text_encoder_2"]
    assert clips["text_encoders.clip_g.transformer.text_projection.weight"] == (1280, 1280)
    assert "text_encoders.clip_l.transformer.text_projection.weight" not in clips
    assert layout.recognise(alone) == config
    assert layout.recognise(clips) == replace(config, text_encoder_3=None)
    assert layout.recognise(clips | shapes["text_encoder_3"]) == config


def list_stored(table):
    return list_stored_shapes({n: x for n, x in table.items() if isinstance(x, KeyEntry)})


def test_comfys_checkpoints_of_flux(tmp_path):
    """CLIP, T5 and the autoencoder, `vae.`, beside `model.diffusion_model.`"""
    names = {"text_encoder": "clip_l", "text_encoder_2": "t5xxl"}
    pipe = make_flux(True)
    pipe.save_pretrained(tmp_path / "model")
    table = partial(flux_files.original_table, prefix=transformer_files.PREFIX)
    tensors = combine(pipe, read_model_config(tmp_path / "model"), table, "vae.", names)
    save_file(tensors, str(tmp_path / "flux1-dev-fp8.safetensors"))
    change_weights(pipe, 1)
    pipe.save_pretrained(tmp_path / "other")
    one, two = (ldmref.load(tmp_path / name) for name in ("model", "other"))
    model = ldmref.load(tmp_path / "flux1-dev-fp8.safetensors", config=tmp_path / "other")
    assert generate(model) == generate(one) != generate(two)


def test_a_folder_with_the_name_of_a_preset_is_the_folder(made, tmp_path, monkeypatch):
    """Networks are read from the folder, and so is the configuration."""
    _, folder, _, tensors = made
    shutil.copytree(folder, tmp_path / "sd35-medium")
    save_file(tensors, str(tmp_path / "all.safetensors"))
    monkeypatch.chdir(tmp_path)
    want = generate(ldmref.load(folder))
    assert generate(ldmref.load("all.safetensors", config="sd35-medium")) == want
    assert read_model_config("all.safetensors", "sd35-medium").denoiser.num_layers == 3
