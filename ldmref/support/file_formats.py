"""What a file is by its first bytes, if it is in the place of another."""

from __future__ import annotations

# First bytes of formats that are mistaken for others: what the file is, and what to do.
MAGICS = (
    (b"version https://git-lfs", "a Git LFS pointer", "run git lfs pull"),
    (b"<!doctype", "an HTML page", "it was saved instead of the file; download the file itself"),
    (b"<html", "an HTML page", "it was saved instead of the file; download the file itself"),
    (b"<?xml", "an XML document", "it was saved instead of the file; download the file itself"),
    (b"{", "a JSON document", ""),
    (b"[", "a JSON document", ""),
    (b"PK", "a zip archive", "unpack it first"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it first"),
    (b"\xfd7zxz", "an xz archive", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it first"),
    (b"Rar!", "a rar archive", "unpack it first"),
    (b"\x89png", "a PNG image", ""),
    (b"\xff\xd8\xff", "a JPEG image", ""),
    (b"GIF8", "a GIF image", ""),
    (b"RIFF", "a WebP image or a sound", ""),
    (b"%PDF", "a PDF document", ""),
    (b"GGUF", "a GGUF file", "only models are read from GGUF files"),
    (b"\x93NUMPY", "a NumPy array (.npy)", ""),
    (b"\x89HDF", "an HDF5 file", ""),
    (b"\x7fELF", "a program", ""),
    (b"#!", "a program", ""),
)


def identify_format(start: bytes) -> tuple[str, str] | None:
    """Identify a file by its first bytes: what it is, and what to do; None if not recognised.

    >>> identify_format(b"<!DOCTYPE html>")[0]
    'an HTML page'
    """
    start = start.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n").lower()
    known = ((magic.lower(), what, hint) for magic, what, hint in MAGICS)
    return next(((what, hint) for magic, what, hint in known if start.startswith(magic)), None)
