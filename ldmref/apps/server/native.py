"""The HTTP interface of ldmref itself: jobs, their events and results, and the capabilities.

The capabilities are models, modes, samplers, schedules, guidances and limits, as JSON.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ldmref.apps.server.bodies import read_flag, read_object
from ldmref.apps.server.engine import Engine
from ldmref.apps.server.errors import UnknownJob
from ldmref.apps.server.forms import (
    choices_of,
    negative_prompt_uses,
    note_on_prompts,
    parameter_advice,
    prompts_to_try,
    unused_parameters,
)
from ldmref.apps.server.guard.hosts import is_loopback
from ldmref.apps.server.inputs import request_schema
from ldmref.apps.server.inspect_image import inspect_image
from ldmref.apps.server.jobs import ServedJob
from ldmref.apps.server.responses import JSONResponse, add_warnings
from ldmref.apps.server.served import describe_controlnets
from ldmref.apps.server.streams import (
    await_job,
    end_unless_read,
    event_stream,
    read_event_number,
)
from ldmref.apps.server.task_kinds import make_task
from ldmref.backends import get_backend
from ldmref.declare import flag_names, get_fields, schema
from ldmref.errors import short_repr
from ldmref.explore.preview import preview_matrix
from ldmref.models.model import LatentDiffusion
from ldmref.modes.checks import can_generate
from ldmref.modes.plan import find_mode
from ldmref.modes.registry import MODES
from ldmref.modes.validation import MAX_STEPS
from ldmref.prompts.completion import complete_word, list_words
from ldmref.prompts.prompt_template import PLAIN
from ldmref.samplers import GUIDANCES, SAMPLERS, get_sampler
from ldmref.samplers.registry import ALIASES
from ldmref.samplers.sampler import Sampler
from ldmref.samplers.schedule import default_spacing, sampling_sigmas
from ldmref.samplers.spacings import FLOW_SUMMARIES, SUMMARIES
from ldmref.support.version import __version__

IMMUTABLE = {"Cache-Control": "private, max-age=31536000, immutable"}
SHORT = ("request", "images", "files", "data", "warnings")  # left out of a list of jobs
PNG = "image/png"


class NativeInterface:
    """The answers to the requests of the native interface."""

    def __init__(self, engine: Engine):
        self.engine = engine
        self._words: dict[str, list[str]] = {}

    async def submit(self, request: Request) -> Response:
        """Submit a job."""
        job = await submit_body(self.engine, request)
        if job.attended:
            end_unless_read(job)
        return JSONResponse(job.describe(), 202, {"Location": job.url})

    async def list_jobs(self, request: Request) -> Response:
        """List the jobs, the newest first."""
        return JSONResponse({"jobs": [summarise(job) for job in self.engine.jobs()]})

    async def describe(self, request: Request) -> Response:
        """Describe a job: its state, progress and results."""
        return JSONResponse(self.find(request).describe())

    async def cancel(self, request: Request) -> Response:
        """Cancel a job; one that has ended stays as it is."""
        return JSONResponse(self.engine.cancel(request.path_params["id"]).describe())

    async def events(self, request: Request) -> Response:
        """Follow a job: server-sent events up to its end."""
        return event_stream(request, self.find(request))

    async def image(self, request: Request) -> Response:
        """Get an image of a job as PNG, with its parameters in the file."""
        return send_png(self.find(request), read_index(request.path_params["index"]))

    async def file(self, request: Request) -> Response:
        """Get a file of a job."""
        return send_file(self.find(request), request.path_params["name"])

    async def generate(self, request: Request) -> Response:
        """Generate, wait, and get the first image, or with `?image=N` another one, from 0."""
        job = await submit_body(self.engine, request)
        await await_job(request, job)
        return send_result(job, read_event_number(request.query_params.get("image")))

    async def inspect(self, request: Request) -> Response:
        """Read from an image how it was made; `?model=NAME` replays one of A1111 by that model."""
        asked = self.engine.find_model(request.query_params.get("model"))
        data = await request.body()
        most = self.engine.settings.max_pixels
        found = await run_in_threadpool(inspect_image, data, most, self.engine.served, asked)
        return JSONResponse(found)

    async def capabilities(self, request: Request) -> Response:
        """List models, modes with their parameters, samplers, schedules, guidances and limits."""
        return JSONResponse(await run_in_threadpool(describe_server, self.engine))

    def words_of(self, model: str) -> list[str]:
        """Return the words of a model's vocabulary."""
        if model not in self._words:
            self._words[model] = list_words(self.engine.models[model].tokenizer, shortest=1)
        return self._words[model]

    async def words(self, request: Request) -> Response:
        """Complete a word of a prompt by those of a vocabulary: `?start=re&model=NAME`.

        `known` says whether what is there is one of them already.
        """
        model = self.engine.find_model(request.query_params.get("model"))
        start = request.query_params.get("start", "")
        known = await run_in_threadpool(self.words_of, model)
        found = complete_word(known, start) if start else []
        return JSONResponse({"words": found, "known": start.lower() in known})

    def find(self, request: Request) -> ServedJob:
        """Return the job in the path of a request."""
        return self.engine.get(request.path_params["id"])


