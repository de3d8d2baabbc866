"""Files that appear whole or not at all."""

import os

import pytest

from ldmref.errors import OutputError
from ldmref.io.atomic import atomic_write, check_writable


def test_a_file_that_came_up_meanwhile_is_kept(tmp_path):
    path = tmp_path / "a"
    with pytest.raises(OutputError, match="exists"), atomic_write(path) as file:
        file.write(b"mine")
        path.write_bytes(b"theirs")
    assert path.read_bytes() == b"theirs" and list(tmp_path.iterdir()) == [path]
    with atomic_write(path, overwrite=True) as file:
        file.write(b"mine")
    assert path.read_bytes() == b"mine"


def test_nothing_is_left_of_a_file_that_was_not_finished(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "a") as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(OutputError, match="cannot write"), atomic_write(tmp_path / "no" / "a"):
        pass


@pytest.mark.parametrize("name", ["x" * 300, "é" * 200, "a\0b", "x" * 300 + "/a"], ids=len)
def test_a_name_that_the_system_does_not_allow(tmp_path, name):
    for write in (lambda: check_writable(tmp_path / name, False), lambda: touch(tmp_path / name)):
        with pytest.raises(OutputError) as caught:
            write()
        assert caught.value.code in ("E-WRITE", "E-FOLDER") and len(str(caught.value)) < 300
    assert not list(tmp_path.iterdir())


def touch(path):
    with atomic_write(path) as file:
        file.write(b"x")


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127])
def test_the_longest_names(tmp_path, name):
    touch(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_device_or_pipe_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    os.symlink("/dev/full", tmp_path / "full")
    for name in ("pipe", "full"):
        with pytest.raises(OutputError) as caught:
            check_writable(tmp_path / name, overwrite=True)
        assert caught.value.code == "E-EXISTS"


def test_a_write_that_fails_keeps_the_old_file(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(OutputError) as caught, atomic_write(path, overwrite=True) as file:
        file.write(b"new")
        raise OSError(28, "No space left on device")
    assert caught.value.code == "E-WRITE" and "No space" in str(caught.value)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
