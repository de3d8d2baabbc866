"""A run record from a trace: the arrays of all steps, and the description of the run."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from ldmref.errors import LdmrefError, UsageError, short_repr
from ldmref.explore.distance import Truth
from ldmref.explore.format import CODE, RunRecord
from ldmref.explore.preview import PreviewMatrix, find_preview
from ldmref.explore.steps import HOW, RecordedStep, TraceArrays, read_steps
from ldmref.io.images.pil import to_images
from ldmref.math.schedules import alpha_bar_from_sigma
from ldmref.models.validate import config_from_dict
from ldmref.trace.memory import add_call, select_part
from ldmref.trace.model import Trace
from ldmref.trace.selection import Selection

ATTENTION = ("layers", "heads", "sizes", "average", "tokens")


def view_run(trace: Trace, name: str) -> RunRecord:
    """Return the record of a traced run of one image.

    Args:
        trace: The trace, of which the record keeps `Selection.states()`.
        name: Its file, for messages.

    Raises:
        CorruptModelError: It lacks what a record holds, or its parts do not fit each other.
        UsageError: The run has several images, or no steps.
    """
    seeds = trace.manifest.get("seeds")
    if isinstance(seeds, list) and len(seeds) > 1:
        message = f"{name} cannot be explored: it is a run of {len(seeds)} images"
        raise UsageError(message, code=CODE, hint="record a run of one image")
    states = _select_states(trace)
    arrays = TraceArrays(states, name)
    steps = read_steps(arrays)
    image = _read_image(TraceArrays(trace, name))
    if states.find("image") is None:
        states = add_call(states, "image", {"": np.asarray(image)[None]}, {})
    sigmas = np.array([steps[0].sigma, *(step.sigma_next for step in steps)], np.float64)
    maps = _stack_maps(arrays, steps)
    truth = _read_truth(arrays, steps)
    meta = _describe(arrays, steps, sigmas, with_maps=maps is not None)
    return RunRecord(
        np.stack([steps[0].x, *(step.x_next for step in steps)]),
        np.stack([step.x0 for step in steps]),
        _stack_halves(steps, "uncond"),
        _stack_halves(steps, "cond"),
        sigmas,
        maps,
        image,
        _read_preview(arrays, steps[0].x.shape[0]),
        _read_training(arrays),
        meta if truth is None else meta | {"truth": truth.description},
        states,
        _read_inputs(arrays),
        truth,
    )


def _select_states(trace: Trace) -> Trace:
    """Return the part of a trace that a record keeps."""
    others = tuple(entry for entry in trace.entries if entry.call != "vae.decode")
    trace = replace(trace, entries=others)  # the finished image is kept instead
    selection = Selection.states()
    steps = [e for e in trace.entries if e.call.kind == "sampler" and not e.layer]
    if not all("prediction" in entry.inputs for entry in steps):
        selection = replace(selection, without=())  # of a program that has x0 alone
    return select_part(trace, selection)


def _stack_halves(steps: list[RecordedStep], name: str) -> np.ndarray | None:
    """Return a prediction of all steps, NaN where it was not computed; None without any."""
    if not any(name in step.halves for step in steps):
        return None
    nothing = np.full_like(steps[0].x, np.nan)
    return np.stack([step.halves.get(name, nothing) for step in steps])


def _stack_maps(arrays: TraceArrays, steps: list[RecordedStep]) -> np.ndarray | None:
    """Return the maps of all steps, 0 where the prompt had no part; None without any."""
    some = _with_maps(steps)
    if some is None or some.maps is None:
        return None
    for step in steps:
        shape = some.maps.shape if step.maps is None else step.maps.shape
        if shape != some.maps.shape or len(shape) != 3 or shape[0] != len(_words(arrays, some)):
            raise arrays.bad(f"the maps of words have the shape {shape}")
    nothing = np.zeros_like(some.maps)
    return np.stack([nothing if step.maps is None else step.maps for step in steps])


def _with_maps(steps: list[RecordedStep]) -> RecordedStep | None:
    return next((step for step in reversed(steps) if step.maps is not None), None)


def _words(arrays: TraceArrays, step: RecordedStep) -> list[dict[str, Any]]:
    words = step.described.get("words")
    if not isinstance(words, list) or not all(_is_word(word) for word in words):
        raise arrays.bad("its words are wrong")
    return words


def _is_word(word: Any) -> bool:
    if not isinstance(word, dict) or not isinstance(word.get("tokens"), list):
        return False
    return isinstance(word.get("text"), str) and isinstance(word.get("encoder", ""), str)


def _read_image(arrays: TraceArrays) -> Image.Image:
    """Return the finished image, or what the decoder returned."""
    trace = arrays.trace
    entry = trace.find("image")
    if entry is not None:
        pixels = arrays.array(entry, "output", "output", "u")
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3 or not pixels.size:
            raise arrays.bad(f"'image' has the shape {pixels.shape}")
        return Image.fromarray(np.ascontiguousarray(pixels[0]))
    decoded = trace.find("vae.decode")
    if decoded is None or trace.find("vae.decode~1") is not None:
        message = f"{arrays.name} cannot be explored: it does not hold the finished image"
        raise UsageError(message, code=CODE, hint=HOW)
    pixels = arrays.array(decoded, "output", "output")
    if pixels.ndim != 4 or pixels.shape[1] != 3 or not np.isfinite(pixels).all():
        raise arrays.bad(f"'vae.decode' has the shape {pixels.shape}, or is not finite")
    return to_images(pixels[:1])[0]


def _read_preview(arrays: TraceArrays, channels: int) -> PreviewMatrix | None:
    """Return the linear preview that the manifest holds, or that of its model."""
    described = arrays.trace.manifest.get("preview")
    if described is None:
        config = _table(arrays.trace.manifest.get("model")).get("config")
        try:
            return find_preview(config_from_dict(config).vae) if config else None
        except LdmrefError:
            return None
    try:
        matrix = np.asarray(described["matrix"], np.float32)
        bias = np.asarray(described["bias"], np.float32)
    except (TypeError, ValueError, KeyError) as error:
        raise arrays.bad("its preview is damaged") from error
    if matrix.shape != (3, channels) or bias.shape != (3,):
        raise arrays.bad(f"its preview has the shapes {matrix.shape} and {bias.shape}")
    return PreviewMatrix(matrix, bias)


def _read_training(arrays: TraceArrays) -> np.ndarray:
    entry = arrays.trace.find("schedule")
    if entry is None or "alphas_cumprod" not in entry.outputs:
        return np.zeros(0)
    return np.ravel(arrays.array(entry, "output", "alphas_cumprod"))


def _read_inputs(arrays: TraceArrays) -> dict[str, Any]:
    entry = arrays.trace.find("inputs")
    found = {} if entry is None else arrays.trace.read_inputs(entry)
    try:
        return {name: unpack_input(array) for name, array in found.items()}
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise arrays.bad("an image that the run was given is damaged") from error


def unpack_input(array: np.ndarray) -> Any:
    """Return an input of a run: an array, or the image whose PNG it holds."""
    if array.dtype != np.uint8:
        return array
    image = Image.open(io.BytesIO(array.tobytes()), formats=["PNG"])
    image.load()
    return image


def _read_truth(arrays: TraceArrays, steps: list[RecordedStep]) -> Truth | None:
    entry = arrays.trace.find("truth")
    if entry is None:
        return None
    n = len(steps)
    shapes = {"states": (n + 1, *steps[0].x.shape), "distance": (n + 1,), "local_error": (n,)}
    found = {role: arrays.array(entry, "output", role) for role in shapes}
    for role, shape in shapes.items():
        if found[role].shape != shape:
            raise arrays.bad(f"{role!r} of the truth line has the shape {found[role].shape}")
    return Truth(**found, description=dict(entry.attributes))


def _describe(
    arrays: TraceArrays, steps: list[RecordedStep], sigmas: np.ndarray, with_maps: bool
) -> dict[str, Any]:
    """Return the description of the run, JSON-able."""
    manifest = arrays.trace.manifest
    params = manifest.get("params")
    if not isinstance(params, dict) or not isinstance(params.get("mode"), str):
        raise arrays.bad("it does not record its parameters")
    if not isinstance(params.get("model"), dict | None):
        raise arrays.bad(f"its model is {short_repr(params['model'])}")
    if not isinstance(manifest.get("branch"), dict | None):
        raise arrays.bad(f"its branch is {short_repr(manifest['branch'])}")
    path = steps[0].path
    ratios = np.array([path.ratio(float(sigma)) for sigma in sigmas])
    schedules = [e for e in arrays.trace.entries if e.call.kind == "schedule"]
    last = schedules[-1].attributes if schedules else {}
    words = _with_maps(steps)
    seeds = manifest.get("seeds")
    warnings = manifest.get("warnings")
    return {
        "version": _table(manifest.get("program")).get("version"),
        "mode": params["mode"],
        "params": params,
        "steps": len(steps),
        "sampler": last.get("sampler"),
        "schedule": last.get("name"),
        "cfg_scale": params.get("cfg_scale"),
        "seed": seeds[0] if isinstance(seeds, list) and seeds else params.get("seed"),
        "timesteps": [step.timestep for step in steps],
        "path": path.name,
        "alpha_bar": [float(alpha_bar_from_sigma(ratio)) for ratio in ratios],
        "snr": [None if ratio == 0.0 else float(ratio**-2.0) for ratio in ratios],
        "levels": _stack_levels(steps),
        "words": _words(arrays, words) if words is not None and with_maps else [],
        "attention": (
            {key: words.described.get(key) for key in ATTENTION}
            if words is not None and with_maps
            else None
        ),
        "model": params.get("model"),
        "branch": manifest.get("branch"),
        "warnings": warnings if isinstance(warnings, list) else [],
    }


def _stack_levels(steps: list[RecordedStep]) -> dict[str, Any] | None:
    """Return the points of all states on the curve of the run; None if its steps do not say."""
    levels = [step.levels for step in steps if step.levels is not None]
    if len(levels) < len(steps):
        return None
    stacked = {
        key: [levels[0][key][0], *(pair[key][1] for pair in levels)] for key in ("signal", "noise")
    }
    return {"curve": levels[0]["curve"], **stacked}


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