def routes(engine: Engine) -> list[Route]:
    """Return the routes of the native interface."""
    served = NativeInterface(engine)
    job = "/v1/jobs/{id}"
    return [
        Route("/v1/jobs", served.submit, methods=["POST"]),
        Route("/v1/jobs", served.list_jobs, methods=["GET"]),
        Route(job, served.describe, methods=["GET"]),
        Route(job, served.cancel, methods=["DELETE"]),
        Route(job + "/events", served.events, methods=["GET"]),
        Route(job + "/images/{index}.png", served.image, methods=["GET"]),
        Route(job + "/files/{name}", served.file, methods=["GET"]),
        Route("/v1/generate", served.generate, methods=["POST"]),
        Route("/v1/inspect", served.inspect, methods=["POST"]),
        Route("/v1/capabilities", served.capabilities, methods=["GET"]),
        Route("/v1/words", served.words, methods=["GET"]),
    ]


async def submit_body(engine: Engine, request: Request) -> ServedJob:
    """Submit the task that the body of a request asks for.

    Raises:
        LdmrefError: The body is wrong, or the queue is full.
    """
    body = await read_object(request)
    attended = read_flag(body, "attended", False)
    body.pop("attended", None)
    model = body.get("model")
    engine.check_room(model)
    task = await run_in_threadpool(make_task, engine, body)
    job = engine.submit(task, model)
    job.attended = attended
    return job


def summarise(job: ServedJob) -> dict[str, Any]:
    """Return a job as a list of jobs shows it, with the mode and the prompt of its request."""
    described = job.describe()
    short = {key: value for key, value in described.items() if key not in SHORT}
    short |= {key: described["request"].get(key) for key in ("mode", "prompt")}
    return short | {"images": [image["url"] for image in described["images"]]}


def send_result(job: ServedJob, index: int = 0) -> Response:
    """Return an image of a job, with its seed and the warnings as headers.

    Raises:
        UnknownJob: The job has neither an image nor a file that is one.
    """
    sheets = [name for name, (media_type, _) in job.files.items() if media_type == PNG]
    if not job.images and not sheets:
        hint = f"GET {job.url} has its results"
        raise UnknownJob("the job gave no image", code="E-IMAGE", hint=hint)
    response = send_png(job, index) if job.images else send_file(job, sheets[0])
    response.headers["Cache-Control"] = "no-store"
    response.headers["ldmref-job"] = job.id
    if job.images and job.images[index].seed is not None:
        response.headers["ldmref-seed"] = str(job.images[index].seed)
    return add_warnings(response, job.warnings)


def read_index(text: str) -> int:
    """Return the index of an image from a path.

    Raises:
        UnknownJob: It is not a number, or has more digits than any index.
    """
    if not re.fullmatch("[0-9]{1,9}", text):
        raise UnknownJob(f"{short_repr(text)} is not the number of an image", code="E-IMAGE")
    return int(text)


def send_png(job: ServedJob, index: int) -> Response:
    """Return the response with an image, under a good file name.

    Raises:
        UnknownJob: The job does not have it, or not yet.
    """
    if index >= len(job.images):
        raise UnknownJob(f"the job has {len(job.images)} images so far", code="E-IMAGE")
    image = job.images[index]
    name = f"{job.request.get('mode', job.kind)}-{image.seed}-{index}.png"
    return Response(image.png, 200, IMMUTABLE | disposition(name), PNG)


def send_file(job: ServedJob, name: str) -> Response:
    """Return the response with a file of a job.

    Raises:
        UnknownJob: The job does not have it, or not yet.
    """
    if name not in job.files:
        hint = "known: " + ", ".join(job.files) if job.files else ""
        raise UnknownJob("the job does not have this file", code="E-FILE", hint=hint)
    media_type, content = job.files[name]
    return Response(content, 200, IMMUTABLE | disposition(name), media_type)


def disposition(name: str) -> dict[str, str]:
    """Return the header that names a file."""
    return {"Content-Disposition": f"inline; filename*=UTF-8''{quote(name, safe='')}"}


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
                "flow_map": engine.served.find_flow_map(name),
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
    references = model.family.references
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
        "prompt_templates": describe_templates(model),
        "advice": parameter_advice(config),
        "unused": list(unused_parameters(config)),
        "reads_guidance": config.denoiser.reads_guidance,
        "most_references": 0 if references is None else references.most,
        "negative_prompt": negative_prompt_uses(config),
        "most_steps": min(MAX_STEPS, len(sampling_sigmas(config.scheduler))),
        "preview": describe_preview(model),
        "warnings": list(model.warnings),
    }


def describe_templates(model: LatentDiffusion) -> dict[str, Any]:
    """Return what each text encoder reads around a prompt, by its name, if it is not the prompt."""
    templates = model.family.text.templates(model.config)
    return {name: asdict(template) for name, template in templates.items() if template != PLAIN}


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
