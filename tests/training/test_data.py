"""Data sets that are incomplete: what is skipped and named, and what is refused."""

from __future__ import annotations

import json
import os
import re

import numpy as np
import pytest
from PIL import Image

from ldmref.datasets import check_data, load_dataset, summarize
from ldmref.datasets.config import DataConfig
from ldmref.datasets.folder import FolderDataset
from ldmref.datasets.listing import IMAGE_FORMATS, IMAGE_SUFFIXES
from ldmref.errors import InputError


def test_broken_images_are_skipped_counted_and_named(images):
    (images / "zero.png").write_bytes(b"")
    (images / "page.jpg").write_text("<html>")
    (images / "sub").mkdir()
    image = (images / "green.png").read_bytes()
    (images / "sub" / "cut.png").write_bytes(image[: len(image) // 2])
    (images / "folder.png").mkdir()
    data = FolderDataset(images, 16)
    assert len(data.images) == len(data.captions) == len(data.weights) == 3
    assert data.captions == [["blue square"], ["grass", "lawn"], ["red square"]]
    assert data.skipped == ["page.jpg", "sub/cut.png", "zero.png"]
    (warning,) = data.warnings
    assert warning.startswith("3 of 6 ") and "page.jpg, sub/cut.png, zero.png" in warning


def test_many_broken_images_make_a_short_warning(images):
    for i in range(100):
        (images / f"{i:03}.png").write_bytes(b"")
    data = FolderDataset(images, 16)
    assert len(data.skipped) == 100 and "and 80 more" in data.warnings[0]


def refused(folder):
    """Return the error, which comes before any image is read."""
    with pytest.raises(InputError) as caught:
        FolderDataset(folder, 16)
    with pytest.raises(InputError) as early:
        check_data(DataConfig(str(folder), 16))
    assert caught.value.code == early.value.code == "E-DATA"
    assert str(caught.value) == str(early.value) and "\n" not in str(early.value)
    return str(caught.value)


def test_folders_without_images(tmp_path):
    (tmp_path / "notes.txt").write_text("cat")
    assert "no images" in refused(tmp_path)
    assert "does not exist" in refused(tmp_path / "gone")
    assert "is not a folder" in refused(tmp_path / "notes.txt")


OTHERS = """
    photo.tif photo.avif photo.heic clip.mp4 photo.jpg_large photo README.md more.tar
    cat.caption loose.txt PHOTO.TXT green.png.bak sub/photo.svg sub/metadata.csv
""".split()


@pytest.fixture
def others(images):
    """Add files of other kinds next to the three images."""
    (images / "sub").mkdir()
    for name in OTHERS:
        (images / name).write_bytes(b"anything")
    (images / "sub" / "metadata.jsonl").touch()
    for hidden in (".DS_Store", "sub/._photo.tif"):
        (images / hidden).write_bytes(b"anything")
    (images / "more.tar").rename(images / "sub" / "more.tar")
    return sorted(name.replace("more.tar", "sub/more.tar") for name in OTHERS)


def test_files_of_other_kinds_are_counted_and_named(images, others):
    (warning,) = load_dataset(DataConfig(str(images), 16)).warnings
    count, _, names = warning.partition(" files are not read: ")
    assert count == str(len(others)) and names.split(", ") == others


def test_without_an_image_the_error_names_what_is_there(images, others):
    for file in images.glob("*.png"):
        file.unlink()
    with pytest.raises(InputError) as caught:
        check_data(DataConfig(str(images), 16))
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
    assert data.warnings == [f"1 animation, only the first frame is used: {name}"]


def test_images_beside_tar_files_are_refused(images):
    """Nobody can tell whether the tar is a copy of the images, or more of them."""
    (images / "backup.tar").write_bytes(b"")
    with pytest.raises(InputError, match=r"blue-square\.png.*backup\.tar") as early:
        check_data(DataConfig(str(images), 16))
    with pytest.raises(InputError) as caught:
        load_dataset(DataConfig(str(images), 16))
    assert str(caught.value) == str(early.value) and caught.value.code == "E-DATA"
    (images / "sub").mkdir()
    for file in images.glob("*.*"):
        if file.suffix != ".tar":
            file.rename(images / "sub" / file.name)
    with pytest.raises(InputError, match="sub/blue-square"):
        check_data(DataConfig(str(images), 16))


def test_captions_of_a_folder_within_are_read(images):
    """The layout of imagefolder: a table in each split."""
    for split in ("train", "test"):
        (images / split).mkdir()
        for name in ("a.png", "b.png"):
            Image.new("RGB", (9, 9)).save(images / split / name)
    row = {"file_name": "a.png", "text": "first"}
    (images / "train" / "metadata.jsonl").write_text(json.dumps(row))
    (images / "test" / "metadata.csv").write_text("file_name,text\na.png,second\nb.png,third\n")
    data = FolderDataset(images, 16)
    texts = {"train": ["first"], "test": ["second"]}
    assert data.captions[-4:] == [texts["test"], ["third"], texts["train"], ["b"]]
    assert data.warnings == ["1 image without a caption, named by file: train/b.png"]


def test_a_table_within_that_names_no_image_is_refused(images):
    (images / "train").mkdir()
    row = {"file_name": "train/a.png", "text": "relative to the wrong folder"}
    (images / "train" / "metadata.jsonl").write_text(json.dumps(row))
    Image.new("RGB", (9, 9)).save(images / "train" / "a.png")
    assert "train/metadata.jsonl" in refused(images)


@pytest.mark.parametrize("text", ["null", '""', '"  "'])
def test_rows_without_a_caption_are_named(images, text):
    rows = [
        '{"file_name": "green.png", "text": "a"}',
        f'{{"file_name": "red_square.png", "text": {text}}}',
    ]
    (images / "blue-square.png").unlink()
    (images / "metadata.jsonl").write_text("\n".join(rows))
    data = FolderDataset(images, 16)
    assert data.captions == [["a"], ["red square"]]
    assert data.warnings == ["1 image without a caption, named by file: red_square.png"]


def test_a_text_file_without_a_caption_is_named(images):
    (images / "green.txt").write_text(" \n")
    data = FolderDataset(images, 16)
    assert data.captions[1] == ["green"]
    assert data.warnings == ["1 image without a caption, named by file: green.png"]


def test_one_of_a_kind_is_singular(images):
    """One of everything that a warning counts."""
    (images / "bad.png").touch()
    (images / "odd.tif").touch()
    (images / "red_square.txt").write_text("r" * 5000)
    (images / "blue-square.txt").write_text("")
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    frames[0].save(images / "clip.gif", save_all=True, append_images=frames[1:])
    rows = [{"file_name": name, "text": "x"} for name in ("gone.png", "green.png")]
    (images / "sub").mkdir()
    (images / "green.png").rename(images / "sub" / "green.png")
    (images / "green.txt").unlink()
    (images / "sub" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    warnings = FolderDataset(images, 16).warnings
    assert len(warnings) == 6
    assert not [line for line in warnings if re.search(r"\b1 [a-z]+s\b", line)]


def test_only_broken_images(tmp_path):
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
def test_tables_that_cannot_be_read(images, problem):
    name, content = TABLES[problem]
    (images / name).write_bytes(content)
    assert problem in refused(images)


def test_text_captions_that_cannot_be_read(images):
    (images / "green.txt").write_bytes(b"\xff\xfe")
    assert "green.txt" in refused(images)
    (images / "green.txt").unlink()
    (images / "green.txt").mkdir()
    assert "green.txt" in refused(images)


def test_missing_captions_and_images_are_named(images):
    rows = {"green.png": "a green one", "gone.png": "?", "red_square.png": " "}
    lines = [json.dumps({"file_name": k, "text": v}) for k, v in rows.items()]
    (images / "metadata.jsonl").write_text("\n".join(lines))
    data = FolderDataset(images, 16)
    assert data.captions == [["blue square"], ["a green one"], ["red square"]]
    without, absent = data.warnings
    assert without.startswith("2 ") and "blue-square.png, red_square.png" in without
    assert absent.startswith("1 ") and "gone.png" in absent


@pytest.mark.skipif(os.name != "posix", reason="file names of any bytes")
def test_names_that_are_no_text(images):
    (images / "green.png").rename(os.fsdecode(os.fsencode(images) + b"/\xff\xfe.png"))
    captions = FolderDataset(images, 16).captions
    assert all(text.encode() for texts in captions for text in texts)


def test_what_a_training_leaves_is_no_data(images):
    run = images / "runs" / "mine"
    run.mkdir(parents=True)
    for file in (run / "loss.png", run / "model" / "x.png"):
        file.parent.mkdir(exist_ok=True)
        Image.new("RGB", (9, 9)).save(file)
    assert len(FolderDataset(images, 16).images) == 5
    (run / "metrics.jsonl").touch()
    assert len(FolderDataset(images, 16).images) == 3


def test_long_captions_are_cut_and_named(images):
    (images / "green.txt").write_text("lawn\n" + "grass " * 1000)
    data = FolderDataset(images, 16)
    assert [len(text) for texts in data.captions for text in texts if "lawn" in texts] == [4, 4000]
    assert any("green.png" in line and "cut" in line for line in data.warnings)


def test_the_digest_is_of_images_and_captions(images):
    first = summarize(FolderDataset(images, 16))
    assert first == summarize(FolderDataset(images, 16)) and first.images == 3
    assert first != summarize(FolderDataset(images, 8))
    (images / "green.txt").write_text("meadow")
    second = summarize(FolderDataset(images, 16))
    Image.fromarray(np.full((9, 9, 3), 7, np.uint8)).save(images / "green.png")
    assert len({first, second, summarize(FolderDataset(images, 16))}) == 3
