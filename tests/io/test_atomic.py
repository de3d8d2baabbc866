"""Files that appear whole or not at all."""

import errno
import itertools
import os

import pytest

from ldmref.errors import OutputError
from ldmref.io.atomic import atomic_folder, atomic_write, check_writable


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


# -- when the system fails in the middle -----------------------------------------------------------


def failing(monkeypatch, name, times, number=errno.EIO):
    """Let those calls of `os.name` fail, counted from 0."""
    calls = itertools.count()
    real = getattr(os, name)

    def fail(*arguments, **options):
        if next(calls) in times:
            raise OSError(number, os.strerror(number))
        return real(*arguments, **options)

    monkeypatch.setattr(os, name, fail)
    return calls


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def model(tmp_path):
    """Return a folder that is there already, as a model that somebody needs."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_bytes(b"old")
    return folder


def write_model(folder, content=b"new"):
    with atomic_folder(folder) as temporary:
        (temporary / "weights").write_bytes(content)


def test_a_folder_is_replaced_as_a_whole(model):
    write_model(model)
    assert tree(model.parent) == {"model/weights": b"new"}


@pytest.mark.parametrize("times", [{0}, {1}], ids=["moving aside", "moving in"])
def test_a_folder_that_cannot_be_replaced_is_kept_under_its_name(model, monkeypatch, times):
    """It was moved aside: what stays there would be removed by the next training."""
    failing(monkeypatch, "replace", times)
    with pytest.raises(OutputError) as caught:
        write_model(model)
    assert caught.value.code == "E-WRITE" and "Input/output error" in str(caught.value)
    assert tree(model.parent) == {"model/weights": b"old"}
    assert [path.name for path in model.parent.iterdir()] == ["model"]


def test_a_folder_that_can_neither_be_replaced_nor_put_back_is_not_lost(model, monkeypatch):
    failing(monkeypatch, "replace", {1, 2})
    with pytest.raises(OutputError):
        write_model(model)
    assert list(tree(model.parent).values()) == [b"old"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), ValueError()]
)
def test_a_folder_that_is_not_finished_leaves_nothing(model, error):
    expected = OutputError if isinstance(error, OSError) else type(error)
    for folder in (model, model.with_name("new")):
        with pytest.raises(expected), atomic_folder(folder) as temporary:
            (temporary / "half").write_bytes(b"x")
            raise error
    assert tree(model.parent) == {"model/weights": b"old"}
    assert [path.name for path in model.parent.iterdir()] == ["model"]


def test_a_new_folder_that_cannot_be_renamed_leaves_nothing(tmp_path, monkeypatch):
    failing(monkeypatch, "replace", {0})
    with pytest.raises(OutputError):
        write_model(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_a_folder_behind_a_link_is_replaced_and_the_link_stays(model):
    link = model.with_name("link")
    link.symlink_to("model")
    write_model(link)
    assert link.is_symlink() and (model / "weights").read_bytes() == b"new"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["link", "replace"])
def test_a_file_that_cannot_be_renamed(tmp_path, monkeypatch, name, overwrite):
    """Without hard links the file is renamed; where that fails too, nothing is left."""
    path = tmp_path / "a"
    if overwrite:
        path.write_bytes(b"old")
    before = tree(tmp_path)
    failing(monkeypatch, "link", {0}, errno.EPERM)
    if name == "replace":
        failing(monkeypatch, "replace", {0}, errno.EPERM)
    else:
        with atomic_write(path, overwrite=overwrite) as file:
            file.write(b"new")
        assert tree(tmp_path) == {"a": b"new"}
        return
    with pytest.raises(OutputError) as caught, atomic_write(path, overwrite=overwrite) as file:
        file.write(b"new")
    assert caught.value.code == "E-WRITE" and tree(tmp_path) == before


def test_a_file_that_is_taken_where_there_are_no_hard_links_is_refused_first(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(OutputError) as caught:
        check_writable(tmp_path / "a", overwrite=False)
    assert caught.value.code == "E-EXISTS"


def test_a_file_whose_last_bytes_cannot_be_written(tmp_path):
    """The system reports some errors only when a file is closed."""
    with pytest.raises(OutputError) as caught, atomic_write(tmp_path / "a") as file:
        file.write(b"new")
        os.close(file.fileno())
    assert caught.value.code == "E-WRITE" and not list(tmp_path.iterdir())
