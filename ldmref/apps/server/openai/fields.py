"""The fields of OpenAI's image requests: read, checked in OpenAI's terms, and told from ours.

Fields: the types `ImageGenerateParams` and `ImageEditParams` of the openai package 3.54.

An image edit is a form: fields, an image, and perhaps a mask. It is parsed in a thread, so that
other clients are served meanwhile.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from ldmref.apps.foreign import foreign_value
from ldmref.apps.server.bodies import read_json
from ldmref.apps.server.errors import BadRequest
from ldmref.errors import UsageError, did_you_mean, short_repr
from ldmref.modes.aliases import ALIASES, suggest_parameter
from ldmref.modes.registry import MODES

FORMATS = ("png", "jpeg", "webp")
QUALITIES = ("low", "medium", "high", "xhigh", "max", "auto", "standard", "hd")
MAX_IMAGES = 10
MAX_PARTIAL = 3
MAX_PROMPT = 32_000  # characters, as at OpenAI
SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")
WITHOUT_EFFECT = tuple("complexity input_fidelity moderation safety_identifier style user".split())
OWN = (
    "background", "model", "n", "output_compression", "output_format", "partial_images", "prompt",
    "quality", "response_format", "size", "stream", *WITHOUT_EFFECT,
)  # fmt: skip

MAX_FIELDS = 100
MAX_FILES = 16
CHARSETS = ("utf-8", "utf8", "us-ascii")


class FieldError(UsageError):
    """A field of a request that is wrong; `parameter` names it, as OpenAI's errors do."""


def make_field_error(parameter: str, message: str, *, code: str = "invalid_value") -> FieldError:
    """Return the error of a field."""
    error = FieldError(message, code=code)
    error.parameter = parameter
    return error


@dataclass(frozen=True)
class ImageOutput:
    """The form of an answer: the encoding of its images, and what is said about them.

    Args:
        format: png, jpeg or webp.
        compression: 0 to 100, the quality of JPEG and WebP; None for the default.
        quality: As the client asked; it has no other effect.
        url: Whether the client wants an address instead of base64.
        stream: Whether the answer is a stream of events.
        partial_images: How many unfinished images of each image are sent before it.
    """

    format: str
    compression: int | None
    quality: str
    url: bool
    stream: bool
    partial_images: int


def read_output(body: Mapping[str, Any]) -> ImageOutput:
    """Return how the images are wanted.

    Raises:
        FieldError: A value is not possible here.
    """
    choose(body, "background", ("opaque", "auto"), "images without transparency only: use opaque")
    kind = choose(body, "output_format", FORMATS, "use png, jpeg or webp") or "png"
    compression = read_whole(body, "output_compression", 0, 100)
    if compression not in (None, 100) and kind == "png":
        raise make_field_error(
            "output_compression", "output_compression needs output_format jpeg or webp"
        )
    stream = read_flag(body, "stream")
    partial = read_whole(body, "partial_images", 0, MAX_PARTIAL)
    if partial and not stream:
        raise make_field_error("partial_images", "partial_images needs stream=true")
    answer = choose(body, "response_format", ("b64_json", "url"), "use b64_json or url")
    if answer == "url" and (kind != "png" or stream):
        raise make_field_error(
            "response_format", "response_format url serves PNG, and does not stream"
        )
    quality = choose(body, "quality", QUALITIES, f"use one of {', '.join(QUALITIES)}") or "auto"
    return ImageOutput(kind, compression, quality, answer == "url", stream, partial or 0)


def read_prompt(body: Mapping[str, Any]) -> str:
    """Return the prompt, which OpenAI requires."""
    prompt = body.get("prompt")
    if prompt is None:
        raise make_field_error(
            "prompt", "Missing required parameter: 'prompt'.", code="missing_parameter"
        )
    if not isinstance(prompt, str) or len(prompt) > MAX_PROMPT:
        raise make_field_error(
            "prompt", f"prompt must be a text of at most {MAX_PROMPT} characters"
        )
    return prompt


def read_size(body: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Return width and height, None where the size is absent or "auto"."""
    size = body.get("size")
    if size in (None, "", "auto"):
        return None, None
    found = SIZE.fullmatch(size) if isinstance(size, str) else None
    if found is None:
        raise make_field_error(
            "size", f"size must be like '512x512', or 'auto', not {short_repr(size)}"
        )
    return int(found[1]), int(found[2])


def read_count(body: Mapping[str, Any]) -> int:
    """Return the number of images."""
    return read_whole(body, "n", 1, MAX_IMAGES) or 1


def read_extra(body: Mapping[str, Any], mode: str) -> dict[str, Any]:
    """Return the parameters of a mode among the fields, which other programs may have named.

    The openai package sends them with `extra_body`; `steps` and `num_inference_steps` mean the
    same.

    Raises:
        FieldError: The mode has no such parameter, or a parameter has two names.
    """
    parameters = MODES[mode].parameters
    known = [name for name, field in parameters.items() if not field.attachment]
    extra: dict[str, Any] = {}
    for name, value in body.items():
        if name in OWN or value is None:
            continue
        meant = name if name in known else ALIASES.get(name, name)
        if meant not in known or meant == "prompt":
            others = {mode: known}
            hint = did_you_mean(name, known) if meant == "prompt" else ""
            hint = hint or suggest_parameter(name, mode, others)
            raise make_field_error(
                name, f"Unknown parameter: {short_repr(name)}. {hint}", code="unknown_parameter"
            )
        if meant in extra or (meant == "count" and "n" in body):
            raise make_field_error(name, f"{meant} is given twice, also as {short_repr(name)}")
        extra[meant] = value if name in known else foreign_value(name, value)
    return extra


def choose(body: Mapping[str, Any], name: str, allowed: tuple[str, ...], hint: str) -> str | None:
    """Return one of the allowed values, None if it is absent."""
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or value not in allowed:
        raise make_field_error(name, f"Invalid value for {name}: {short_repr(value)}; {hint}")
    return value


def read_whole(body: Mapping[str, Any], name: str, low: int, high: int) -> int | None:
    """Return a whole number in a range, None if it is absent."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise make_field_error(
            name, f"{name} must be a whole number from {low} to {high}, not {short_repr(value)}"
        )
    return value


def read_flag(body: Mapping[str, Any], name: str) -> bool:
    """Return a flag, False if it is absent."""
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise make_field_error(name, f"{name} must be true or false, not {short_repr(value)}")
    return bool(value)


def read_form(form: Mapping[str, str]) -> dict[str, Any]:
    """Return the texts of a form as JSON values: numbers and flags, where texts are not expected.

    >>> read_form({"prompt": "7", "n": "2", "stream": "true", "size": "64x64"})
    {'prompt': '7', 'n': 2, 'stream': True, 'size': '64x64'}
    """
    return {name: value if name in TEXTS else _json(value) for name, value in form.items()}


TEXTS = """
    prompt negative_prompt model size user background sampler schedule safety_identifier
""".split()


def _json(text: str) -> Any:
    """Return the value of a field, under the rules of JSON in a body; otherwise its text."""
    try:
        return read_json(text.encode("utf-8", "backslashreplace"))
    except BadRequest:
        return text


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
