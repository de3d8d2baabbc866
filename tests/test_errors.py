"""Messages of errors, which may quote text from anywhere."""

from __future__ import annotations

import copy
import pickle
import traceback

import pytest

from ldmref import errors, modes
from ldmref.errors import MAX_MESSAGE, CorruptModelError, LdmrefError, one_line
from ldmref.models.presets import preset


@pytest.mark.parametrize("text", ["a\nb", "\x1b[2J", "\0", "\ud800", "\u2028", "\x85"])
def test_message_and_hint_are_one_line_that_can_be_printed(text):
    error = CorruptModelError(f"holds {text}", code="E-X", hint=f"take {text}")
    for line in (str(error), error.hint):
        assert line.isprintable() and line.encode() and line == one_line(line)


def test_plain_text_stays_as_it_is():
    assert str(CorruptModelError("größer als 日本 🎉 'x'")) == "größer als 日本 🎉 'x'"


def test_a_long_message_keeps_beginning_and_end():
    error = CorruptModelError("first" + "x" * 10**6 + "last")
    assert len(str(error)) < MAX_MESSAGE + 10
    assert str(error).startswith("first") and str(error).endswith("last")


# -- every class ----------------------------------------------------------------------------------


def classes(base=errors.LdmrefError):
    """Return the base class and all that are derived from it, wherever they are defined."""
    return [base] + [found for kind in base.__subclasses__() for found in classes(kind)]


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__name__)
def test_a_plain_traceback_shows_message_and_hint(kind):
    with pytest.raises(kind) as caught:
        raise kind("what was wrong", code="E-X", hint="what to do")
    lines = "".join(traceback.format_exception(caught.value)).splitlines()
    assert lines[-2].endswith(": what was wrong") and lines[-1] == "hint: what to do"
    assert str(caught.value) == "what was wrong"
    without = kind("what was wrong", code="E-X")
    assert not getattr(without, "__notes__", []) and without.hint == ""


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__name__)
def test_an_error_that_was_pickled_says_the_same_once(kind):
    """As from a process of multiprocessing."""
    error = kind("what was wrong", code="E-X", hint="what to do")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (str(again), again.code, again.hint) == ("what was wrong", "E-X", "what to do")
        assert "".join(traceback.format_exception(again)).count("hint: what to do") == 1


def test_a_hint_in_a_note_is_one_line():
    error = CorruptModelError("holds", code="E-X", hint="take\n\x1b[2J that")
    assert error.__notes__ == [f"hint: {error.hint}"] and error.__notes__[0].isprintable()


@pytest.mark.parametrize(
    ("values", "parameter"),
    [
        ({"stepps": 3}, "stepps"),
        ({}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": "a", "steps": 0}, "steps"),
        ({"prompt": "a", "rng": "dice"}, "rng"),
        ({"prompt": "a", "sampler": "eular"}, "sampler"),
        ({"prompt": "a", "guidance": "none at all"}, "guidance"),
        ({"prompt": "a", "width": 13}, "width"),
        ({"prompt": "a", "latents": "noise.npy"}, "latents"),
        ({"prompt": "a", "negative_prompt": [1]}, "negative_prompt"),
    ],
)
def test_errors_of_a_request_name_the_parameter(values, parameter):
    with pytest.raises(LdmrefError) as caught:
        modes.plan("txt2img", preset("sd15"), **values)
    assert caught.value.parameter == parameter
