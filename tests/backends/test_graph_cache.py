"""Compiled graphs on disk: what their names depend on, and which files are read."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ldmref.backends.graph import disk_cache


def key_of(*parts: str | bytes, **parameters: np.ndarray) -> str:
    graph: Any = SimpleNamespace(parameters=parameters)
    return disk_cache.make_key(parts, graph)


W = np.arange(6, dtype=np.float32)
KEYS = {
    "as it is": key_of("cpu", "f32", w=W),
    "parts in other words": key_of("cpuf", "32", w=W),
    "parts joined": key_of("cpuf32", w=W),
    "parts exchanged": key_of("f32", "cpu", w=W),
    "one part": key_of("cpu", w=W),
    "further part": key_of("cpu", "f32", "", w=W),
    "another part": key_of("cpu", "f16", w=W),
    "length within": key_of("cpu3 f32", w=W),
    "without parameters": key_of("cpu", "f32"),
    "another name": key_of("cpu", "f32", v=W),
    "another shape": key_of("cpu", "f32", w=W.reshape(2, 3)),
    "another type": key_of("cpu", "f32", w=W.view(np.int32)),
    "other values": key_of("cpu", "f32", w=-W),
    "further parameter": key_of("cpu", "f32", w=W, v=W),
}


def test_a_key_depends_on_everything():
    assert len(set(KEYS.values())) == len(KEYS)


def test_a_key_depends_on_nothing_else():
    assert key_of(b"cpu", "f32", w=W.copy()) == KEYS["as it is"]
    strided = np.stack([W, W], axis=1)[:, 0]
    assert key_of("cpu", "f32", w=strided) == KEYS["as it is"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(disk_cache, "find_folder", lambda: tmp_path)
    return tmp_path


def test_only_intact_files_are_read(folder):
    assert disk_cache.read("a") is None
    disk_cache.write("a", b"graph")
    path = folder / "a.graph"
    whole = path.read_bytes()
    assert disk_cache.read("a") == b"graph" and disk_cache.measure() == (1, len(whole))
    for damaged in (whole[:-1], whole + b"x", b"", whole[:31], b"\0" + whole[1:]):
        path.write_bytes(damaged)
        assert disk_cache.read("a") is None
    assert [file.name for file in folder.iterdir()] == ["a.graph"]


def test_the_files_that_were_not_used_for_longest_make_room(folder, monkeypatch):
    size = 100 + disk_cache.DIGEST
    monkeypatch.setattr(disk_cache, "CAPACITY", 2 * size)
    for i, key in enumerate("abc"):
        disk_cache.write(key, b"x" * 100)
        disk_cache.os.utime(folder / f"{key}.graph", (i, i))
    assert disk_cache.read("a") is None and disk_cache.read("b") is not None
    disk_cache.write("d", b"x" * 100)  # b was read after c was written
    assert [disk_cache.read(key) is not None for key in "bcd"] == [True, False, True]
    disk_cache.write("e", b"x" * 1000)
    assert disk_cache.read("e") is None
