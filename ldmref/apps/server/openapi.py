"""The OpenAPI 3.1 description: every route, and the parameters as the modes declare them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any

from starlette.routing import Route

from ldmref import declare
from ldmref.apps.mcp.schedules import ScheduleRequest
from ldmref.apps.server.inputs import request_schema
from ldmref.apps.server.schedules import PATH as SCHEDULES
from ldmref.apps.server.task_kinds import KINDS
from ldmref.modes.registry import MODES
from ldmref.support.version import __version__

TEXT = {"type": "string"}
WHOLE = {"type": "integer"}
ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "code": TEXT | {"description": "Stable, such as E-STEPS."},
                "message": TEXT,
                "hint": TEXT | {"description": "A suggestion, or an empty text."},
                "parameter": TEXT | {"description": "The parameter that is wrong, if it is one."},
            },
            "required": ["code", "message", "hint", "parameter"],
        }
    },
    "required": ["error"],
}
JOB = {
    "type": "object",
    "properties": {
        "id": TEXT,
        "kind": TEXT,
        "model": TEXT,
        "state": TEXT | {"enum": ["queued", "running", "done", "failed", "cancelled"]},
        "url": TEXT,
        "events": TEXT | {"description": "The URL of its server-sent events."},
        "request": {"type": "object", "description": "The parameters with all defaults."},
        "position": {"type": ["integer", "null"], "description": "Jobs that wait before it."},
        "progress": {"type": ["object", "null"]},
        "created": {"type": "number", "description": "Seconds since 1970."},
        "started": {"type": ["number", "null"]},
        "finished": {"type": ["number", "null"]},
        "images": {"type": "array", "items": {"type": "object"}},
        "files": {"type": "array", "items": {"type": "object"}},
        "data": {"type": "object"},
        "warnings": {"type": "array", "items": TEXT},
        "error": {"type": ["object", "null"]},
    },
    "required": ["id", "kind", "model", "state", "url", "events"],
}
NATIVE = {  # (method, path) -> status and media type of the answer, and its schema
    ("POST", "/v1/jobs"): ("202", "application/json", {"$ref": "#/components/schemas/Job"}),
    ("GET", "/v1/jobs/{id}"): ("200", "application/json", {"$ref": "#/components/schemas/Job"}),
    ("DELETE", "/v1/jobs/{id}"): ("200", "application/json", {"$ref": "#/components/schemas/Job"}),
    ("GET", "/v1/jobs/{id}/events"): ("200", "text/event-stream", TEXT),
    ("GET", "/v1/jobs/{id}/images/{index}.png"): ("200", "image/png", {}),
    ("GET", "/v1/jobs/{id}/files/{name}"): ("200", "application/octet-stream", {}),
    ("POST", "/v1/generate"): ("200", "image/png", {}),
    ("GET", "/"): ("200", "text/html", {}),
    ("GET", "/page/{name}"): ("200", "application/octet-stream", {}),
}
TAKES_WORK = (("POST", "/v1/jobs"), ("POST", "/v1/generate"))
TAKES_SCHEDULE = (("POST", SCHEDULES),)
TAKES_IMAGE = (("POST", "/v1/inspect"),)


def describe_interface(routes: Iterable[Route]) -> dict[str, Any]:
    """Return the OpenAPI description of routes; the summary of each is its docstring."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = re.sub(r"{(\w+):\w+}", r"{\1}", route.path)
        for method in sorted((route.methods or set()) - {"HEAD"}):
            operation = describe_operation(method, path, route)
            paths.setdefault(path, {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ldmref",
            "version": __version__,
            "description": "Generate images with latent diffusion models. A job is submitted, "
            "followed by its events, and its images are fetched.",
        },
        "paths": paths,
        "components": {
            "schemas": {
                "Error": ERROR,
                "Job": JOB,
                "Task": describe_task(),
                "Schedule": declare.schema(ScheduleRequest),
            }
            | {f"parameters-{mode}": request_schema(mode) for mode in MODES},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "basic": {"type": "http", "scheme": "basic"},
            },
        },
        "security": [{}, {"bearer": []}, {"basic": []}],
    }


def describe_operation(method: str, path: str, route: Route) -> dict[str, Any]:
    """Return the description of one method of a route."""
    key = method, path
    status, media_type, schema = NATIVE.get(key, ("200", "application/json", {}))
    operation: dict[str, Any] = {
        "summary": (inspect.getdoc(route.endpoint) or route.name).partition("\n")[0],
        "operationId": re.sub(r"\W+", "_", f"{method.lower()}{path}").strip("_"),
        "responses": {
            status: {"description": "Success", "content": {media_type: {"schema": schema}}},
            "default": {
                "description": "Refused; the status and the error say why.",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        },
    }
    names = re.findall(r"{(\w+)}", path)
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": type_of(name)}
            for name in names
        ]
    for keys, name in ((TAKES_WORK, "Task"), (TAKES_SCHEDULE, "Schedule")):
        if key in keys:
            body = {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
            operation["requestBody"] = {"required": True, "content": body}
    if key in TAKES_IMAGE:
        images = {f"image/{kind}": {"schema": {}} for kind in ("png", "jpeg", "webp")}
        operation["requestBody"] = {"required": True, "content": images}
    return operation


def type_of(name: str) -> dict[str, Any]:
    """Return the schema of a parameter of a path."""
    return WHOLE if name == "index" else TEXT


def describe_task() -> dict[str, Any]:
    """Return the schema of the body that asks for a task, with an alternative for each mode."""
    common = {
        "model": TEXT | {"description": "A name in the capabilities; the first by default."},
        "previews": {"type": "boolean", "default": True},
        "attended": {
            "type": "boolean",
            "default": False,
            "description": "Whether the job is cancelled when nobody reads its events.",
        },
        "loras": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"name": TEXT, "weight": {"type": "number", "default": 1}},
                "required": ["name"],
            },
            "description": "LoRAs of the capabilities to apply, with their weights.",
        },
        "embeddings": {
            "type": "array",
            "items": TEXT,
            "description": "Learned words of the capabilities that the prompts use.",
        },
    }
    generate = [
        {
            "type": "object",
            "properties": {
                "kind": {"const": "generate", "default": "generate"},
                "mode": {"const": mode},
                "parameters": {"$ref": f"#/components/schemas/parameters-{mode}"},
            }
            | common,
            "required": ["parameters"] if mode == "txt2img" else ["mode", "parameters"],
            "additionalProperties": False,
        }
        for mode in MODES
    ]
    others = [
        {
            "type": "object",
            "properties": {"kind": {"const": kind}},
            "required": ["kind"],
            "description": (inspect.getdoc(factory) or "").partition("\n\n")[0],
        }
        for kind, factory in KINDS.items()
        if kind != "generate"
    ]
    return {"anyOf": [*generate, *others]}
