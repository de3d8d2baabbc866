"""Declare the fields of a configuration once: type, range, default and documentation.

A configuration is a frozen dataclass whose annotations carry the marks of this module:

    @dataclass(frozen=True)
    class Defaults:
        steps: Annotated[int, Range(1, 1000), Doc("Sampler steps.")] = 50

`read` builds an instance from a mapping (TOML, JSON, keyword arguments) and checks every key and
value, `verify` checks an instance that was built without it, `write` is the inverse of `read`, and
`schema` is the JSON schema (draft 2020-12). All of them raise `Invalid`, to which the caller adds
the error code of its kind of file.

Supported types are bool, int, float, str, `Literal` of strings, homogeneous tuples of these, nested
dataclasses, and each of them with `| None`, which stands for the default. Nothing is converted
except whole numbers to float and lists to tuples: "20", True and 2.5 are not steps. Values of other
types, such as arrays, have a function that checks them:

    latents: Annotated[np.ndarray | None, Check(check_noise, json={"type": "array"})] = None

`describe`, `arguments_section` and `document_fields` write the documentation of fields; the mark
`Flag` holds what the command line needs to know, and `Attachment` marks images, arrays and
ControlNets, which every interface receives in its own way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ldmref.declare.documentation import arguments_section, describe, document_fields
from ldmref.declare.fields import (
    Attachment,
    Check,
    Doc,
    Field,
    Flag,
    Formerly,
    Length,
    Names,
    Range,
    get_fields,
    read_hints,
)
from ldmref.declare.flags import flag_names, long_flag
from ldmref.declare.reading import Invalid, read, verify, write
from ldmref.declare.schema import schema
from ldmref.support.renames import find_former_names

__all__ = [
    "Attachment",
    "Check",
    "Doc",
    "Field",
    "Flag",
    "Formerly",
    "Invalid",
    "Length",
    "Names",
    "Range",
    "arguments_section",
    "describe",
    "document_fields",
    "flag_names",
    "get_fields",
    "long_flag",
    "read",
    "read_hints",
    "schema",
    "verify",
    "write",
]

if not TYPE_CHECKING:  # which would take any name for one of this package
    __getattr__ = find_former_names(__name__)
