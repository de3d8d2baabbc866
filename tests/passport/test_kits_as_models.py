"""The folder of every kit is a model: of ldmref, and of diffusers as its own reader opens it."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest

import ldmref
from ldmref.cases.described_folder import write_into
from ldmref.cases.golden_models import golden_config, golden_model
from ldmref.errors import InputError, UsageError
from ldmref.io import find_model, open_checkpoint, read_vae
from ldmref.io.diffusers.folder import DiffusersFolder
from ldmref.io.kit_folder import KitFolder
from ldmref.models.denoiser_config import UNetConfig
from ldmref.models.family import family_of
from ldmref.models.params import flatten
from ldmref.passport import kit_families
from ldmref.passport.make import write_checkpoint
from ldmref.passport.recorded import kit_trace
from ldmref.ports.pipeline_folder import parts_of, pipeline_files
from ldmref.trace import build_trace

EMOJI = ("emoji", "emoji-128")
OF_DIFFUSERS = [name for name in kit_families() if name not in EMOJI]


def make_kit_of(family, folder):
    """Write the parts of a kit that a model is read from, and return the folder."""
    write = write_into(folder, {})
    write("kit.json", b"{}")
    write_checkpoint(write, golden_model(family))
    return folder


def write_pipeline(family, folder):
    write = write_into(folder, {})
    for path, content in pipeline_files(golden_model(family), kit_trace(family).params).items():
        write(path, content)
    return folder


def require_same(found, family):
    expected = flatten(golden_model(family).params)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(np.asarray(x), expected[name]) for name, x in found.items())


# -- a model of ldmref ----------------------------------------------------------------------------


@pytest.mark.parametrize("family", kit_families())
def test_a_kit_is_opened_as_its_model(tmp_path, family):
    folder = make_kit_of(family, tmp_path / "kit")
    for path in (folder, folder / "checkpoint"):
        checkpoint = open_checkpoint(path)
        assert isinstance(checkpoint.source, KitFolder) and find_model(path) == path
        assert checkpoint.config == golden_config(family)
        require_same(checkpoint.tensors, family)
    sizes = [len(tokenizer.tokenizer.get_vocab()) for tokenizer in checkpoint.tokenizers]
    assert sizes == [len(x.tokenizer.get_vocab()) for x in golden_model(family).tokenizers]
    assert len(checkpoint.sha256) == 64 and not checkpoint.source.takes_vocabulary


@pytest.mark.parametrize("family", kit_families())
def test_a_kit_is_taken_as_an_autoencoder(tmp_path, family):
    folder = make_kit_of(family, tmp_path / "kit")
    vae = read_vae(folder)
    assert vae.config == golden_config(family).vae
    require_same({f"vae.{k}": x for k, x in vae.tensors.items()} | others_of(family), family)
    file = folder / "checkpoint" / "vae.safetensors"
    if file.is_file():
        assert {*read_vae(file).tensors} == {*vae.tensors}


def others_of(family):
    found = flatten(golden_model(family).params)
    return {name: x for name, x in found.items() if not name.startswith("vae.")}


def test_the_model_of_a_kit_generates_images(tmp_path):
    model = ldmref.load(make_kit_of("z-image", tmp_path / "kit"), backend="numpy")
    image = ldmref.modes.txt2img(model, "red", steps=1, seed=0).images[0]
    assert image.size == (16, 16)


def test_the_kit_of_a_module_is_no_model(tmp_path):
    (tmp_path / "kit.json").write_text(json.dumps({"networks": ["transformer"]}))
    with pytest.raises(UsageError, match="the kit of a PyTorch module, and no model of ldmref"):
        open_checkpoint(tmp_path)


def test_choices_of_single_files_are_refused(tmp_path):
    folder = make_kit_of("z-image", tmp_path / "kit")
    with pytest.raises(UsageError, match="has its own configuration"):
        open_checkpoint(folder, "z-image")
    with pytest.raises(UsageError, match="has its own tokenizer"):
        open_checkpoint(folder, tokenizer=folder)


def test_a_folder_of_the_name_alone_is_no_kit(tmp_path):
    folder = make_kit_of("z-image", tmp_path / "kit")
    (folder / "kit.json").unlink()
    with pytest.raises(InputError, match="is not a model folder"):
        find_model(folder)


# -- a folder of diffusers ------------------------------------------------------------------------


@pytest.mark.parametrize("family", OF_DIFFUSERS)
def test_a_folder_of_diffusers_holds_the_model(tmp_path, family):
    """As the reader of published folders opens it, which knows names and shapes of each network."""
    folder = DiffusersFolder(write_pipeline(family, tmp_path / "kit"))
    require_same(folder.read(), family)
    config = golden_config(family)
    assert family_of(folder.config) is family_of(config)
    assert folder.config.vae == config.vae
    prediction = folder.config.scheduler.prediction_type
    assert prediction == config.scheduler.prediction_type


@pytest.mark.parametrize("family", OF_DIFFUSERS)
def test_tokenizers_of_a_folder_read_a_prompt_alike(tmp_path, family):
    folder = DiffusersFolder(write_pipeline(family, tmp_path / "kit"))
    found = folder.load_tokenizers(golden_config(family), None)
    for ours, read in zip(golden_model(family).tokenizers, found, strict=True):
        assert np.array_equal(ours.tokenize(["red heart"]).ids, read.tokenize(["red heart"]).ids)


@pytest.mark.parametrize("family", OF_DIFFUSERS)
def test_configurations_have_the_makers_fields_alone(family):
    config = golden_config(family)
    files = pipeline_files(golden_model(family), kit_trace(family).params)
    read = partial(json.loads)
    denoiser = read(files[f"{config.denoiser.network}/config.json"])
    described = parts_of(config).denoiser(config)
    assert denoiser.pop("_class_name") == described.kind
    assert not {*denoiser} & {*described.own}
    for path in (path for path in files if path.startswith("text_encoder") and "config" in path):
        text = read(files[path])
        assert {"architectures", "model_type"} <= {*text}
        assert "hidden_act" not in text or text["model_type"] == "clip_text_model"


@pytest.mark.parametrize("family", EMOJI)
def test_models_that_diffusers_does_not_have_are_refused(family):
    assert isinstance(golden_config(family).denoiser, UNetConfig)
    with pytest.raises(UsageError, match="its U-Net adds the text to the time"):
        pipeline_files(golden_model(family), kit_trace(family).params)


def test_files_of_a_folder_are_the_same_bytes_each_time():
    asked = kit_trace("krea-2").params
    first, second = (pipeline_files(golden_model("krea-2"), asked) for _ in range(2))
    assert first == second and "model_index.json" in first


# -- a dump with ldmref's names, and a module -----------------------------------------------------


def test_a_dump_with_the_names_of_a_kit_is_shown_the_model():
    """The module has its makers' arguments, and a kit's trace those of ldmref."""
    torch = pytest.importorskip("torch")
    from ldmref.locate import diff_modules

    class Transformer(torch.nn.Module):
        def forward(self, x, t, cap_feats):
            return x

    roles = ("sample", "timestep", "encoder_hidden_states")
    tensors = {f"transformer.000//input.{role}": np.ones((1, 2)) for role in roles}
    port = build_trace(tensors | {"transformer.000//output": np.ones((1, 2))})
    report = diff_modules(port, {"transformer": Transformer()})
    notes = [row.note for row in report.rows]
    expected = "its argument 'x' was not recorded; the dump has ldmref's names of arguments"
    assert any(expected in note and "--model MODEL" in note for note in notes)
