"""Names and paths of models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ldmref
from ldmref.errors import InputError, KeyMismatchError
from ldmref.io import single_file
from ldmref.io.locate import embedded_folder, find_model
from ldmref.io.native import save_folder
from ldmref.io.tensors.open_file import open_model_file
from ldmref.io.tensors.writer import source, write_tensors
from ldmref.models.family import find_family
from ldmref.models.params import Params
from ldmref.models.presets import list_presets


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    tiny = ldmref.random_model("tiny", backend="numpy")
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there", target_is_directory=True)
    for _ in range(2):
        save_folder(tmp_path / "link", tiny.config, Params(tiny.params), [tiny.tokenizer])
    assert (tmp_path / "link").is_symlink() and (tmp_path / "there" / "config.json").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"there", "link"}


def test_a_folder_with_the_name_of_the_embedded_model(tmp_path, monkeypatch):
    """The name means the embedded model; a path, however short, the folder."""
    monkeypatch.chdir(tmp_path)
    tiny = ldmref.random_model("tiny", backend="numpy")
    save_folder(Path("emoji"), tiny.config, Params(tiny.params), [tiny.tokenizer])
    assert find_model("emoji") == embedded_folder("emoji")
    for name in ("./emoji", Path("emoji"), "emoji/model.safetensors", tmp_path / "emoji"):
        found = find_model(name)
        assert found.samefile(tmp_path / "emoji") and find_model(found) == found, name
    assert ldmref.load("./emoji").config.name == "tiny"
    assert ldmref.load("emoji").config.name == "emoji-128"


def test_the_folder_of_a_training_stands_for_its_model(tmp_path):
    """`ldmref train -o DIR` writes DIR/model; a folder with neither says what was looked for."""
    tiny = ldmref.random_model("tiny", backend="numpy")
    with pytest.raises(InputError, match="and no folder 'model' that has one") as caught:
        find_model(tmp_path)
    assert caught.value.code == "E-MODEL" and "ldmref train" in caught.value.hint
    save_folder(tmp_path / "model", tiny.config, Params(tiny.params), [tiny.tokenizer])
    assert find_model(tmp_path) == find_model(tmp_path / "model") == tmp_path / "model"
    save_folder(tmp_path / "both", tiny.config, Params(tiny.params), [tiny.tokenizer])
    save_folder(tmp_path / "both/model", tiny.config, Params(tiny.params), [tiny.tokenizer])
    assert find_model(tmp_path / "both") == tmp_path / "both"  # its own configuration decides


def test_a_family_says_which_files_may_hold_only_its_denoiser(tmp_path, monkeypatch):
    """Where none of its layouts applies, the file is refused without a comparison."""
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"w": source(np.zeros(2, np.float32))})
    file = open_model_file(path)
    config = list_presets()["flux-tiny"]
    family = find_family("flux")
    with pytest.raises(KeyMismatchError, match="is not a 'flux-tiny' model: "):
        single_file.recognise_file(file, config)
    others = tuple(replace(layout, applies=lambda shapes: "v" in shapes) for layout in family.files)
    monkeypatch.setattr(single_file, "family_of", lambda config: replace(family, files=others))
    with pytest.raises(KeyMismatchError, match=r"is not a 'flux-tiny' model$"):
        single_file.recognise_file(file, config)
