"""Run records of the format "ldmref-run 1", which `ldmref record` wrote before it wrote traces.

Their tensors hold all steps; here each step becomes the calls of a trace.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ldmref.errors import CorruptModelError, short_repr
from ldmref.support.files import parse_json
from ldmref.trace.memory import KeptCalls
from ldmref.trace.model import Trace

OLD_FORMAT = "ldmref-run 1"
KEY = "ldmref"  # of the metadata
CODE = "E-RECORD"
INPUT = "input_"  # begins the names of the tensors that the run was given
REQUIRED = ("x", "x0", "sigmas", "image")
PREVIEW = {"preview_matrix", "preview_bias"}  # none or both
PREDICTIONS = {"uncond": "x0_uncond", "cond": "x0_cond"}
HINT = "a run record is a file of ldmref record, or of RunRecord.save"


def is_old_record(metadata: Mapping[str, str]) -> bool:
    """Return whether the metadata of a file are those of an old run record."""
    return KEY in metadata


def not_a_record(name: str, why: str) -> CorruptModelError:
    """Return the error about a file that is no run record."""
    return CorruptModelError(f"{name} is not a run record: {why}", code=CODE, hint=HINT)


def convert_record(
    tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str], name: str
) -> Trace:
    """Return an old run record as a trace.

    Args:
        tensors: The tensors of the file.
        metadata: Its metadata.
        name: The file, for messages.

    Raises:
        CorruptModelError: The file is damaged.
    """
    meta = _read_meta(metadata[KEY], name)
    _require_shapes(tensors, meta, name)
    levels = {"sigmas": tensors["sigmas"], "timesteps": np.asarray(_timesteps(meta), np.float64)}
    if "training_alpha_bar" in tensors:
        levels["alphas_cumprod"] = tensors["training_alpha_bar"]
    schedule = {"name": meta.get("schedule"), "sampler": meta.get("sampler")}
    schedule["steps"] = meta.get("steps")
    calls = KeptCalls()
    calls.add("schedule", {}, levels, schedule)
    for i in range(len(tensors["x0"])):
        _add_step(calls, i, tensors, meta)
    calls.add("image", {}, {"": tensors["image"][None]})
    inputs = {k.removeprefix(INPUT): x for k, x in tensors.items() if k.startswith(INPUT)}
    if inputs:
        calls.add("inputs", inputs, {})
    if {"truth", "truth_distance", "local_error"} <= {*tensors}:
        truth = {"states": tensors["truth"], "distance": tensors["truth_distance"]}
        truth["local_error"] = tensors["local_error"]
        described = meta.get("truth")
        calls.add("truth", {}, truth, described if isinstance(described, dict) else {})
    return calls.trace(_manifest(tensors, meta))


def _add_step(
    calls: KeptCalls, i: int, tensors: Mapping[str, Any], meta: Mapping[str, Any]
) -> None:
    """Add the calls of one step; predictions that were not computed are NaN in an old record."""
    sigmas = tensors["sigmas"]
    kept = {role: tensors[old][i] for role, old in PREDICTIONS.items() if old in tensors}
    inputs = {role: x[None] for role, x in kept.items() if not np.isnan(x).all()}
    inputs |= {"scale": np.float64(meta.get("cfg_scale") or 0.0), "sigma": sigmas[i]}
    guided = tensors["x0"][i][None]
    name = f"guidance.{i:03}"
    attributes = {"prediction_type": "x0"}
    calls.add(name, inputs, {"": guided}, attributes)
    if "attention" in tensors:
        maps = {"": tensors["attention"][i][None]}
        described = {"words": meta["words"]} | dict(meta.get("attention") or {})
        calls.add(f"words.{i:03}", {}, maps, described)
    inputs = {"x": tensors["x"][i][None], "sigma": sigmas[i], "sigma_next": sigmas[i + 1]}
    inputs["prediction"] = guided
    attributes |= {"i": i, "evaluations": [name]}
    calls.add(f"sampler.{i:03}", inputs, {"": tensors["x"][i + 1][None]}, attributes)


def _manifest(tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> dict[str, Any]:
    params = {"mode": meta["mode"]} | meta["params"]
    manifest = {
        "program": {"name": "ldmref", "version": str(meta.get("version", ""))},
        "model": params.get("model") or meta.get("model") or {},
        "params": params,
        "seeds": [meta["seed"]] if "seed" in meta else [],
        "complete": True,
        "branch": meta["branch"],
        "warnings": meta.get("warnings") or [],
    }
    if {*tensors} >= PREVIEW:
        matrix, bias = tensors["preview_matrix"].tolist(), tensors["preview_bias"].tolist()
        manifest["preview"] = {"matrix": matrix, "bias": bias}
    return manifest


def _read_meta(text: str, name: str) -> dict[str, Any]:
    """Return the JSON of the metadata, with the entries that this module reads."""
    meta = parse_json(text, name, CODE)
    if not isinstance(meta, dict) or meta.get("format") != OLD_FORMAT:
        found = short_repr(meta.get("format")) if isinstance(meta, dict) else "no format"
        raise not_a_record(name, f"it has {found}, and this version reads {OLD_FORMAT!r}")
    words = meta.get("words")
    params = meta.get("params")
    if not isinstance(params, dict) or not isinstance(meta.get("mode"), str):
        raise not_a_record(name, "it does not record its parameters")
    if not isinstance(meta.setdefault("branch", None), dict | None):
        raise not_a_record(name, f"its branch is {short_repr(meta['branch'])}")
    if not isinstance(meta.get("attention"), dict | None):
        raise not_a_record(name, f"its attention is {short_repr(meta['attention'])}")
    if not isinstance(words, list):
        raise not_a_record(name, "its words are wrong")
    return meta


def _timesteps(meta: Mapping[str, Any]) -> list[float]:
    found = meta.get("timesteps")
    usable = isinstance(found, list) and all(isinstance(t, int | float) for t in found)
    return [float(t) for t in found] if usable and found else []


def _require_shapes(tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any], name: str) -> None:
    """Refuse tensors that are missing or do not fit each other."""
    preview = [key for key in PREVIEW if PREVIEW & {*tensors}]
    missing = [key for key in (*REQUIRED, *preview) if key not in tensors]
    if missing:
        raise not_a_record(name, f"{missing[0]!r} is missing")
    n, *cells = tensors["x0"].shape or (0,)
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
            raise not_a_record(name, f"{key!r} has the shape {found}")
        kind = tensors[key].dtype
        if kind != np.uint8 if key == "image" else kind.kind != "f":
            raise not_a_record(name, f"{key!r} holds {kind}")
