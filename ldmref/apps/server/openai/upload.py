"""The form of an image edit: fields, an image, and perhaps a mask.

A form is parsed in a thread, so that other clients are served meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from ldmref.apps.server.errors import BadRequest
from ldmref.apps.server.openai.fields import make_field_error, read_form
from ldmref.errors import short_repr

MAX_FIELDS = 100
MAX_FILES = 16
CHARSETS = ("utf-8", "utf8", "us-ascii")


async def read_upload(request: Request, most: int) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the fields of a form as JSON values, and its files: `image`, and perhaps `mask`.

    Raises:
        BadRequest: The body is not a form in UTF-8.
        FieldError: A field is repeated, or an image is missing or is not a file.
    """
    check_form_type(request.headers.get("content-type", ""))
    body = await request.body()
    return await run_in_threadpool(lambda: asyncio.run(parse_upload(request.headers, body, most)))


def check_form_type(content_type: str) -> None:
    """Require a form in UTF-8: some of Python's decoders take quadratic time.

    Raises:
        BadRequest: It is something else.
    """
    if not content_type.startswith("multipart/form-data"):
        raise BadRequest("image edits take multipart/form-data", code="E-FORM")
    charset = parse_options_header(content_type)[1].get(b"charset", b"utf-8").decode("latin-1")
    if charset.lower() not in CHARSETS:
        message = f"the charset of the form must be UTF-8, not {short_repr(charset)}"
        raise BadRequest(message, code="E-FORM")


async def parse_upload(
    headers: Headers, body: bytes, most: int
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return fields and files as `read_upload` does.

    Args:
        headers: Those of the request.
        body: The form.
        most: Bytes of a field at most.
    """
    texts: dict[str, str] = {}
    files: dict[str, bytes] = {}
    form = await parse_form(headers, body, most)
    for key, value in form.multi_items():
        name = "image" if key in ("image", "image[]") else key
        if name in ("image", "mask") and not isinstance(value, UploadFile):
            raise make_field_error(key, f"{key} must be an uploaded file; URLs are not opened")
        if name in files or name in texts:
            message = "one image can be edited at a time" if name == "image" else "repeated"
            raise make_field_error(key, f"{key}: {message}")
        if isinstance(value, UploadFile):
            files[name] = value.file.read()
        else:
            texts[name] = value
    await form.close()
    for name in files.keys() - {"image", "mask"}:
        message = f"Unknown parameter: {short_repr(name)}."
        raise make_field_error(name, message, code="unknown_parameter")
    if "image" not in files:
        message = "Missing required parameter: 'image'."
        raise make_field_error("image", message, code="missing_parameter")
    return read_form(texts), files


async def parse_form(headers: Headers, body: bytes, most: int) -> FormData:
    """Parse a form; its files stay in memory, where its body is.

    Raises:
        BadRequest: The form is damaged or has too many parts.
    """

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body
        yield b""

    parser = MultiPartParser(
        headers, stream(), max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=most
    )
    parser.spool_max_size = len(body) + 1
    try:
        return await parser.parse()
    except MultiPartException as error:
        message = f"the form is damaged: {short_repr(error.message)}"
        raise BadRequest(message, code="E-FORM") from None
