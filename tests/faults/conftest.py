"""The surroundings of a fault case: an empty working folder, no settings, a tiny model."""

from __future__ import annotations

import os
import tempfile

import pytest
from fault_interfaces import Stage
from fault_limits import limited
from fault_remaining import REMAINING

from ldmref.io.native import save_folder


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent.name == "faults" and item.name in REMAINING:
            item.add_marker(pytest.mark.xfail(strict=True, reason=REMAINING[item.name]))


@pytest.fixture(scope="session")
def tiny_folder(tiny, tmp_path_factory):
    """Return a folder with preset `tiny` in random weights."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_folder(folder, tiny.config, tiny.params, [tiny.tokenizer])
    return folder


@pytest.fixture(scope="session")
def client(tiny):
    """Yield an HTTP client of a server of the tiny model, both in this process."""
    from starlette.testclient import TestClient

    from ldmref.apps.server.app import create_app
    from ldmref.apps.server.engine import Engine

    engine = Engine({"tiny": tiny})
    yield TestClient(create_app(engine), base_url="http://localhost")
    engine.close()


@pytest.fixture
def stage(tiny, tiny_folder, client, tmp_path, monkeypatch, capfd):
    for name in [name for name in os.environ if name.startswith("LDMREF_")]:
        monkeypatch.delenv(name)
    folders = [tmp_path / name for name in ("work", "in", "tmp", "home")]
    for folder in folders:
        folder.mkdir()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(tmp_path / "work")
    with limited():
        yield Stage(*folders[:3], tiny, tiny_folder, capfd, client)
