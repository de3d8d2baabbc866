"""Images that record how they were made: A1111's `parameters` text and exact JSON as `ldmref`.

PNG has a chunk for each. JPEG and WebP have EXIF: the text is the user comment, where A1111 writes
it, and the JSON is the maker note, which EXIF leaves to the program that made the image.

A user comment is a text behind eight bytes that name its characters, in many dialects. EXIF 2.3,
section 4.6.5, names ASCII, JIS, Unicode and "undefined", and leaves open in which order
of bytes Unicode is written. Programs write it in both orders, with and without a byte order mark,
as UTF-8 behind any of the names, and as bare UTF-8 without a name.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ldmref.errors import OutputError
from ldmref.io.atomic import atomic_write, check_writable
from ldmref.io.images.infotext import infotext
from ldmref.io.images.pil import open_image

EXIF_IFD = 0x8769
USER_COMMENT = 0x9286
MAKER_NOTE = 0x927C
COMMENT_ENCODING = b"UNICODE\0"  # before the text, UTF-16-BE
NOTE_PREFIX = b"ldmref\0"  # before the JSON, UTF-8
MAX_EXIF = 65_500  # bytes in a JPEG
TOGETHER = (
    "sheet",
    "animation",
    "grid",
)  # `mode` in the record of a file that holds several images
FORMATS = {".png": "PNG", ".webp": "WEBP", ".jpg": "JPEG", ".jpeg": "JPEG"}

LENGTH = 8  # of the name of the characters
UTF8_NAMES = (b"ASCII", b"")  # what is behind them is UTF-8, of which ASCII is a part
ASCII = frozenset(b"\n\t" + bytes(range(0x20, 0x7F)))
ORDER_MARKS = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


def write_image(
    path: Path, image: Image.Image, params: dict[str, Any] | None, *, overwrite: bool = False
) -> None:
    """Write an image with its parameters; the file appears complete or not at all.

    Args:
        path: The file to write; its ending says the format: .png, .webp or .jpg.
        image: The image.
        params: The resolved parameters of the image, such as `result.params_of(0)`. None: nothing
            is recorded.
        overwrite: Whether an existing file is replaced.

    Raises:
        OutputError: The file exists, its folder does not, or it cannot be written.

    >>> import tempfile
    >>> from pathlib import Path
    >>> import ldmref
    >>> from ldmref.io import read_parameters, write_image
    >>> result = ldmref.modes.txt2img(ldmref.random_model("tiny"), "a cat", seed=7, steps=2)
    >>> path = Path(tempfile.mkdtemp()) / "cat.png"
    >>> write_image(path, result[0], result.params_of(0))
    >>> read_parameters(path)["ldmref"]["seed"]
    7
    """
    kind = check_target(path, overwrite=overwrite)
    with atomic_write(path, overwrite=overwrite) as file:
        save_image(file, image, kind, params)


def save_image(
    file: BinaryIO, image: Image.Image, kind: str, params: dict[str, Any] | None, **options: object
) -> None:
    """Encode an image into an open binary file; `options` are Pillow's.

    The JSON is left out of a JPEG if it exceeds the size of EXIF, for prompts of many thousand
    letters. Files of several images, whose mode is one of `TOGETHER`, have no text of A1111.
    """
    options = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(kind, {}) | options
    text = "" if params is None or params["mode"] in TOGETHER else infotext(params)
    text = text.encode("utf-8", "backslashreplace").decode()  # a file's name may be any bytes
    if kind == "PNG" and params is not None:
        info = options["pnginfo"] = PngInfo()
        latin = text.encode("latin-1", "ignore").decode("latin-1") == text
        if text:
            (info.add_text if latin else info.add_itxt)("parameters", text)
        info.add_text("ldmref", json.dumps(params, sort_keys=True))
    elif params is not None and kind in ("JPEG", "WEBP"):
        exif = options["exif"] = Image.Exif()
        ifd = exif.get_ifd(EXIF_IFD)
        if text:
            ifd[USER_COMMENT] = COMMENT_ENCODING + text.encode("utf-16-be")
        exact = json.dumps(params, sort_keys=True, ensure_ascii=False)
        ifd[MAKER_NOTE] = NOTE_PREFIX + exact.encode("utf-8", "backslashreplace")
        if kind == "JPEG" and len(exif.tobytes()) > MAX_EXIF:
            del ifd[MAKER_NOTE]
    image.save(file, kind, **options)


def encode_png(image: Image.Image, params: Mapping[str, Any] | None = None) -> bytes:
    """Return an image as a PNG file, with the record of its parameters if they are given."""
    buffer = io.BytesIO()
    save_image(buffer, image, "PNG", None if params is None else dict(params))
    return buffer.getvalue()


def check_target(path: Path, *, overwrite: bool, formats: Mapping[str, str] = FORMATS) -> str:
    """Refuse a path that cannot be written, before any work is done for it.

    Returns:
        The format that `formats` has for its ending: PNG, WEBP or JPEG.

    Raises:
        OutputError: Another format, or the file cannot be written.
    """
    if path.suffix.lower() not in formats:
        what = f"unknown image format {path.suffix!r}"
        hint = "use " + ", ".join(formats)
        raise OutputError(what, code="E-FORMAT", hint=hint)
    check_writable(path, overwrite=True)
    if path.is_dir():
        raise OutputError(f"{str(path)!r} is a folder", code="E-EXISTS", hint="name a file in it")
    check_writable(path, overwrite)
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"cannot write into {str(path.parent)!r}", code="E-WRITE")
    return formats[path.suffix.lower()]


def read_parameters(source: str | Path | BinaryIO) -> dict[str, Any]:
    """Read the parameters that an image records.

    Args:
        source: The path of an image, or an open file.

    Returns:
        `ldmref`, the exact parameters as a dictionary, and `parameters`, the text where A1111
        writes its own, each if it is present; {} for other images. Other programs write JSON there
        (`ldmref.io.images.other_programs`).

    Raises:
        ImageError: There is no such file, or it is not an image.

    >>> import tempfile
    >>> from pathlib import Path
    >>> import ldmref
    >>> from ldmref.io import read_parameters, write_image
    >>> result = ldmref.modes.txt2img(ldmref.random_model("tiny"), "a cat", seed=7, steps=2)
    >>> path = Path(tempfile.mkdtemp()) / "cat.png"
    >>> write_image(path, result[0], result.params_of(0))
    >>> read_parameters(path)["ldmref"]["seed"]
    7
    """
    image = open_image(source)
    parameters = {}
    ifd = read_exif(image.getexif)
    note = ifd.get(MAKER_NOTE)
    comment = ifd.get(USER_COMMENT)
    exact = image.info.get("ldmref")
    text = image.info.get("parameters")
    if exact is None and isinstance(note, bytes) and note.startswith(NOTE_PREFIX):
        exact = note.removeprefix(NOTE_PREFIX)
    if exact is not None:
        with suppress(ValueError, TypeError, RecursionError):
            parameters["ldmref"] = json.loads(exact)
    if isinstance(text, str):
        parameters["parameters"] = text
    elif isinstance(comment, bytes | str) and (words := decode_user_comment(comment)):
        parameters["parameters"] = words
    return parameters


def read_exif(load: Callable[[], Image.Exif]) -> dict[int, Any]:
    """Return the fields of EXIF, {} if it is damaged; some write the comment outside its folder.

    Args:
        load: Returns the EXIF. Pillow raises many kinds of errors if it is damaged, and warns.
    """
    with suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exif = load()
        return {**exif, **exif.get_ifd(EXIF_IFD)}
    return {}


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
