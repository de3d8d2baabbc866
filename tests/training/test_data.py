"""Data sets that are incomplete: what is skipped and named, and what is refused."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from PIL import Image

from ldmref.errors import InputError
from ldmref.training.data import check_data, summarize
from ldmref.training.data.folder import FolderDataset
from ldmref.training.recipe import DataConfig


def test_broken_pictures_are_skipped_counted_and_named(pictures):
    (pictures / "zero.png").write_bytes(b"")
    (pictures / "page.jpg").write_text("<html>")
    (pictures / "sub").mkdir()
    picture = (pictures / "green.png").read_bytes()
    (pictures / "sub" / "cut.png").write_bytes(picture[: len(picture) // 2])
    (pictures / "folder.png").mkdir()
    data = FolderDataset(pictures, 16)
    assert len(data.images) == len(data.captions) == len(data.weights) == 3
    assert data.captions == [["blue square"], ["grass", "lawn"], ["red square"]]
    assert data.skipped == ["page.jpg", "sub/cut.png", "zero.png"]
    (warning,) = data.warnings
    assert warning.startswith("3 of 6 ") and "page.jpg, sub/cut.png, zero.png" in warning


def test_many_broken_pictures_make_a_short_warning(pictures):
    for i in range(100):
        (pictures / f"{i:03}.png").write_bytes(b"")
    data = FolderDataset(pictures, 16)
    assert len(data.skipped) == 100 and "and 80 more" in data.warnings[0]


def refused(folder):
    """The error, which comes before any picture is read."""
    with pytest.raises(InputError) as caught:
        FolderDataset(folder, 16)
    with pytest.raises(InputError) as early:
        check_data(DataConfig(str(folder), 16))
    assert caught.value.code == early.value.code == "E-DATA"
    assert str(caught.value) == str(early.value) and "\n" not in str(early.value)
    return str(caught.value)


def test_folders_without_pictures(tmp_path):
    (tmp_path / "notes.txt").write_text("cat")
    assert "no pictures" in refused(tmp_path)
    assert "does not exist" in refused(tmp_path / "gone")
    assert "is not a folder" in refused(tmp_path / "notes.txt")


def test_only_broken_pictures(tmp_path):
    (tmp_path / "a.png").write_text("x")
    with pytest.raises(InputError) as caught:
        FolderDataset(tmp_path, 16)
    assert caught.value.code == "E-DATA"


TABLES = {
    "row 2": ("metadata.jsonl", b'{"file_name": "green.png", "text": "a"}\nnonsense\n'),
    "row 1": ("metadata.jsonl", b'{"file_name": "green.png", "text": 3}\n'),
    "'text' is missing": ("metadata.jsonl", b'{"file_name": "green.png"}\n'),
    "surrogates": ("metadata.jsonl", b'{"file_name": "green.png", "text": "\\ud800"}\n'),
    "utf-8": ("metadata.jsonl", b"\xff\xfe"),
    "row": ("metadata.jsonl", b"[" * 100_000),
    "'file_name' is missing": ("metadata.csv", b"name,text\ngreen.png,a\n"),
    "row 1:": ("metadata.csv", b"file_name,text\ngreen.png\n"),
    "no row": ("metadata.csv", b"file_name,text\nimages/green.png,a\n"),
}


@pytest.mark.parametrize("problem", TABLES)
def test_tables_that_cannot_be_read(pictures, problem):
    name, content = TABLES[problem]
    (pictures / name).write_bytes(content)
    assert problem in refused(pictures)


def test_text_captions_that_cannot_be_read(pictures):
    (pictures / "green.txt").write_bytes(b"\xff\xfe")
    assert "green.txt" in refused(pictures)
    (pictures / "green.txt").unlink()
    (pictures / "green.txt").mkdir()
    assert "green.txt" in refused(pictures)


def test_missing_captions_and_pictures_are_named(pictures):
    rows = {"green.png": "a green one", "gone.png": "?", "red_square.png": " "}
    lines = [json.dumps({"file_name": k, "text": v}) for k, v in rows.items()]
    (pictures / "metadata.jsonl").write_text("\n".join(lines))
    data = FolderDataset(pictures, 16)
    assert data.captions == [["blue square"], ["a green one"], ["red square"]]
    without, absent = data.warnings
    assert without.startswith("2 ") and "blue-square.png, red_square.png" in without
    assert absent.startswith("1 ") and "gone.png" in absent


@pytest.mark.skipif(os.name != "posix", reason="file names of any bytes")
def test_names_that_are_no_text(pictures):
    (pictures / "green.png").rename(os.fsdecode(os.fsencode(pictures) + b"/\xff\xfe.png"))
    captions = FolderDataset(pictures, 16).captions
    assert all(text.encode() for texts in captions for text in texts)


def test_what_a_training_leaves_is_no_data(pictures):
    run = pictures / "runs" / "mine"
    run.mkdir(parents=True)
    for file in (run / "loss.png", run / "model" / "x.png"):
        file.parent.mkdir(exist_ok=True)
        Image.new("RGB", (9, 9)).save(file)
    assert len(FolderDataset(pictures, 16).images) == 5
    (run / "metrics.jsonl").touch()
    assert len(FolderDataset(pictures, 16).images) == 3


def test_long_captions_are_cut_and_named(pictures):
    (pictures / "green.txt").write_text("lawn\n" + "grass " * 1000)
    data = FolderDataset(pictures, 16)
    assert [len(text) for texts in data.captions for text in texts if "lawn" in texts] == [4, 4000]
    assert any("green.png" in line and "cut" in line for line in data.warnings)


def test_the_digest_is_of_pictures_and_captions(pictures):
    first = summarize(FolderDataset(pictures, 16))
    assert first == summarize(FolderDataset(pictures, 16)) and first.pictures == 3
    assert first != summarize(FolderDataset(pictures, 8))
    (pictures / "green.txt").write_text("meadow")
    second = summarize(FolderDataset(pictures, 16))
    Image.fromarray(np.full((9, 9, 3), 7, np.uint8)).save(pictures / "green.png")
    assert len({first, second, summarize(FolderDataset(pictures, 16))}) == 3
