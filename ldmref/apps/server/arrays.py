"""Bytes and arrays in JSON: base64, and lists of numbers or base64 of a `.npy` file."""

from __future__ import annotations

import base64
import binascii
import io
from typing import Any

import numpy as np

from ldmref.errors import UsageError, short_repr
from ldmref.modes.validation import code_for

MAX_ARRAY = 16 * 2**20  # bytes
MAX_HEADER = 1000  # bytes; of a .npy file
BASE64 = "paths and URLs are not opened: send the bytes of the file, as base64 in JSON"


def decode_base64(name: str, value: object) -> bytes:
    """Return the bytes of base64, plain or as `data:` URL.

    Raises:
        UsageError: It is something else, such as a path or a URL, which is never opened.
    """
    if not isinstance(value, str):
        raise UsageError(f"{name} must be base64, not {short_repr(value)}", code=code_for(name))
    text = value
    if text[:5].lower() == "data:":
        header, comma, text = text.partition(",")
        if not comma or not header.lower().endswith(";base64"):
            raise UsageError(f"the data: URL of {name} is not base64", code=code_for(name))
    text = "".join(text.split())
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise UsageError(
            f"{name} must be base64, not {short_repr(value)}",
            code=code_for(name),
            hint=BASE64,
        ) from None


def read_array(name: str, value: object) -> Any:
    """Return an array from a list of numbers, or from base64 of a .npy file.

    Raises:
        UsageError: It is something else, or too large.
    """
    if not isinstance(value, str):
        try:
            array = np.array(value, np.float32)
        except (TypeError, ValueError, OverflowError):
            array = np.zeros(0)
        if not isinstance(value, list) or not array.ndim > 1 or not array.size:
            raise _no_array(name)
        return array
    data = decode_base64(name, value)
    if len(data) > MAX_ARRAY:
        raise UsageError(f"{name} is larger than {MAX_ARRAY} bytes", code=code_for(name))
    return read_npy(name, data)


def read_npy(name: str, data: bytes) -> np.ndarray:
    """Return the array of a .npy file, whose header must not promise more than the file holds.

    Raises:
        UsageError: It is not a .npy file of floating-point numbers.
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read_header(file, max_header_size=MAX_HEADER)
        size = np.prod(shape, dtype=object) * dtype.itemsize
        if dtype.kind != "f" or size != len(data) - file.tell():
            raise ValueError
        return np.load(io.BytesIO(data), allow_pickle=False)
    except MemoryError:
        raise
    except Exception:  # NumPy reads the header as Python, whose parser raises many kinds
        raise _no_array(name) from None


def _no_array(name: str) -> UsageError:
    return UsageError(
        f"{name} must be nested lists of numbers, or base64 of a .npy file of floats",
        code=code_for(name),
    )
