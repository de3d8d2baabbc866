"""`open_checkpoint`: a single file is opened once, and hashed when its digest is needed."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest

import ldmref
from ldmref import loading, modes
from ldmref.apps.cli.main import main
from ldmref.apps.cli.serve import load_models
from ldmref.apps.cli.session import CommandSession
from ldmref.errors import CorruptModelError
from ldmref.io import checkpoint as checkpoint_module
from ldmref.io import native, open_checkpoint, single_file
from ldmref.io.compvis.keys import compvis_table
from ldmref.io.key_table import to_compvis
from ldmref.io.native import SCHEMA, save_folder
from ldmref.io.tensors import safetensors
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.io.tensors.writer import source, write_tensors
from ldmref.io.tokenizers import tokenizer_for
from ldmref.models.params import flatten
from ldmref.prompts import Embedding


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """Return a single file, and the folder with its configuration and tokenizer."""
    folder = tmp_path_factory.mktemp("single")
    model = ldmref.random_model("tiny", backend="numpy")
    (folder / "config.json").write_text(json.dumps({"schema": SCHEMA} | model.config.to_dict()))
    model.tokenizer.tokenizer.save(str(folder / "tokenizer.json"))
    tensors = to_compvis(flatten(model.params), compvis_table(model.config))
    path = folder / "model.st"
    write_tensors(path, {name: source(np.asarray(x)) for name, x in tensors.items()})
    return {"name": path, "config": folder, "tokenizer": folder / "tokenizer.json"}


@pytest.fixture
def hashed(monkeypatch):
    """Return the files that are hashed, in order."""
    files = []
    real = TensorFile.sha256

    def sha256(self):
        files.append(self.path.name)
        return real(self)

    monkeypatch.setattr(TensorFile, "sha256", sha256)
    return files


def test_a_single_file_is_parsed_once(options, monkeypatch):
    parsed = []
    real = safetensors.parse_json
    monkeypatch.setattr(
        safetensors, "parse_json", lambda *args, **kw: parsed.append(1) or real(*args, **kw)
    )
    ldmref.load(**options, backend="numpy")
    assert len(parsed) == 1


@pytest.fixture
def reads(monkeypatch):
    """What is done on the way to a model, in order: names found, headers and settings read."""
    done = []

    def count(owner, name, what):
        original = getattr(owner, name)

        def counting(*args, **kwargs):
            done.append(what)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counting)

    count(checkpoint_module, "find_model", "found")
    count(TensorFile, "__init__", "header")
    count(native, "_read_settings", "config.json")
    count(single_file, "compare_file", "compared")
    return done


def test_a_command_finds_and_opens_a_single_file_once(options, reads, tmp_path):
    """From the plan to the image: one name, one config.json, one header, one comparison."""
    flags = ["--model-config", str(options["config"]), "--tokenizer", str(options["tokenizer"])]
    made = ["--seed", "1", "--steps", "1", "-o", str(tmp_path / "a.png"), "--backend", "numpy"]
    assert main(["txt2img", "-m", str(options["name"]), "-p", "a cat", *flags, *made]) == 0
    assert reads == ["found", "header", "config.json", "compared"]


def test_a_command_opens_a_folder_once(reads, tmp_path):
    made = ["--seed", "1", "--steps", "1", "-o", str(tmp_path / "a.png"), "--backend", "numpy"]
    assert main(["txt2img", "-p", "red heart", *made]) == 0
    assert reads == ["found", "config.json", "header"]


def test_a_server_opens_each_model_once(options, reads):
    flags = {"config": None, "backend": "numpy", "device": None, "dtype": None, "speed": None}
    flags |= {"model_config": str(options["config"]), "tokenizer": str(options["tokenizer"])}
    models, _, _ = load_models(CommandSession(flags), (f"mine={options['name']}",))
    assert models["mine"].config.name == "tiny"
    assert reads == ["found", "header", "config.json", "compared"]


def test_a_single_file_is_hashed_once_and_only_when_an_image_records_it(options, hashed):
    model = ldmref.load(**options, backend="numpy")
    word = Embedding("<toy>", np.ones((1, 32), np.float32))
    grown = copy.copy(model.with_embeddings([word]))
    repr(grown)
    assert not hashed
    r = modes.txt2img(grown, "a cat", seed=1, steps=1)
    digest = hashlib.sha256(options["name"].read_bytes()).hexdigest()
    assert r.params["model"]["sha256"] == model.sha256 == grown.sha256 == digest
    assert hashed == ["model.st"]


def test_a_pickled_model_keeps_the_digest(options):
    model = ldmref.load(**options, backend="numpy")
    assert pickle.loads(pickle.dumps(model)).sha256 == model.sha256


def test_a_checkpoint_is_one_line(options):
    checkpoint = open_checkpoint(**options)
    assert repr(checkpoint).startswith("<Checkpoint 'tiny' in ") and "\n" not in repr(checkpoint)
    assert checkpoint.ema is None and not checkpoint.warnings and not checkpoint.check_weights()
    assert checkpoint.tensors["unet.conv_in.weight"].shape == (16, 4, 3, 3)


def test_published_weights_are_known_and_not_read_once_more(monkeypatch):
    assert open_checkpoint("emoji-map").is_known
    monkeypatch.setattr(loading, "check_weights", None)
    assert not ldmref.load("emoji-map", backend="numpy").warnings


def test_a_vocabulary_that_is_too_large_is_named_with_its_encoder(tmp_path):
    """Which encoder, and both numbers, also of the second one."""
    model = ldmref.random_model("tiny")
    last = max(model.tokenizer.tokenizer.get_vocab().values())
    save_folder(tmp_path / "words", model.config, model.params, [model.tokenizer])
    text = replace(model.config.text_encoder, vocab_size=last)
    with pytest.raises(CorruptModelError) as caught:
        tokenizer_for(text, tmp_path / "words" / "tokenizer.json", network="text_encoder_2")
    said = str(caught.value)
    assert "text_encoder_2 (clip of width 32)" in said
    assert f"number {last:,}, and the encoder knows {last:,}" in said
    assert "--tokenizer" in caught.value.hint
