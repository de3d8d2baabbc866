"""The capabilities of a server as JSON: models, modes, samplers, schedules, guidances, limits."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, metadata
from pathlib import PurePath
from typing import Any

from ldmref.apps.server.engine import Engine
from ldmref.apps.server.guard.hosts import is_loopback
from ldmref.apps.server.inputs import request_schema
from ldmref.apps.server.served import describe_controlnets
from ldmref.backends import get_backend
from ldmref.declare import flag_names, get_fields, schema
from ldmref.explore.preview import preview_matrix
from ldmref.models.model import LatentDiffusion
from ldmref.modes.advice import (
    can_generate,
    note_on_prompts,
    parameter_advice,
    prompts_to_try,
    unused_parameters,
)
from ldmref.modes.choices import choices_of, negative_prompt_uses
from ldmref.modes.plan import find_mode
from ldmref.modes.registry import MODES
from ldmref.modes.validation import MAX_STEPS
from ldmref.samplers import GUIDANCES, SAMPLERS, get_sampler
from ldmref.samplers.registry import ALIASES
from ldmref.samplers.sampler import Sampler
from ldmref.samplers.schedule import default_spacing, sampling_sigmas
from ldmref.samplers.spacings import FLOW_SUMMARIES, SUMMARIES
from ldmref.support.version import __version__


def describe_server(engine: Engine) -> dict[str, Any]:
    """Return the answer of `GET /v1/capabilities`."""
    limits = engine.settings
    local = is_loopback(limits.host)
    return {
        "version": __version__,
        "documentation": documentation_address(),
        "models": [
            describe_model(name, model)
            | engine.adapters.describe(name)
            | {
                "controlnets": [*describe_controlnets(engine.served.fitting(model.config))],
                "backend_reason": engine.reason,
                "load": load_arguments(model, engine.sources.get(name), local),
            }
            for name, model in engine.models.items()
        ],
        "modes": {
            name: {
                "summary": mode.summary,
                "schema": request_schema(name, engine.served),
                "flags": command_flags(name),
            }
            for name, mode in MODES.items()
        },
        **engine.templates.describe(),
        "samplers": [describe_sampler(name, sampler) for name, sampler in SAMPLERS.items()],
        "schedules": [
            {"name": name, "summary": text} for name, text in (SUMMARIES | FLOW_SUMMARIES).items()
        ],
        "guidances": [
            {
                "name": name,
                "summary": (cls.__doc__ or "").partition("\n")[0],
                "parameters": schema(cls)["properties"],
                "defaults": {key: field.default for key, field in get_fields(cls).items()},
                "source": cls.source,
            }
            for name, cls in GUIDANCES.items()
        ],
        "limits": {
            "queue": limits.queue,
            "lifetime": limits.lifetime,
            "body": limits.max_body,
            "pixels": limits.max_pixels,
            "images": limits.max_images,
        },
    }


def documentation_address() -> str:
    """Return the address of docs/README.md of this release, "" if the package does not name one."""
    try:
        urls = metadata("ldmref").get_all("Project-URL") or []
    except PackageNotFoundError:
        return ""
    named = dict(line.split(", ", 1) for line in urls)
    return named.get("Documentation", "")


def describe_model(name: str, model: LatentDiffusion) -> dict[str, Any]:
    """Return a model: sizes, defaults, choices, where it computes, prompts to try, preview."""
    config = model.config
    defaults = config.defaults
    sampler = get_sampler(config.scheduler.sampler)
    described = model.backend.describe()
    size = [defaults.width, defaults.height]
    return {
        "name": name,
        "family": config.name,
        "sha256": model.known_sha256,  # a large file takes seconds
        "modifications": [*model.modifications],
        "native_size": size,
        "one_size": defaults.one_size,
        "size_multiple": config.size_multiple,
        "modes": [mode for mode in MODES if can_generate(config, mode)],
        "defaults": {
            "steps": defaults.steps,
            "cfg_scale": defaults.cfg_scale,
            "inpaint_cfg_scale": defaults.inpaint_cfg_scale or defaults.cfg_scale,
            "sampler": sampler.name,
            "schedule": default_spacing(config.scheduler, sampler),
            "width": defaults.width,
            "height": defaults.height,
        },
        "choices": {field: list(names) for field, names in choices_of(config).items()},
        "backend": described["name"],
        "device": described["device"],
        "dtype": described["dtype"],
        "speed": described["speed"],
        "prompts": list(prompts_to_try(config)),
        "prompts_note": note_on_prompts(config),
        "advice": parameter_advice(config),
        "unused": list(unused_parameters(config)),
        "reads_guidance": config.denoiser.reads_guidance,
        "negative_prompt": negative_prompt_uses(config),
        "most_steps": min(MAX_STEPS, len(sampling_sigmas(config.scheduler))),
        "preview": describe_preview(model),
        "warnings": list(model.warnings),
    }


def describe_preview(model: LatentDiffusion) -> dict[str, Any] | None:
    """Return the linear map from latents to RGB in [0, 1], if the model has one."""
    preview = preview_matrix(model)
    if preview is None:
        return None
    return {"matrix": preview.matrix.tolist(), "bias": preview.bias.tolist()}


def describe_sampler(name: str, sampler: Sampler) -> dict[str, Any]:
    """Return a sampler with a line about it."""
    noise = "stochastic" if sampler.stochastic else "deterministic"
    evaluations = "1 evaluation" if sampler.nfe == 1 else f"{sampler.nfe} evaluations"
    return {
        "name": name,
        "summary": f"order {sampler.order}, {evaluations} per step, {noise}",
        "order": sampler.order,
        "evaluations_per_step": sampler.nfe,
        "stochastic": sampler.stochastic,
        "eta": sampler.eta,
        "defaults": sampler.defaults,
        "source": sampler.source,
        "aliases": [alias for alias, meant in ALIASES.items() if meant == name],
    }


# -- how requests are written ---------------------------------------------------------------------


# The commands declare these themselves, because they take several prompts, or another notation.
OWN_FLAGS = {
    "prompt": {"name": "-p"},
    "prompt_b": {"name": "--to"},
    "positions": {"name": "--frames", "list": "--positions"},
}
EMBEDDED = "emoji"


def command_flags(mode: str) -> dict[str, dict[str, str]]:
    """Return the flag of each parameter of a mode: its `name`, and `off` if it can be switched off.

    >>> command_flags("txt2img")["cfg_scale"]
    {'name': '--cfg'}
    """
    flags = {}
    for name, field in get_fields(find_mode(mode).request).items():
        names = flag_names(field)
        flags[name] = OWN_FLAGS.get(name, {}) if not names else {"name": names[-1]}
        if field.kind is bool and field.optional:
            flags[name] = {"name": names[0], "off": f"--no-{names[0].removeprefix('--')}"}
    return flags


def load_arguments(model: LatentDiffusion, source: str | None, local: bool) -> dict[str, str]:
    """Return the arguments with which `ldmref.load` opens a served model.

    Args:
        model: The model.
        source: The name or path by which the server opened it; None if it was not opened by one.
        local: Whether only this machine reaches the server. Other machines get a path's last part.

    Returns:
        `source`, left out for the embedded model, and `backend`, `device`, `dtype` and `speed`,
        left out if they are those of NumPy in float32.
    """
    arguments = {}
    if source not in (None, EMBEDDED):
        arguments["source"] = source if local else PurePath(source).name
    described = model.backend.describe()
    usual = get_backend("numpy", dtype="float32").describe()
    computed = {name: described[name] for name in ("device", "dtype", "speed")}
    if described["name"] != "numpy" or any(usual[name] != computed[name] for name in computed):
        arguments |= {"backend": described["name"], **computed}
    return arguments
