"""Messages of errors, which may quote text from anywhere."""

from __future__ import annotations

import pytest

from ldmref.errors import MAX_MESSAGE, CorruptModelError, one_line


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
