"""The record of an image, and its replay.

An image records the parameters of its request with all defaults filled in, as JSON: `record_job`
writes them before a run, `record_run` adds what only the run knows, and `select_image` keeps those
of a single image. `upgrade_record` reads the records of all versions, and `replay` turns one into
parameters of `modes.plan`. `compare_models` and `compare_inputs` say how a replay differs.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ldmref.declare import get_fields
from ldmref.errors import short_repr
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.active_control import ActiveControl
from ldmref.modes.embeddings import NAMES as EMBEDDINGS
from ldmref.modes.guidance_parameter import is_asked
from ldmref.modes.job import Job
from ldmref.modes.parameters import Unrecorded
from ldmref.modes.registry import MODES
from ldmref.modes.requests import FromPrompts, Request
from ldmref.modes.resolve import find_schedule
from ldmref.modes.text import TextConditioning
from ldmref.support.version import __version__

SOURCES = ("image", "mask", "segmentation")  # which an image does not contain
GIVEN_ARRAYS = ("latents", *EMBEDDINGS)  # of which an image records digests
CONTROL_IMAGE = "control_image"  # of which an image records the digest
REFERENCES = "references"  # of which an image records a digest each
OF_ALL_IMAGES = ("count", "batch_size")  # each image records itself alone
ONE_EACH = ("seed", "prompt", "negative_prompt")  # of which an image has one
REPLACED = {  # the parameters that a changed one also replaces
    "sampler": {"eta"},
    "steps": {"sigmas", "n_max", "n_min"},
    "schedule": {"sigmas"},
    "sigmas": {"steps", "schedule"},
    "upscale_steps": {"upscale_sigmas"},
    "upscale_strength": {"upscale_sigmas"},
    "upscale_sigmas": {"upscale_steps", "upscale_strength"},
    "negative_prompt_embeds": {"negative_prompt"},
}
PARTS = {
    "vae": "--vae",
    "text_encoders": "--text-encoder",
    "loras": "--lora",
    "ema": "--ema",
    "embeddings": "--embedding",
}


# -- what an image records ------------------------------------------------------------------------


def record_job(job: Job, request: Request, more: Mapping[str, Any], n: int) -> dict[str, Any]:
    """Return the parameters of the first n images of a job: JSON-able values, shared with nothing.

    Args:
        job: The resolved parameters.
        request: The request, for the parameters that only its mode has.
        more: Values that replace the others; None leaves a parameter out.
        n: How many images.
    """
    params: dict[str, Any] = {"mode": job.mode}
    for name, field in {**get_fields(FromPrompts), **get_fields(type(request))}.items():
        value = getattr(job, name) if hasattr(job, name) else getattr(request, name)
        if field.get(Unrecorded) is None:
            params[name] = list(value) if isinstance(value, tuple) else copy.deepcopy(value)
    params.pop("guidance", None)
    if is_asked(job.guidance):
        params["guidance"] = job.guidance.record
    prompts = list(job.prompts[:n])
    negatives = list(job.negative_prompts[:n])
    same = len({*prompts}) == 1 == len({*negatives})
    params |= {
        "prompt": prompts[0] if same else prompts,
        "negative_prompt": negatives[0] if len({*negatives}) == 1 else negatives,
        "sampler": job.sampler.name,
        "schedule": job.schedule and str(job.schedule),
        "seed": job.seeds[0] if n == 1 else list(job.seeds[:n]),
        "count": n if same else 1,
    }
    params |= copy.deepcopy(dict(more))
    return {name: value for name, value in params.items() if value is not None}


def record_run(
    planned: Mapping[str, Any],
    model: LatentDiffusion,
    job: Job,
    text: TextConditioning,
    controls: Sequence[ActiveControl],
    guide: Mapping[str, Any] | None,
    n: int,
) -> dict[str, Any]:
    """Return the parameters of the first n images of a run, with the model, backend and version.

    Args:
        planned: The result of `record_job`.
        model, job, text, controls: Of the run.
        guide: The record of its second model, if it has one.
        n: How many images.
    """
    params = dict(planned)
    params["model"] = {"name": model.config.name, "sha256": model.sha256}
    params["model"] |= copy.deepcopy(model.modifications)
    arrays = {"latents": job.latents} | dict(job.embeddings or {})
    params |= {name: digest_rows(x) for name, x in arrays.items() if x is not None}
    params |= text.record
    if truncated := text.truncated(n):
        params["truncated"] = truncated
    if controls:
        params["control"] = [control.record for control in controls]
    if guide is not None:
        params["guide"] = copy.deepcopy(dict(guide))
    if job.control_input is not None:
        params[CONTROL_IMAGE] = job.control_input.sha256
    if job.reference_inputs:
        params[REFERENCES] = [reference.sha256 for reference in job.reference_inputs]
    params["backend"] = model.backend.describe()
    return params | {"ldmref": __version__}


def digest_rows(array: np.ndarray) -> list[str]:
    """Return the SHA-256 of each row of an array: the noise or the embedding of one image."""
    return [hashlib.sha256(row.tobytes()).hexdigest() for row in array]


def select_image(params: dict[str, Any], seed: int, i: int) -> dict[str, Any]:
    """Return the parameters that generate image `i` of a run alone."""
    single = copy.deepcopy(params) | {"seed": seed, "count": 1, "index": i}
    for key in ("prompt", "negative_prompt", "truncated"):
        if isinstance(params.get(key), list):
            single[key] = params[key][i]
    for key in ("positions", *GIVEN_ARRAYS):
        if key in params:
            single[key] = params[key][i : i + 1]
    return single


# -- how an image is generated again --------------------------------------------------------------


def upgrade_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of an image of any version in one form: a request, and what made it.

    interpolate's `seed_b` becomes the second entry of `seed`. An image of `ldmref invert` records
    txt2img's parameters and, in `inverted`, those of the inversion. Its `prompt` becomes `edit`;
    `prompt` and `iterations` become those of the inversion.
    """
    upgraded = dict(record)
    if upgraded.get("mode") == "interpolate" and "seed_b" in upgraded:
        upgraded["seed"] = [upgraded.get("seed"), upgraded.pop("seed_b")]
    if upgraded.get("mode") == "invert" and "edit" not in upgraded:
        inverted = upgraded.pop("inverted", None)
        if isinstance(inverted, dict) and isinstance(inverted.get("prompt"), str):
            upgraded["edit"] = upgraded.get("prompt")
            upgraded["prompt"] = inverted["prompt"]
            upgraded["iterations"] = inverted.get("iterations", "missing")
    return upgraded


