"""The errors of ldmref: one class per exit code, one stable code per cause.

| class                | exit | also a             |
|----------------------|------|--------------------|
| `UsageError`         | 2    | `ValueError`       |
| `InputError`         | 3    | -                  |
| `VerifyError`        | 4    | -                  |
| `BackendUnavailable` | 5    | `ImportError`      |
| `ResourceError`      | 6    | `MemoryError`      |
| `NumericError`       | 7    | `FloatingPointError` |
| `OutputError`        | 8    | `OSError`          |
| `RowsFailed`         | 9    | -                  |
| `NotCompared`        | 10   | -                  |
| `Cancelled`          | 130  | -                  |
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

SIMILAR = 0.75  # share of common letters above which a word counts as a misspelling
SHORTEST = 3  # letters of a word that counts as the beginning of another
MAX_MESSAGE = 2000  # characters; a file may hold names of any length


class LdmrefError(Exception):
    """The base class of all errors.

    `code` is stable, `hint` suggests what to do, and `exit_code` is for the shell. Message and hint
    are one line each, even if they quote text of a file or a prompt. The hint is also a note (PEP
    678), which tracebacks show below the message. `parameter` names the parameter that is wrong, if
    it is one of a request. `is_printed` says that `--json` has printed the result that the error
    is about, so that it prints no second object.
    """

    exit_code = 1
    parameter = ""
    is_printed = False

    def __init__(self, message: str, *, code: str = "E-ERROR", hint: str = ""):
        super().__init__(one_line(shortened(message)))
        self.code = code
        self.hint = one_line(shortened(hint))
        if self.hint:
            self.add_note(f"hint: {self.hint}")

    def __str__(self) -> str:
        return str(self.args[0])  # an ImportError would keep its first message


class UsageError(LdmrefError, ValueError):
    """An argument, flag or setting that is not valid."""

    exit_code = 2


class InputError(LdmrefError):
    """A file that cannot be read, does not hold what its name says, or is malicious."""

    exit_code = 3


class UnsafeFileError(InputError):
    """A file that could run code when it is read (a pickle)."""


class CorruptModelError(InputError):
    """A file that is damaged or does not hold a model."""


class UnsupportedModelError(CorruptModelError):
    """A whole file that asks for what ldmref does not compute, such as a setting that is newer."""


class KeyMismatchError(InputError):
    """A model file whose tensors do not fit the configuration."""


class ImageError(InputError):
    """An image or mask that cannot be used."""


class VerifyError(LdmrefError):
    """A check that found a difference; `report` holds further lines."""

    exit_code = 4

    def __init__(
        self, message: str, *, code: str = "E-CHECK", hint: str = "", report: Iterable[str] = ()
    ):
        super().__init__(message, code=code, hint=hint)
        self.report = tuple(report)

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *self.report])


class BackendUnavailable(LdmrefError, ImportError):
    """A backend that is known but cannot run here."""

    exit_code = 5


class ResourceError(LdmrefError, MemoryError):
    """A request that needs more memory or time than is available or allowed."""

    exit_code = 6


class NumericError(LdmrefError, FloatingPointError):
    """NaN or infinity in the place of a number."""

    exit_code = 7


class OutputError(LdmrefError, OSError):
    """A result that cannot be written."""

    exit_code = 8


class RowsFailed(LdmrefError):
    """A batch of which some rows are wrong or failed; all others are done."""

    exit_code = 9


class NotCompared(LdmrefError):
    """A comparison that found no difference, but could not compare everything."""

    exit_code = 10


class Cancelled(LdmrefError):
    """A run that `cancel` or Ctrl-C stopped between two steps; `partial` is what was finished."""

    exit_code = 130
    partial: Any = None


def one_line(text: str) -> str:
    """Escape control characters (line breaks, terminal escapes) and surrogates in `text`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(text: str) -> str:
    """Shorten a text of more than `MAX_MESSAGE` characters to its beginning and its end."""
    half = MAX_MESSAGE // 2
    return text if len(text) <= MAX_MESSAGE else f"{text[:half]} ... {text[-half:]}"


def short_repr(value: object) -> str:
    """Return the repr of any object for a message: one line of at most 80 characters.

    >>> short_repr("a" * 200)[-5:]
    'aa...'
    """
    try:
        text = " ".join(_beginning(value).split())
    except Exception:  # an object's own repr failed, or an integer has many thousand digits
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _beginning(value: object) -> str:
    """Return the repr of an object, or its beginning: a million numbers are not all written."""
    if type(value) is str or type(value) is bytes:
        return repr(value[:MAX_MESSAGE])
    if type(value) is list:
        return f"[{_joined(map(_beginning, value))}]"
    if type(value) is dict:
        return f"{{{_joined(f'{_beginning(k)}: {_beginning(v)}' for k, v in value.items())}}}"
    return repr(value)


def _joined(parts: Iterable[str]) -> str:
    """Join texts until they have more characters than a message shows."""
    joined: list[str] = []
    length = 0
    for part in parts:
        joined.append(part)
        length += len(part)
        if length > MAX_MESSAGE:
            break
    return ", ".join(joined)


def short_path(path: object) -> str:
    """Return a path for a message, at most 80 characters long; the end of a long path is kept.

    >>> short_path("images/" * 20 + "a.png").endswith("images/a.png'")
    True
    """
    text = " ".join(repr(str(path)).split())
    return text if len(text) <= 80 else f"'...{text[-76:]}"


def abbreviated(names: Sequence[str], most: int = 20) -> str:
    """Join the first names of a list, and count the others.

    >>> abbreviated(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural if needed.

    >>> counted(1, "image"), counted(3, "image")
    ('1 image', '3 images')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration(seconds: float) -> str:
    """Return a duration for people.

    >>> duration(1.34), duration(125), duration(12_000)
    ('1.3 s', '2 min 5 s', '3 h 20 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def closest(word: str, known: Iterable[str]) -> str:
    """Return the known word of which `word` is a misspelling, or "" if there is none.

    They share at least three quarters of their letters in the same order (difflib's ratio), or
    have the same letters in another order.

    >>> closest("stpes", ["steps", "eta"]), closest("cgf", ["cfg"]), closest("style", ["tile"])
    ('steps', 'cfg', '')
    """
    names = sorted(known)
    word = word[:80]
    close = difflib.get_close_matches(word, names, n=1, cutoff=SIMILAR)
    close += [name for name in names if sorted(name) == sorted(word)]
    return close[0] if close else ""


def _one_letter_differs(word: str, name: str) -> bool:
    """Return whether two words of equal length, not too short, differ in one letter."""
    pairs = zip(word, name, strict=False)
    return SHORTEST <= len(word) == len(name) and sum(a != b for a, b in pairs) == 1


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint with the known words, first the one that was probably meant.

    This is the closest word, or a word that begins with `word` or differs from it in one letter.

    >>> did_you_mean("eular", ["euler", "heun"])
    "did you mean 'euler'? Known: euler, heun"
    """
    names = sorted(known)
    near = [name for name in names if _one_letter_differs(word, name)]
    near += [name for name in names if len(word) >= SHORTEST and name.startswith(word)]
    close = closest(word, names) or next(iter(near), "")
    everything = "Known: " + ", ".join(names)
    return f"did you mean {close!r}? {everything}" if close else everything
