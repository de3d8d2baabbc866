"""Names and paths of models."""

from __future__ import annotations

from pathlib import Path

import ldmref
from ldmref.io.locate import embedded_folder, find_model
from ldmref.io.native import save_folder
from ldmref.models.params import Params


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
