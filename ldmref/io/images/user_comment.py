"""The user comment of EXIF: a text behind eight bytes that name its characters, in many dialects.

EXIF 2.3, section 4.6.5, names ASCII, JIS, Unicode and "undefined", and leaves open in which order
of bytes Unicode is written. Programs write it in both orders, with and without a byte order mark,
as UTF-8 behind any of the names, and as bare UTF-8 without a name.
"""

from __future__ import annotations

import codecs
from contextlib import suppress

LENGTH = 8  # of the name of the characters
UTF8_NAMES = (b"ASCII", b"")  # what is behind them is UTF-8, of which ASCII is a part
ASCII = frozenset(b"\n\t" + bytes(range(0x20, 0x7F)))
ORDER_MARKS = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


def decode_user_comment(comment: bytes | str) -> str:
    """Return the text of a user comment, "" if it is empty.

    Args:
        comment: The field as stored: the name of the characters in 8 bytes, then the text; or the
            text alone, as some programs write it. A string is what Pillow makes of a field that
            is declared as ASCII, each byte a character.

    >>> decode_user_comment(b"UNICODE\\0" + "a cat".encode("utf-16-le"))
    'a cat'
    >>> decode_user_comment("a cat".encode())
    'a cat'
    """
    data = comment.encode("latin-1", "replace") if isinstance(comment, str) else comment
    name = data[:LENGTH].rstrip(b"\0").upper() if len(data) >= LENGTH else None
    text = data[LENGTH:]
    if name == b"JIS":
        decoded = _decode_japanese(text)
    elif name == b"UNICODE":
        decoded = _decode_unicode(text)
    elif name in UTF8_NAMES:
        decoded = _decode_unicode(text) if b"\0" in text.rstrip(b"\0") else _decode_utf8(text)
    else:
        decoded = _decode_utf8(data)
    return decoded.rstrip("\0")


def _decode_unicode(text: bytes) -> str:
    """Decode UTF-16 in the order of its mark, or that with more letters of ASCII; or UTF-8.

    Where no byte is zero, the text has no Latin letter, space or digit in UTF-16; if it is valid as
    UTF-8, it is UTF-8.
    """
    for mark, encoding in ORDER_MARKS.items():
        if text.startswith(mark):
            return text[len(mark) :].decode(encoding, "replace")
    text = text.removeprefix(codecs.BOM_UTF8)
    if b"\0" not in text.rstrip(b"\0"):
        with suppress(UnicodeDecodeError):
            return text.rstrip(b"\0").decode("utf-8")
    pairs = [*zip(text[::2], text[1::2], strict=False)]
    big = sum(not high and low in ASCII for high, low in pairs)
    little = sum(not high and low in ASCII for low, high in pairs)
    return text.decode("utf-16-le" if little > big else "utf-16-be", "replace")


def _decode_utf8(text: bytes) -> str:
    try:
        return text.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError:
        return text.decode("latin-1")


def _decode_japanese(text: bytes) -> str:
    """Decode JIS X 0208, in its escape sequences or as Shift JIS."""
    for encoding in ("iso2022_jp", "shift_jis"):
        with suppress(UnicodeDecodeError):
            return text.rstrip(b"\0").decode(encoding)
    return text.decode("latin-1")
