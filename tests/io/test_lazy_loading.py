"""Large files: loading reads the header, and each weight is read and checked when it is used."""

from __future__ import annotations

import json
import math
import pickle
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file

import ldmref
from ldmref import modes
from ldmref.errors import CorruptModelError
from ldmref.io import open_checkpoint, read_model_config, single_file
from ldmref.io.compvis.keys import compvis_table
from ldmref.io.key_table import list_stored_shapes
from ldmref.io.native import save_folder
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.loading import EAGER_BYTES, load_checkpoint, open_backend
from ldmref.models.params import flatten
from ldmref.models.presets import PRESETS


@pytest.fixture
def sparse(tmp_path):
    """Write Stable Diffusion 1.5 in float16: a header and a hole of 2.1 GB, which takes no room."""
    shapes = list_stored_shapes(compvis_table(PRESETS["sd15"]))
    header = {}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    path = tmp_path / "sd15.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return path


@pytest.fixture
def vocabulary(tmp_path):
    model = ldmref.random_model("tiny")
    save_folder(tmp_path / "words", model.config, model.params, [model.tokenizer])
    return tmp_path / "words" / "tokenizer.json"


@pytest.fixture
def counted(monkeypatch):
    """Names of what was done: headers parsed, families compared, hashes, tensors checked."""
    done = []

    def count(owner, name):
        original = getattr(owner, name)

        def counting(*args, **kwargs):
            done.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counting)

    count(TensorFile, "__init__")
    count(TensorFile, "sha256")
    count(single_file, "compare_file")
    monkeypatch.setattr("ldmref.io.native.np.isfinite", lambda x: pytest.fail("a weight was read"))
    return done


def test_loading_a_large_file_reads_its_header_only(sparse, vocabulary, counted):
    model = ldmref.load(sparse, backend="numpy", tokenizer=vocabulary)
    assert sparse.stat().st_size > 7 * EAGER_BYTES
    assert counted.count("__init__") == 1
    assert counted.count("compare_file") == 1
    assert "sha256" not in counted
    assert not model.params._on_backend and model.config.name == "sd15"


def test_the_configuration_and_the_model_recognise_the_file_once(sparse, vocabulary, counted):
    checkpoint = open_checkpoint(sparse, tokenizer=vocabulary)
    modes.plan("txt2img", checkpoint.config, prompt="a cat")
    load_checkpoint(checkpoint, open_backend("numpy"))
    assert counted == ["__init__", "compare_file"]


def test_a_file_that_changes_is_recognised_again(tmp_path):
    path = tmp_path / "model.safetensors"
    weights = {"model.diffusion_model.out.2.bias": np.zeros(4, np.float32)}
    save_file(weights, path)
    with pytest.raises(ldmref.errors.KeyMismatchError):
        read_model_config(path)
    first = TensorFile(path).identity
    save_file(weights | {"more": np.zeros(1, np.float32)}, path)
    assert TensorFile(path).identity != first


@pytest.fixture
def spoiled(tmp_path, monkeypatch):
    """Write a model that is checked when used: NaN in the U-Net, zeros in the autoencoder."""
    monkeypatch.setattr("ldmref.loading.EAGER_BYTES", 0)
    model = ldmref.random_model("tiny")
    params = {name: model.params[name] for name in model.params}
    flatten(params)["unet.conv_out.bias"][:] = np.nan
    flatten(params)["vae.post_quant_conv.weight"][:] = 0.0
    save_folder(tmp_path / "model", model.config, params, [model.tokenizer], np.float32)
    return tmp_path / "model"


def test_weights_of_a_large_model_are_checked_when_they_are_used(spoiled):
    model = ldmref.load(spoiled, backend="numpy")
    assert model.encode_text(["a cat"]).shape[0] == 1 and model.warnings == ()
    for _ in range(2):  # the second use fails as the first one did
        with pytest.raises(CorruptModelError, match=r"unet\.conv_out\.bias") as caught:
            model.params["unet"]
        assert caught.value.code == "E-NONFINITE"


def test_warnings_appear_when_the_weights_are_used(spoiled):
    model = ldmref.load(spoiled, backend="numpy", allow_nonfinite=True)
    assert model.warnings == ()
    model.decode(np.zeros((1, *model.latent_shape(16, 16)), np.float32))
    (warning,) = model.warnings
    assert "vae.post_quant_conv.weight" in warning
    copy = pickle.loads(pickle.dumps(model))
    assert copy.warnings == model.warnings
    assert copy.params["unet"] is not None and len(copy.warnings) == 2
    assert len(model.warnings) == 1


def test_a_result_repeats_the_warnings_about_the_weights(spoiled):
    model = ldmref.load(spoiled, backend="numpy", allow_nonfinite=True)
    with pytest.raises(ldmref.errors.LdmrefError):  # NaN is found in the first step
        modes.txt2img(model, "a cat", steps=1, seed=1)
    assert any("unet.conv_out.bias" in warning for warning in model.warnings)
