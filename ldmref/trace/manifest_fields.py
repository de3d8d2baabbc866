"""The types of what a manifest says, checked once, when it is read.

A field that is not listed may hold anything, and null stands for a field that is missing. Judges
and views read the listed ones without asking again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ldmref.errors import short_repr
from ldmref.samplers.denoiser import TO_X0

LARGEST = 2**53  # whole numbers are exact in JSON up to here

Kind = tuple[str, Callable[[Any], bool]]


def _is_number(value: Any) -> bool:
    real = isinstance(value, int | float) and not isinstance(value, bool)
    return real and abs(value) <= LARGEST and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST


def _is_list_of(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(holds, value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


TABLE: Kind = "an object", _is_table
TEXT: Kind = "text", _is_text
TEXTS: Kind = "a list of texts", _is_list_of(_is_text)
WHOLE: Kind = "a whole number", _is_whole
NUMBER: Kind = "a number", _is_number
NUMBERS: Kind = "a list of numbers", _is_list_of(_is_number)
PROMPT: Kind = "text or a list of texts", lambda x: _is_text(x) or _is_list_of(_is_text)(x)

FIELDS: dict[str, Kind] = {
    "model": TABLE,
    "model.config": TABLE,
    "params": TABLE,
    "params.prompt": PROMPT,
    "params.negative_prompt": PROMPT,
    "params.sigmas": NUMBERS,
    "params.eta": NUMBER,
    "params.guidance_rescale": NUMBER,
    "scheduler": TABLE,
    "scheduler.class": TEXT,
    "scheduler.config": TABLE,
    "selection": TABLE,
    "backend": TABLE,
    "backend.dtype": TEXT,
    "branch": TABLE,
    "digests": TABLE,
    "dtype": TEXT,
    "pipeline": TEXT,
    "missing_tensors": TEXTS,
    "unknown_names": TEXTS,
}
ATTRIBUTES: dict[str, Kind] = {  # of an entry
    "steps": WHOLE,
    "eta": NUMBER,
    "evaluations": TEXTS,
    "prediction_type": ("a type of prediction", lambda x: _is_text(x) and (not x or x in TO_X0)),
    "parameters": TEXTS,
}
OF_TRUTH: dict[str, Kind] = {"evaluations": WHOLE}  # of the call `truth`, which counts them


def problem_of_fields(meta: Mapping[str, Any]) -> str:
    """Return what is wrong with a field of a manifest, "" for nothing.

    >>> problem_of_fields({"model": {"config": 3}})
    "'model.config' must be an object, not 3"
    """
    for path, kind in FIELDS.items():
        table, _, name = path.rpartition(".")
        holder = meta.get(table) if table else meta
        problem = _problem(path, (holder or {}).get(name), kind)
        if problem:
            return problem
    return ""


def problem_of_attributes(attributes: Mapping[str, Any], call: str = "") -> str:
    """Return what is wrong with the attributes of an entry of a call, "" for nothing.

    >>> problem_of_attributes({"i": "first"})
    "'i' must be a whole number, not 'first'"
    """
    if "i" in attributes and not _is_whole(attributes["i"]):
        return f"'i' must be a whole number, not {short_repr(attributes['i'])}"
    kinds = ATTRIBUTES | (OF_TRUTH if call == "truth" else {})
    for name in kinds.keys() & attributes.keys():
        problem = _problem(name, attributes[name], kinds[name])
        if problem:
            return problem
    return ""


def _problem(name: str, value: Any, kind: Kind) -> str:
    what, is_one = kind
    good = value is None or is_one(value)
    return "" if good else f"{name!r} must be {what}, not {short_repr(value)}"
