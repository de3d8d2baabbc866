"""Data sets that are incomplete: what is skipped and named, and what is refused."""

from __future__ import annotations

import json
import os
import re

import numpy as np
import pytest
from PIL import Image

from ldmref.errors import InputError
from ldmref.training.data import check_data, load_dataset, summarize
from ldmref.training.data.folder import FolderDataset
from ldmref.training.data.listing import IMAGE_FORMATS, IMAGE_SUFFIXES
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
    assert "no images" in refused(tmp_path)
    assert "does not exist" in refused(tmp_path / "gone")
    assert "is not a folder" in refused(tmp_path / "notes.txt")


OTHERS = (
    "photo.tif", "photo.avif", "photo.heic", "clip.mp4", "photo.jpg_large", "photo", "README.md",
    "more.tar", "cat.caption", "loose.txt", "PHOTO.TXT", "green.png.bak", "sub/photo.svg",
    "sub/metadata.csv",
)  # fmt: skip


@pytest.fixture
def others(pictures):
    """Files of other kinds beside the three images."""
    (pictures / "sub").mkdir()
    for name in OTHERS:
        (pictures / name).write_bytes(b"anything")
    (pictures / "sub" / "metadata.jsonl").touch()
    for hidden in (".DS_Store", "sub/._photo.tif"):
        (pictures / hidden).write_bytes(b"anything")
    (pictures / "more.tar").rename(pictures / "sub" / "more.tar")
    return sorted(name.replace("more.tar", "sub/more.tar") for name in OTHERS)


def test_files_of_other_kinds_are_counted_and_named(pictures, others):
    (warning,) = load_dataset(DataConfig(str(pictures), 16)).warnings
    count, _, names = warning.partition(" files are not read: ")
    assert count == str(len(others)) and names.split(", ") == others


def test_without_an_image_the_error_names_what_is_there(pictures, others):
    for file in pictures.glob("*.png"):
        file.unlink()
    with pytest.raises(InputError) as caught:
        check_data(DataConfig(str(pictures), 16))
    assert "photo.heic" in caught.value.hint and "GIF" in caught.value.hint


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_every_ending_is_read(tmp_path, suffix):
    file = tmp_path / f"cat{suffix}"
    kinds = Image.registered_extensions()
    Image.new("RGB", (20, 16), "red").save(file, kinds[suffix])
    data = load_dataset(DataConfig(str(tmp_path), 16))
    assert data.captions == [["cat"]] and data.warnings == []
    assert (np.abs(data.images[0].astype(int) - [[[255]], [[0]], [[0]]]) < 4).all()


def test_the_formats_are_those_of_the_endings():
    kinds = Image.registered_extensions()
    assert {kinds[suffix] for suffix in IMAGE_SUFFIXES} == set(IMAGE_FORMATS)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_used(tmp_path, kind):
    frames = [Image.new("RGB", (20, 16), colour) for colour in ("red", "blue", "green")]
    name = f"cat.{kind.lower()}"
    frames[0].save(tmp_path / name, kind, save_all=True, append_images=frames[1:])
    data = load_dataset(DataConfig(str(tmp_path), 16))
    assert (data.images[0][0] > 250).all() and (data.images[0][1:] < 5).all()
    assert data.warnings == [f"1 animation, of which the first frame is used: {name}"]


def test_images_beside_tar_files_are_refused(pictures):
    """Nobody can tell whether the tar is a copy of the images, or more of them."""
    (pictures / "backup.tar").write_bytes(b"")
    with pytest.raises(InputError, match=r"blue-square\.png.*backup\.tar") as early:
        check_data(DataConfig(str(pictures), 16))
    with pytest.raises(InputError) as caught:
        load_dataset(DataConfig(str(pictures), 16))
    assert str(caught.value) == str(early.value) and caught.value.code == "E-DATA"
    (pictures / "sub").mkdir()
    for file in pictures.glob("*.*"):
        if file.suffix != ".tar":
            file.rename(pictures / "sub" / file.name)
    with pytest.raises(InputError, match="sub/blue-square"):
        check_data(DataConfig(str(pictures), 16))


def test_captions_of_a_folder_within_are_read(pictures):
    """The layout of imagefolder: a table in each split."""
    for split in ("train", "test"):
        (pictures / split).mkdir()
        for name in ("a.png", "b.png"):
            Image.new("RGB", (9, 9)).save(pictures / split / name)
    row = {"file_name": "a.png", "text": "first"}
    (pictures / "train" / "metadata.jsonl").write_text(json.dumps(row))
    (pictures / "test" / "metadata.csv").write_text("file_name,text\na.png,second\nb.png,third\n")
    data = FolderDataset(pictures, 16)
    texts = {"train": ["first"], "test": ["second"]}
    assert data.captions[-4:] == [texts["test"], ["third"], texts["train"], ["b"]]
    assert data.warnings == ["1 image without a caption, named by file: train/b.png"]


def test_a_table_within_that_names_no_image_is_refused(pictures):
    (pictures / "train").mkdir()
    row = {"file_name": "train/a.png", "text": "relative to the wrong folder"}
    (pictures / "train" / "metadata.jsonl").write_text(json.dumps(row))
    Image.new("RGB", (9, 9)).save(pictures / "train" / "a.png")
    assert "train/metadata.jsonl" in refused(pictures)


@pytest.mark.parametrize("text", ["null", '""', '"  "'])
def test_rows_without_a_caption_are_named(pictures, text):
    rows = [
        '{"file_name": "green.png", "text": "a"}',
        f'{{"file_name": "red_square.png", "text": {text}}}',
    ]
    (pictures / "blue-square.png").unlink()
    (pictures / "metadata.jsonl").write_text("\n".join(rows))
    data = FolderDataset(pictures, 16)
    assert data.captions == [["a"], ["red square"]]
    assert data.warnings == ["1 image without a caption, named by file: red_square.png"]


def test_a_text_file_without_a_caption_is_named(pictures):
    (pictures / "green.txt").write_text(" \n")
    data = FolderDataset(pictures, 16)
    assert data.captions[1] == ["green"]
    assert data.warnings == ["1 image without a caption, named by file: green.png"]


def test_one_of_a_kind_is_singular(pictures):
    """One of everything that a warning counts."""
    (pictures / "bad.png").touch()
    (pictures / "odd.tif").touch()
    (pictures / "red_square.txt").write_text("r" * 5000)
    (pictures / "blue-square.txt").write_text("")
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    frames[0].save(pictures / "clip.gif", save_all=True, append_images=frames[1:])
    rows = [{"file_name": name, "text": "x"} for name in ("gone.png", "green.png")]
    (pictures / "sub").mkdir()
    (pictures / "green.png").rename(pictures / "sub" / "green.png")
    (pictures / "green.txt").unlink()
    (pictures / "sub" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    warnings = FolderDataset(pictures, 16).warnings
    assert len(warnings) == 6
    assert not [line for line in warnings if re.search(r"\b1 [a-z]+s\b", line)]


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
