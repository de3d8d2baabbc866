"""The manifest of a trace, `trace.json`, and what it says about the trace's files.

The types are checked once, when the manifest is read. A field that is not listed may hold anything,
and null stands for a field that is missing. Judges and views read the listed ones without asking
again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ldmref.errors import CorruptModelError, LdmrefError, abbreviated, short_repr
from ldmref.samplers.denoiser import TO_X0
from ldmref.support.files import MAX_TABLE_VALUES, open_file, parse_json, read_file, shown

FORMAT = "ldmref-trace"
VERSION = 1
MANIFEST = "trace.json"
MAX_MANIFEST = 2**28  # bytes
MAX_ENTRIES = 2**19  # 1,000 steps of 500 layers
MAX_CALLS = 2**14  # each of which costs as much as the network; a run has at most 1,000 steps
CODE = "E-TRACE-FILE"
TABLES = ("params", "request", "settings", "scheduler", "selection", "backend", "digests")
BLOCK = 2**20  # bytes that are hashed at a time

LARGEST = 2**53  # whole numbers are exact in JSON up to here

Kind = tuple[str, Callable[[Any], bool]]


def read_manifest(path: Path) -> dict[str, Any]:
    """Read and check a manifest.

    Raises:
        CorruptModelError: It is not a manifest of a version that is known, or damaged.
    """
    data = read_file(path, MAX_MANIFEST, CODE)
    return check_manifest(parse_json(data, MANIFEST, CODE, most=MAX_TABLE_VALUES), path)


def check_manifest(meta: object, path: Path) -> dict[str, Any]:
    """Return the content of a manifest if it is one.

    Args:
        meta: The content.
        path: The file that holds it, for messages.

    Raises:
        CorruptModelError: It is not a manifest of a version that is known, or damaged.
    """
    if not isinstance(meta, dict) or meta.get("format", FORMAT) != FORMAT:
        raise _damaged(path, f"it is not a manifest of {FORMAT}")
    version = meta.get("version", VERSION)
    if version != VERSION:
        message = f"{shown(path)} has version {short_repr(version)}; this ldmref reads {VERSION}"
        raise CorruptModelError(message, code=CODE, hint="update ldmref, or record the trace again")
    for key in TABLES:
        if not isinstance(meta.get(key) or {}, dict):
            raise _damaged(path, f"{key!r} must be an object, not {short_repr(meta[key])}")
    problem = problem_of_fields(meta)
    if problem:
        raise _damaged(path, problem)
    digests = meta.get("digests") or {}
    if not all(isinstance(digest, str) for digest in digests.values()):
        raise _damaged(path, "'digests' must map names of files to SHA-256")
    entries = meta.get("entries", [])
    if not isinstance(entries, list):
        raise _damaged(path, f"'entries' must be a list, not {short_repr(entries)}")
    if len(entries) > MAX_ENTRIES:
        raise _damaged(path, f"it has {len(entries):,} entries, and may have {MAX_ENTRIES:,}")
    for i, entry in enumerate(entries):
        problem = _problem_of_entry(entry)
        if problem:
            raise _damaged(path, f"entry {i} {problem}")
    calls = len({entry["call"] for entry in entries})
    if calls > MAX_CALLS:
        raise _damaged(path, f"it has {calls:,} calls, and may have {MAX_CALLS:,}")
    return meta


def _problem_of_entry(entry: object) -> str:
    """Return what is wrong with an entry of a layer, "" for nothing."""
    if not isinstance(entry, dict):
        return f"must be an object, not {short_repr(entry)}"
    for key in ("call", "layer"):
        if not isinstance(entry.get(key), str):
            return f"must have {key!r} as text"
    for key in ("inputs", "outputs", "attributes"):
        if not isinstance(entry.get(key, {}), dict):
            return f"must have {key!r} as an object"
    names = [*entry.get("inputs", {}).values(), *entry.get("outputs", {}).values()]
    if not all(isinstance(name, str) for name in names):
        return "must name tensors in text"
    if not isinstance(entry.get("kind", ""), str):
        return "must have 'kind' as text"
    problem = problem_of_attributes(entry.get("attributes", {}), entry["call"])
    return problem and f"is wrong: {problem}"


def require_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Require that all files of a trace are there.

    Raises:
        CorruptModelError: Some are missing.
    """
    digests = manifest.get("digests") or {}
    missing = [name for name in digests if not (folder / Path(name).name).is_file()]
    if missing:
        message = f"{shown(folder)}: {abbreviated(missing, 5)} of its manifest is missing"
        hint = f"copy the whole folder; without {MANIFEST}, what is there counts as all of it"
        raise CorruptModelError(message, code=CODE, hint=hint)


def require_digest(path: Path, digest: str) -> None:
    """Require that a file is as it was written.

    Raises:
        CorruptModelError: It has another SHA-256.
    """
    found = hashlib.sha256()
    with open_file(path, CODE) as file:
        while block := file.read(BLOCK):
            found.update(block)
    if found.hexdigest() != digest:
        message = f"{shown(path)} was changed since it was recorded: its SHA-256 is another one"
        raise CorruptModelError(message, code=CODE, hint="copy or record the trace again")


def _damaged(path: Path, problem: str) -> LdmrefError:
    return CorruptModelError(f"{shown(path)} is damaged: {problem}", code=CODE)


def _is_number(value: Any) -> bool:
    real = isinstance(value, int | float) and not isinstance(value, bool)
    return real and abs(value) <= LARGEST and math.isfinite(value)


def _is_whole(value: object) -> bool:
    return type(value) is int and 0 <= value <= LARGEST


def _is_list_of(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(holds, value))


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_table(value: object) -> bool:
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
    "arguments": ("a list of [name, value]", lambda x: isinstance(x, list)),
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


def _problem(name: str, value: object, kind: Kind) -> str:
    what, is_one = kind
    good = value is None or is_one(value)
    return "" if good else f"{name!r} must be {what}, not {short_repr(value)}"
