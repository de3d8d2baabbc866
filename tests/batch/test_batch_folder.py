"""The folder: names, torn lines, leftovers of killed writes, and the lock."""

from __future__ import annotations

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldmref.batch.folder import BatchFolder, cut_torn_line, name_image, read_lines, to_line
from ldmref.batch.planning import BatchShard
from ldmref.errors import OutputError

KEY = "0123456789abcdef" * 4
SAFE = set(string.ascii_letters + string.digits + "._-")


@given(st.text(max_size=300), st.integers(1, 3))
def test_names_of_files_are_safe_and_differ_by_key(custom_id, count):
    folder, _, name = name_image(KEY, custom_id, 0, count).partition("/")
    assert folder == "images" and set(name) <= SAFE and len(name) < 100
    assert not name.startswith((".", "-")) and KEY[:16] in name and name.endswith(".png")
    assert name != name_image("f" * 64, custom_id, 0, count).partition("/")[2]


@given(st.binary(max_size=200))
def test_any_bytes_are_read_as_objects_or_not_at_all(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("lines") / "manifest.jsonl"
    path.write_bytes(b'{"a": 1}\n' + content)
    lines = list(read_lines(path))
    assert lines[:1] == [{"a": 1}] or content[:1] not in (b"\n", b"\r", b"")
    assert all(isinstance(line, dict) for line in lines)


@pytest.mark.parametrize("length", [0, 1, 100_000, 200_000])
def test_a_torn_line_is_ignored_and_cut_off(tmp_path, length):
    path = tmp_path / "manifest.jsonl"
    whole = to_line({"a": 1}) + to_line({"b": "é\u2028"})
    path.write_bytes(whole + b'{"c": "' + b"x" * length)
    assert list(read_lines(path)) == [{"a": 1}, {"b": "é\u2028"}]
    cut_torn_line(path)
    assert path.read_bytes() == whole
    path.write_bytes(b"x" * length)
    cut_torn_line(path)
    assert path.read_bytes() == b""


def test_appended_lines_follow_a_torn_one(tmp_path):
    folder = BatchFolder(tmp_path)
    folder.manifest.write_bytes(b'{"a": 1}\n{"b"')
    with folder.locked():
        folder.append(folder.manifest, [{"c": 3}])
        folder.append(folder.manifest, [{"d": 4}, {"e": 5}])
    assert [*read_lines(folder.manifest)] == [{"a": 1}, {"c": 3}, {"d": 4}, {"e": 5}]


def test_a_damaged_or_hostile_line_verifies_nothing(tmp_path):
    folder = BatchFolder(tmp_path)
    (tmp_path / "images").mkdir()
    key = "0123456789abcdef0123"
    name = f"images/a-{key[:16]}.png"
    folder.write_image(name, b"image")
    digest = "6105d6cc76af400325e94d588ce511be5bfdbb73b437dc51eca43917d7a43e3d"
    right = {"key": key, "file": name, "sha256": digest}
    assert folder.verify(right)
    for line in (
        {},
        right | {"sha256": "0" * 64},
        right | {"key": "f" * 20},
        right | {"file": name.replace("a-", "b-")},
        right | {"file": "images"},
        right | {"file": 3},
        right | {"file": "a\0b"},
    ):
        assert not folder.verify(line)


def test_a_second_writer_is_refused_until_the_first_ends(tmp_path):
    with BatchFolder(tmp_path).locked():
        for shard in (None, BatchShard(1, 2)):
            with pytest.raises(OutputError, match="another ldmref batch") as caught:
                BatchFolder(tmp_path, shard).locked().__enter__()
            assert caught.value.code == "E-LOCKED"
    with BatchFolder(tmp_path, BatchShard(1, 2)).locked():
        with BatchFolder(tmp_path, BatchShard(2, 2)).locked():
            for shard in (None, BatchShard(1, 2)):
                with pytest.raises(OutputError):
                    BatchFolder(tmp_path, shard).locked().__enter__()
    with BatchFolder(tmp_path).locked():
        pass


def test_leftovers_are_removed_but_not_those_of_other_shards(tmp_path):
    names = ["images/.a.png.0123abcd.part", "images/.b.png.0123abcd.part", ".x.0123abcd.part"]
    kept = ["images/a.png", "images/.hidden", "images/a.png.part"]

    def fill():
        (tmp_path / "images").mkdir(exist_ok=True)
        for name in names + kept:
            (tmp_path / name).write_text("")

    fill()
    BatchFolder(tmp_path, BatchShard(1, 2)).remove_leftovers(["images/a.png"])
    assert [(tmp_path / name).exists() for name in names] == [False, True, True]
    BatchFolder(tmp_path).remove_leftovers([])
    assert not any((tmp_path / name).exists() for name in names)
    assert all((tmp_path / name).exists() for name in kept)


def test_a_path_that_cannot_be_a_folder_is_one_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError) as caught:
        BatchFolder(tmp_path / "file").locked().__enter__()
    assert caught.value.code == "E-WRITE"


def test_lines_are_json_in_utf_8():
    assert json.loads(to_line({"a": "é \udc80"})) == {"a": "é \udc80"}
    assert "é".encode() in to_line({"a": "é"})