def replay(record: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters with which `modes.plan` generates a recorded image again.

    Args:
        record: From `upgrade_record`.
        changes: Parameters to use instead of the recorded ones, and the inputs that an image does
            not contain: source images, noise, embeddings, ControlNets.
    """
    gone = {*OF_ALL_IMAGES, *GIVEN_ARRAYS, CONTROL_IMAGE, REFERENCES, "guide"}.union(
        *(REPLACED.get(name, ()) for name in changes)
    )
    if find_schedule(changes.get("sampler")):
        gone.add("schedule")
    takes = MODES[record["mode"]].parameters
    kept = {name: record[name] for name in (*takes, "tile") if name in record and name not in gone}
    return kept | dict(changes)


def find_several(record: Mapping[str, Any]) -> str:
    """Return the parameter by which a record belongs to several images, or "".

    The record of a single image has one seed, prompt and position.
    """
    for name in ONE_EACH:
        if isinstance(record.get(name), list):
            return name
    positions = record.get("positions", [0.0])
    several = isinstance(positions, int) or (isinstance(positions, list) and len(positions) != 1)
    return "positions" if several else ""


def find_missing(record: Mapping[str, Any], supplied: Mapping[str, Any]) -> list[str]:
    """Return the inputs that an image was made from and that are not given.

    An image does not contain them: source images, noise, embeddings, ControlNets, a second model.
    """
    mode = record["mode"]
    missing = [n for n in SOURCES if n in MODES[mode].parameters and supplied.get(n) is None]
    if mode != "invert":
        missing += [n for n in GIVEN_ARRAYS if record.get(n) and supplied.get(n) is None]
    controls = record.get("control")
    if controls and isinstance(controls, list) and not supplied.get("control"):
        missing.append("control")
    if record.get(CONTROL_IMAGE) and supplied.get(CONTROL_IMAGE) is None:
        missing.append(CONTROL_IMAGE)
    if record.get(REFERENCES) and not supplied.get(REFERENCES):
        missing.append(REFERENCES)
    if record.get("guide") and supplied.get("guide") is None and not supplied.get("guidance"):
        missing.append("guide")
    return missing


def compare_inputs(record: Mapping[str, Any], used: Mapping[str, Any]) -> Iterator[str]:
    """Yield how ControlNets and arrays differ from those that an image records, a line for each.

    Args:
        record: Of the image.
        used: The record of the run that repeats it.
    """
    controls = record.get("control")
    others = used.get("control") or []
    for i, control in enumerate(controls if isinstance(controls, list) else ()):
        other = others[i] if i < len(others) else {}
        for key in control if isinstance(control, dict) else ():
            value = str(control[key])[:80]
            if key != "name" and control[key] != other.get(key):
                yield f"generated with another --control {i + 1}: its {key} was {value}"
    guide, other = record.get("guide"), used.get("guide")
    if isinstance(guide, dict) and other and guide.get("sha256") != other.get("sha256"):
        name = str(guide.get("name"))[:80]
        yield f"generated with another --guide: the image records {name!r}, with another digest"
    if record.get(CONTROL_IMAGE) not in (None, used.get(CONTROL_IMAGE)):
        yield "generated from another --control-image: the recorded one has another digest"
    references, others = record.get(REFERENCES), used.get(REFERENCES) or []
    for i, digest in enumerate(references if isinstance(references, list) else ()):
        if digest != (others[i] if i < len(others) else None):
            yield f"generated from another --reference {i + 1}: the recorded one has another digest"
    for name in GIVEN_ARRAYS if used["mode"] != "invert" else ():
        if record.get(name) not in (None, used.get(name)):
            flag = name.replace("_", "-")
            yield f"generated from another --{flag}: the recorded one has another digest"


def name_other_model(recorded: object, config: ModelConfig) -> str:
    """Return a hint at the model that an image records; "" if it has the name of `config`.

    Args:
        recorded: `model` of the record, as any JSON value.
        config: The configuration of the model that would generate.
    """
    name = recorded.get("name") if isinstance(recorded, dict) else None
    if not isinstance(name, str) or name in ("", config.name):
        return ""
    return f"the image was generated by the model {short_repr(name)}: give it (-m)"


def is_other_model(recorded: object, name: str, sha256: Callable[[], str]) -> bool:
    """Return whether an image records another model: by the digest, or without one by the name.

    Args:
        recorded: `model` of the record, as any JSON value. One that is not recorded is no other.
        name: The name in the configuration of the model that would generate.
        sha256: Returns the digest of its weights, which may read the whole file.
    """
    made = recorded if isinstance(recorded, dict) else {}
    digest = made.get("sha256")
    if digest and isinstance(digest, str):  # A1111's text has its beginning
        return not sha256().startswith(digest)
    recorded_name = made.get("name")
    return isinstance(recorded_name, str) and recorded_name not in ("", name)


def compare_models(recorded: object, model: LatentDiffusion) -> Iterator[str]:
    """Yield how a model differs from the one that an image records, a line for each.

    Args:
        recorded: `model` of the record.
        model: The model that generates.
    """
    if not isinstance(recorded, dict):
        return
    digest = str(recorded.get("sha256") or "")
    name = str(recorded.get("name") or "")[:80]
    if digest and not model.sha256.startswith(digest):  # A1111's text has ten digits
        yield f"generated with another model: the image records {name or digest[:64]!r}"
    elif name and not digest:
        yield f"the image records the model {name!r} without a digest, so it may be another one"
    for part, flag in PARTS.items():
        made_with = recorded.get(part)
        if made_with != model.modifications.get(part):
            text = json.dumps(made_with)[:200] if made_with else "none"
            yield f"generated with another {flag}: the image records {text}"
