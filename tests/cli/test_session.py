"""The session of a command: what it refuses, in which order, and before weights are read."""

from __future__ import annotations

import pytest

from ldmref.apps.cli import session as sessions
from ldmref.apps.cli.serve import load_models
from ldmref.apps.cli.session import BACKEND_FLAGS, CommandSession
from ldmref.errors import LdmrefError, UsageError

FLAGS = dict.fromkeys([*BACKEND_FLAGS, "config", "model"])
FLOAT64 = ("numpy", "cpu", "float64", "exact")


@pytest.fixture(autouse=True)
def no_settings(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("LDMREF_BACKEND", raising=False)


@pytest.fixture
def unread(monkeypatch):
    """Fail if weights are read."""
    monkeypatch.setattr(
        sessions, "load_checkpoint", lambda *a, **k: pytest.fail("weights were read")
    )


@pytest.mark.parametrize("flags", [{"dtype": "float32"}, {"speed": "fast"}])
def test_the_usual_backend_stands_in_where_no_flag_names_one(flags):
    usual = CommandSession(FLAGS, usual=FLOAT64).open().describe()
    assert (usual["name"], usual["dtype"], usual["speed"]) == ("numpy", "float64", "exact")
    opened = CommandSession(FLAGS | flags, usual=FLOAT64).open().describe()
    assert opened == CommandSession(FLAGS | flags).open().describe()


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        ({"model": "nothing", "backend": "nope", "plan": True}, "E-MODEL"),
        ({"backend": "nope", "plan": True}, "E-PLAN"),
        ({"backend": "nope"}, "E-BACKEND-NAME"),
    ],
)
def test_model_request_and_backend_are_refused_in_this_order(flags, code, unread):
    flags = dict(flags)
    wrong = flags.pop("plan", False)
    with pytest.raises(LdmrefError) as caught, CommandSession(FLAGS | flags).planning() as config:
        assert config.name == "emoji-128"
        if wrong:
            raise UsageError("a wrong request", code="E-PLAN")
    assert caught.value.code == code


def test_a_setting_is_named_where_no_flag_replaces_it(monkeypatch):
    monkeypatch.setenv("LDMREF_BACKEND", "nope")
    with pytest.raises(LdmrefError, match="LDMREF_BACKEND"), CommandSession(FLAGS).planning():
        pass
    with pytest.raises(LdmrefError) as caught:
        with CommandSession(FLAGS | {"backend": "none"}).planning():
            pass
    assert "LDMREF_BACKEND" not in str(caught.value)


@pytest.mark.parametrize(
    ("named", "code"),
    [
        (("emoji", "nothing"), "E-MODEL"),
        (("emoji", "emoji"), "E-MODEL"),
        (("emoji", "=emoji"), "E-MODEL"),
        (("a=emoji", "a=emoji"), "E-MODEL"),
    ],
)
def test_a_server_refuses_every_model_before_it_reads_one(named, code, unread):
    with pytest.raises(LdmrefError) as caught:
        load_models(CommandSession(FLAGS), named)
    assert caught.value.code == code


def test_a_server_names_its_models(monkeypatch):
    monkeypatch.setattr(sessions, "load_checkpoint", lambda opened, ops, **options: opened.path)
    models, sources, _ = load_models(CommandSession(FLAGS), ("emoji", "mine=emoji"))
    assert sources == {"emoji": "emoji", "mine": "emoji"} and models["emoji"] == models["mine"]
