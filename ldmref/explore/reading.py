"""Run records, read from their files: every entry that the library uses is checked."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from PIL import Image

from ldmref.errors import CorruptModelError, short_repr
from ldmref.explore.distance import Truth
from ldmref.explore.format import CODE, FORMAT, INPUT, KEY, RunRecord
from ldmref.explore.preview import PreviewMatrix
from ldmref.files import check_input_path, parse_json, read_file

MAX_BYTES = 4 * 2**30
REQUIRED = ("x", "x0", "sigmas", "image")
PREVIEW = {"preview_matrix", "preview_bias"}  # none or both


def _unpack(array: np.ndarray) -> Any:
    if array.dtype != np.uint8:
        return array
    image = Image.open(io.BytesIO(array.tobytes()), formats=["PNG"])
    image.load()
    return image


def load_record(source: str | Path | bytes) -> RunRecord:
    """Read a run record.

    Args:
        source: A file, or its content.

    Returns:
        The record, as `record_run` made it.

    Raises:
        InputError: There is no such file, it is damaged, or it is not a run record.

    >>> import ldmref
    >>> from ldmref.explore import load_record, record_run
    >>> record = record_run(ldmref.random_model("tiny"), prompt="a red cat", seed=1, steps=3)
    >>> load_record(record.to_bytes())
    <RunRecord of txt2img: 'a red cat', 3 steps>
    """
    if isinstance(source, bytes):
        content = source
        name = "the run record"
    else:
        path = check_input_path(source, "the path of a run record", CODE)
        content = read_file(path, MAX_BYTES, CODE)
        name = path.name
    try:
        tensors = safetensors.numpy.load(content)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise _bad(name, "it is damaged or not a safetensors file") from error
    meta = _read_meta(content, name)
    _require_shapes(tensors, meta, name)
    try:
        inputs = {
            key.removeprefix(INPUT): _unpack(tensor)
            for key, tensor in tensors.items()
            if key.startswith(INPUT)
        }
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise _bad(name, "an image that the run was given is damaged") from error
    preview = None
    if "preview_matrix" in tensors:
        preview = PreviewMatrix(tensors["preview_matrix"], tensors["preview_bias"])
    return RunRecord(
        tensors["x"],
        tensors["x0"],
        tensors.get("x0_uncond"),
        tensors.get("x0_cond"),
        tensors["sigmas"],
        tensors.get("attention"),
        Image.fromarray(tensors["image"]),
        preview,
        tensors.get("training_alpha_bar", np.zeros(0)),
        meta,
        inputs,
        Truth.from_tensors(tensors, meta),
    )


def _bad(name: str, why: str) -> CorruptModelError:
    hint = "a run record is a file of ldmref record, or of RunRecord.save"
    return CorruptModelError(f"{name} is not a run record: {why}", code=CODE, hint=hint)


def _read_meta(content: bytes, name: str) -> dict[str, Any]:
    """Return the JSON of the metadata, with the entries that this module reads."""
    length = int.from_bytes(content[:8], "little")
    header = parse_json(content[8 : 8 + length], name, CODE)
    text = (header.get("__metadata__") or {}).get(KEY)
    if text is None:
        raise _bad(name, f"its metadata lacks {KEY!r}")
    meta = parse_json(text, name, CODE)
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        found = short_repr(meta.get("format")) if isinstance(meta, dict) else "no format"
        raise _bad(name, f"it has {found}, and this version reads {FORMAT!r}")
    words = meta.get("words")
    params = meta.get("params")
    if not isinstance(params, dict) or not isinstance(meta.get("mode"), str):
        raise _bad(name, "it does not record its parameters")
    if not isinstance(params.get("model"), dict | None):
        raise _bad(name, f"its model is {short_repr(params['model'])}")
    if not isinstance(meta.setdefault("branch", None), dict | None):
        raise _bad(name, f"its branch is {short_repr(meta['branch'])}")
    if not isinstance(words, list) or not all(_is_word(word) for word in words):
        raise _bad(name, "its words are wrong")
    return meta


def _is_word(word: Any) -> bool:
    tokens = word.get("tokens") if isinstance(word, dict) else None
    return isinstance(tokens, list) and isinstance(word.get("text"), str)


def _require_shapes(tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any], name: str) -> None:
    """Refuse tensors that are missing or do not fit each other."""
    preview = [key for key in PREVIEW if PREVIEW & tensors.keys()]
    missing = [key for key in (*REQUIRED, *preview) if key not in tensors]
    if missing:
        raise _bad(name, f"{missing[0]!r} is missing")
    n, *cells = tensors["x0"].shape
    words = len(meta["words"])
    expected: dict[str, Sequence[int | None]] = {
        "x": (n + 1, *cells),
        "x0": (n, *cells),
        "x0_uncond": (n, *cells),
        "x0_cond": (n, *cells),
        "sigmas": (n + 1,),
        "attention": (n, words, None, None),
        "image": (None, None, 3),
        "preview_matrix": (3, cells[0] if cells else None),
        "preview_bias": (3,),
        "truth": (n + 1, *cells),
        "truth_distance": (n + 1,),
        "local_error": (n,),
    }
    for key, shape in expected.items():
        found = tensors[key].shape if key in tensors else None
        if found is None:
            continue
        fits = len(found) == len(shape) and all(
            b in (None, a) for a, b in zip(found, shape, strict=True)
        )
        if not fits or len(cells) != 3:
            raise _bad(name, f"{key!r} has the shape {found}")
        kind = tensors[key].dtype
        if kind != np.uint8 if key == "image" else kind.kind != "f":
            raise _bad(name, f"{key!r} holds {kind}")
    sigmas = tensors["sigmas"]
    if not np.isfinite(sigmas).all() or sigmas.min(initial=0.0) < 0.0:
        raise _bad(name, "its noise levels are not finite numbers from 0")
