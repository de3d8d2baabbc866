"""Tar shards: read in place, with captions and classes; hostile members do nothing."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from ldmref.datasets import check_data, load_dataset, summarize
from ldmref.datasets import shards as shards_module
from ldmref.datasets.config import DataConfig
from ldmref.errors import InputError


def image(colour, suffix="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (20, 16), colour).save(file, suffix)
    return file.getvalue()


def write_shard(path, files):
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.name = name
            data = b"" if isinstance(content, tarfile.TarInfo) else content
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def link(kind, target):
    member = tarfile.TarInfo()
    member.type = kind
    member.linkname = target
    return member


def load(folder):
    check_data(DataConfig(str(folder), 16))
    return load_dataset(DataConfig(str(folder), 16))


def test_images_captions_and_classes(tmp_path):
    write_shard(
        tmp_path / "000000.tar",
        {
            "0001.png": image("red"),
            "0001.txt": b"a red square\nred\n",
            "0001.cls": b"warm",
            "0002.JPG": image("blue", "JPEG"),
            "0002.json": json.dumps({"text": "blue"}).encode(),
            "0002.cls": b"cold",
        },
    )
    write_shard(
        tmp_path / "000001.tar",
        {
            "part/0001.webp": image("green", "WEBP"),
            "part/0001.json": json.dumps({"caption": ["green", "lawn"]}).encode(),
            "my_image.png": image("white"),
        },
    )
    data = load(tmp_path)
    assert data.captions == [["a red square", "red"], ["blue"], ["green", "lawn"], ["my image"]]
    assert data.classes == ["warm", "cold", "", ""] and not data.warnings
    assert data.images.shape == (4, 3, 16, 16) and (data.images[0][0] > 250).all()
    assert summarize(data).images == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000.tar", "000001.tar"]


def test_a_single_tar_file_is_a_source(tmp_path):
    write_shard(tmp_path / "a.tar", {"1.png": image("red")})
    assert load(tmp_path / "a.tar").captions == [["1"]]


def test_broken_images_are_skipped_counted_and_named(tmp_path):
    write_shard(
        tmp_path / "a.tar",
        {
            "1.png": image("red"),
            "2.png": b"<html>",
            "3.png": image("red")[:50],
            "4.txt": b"text",
        },
    )
    data = load(tmp_path)
    assert data.skipped == ["a.tar/2", "a.tar/3"] and len(data.images) == 1
    assert data.warnings[0].startswith("2 of 3 ")


def test_hostile_members_are_ignored(tmp_path, monkeypatch):
    monkeypatch.setattr(shards_module, "MAX_MEMBER", 1000)
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    folder = tmp_path / "shards"
    folder.mkdir()
    write_shard(
        folder / "a.tar",
        {
            "../../escape.png": image("red"),
            "/abs.png": image("blue"),
            "1.png": link(tarfile.SYMTYPE, str(secret)),
            "1.txt": link(tarfile.SYMTYPE, str(secret)),
            "2.png": link(tarfile.LNKTYPE, "/etc/passwd"),
            "3.png": link(tarfile.FIFOTYPE, ""),
            "4.png": link(tarfile.CHRTYPE, ""),
            "5.png": image("red") + bytes(1000),
            "dir": link(tarfile.DIRTYPE, ""),
            ".png": image("red"),
            "6": b"x",
            "7.exe": b"MZ",
        },
    )
    data = load(folder)
    assert len(data.images) == 2 and "secret" not in str(data.captions)
    (warning,) = data.warnings
    assert warning.startswith("9 members of tar files not read: a.tar/1.png, a.tar/1.txt, ")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.tar", "secret.txt", "shards"]


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"1.txt": b"no image"},
        {"1.png": b"broken"},
        {"1.png": image("red"), "1.txt": b"\xff\xfe"},
        {"1.png": image("red"), "1.json": b"{"},
        {"1.png": image("red"), "1.json": b"[" * 100_000},
        {"1.png": image("red"), "1.json": b'{"text": [3]}'},
    ],
)
def test_shards_that_cannot_be_used(tmp_path, files):
    write_shard(tmp_path / "a.tar", files)
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    assert caught.value.code == "E-DATA" and "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0, 100, 700])
def test_truncated_and_damaged_files(tmp_path, keep):
    write_shard(tmp_path / "a.tar", {f"{i}.png": image("red") for i in range(3)})
    content = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(content[:keep] if keep else b"not a tar" * 100)
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    assert caught.value.code == "E-DATA"


def test_captions_are_drawn_at_random(tmp_path):
    write_shard(tmp_path / "a.tar", {"1.png": image("red"), "1.txt": b"a\nb"})
    data = load(tmp_path)
    rng = np.random.default_rng(0)
    assert {data.caption(0, rng) for _ in range(40)} == {"a", "b"} == set(data.vocabulary())


@pytest.mark.parametrize("value", ["null", "[null]", '""', "[]", '[null, " "]'])
@pytest.mark.parametrize("key", ["text", "caption"])
def test_a_sample_without_a_caption_is_named(tmp_path, key, value):
    write_shard(
        tmp_path / "a.tar",
        {
            "1.png": image("red"),
            "1.json": f'{{"{key}": {value}}}'.encode(),
            "my-dog.png": image("red"),
            "my-dog.txt": b"",
            "3.png": image("red"),
        },
    )
    data = load(tmp_path)
    assert data.captions == [["1"], ["my dog"], ["3"]]
    assert data.warnings == ["2 images without a caption, named by file: a.tar/1, a.tar/my-dog"]


def test_an_empty_caption_among_others_is_left_out(tmp_path):
    parts = {"1.png": image("red"), "1.json": b'{"caption": [null, "a dog", ""]}'}
    write_shard(tmp_path / "a.tar", parts)
    data = load(tmp_path)
    assert data.captions == [["a dog"]] and not data.warnings


def test_members_and_files_that_are_not_read_are_named(tmp_path):
    write_shard(tmp_path / "a.tar", {"1.png": image("red"), "2.tif": b"x", "3.heic": b"x"})
    (tmp_path / "a.parquet").touch()
    (tmp_path / "sub").mkdir()
    write_shard(tmp_path / "sub" / "b.tar", {"1.png": image("red")})
    assert load(tmp_path).warnings == [
        "2 members of tar files not read: a.tar/2.tif, a.tar/3.heic",
        "2 files are not read: a.parquet, sub/b.tar",
    ]
    assert load(tmp_path / "a.tar").warnings == load(tmp_path).warnings[:1]


@pytest.mark.parametrize("suffix", ["gif", "bmp"])
def test_gif_and_bmp_are_read(tmp_path, suffix):
    write_shard(tmp_path / "a.tar", {f"1.{suffix}": image("red", suffix.upper())})
    data = load(tmp_path)
    assert (data.images[0][0] > 250).all() and not data.warnings
