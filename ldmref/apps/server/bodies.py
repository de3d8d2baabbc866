"""The body of a request: JSON with limits, and its keys."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ldmref.apps.server.errors import BadRequest
from ldmref.errors import short_repr
from ldmref.modes.validation import code_for

if TYPE_CHECKING:
    from starlette.requests import Request

MAX_DEPTH = 16
MAX_ITEMS = 1_000_000  # commas and brackets of a request
MAX_DIGITS = 400  # of a number


async def read_request(request: Request) -> Any:
    """Return the JSON value of a request; others are served while it is parsed.

    Raises:
        BadRequest: See `read_json`.
    """
    from starlette.concurrency import run_in_threadpool

    return await run_in_threadpool(read_json, await request.body())


async def read_object(request: Request) -> dict[str, Any]:
    """Return the JSON object of a request; others are served while it is parsed.

    Raises:
        BadRequest: See `read_json` and `require_object`.
    """
    return require_object(await read_request(request))


def read_json(data: bytes) -> Any:
    """Return the JSON value of a request.

    Raises:
        BadRequest: It is not JSON, is nested too deeply, has too many items, repeats a key, or
            holds NaN, infinity or a number of hundreds of digits.
    """
    if sum(data.count(mark) for mark in b",[{") > MAX_ITEMS:
        raise BadRequest(f"the JSON has more than {MAX_ITEMS} items", code="E-JSON")
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_read_object,
            parse_constant=_refuse_constant,
            parse_float=_read_float,
            parse_int=_read_int,
        )
    except UnicodeDecodeError:
        raise BadRequest("the body is not UTF-8 text", code="E-JSON") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        if isinstance(error, json.JSONDecodeError):
            message = f"the body is not JSON: {error.msg} (line {error.lineno}, {error.colno})"
            raise BadRequest(message, code="E-JSON") from None
        raise
    _check_depth(value)
    return value


def _read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise BadRequest(f"the key {short_repr(name)} is repeated", code="E-JSON")
        values[name] = value
    return values


def _refuse_constant(text: str) -> Any:
    raise BadRequest(f"{text} is not a number of JSON", code="E-JSON")


def _read_int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise BadRequest(f"a number has {len(text)} digits", code="E-JSON")
    return int(text)


def _read_float(text: str) -> float:
    number = float(text)
    if len(text) > MAX_DIGITS or number in (float("inf"), -float("inf")):
        raise BadRequest(f"the number {short_repr(text)} is too large", code="E-JSON")
    return number


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        inner = [list(x.values()) if isinstance(x, dict) else x for x in level]
        level = [y for x in inner if isinstance(x, list) for y in x if isinstance(y, dict | list)]
        if not level:
            return
    raise _too_deep()


def _too_deep() -> BadRequest:
    return BadRequest(f"the JSON is nested more than {MAX_DEPTH} levels deep", code="E-JSON")


def as_json(value: object) -> Any:
    """Return a value as JSON can hold it: tuples as lists, NaN and infinity as null.

    Raises:
        BadRequest: It is nested too deeply.
    """
    _check_depth(value)
    return _without_nan(value)


def _without_nan(value: object) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def require_object(value: object) -> dict[str, Any]:
    """Return the body of a request, which must be a JSON object.

    Raises:
        BadRequest: It is something else.
    """
    if not isinstance(value, dict):
        raise BadRequest(f"the body must be a JSON object, not {short_repr(value)}", code="E-JSON")
    return value


def check_keys(body: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Refuse keys of a body that its kind does not have.

    Raises:
        BadRequest: There is such a key.
    """
    for key in body:
        if key not in known:
            hint = "known: " + ", ".join(known)
            raise BadRequest(f"unknown key {short_repr(key)}", code="E-KEY", hint=hint)


def read_mode(body: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the mode and the parameters of a body.

    Raises:
        BadRequest: One of them is missing or has the wrong type.
    """
    mode = body.get("mode", "txt2img")
    parameters = body.get("parameters", {})
    if not isinstance(mode, str):
        raise BadRequest(f"mode must be a text, not {short_repr(mode)}", code="E-MODE")
    if not isinstance(parameters, dict):
        message = f"parameters must be an object, not {short_repr(parameters)}"
        raise BadRequest(message, code="E-PARAMETERS")
    return mode, parameters


def read_flag(body: Mapping[str, Any], name: str, default: bool) -> bool:
    """Return a key of a body that is true or false.

    Raises:
        BadRequest: It is something else.
    """
    value = body.get(name, default)
    if not isinstance(value, bool):
        message = f"{name} must be true or false, not {short_repr(value)}"
        raise BadRequest(message, code=code_for(name))
    return value
