"""A run record from a trace: the arrays of all steps, and the description of the run.

The arrays of a step are its states, predictions and maps. All are checked.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from ldmref.errors import CorruptModelError, LdmrefError, UsageError, short_repr
from ldmref.explore.distance import Truth
from ldmref.explore.format import CODE, RunRecord, not_a_record
from ldmref.explore.preview import PreviewMatrix, find_preview
from ldmref.io.images.pil import to_images
from ldmref.math.schedules import alpha_bar_from_sigma
from ldmref.models.validate import config_from_dict
from ldmref.modes.record import GIVEN_ARRAYS, SOURCES
from ldmref.samplers.denoiser import TO_X0, in_own_scale
from ldmref.samplers.path import PATHS, VE, NoisePath
from ldmref.trace.calls import CONSTRAIN
from ldmref.trace.memory import add_call, select_part
from ldmref.trace.model import Trace, TraceEntry
from ldmref.trace.selection import Selection

ATTENTION = ("layers", "heads", "sizes", "average", "tokens")

HALVES = ("uncond", "cond")  # predictions, in addition to the guided one
HOW = "record it with ldmref record, or trace all of its calls"
KEPT = 5  # arrays of a step: two states, x0 and its halves
MAX_STATES = 2**32  # bytes of those of all steps
NUMBERS = "fiu"  # kinds of dtypes
CALL = re.compile(r"sampler\.(\d{1,9})")


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


def _is_word(word: object) -> bool:
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
    names = (*SOURCES, *GIVEN_ARRAYS)  # a trace has those of references and ControlNets as well
    try:
        return {name: unpack_input(found[name]) for name in names if name in found}
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise arrays.bad("an image that the run was given is damaged") from error


def unpack_input(array: np.ndarray) -> Any:
    """Return an input of a run: an array, or the image whose pixels or PNG it holds."""
    if array.dtype != np.uint8:
        return array
    if array.ndim > 1:
        return Image.fromarray(array)
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


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


@dataclass(frozen=True, eq=False)
class RecordedStep:
    """One step of one image.

    Args:
        x, x_next: The states before and after it, (c, h, w) float32.
        x0: The guided prediction of its first evaluation, (c, h, w) float32.
        halves: The predictions `uncond` and `cond`, those that were computed, as `x0`.
        sigma, sigma_next: The noise levels of the states.
        timestep: The timestep of `sigma`.
        maps: The map of each word, (words, h', w') float16; None: the prompt had no part.
        described: The words, and the layers of the maps.
        path: The path of the states.
        levels: Where the step begins and ends on the curve of the run, as its trace says:
            `curve`, and pairs `signal` and `noise`. None: it does not.
    """

    x: np.ndarray
    x_next: np.ndarray
    x0: np.ndarray
    halves: Mapping[str, np.ndarray]
    sigma: float
    sigma_next: float
    timestep: float
    maps: np.ndarray | None
    described: Mapping[str, Any]
    path: NoisePath = VE
    levels: Mapping[str, Any] | None = None


class TraceArrays:
    """The checked arrays of a trace.

    Args:
        trace: The trace.
        name: Its file, for messages.
    """

    def __init__(self, trace: Trace, name: str):
        self.trace = trace
        self.name = name

    def array(self, entry: TraceEntry, side: str, role: str, kinds: str = "f") -> np.ndarray:
        """Return an array of an entry, of some kinds of numbers.

        Raises:
            CorruptModelError: It is missing, or of another kind.
        """
        named = entry.inputs if side == "input" else entry.outputs
        if role not in named:
            suffix = "" if role == side else f".{role}"
            raise self.bad(f"'{entry.name}/{side}{suffix}' is missing")
        array = np.asarray(self.trace.tensors[named[role]])
        if array.dtype.kind not in kinds:
            raise self.bad(f"'{entry.name}' holds {role!r} as {array.dtype}")
        return array

    def latents(self, entry: TraceEntry, side: str, role: str) -> np.ndarray:
        """Return latents of the only image, (c, h, w) float32.

        Raises:
            CorruptModelError: As `array`, or the shape is another one.
            UsageError: There are several images.
        """
        array = self.array(entry, side, role)
        if array.ndim == 4 and len(array) > 1:
            message = f"{self.name} cannot be explored: it is a run of {len(array)} images"
            raise UsageError(message, code=CODE, hint="record a run of one image")
        if array.ndim != 4 or not array.size:
            raise self.bad(f"{role!r} of {entry.call} has the shape {array.shape}")
        return np.asarray(array, np.float32)[0]

    def level(self, entry: TraceEntry, role: str) -> float:
        """Return the noise level that is an input of an entry.

        Raises:
            CorruptModelError: It is missing, or not a finite number from 0.
        """
        array = self.array(entry, "input", role, NUMBERS)
        if array.size != 1:
            raise self.bad(f"{role!r} of {entry.call} has the shape {array.shape}")
        sigma = float(np.ravel(array)[0])
        if not 0.0 <= sigma < math.inf:
            raise self.bad("its noise levels are not finite numbers from 0")
        return sigma

    def path(self, entry: TraceEntry) -> NoisePath:
        """Return the path of a step.

        Raises:
            CorruptModelError: It is not a known one.
        """
        name = entry.attributes.get("path", VE.name)
        if not isinstance(name, str) or name not in PATHS:
            raise self.bad(f"the path of {entry.call} is {short_repr(name)}")
        return PATHS[name]

    def levels(self, entry: TraceEntry) -> Mapping[str, Any] | None:
        """Return where a step begins and ends on the curve of its run; None if it does not say.

        Raises:
            CorruptModelError: It is not a curve with two pairs of numbers.
        """
        levels = entry.attributes.get("levels")
        if levels is None:
            return None
        try:
            pairs = [[float(x) for x in levels[key]] for key in ("signal", "noise")]
            right = all(len(pair) == 2 and all(map(math.isfinite, pair)) for pair in pairs)
            right = right and isinstance(levels["curve"], str)
        except (TypeError, KeyError, ValueError):
            right = False
        if not right:
            raise self.bad(f"the levels of {entry.call} are {short_repr(levels)}")
        return levels

    def bad(self, why: str) -> CorruptModelError:
        """Return the error about a file that is not a record."""
        return not_a_record(self.name, why)


def read_steps(arrays: TraceArrays) -> list[RecordedStep]:
    """Return the steps of a trace in their order.

    Raises:
        CorruptModelError: A step lacks something, or its arrays do not fit those of the others.
        UsageError: There are no steps, or several images.
    """
    entries = [entry for entry in arrays.trace.entries if not entry.layer]
    schedules = [e for e in entries if e.call.kind == "schedule"]
    last = schedules[-1] if schedules else None
    before = None
    found = []
    for entry in entries:
        match = CALL.fullmatch(entry.call)
        if match is not None:
            found.append((int(match[1]), entry, before or last))
        elif entry.call.kind == "schedule":
            before = entry
    if not found:
        message = f"{arrays.name} cannot be explored: it holds no steps of a sampler"
        raise UsageError(message, code=CODE, hint=HOW)
    found.sort(key=lambda step: step[0])
    total = KEPT * len(found) * arrays.latents(found[0][1], "input", "x").nbytes
    if total > MAX_STATES:  # entries may name one array again and again
        raise arrays.bad(f"its {len(found):,} steps would take {total:,} bytes")
    steps = [_read_step(arrays, k, entry, schedule) for k, (_, entry, schedule) in enumerate(found)]
    shape = steps[0].x.shape
    for step in steps:
        latents = {"x": step.x, "output": step.x_next, "x0": step.x0} | dict(step.halves)
        for role, array in latents.items():
            if array.shape != shape:
                raise arrays.bad(f"{role!r} has the shape {array.shape}")
    return steps


def _read_step(
    arrays: TraceArrays, k: int, entry: TraceEntry, schedule: TraceEntry | None
) -> RecordedStep:
    find = arrays.trace.find
    x = arrays.latents(entry, "input", "x")
    sigma = arrays.level(entry, "sigma")
    point, level = x, sigma
    if "x_at" in entry.inputs:
        point = arrays.latents(entry, "input", "x_at")
        level = arrays.level(entry, "sigma_at")
    kind = entry.attributes.get("prediction_type")
    path = arrays.path(entry)
    if "x0" in entry.inputs:
        x0 = arrays.latents(entry, "input", "x0")
    else:
        guided = arrays.latents(entry, "input", "prediction")
        x0 = _to_x0(arrays, kind, guided, point, level, path)
    halves = {}
    evaluations = entry.attributes.get("evaluations")
    first = evaluations[0] if isinstance(evaluations, list) and evaluations else ""
    guidance = find(str(first or f"guidance.{k:03}"))
    if guidance is not None:
        kind = guidance.attributes.get("prediction_type", kind)
        for role in HALVES:
            if role in guidance.inputs:
                y = arrays.latents(guidance, "input", role)
                halves[role] = _to_x0(arrays, kind, y, point, level, path)
    words = find(f"words.{k:03}")
    maps = None
    if words is not None:
        maps = arrays.array(words, "output", "output")
        if maps.ndim != 4 or not len(maps):
            raise arrays.bad(f"the maps of {words.call} have the shape {maps.shape}")
        maps = maps[0]
    return RecordedStep(
        x,
        arrays.latents(find(entry.call, CONSTRAIN) or entry, "output", "output"),
        x0,
        halves,
        sigma,
        arrays.level(entry, "sigma_next"),
        _timestep(arrays, entry, schedule),
        maps,
        {} if words is None else words.attributes,
        path,
        arrays.levels(entry),
    )


def _to_x0(
    arrays: TraceArrays, kind: object, y: np.ndarray, x: np.ndarray, sigma: float, path: NoisePath
) -> Any:
    """Return the predicted x0 of an output of the network, (c, h, w) float32."""
    if kind == "x0":
        return y
    if not isinstance(kind, str) or kind not in TO_X0:
        raise arrays.bad(f"the type of its predictions is {short_repr(kind)}")
    if y.shape != x.shape:
        raise arrays.bad(f"a prediction has the shape {y.shape}")
    xt, level = in_own_scale(kind, x.astype(np.float64), sigma, path)
    return np.asarray(TO_X0[kind](xt, y.astype(np.float64), np.float64(level)), np.float32)


def _timestep(arrays: TraceArrays, entry: TraceEntry, schedule: TraceEntry | None) -> float:
    i = entry.attributes.get("i")
    if schedule is not None and "timesteps" in schedule.outputs:
        timesteps = np.ravel(arrays.array(schedule, "output", "timesteps", NUMBERS))
        if isinstance(i, int) and 0 <= i < len(timesteps):
            return float(timesteps[i])
    raise arrays.bad(f"the timestep of {entry.call} is missing")
