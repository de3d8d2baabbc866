"""Files that appear whole or not at all."""

import pytest

from ldmref.errors import OutputError
from ldmref.io.atomic import atomic_write


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
