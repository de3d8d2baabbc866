"""JSON schemas of declared dataclasses."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from ldmref.declare.fields import Check, Doc, Field, Length, Names, Range, get_fields
from ldmref.declare.reading import write

JSON_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


def schema(cls: type) -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a dataclass: an object without further keys.

    Args:
        cls: The dataclass.

    Returns:
        The schema, JSON-able.

    >>> from dataclasses import make_dataclass
    >>> from typing import Annotated
    >>> from ldmref.declare import Doc, Range, schema
    >>> steps = Annotated[int, Range(1, 1000), Doc("Sampler steps.")]
    >>> Settings = make_dataclass("Settings", [("steps", steps, 20)])
    >>> schema(Settings)["properties"]["steps"]["maximum"]
    1000
    """
    fields = get_fields(cls)
    result: dict[str, Any] = {
        "type": "object",
        "properties": {name: _field_schema(field) for name, field in fields.items()},
        "additionalProperties": False,
    }
    required = [name for name, field in fields.items() if field.required]
    return result | ({"required": required} if required else {})


def _field_schema(field: Field) -> dict[str, Any]:
    result: dict[str, Any] = _type_schema(field)
    if field.optional:
        result = {"anyOf": [result, {"type": "null"}]}
    doc = field.get(Doc)
    if doc is not None:
        result["description"] = doc.text
    if not field.required and field.default is not None:
        result["default"] = write(field.default)
    return result


def _type_schema(field: Field) -> dict[str, Any]:
    custom = field.get(Check)
    if custom is not None:
        return dict(custom.json)
    if dataclasses.is_dataclass(field.kind):
        return schema(field.kind)  # type: ignore[arg-type]
    if field.choices:
        return {"type": "string", "enum": list(field.choices)}
    limits = field.get(Range) or Range()
    bounds: dict[str, Any] = {}
    if limits.low > -math.inf:
        bounds["exclusiveMinimum" if limits.above else "minimum"] = limits.low
    if limits.high < math.inf:
        bounds["maximum"] = limits.high
    if field.kind is not tuple:
        return {"type": JSON_TYPES[field.kind]} | bounds
    names = field.get(Names)
    length = field.get(Length)
    items = {"enum": list(names.names)} if names else {"type": JSON_TYPES[field.element]} | bounds
    result: dict[str, Any] = {"type": "array", "items": items}
    if names is not None:
        result["minItems"] = 1
    if length is not None:
        result |= {"minItems": length.low, "maxItems": length.high}
    return result
