"""JSON values of a request, read without ever opening a file or a URL that they name.

Images come as base64, several in a list, arrays as lists of numbers or as base64 of a `.npy` file,
a second model as the name of a served one, and ControlNets as objects with the name of a served one
and an image.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Any

from PIL import Image

from ldmref import modes
from ldmref.apps.server.arrays import BASE64, decode_base64, read_array
from ldmref.apps.server.bodies import check_keys, read_flag, read_mode
from ldmref.apps.server.engine import Engine
from ldmref.apps.server.served import Served
from ldmref.apps.server.task_kinds import register
from ldmref.apps.server.tasks import GenerateTask
from ldmref.declare import Field
from ldmref.errors import ImageError, LdmrefError, UsageError
from ldmref.io.images.pil import FORMATS
from ldmref.modes.control import Control, list_controls
from ldmref.modes.plan import find_mode
from ldmref.modes.plan import schema as mode_schema
from ldmref.modes.references import list_references
from ldmref.modes.registry import name_parameter
from ldmref.modes.run import Plan

NPY = {"type": "string", "contentEncoding": "base64", "contentMediaType": "application/x-npy"}
GENERATE_KEYS = ("kind", "mode", "model", "parameters", "previews")


# -- values of a mode -----------------------------------------------------------------------------


def read_values(
    mode: str,
    values: Mapping[str, Any],
    max_pixels: int,
    served: Served | None = None,
) -> dict[str, Any]:
    """Return the JSON values of a mode as `read_request` takes them.

    Args:
        mode: The name of the mode.
        values: By parameter; unknown ones are left to `read_request`, which refuses them.
        max_pixels: Pixels of an image at most.
        served: The networks that a parameter may name. None: it may name none.

    Raises:
        UsageError: There is no such mode, or a parameter cannot come as JSON.
        ImageError: An image is not base64, is damaged or too large.
    """
    fields = find_mode(mode).parameters
    read = dict(values)
    for name in [name for name in values if name in fields]:
        try:
            read[name] = read_value(fields[name], values[name], max_pixels, served or Served())
        except LdmrefError as error:
            raise name_parameter(error, name) from error.__cause__
    return read


def read_value(field: Field, value: object, max_pixels: int, served: Served) -> Any:
    """Return a JSON value of a parameter as `read_request` takes it."""
    if value is None or not field.attachment:
        return value
    if field.attachment == "image":
        return read_base64_image(field.name, value, max_pixels)
    if field.attachment == "images":
        listed = list_references(field.name, value)
        return [read_base64_image(field.name, image, max_pixels) for image in listed]
    if field.attachment == "array":
        return read_array(field.name, value)
    if field.attachment == "model":
        return served.find_model(field.name, value)
    return read_controls(value, max_pixels, served)


def read_controls(value: object, max_pixels: int, served: Served) -> list[Control]:
    """Return the controls of a request: objects with the name of a served net and an image.

    Raises:
        UsageError: The form is wrong, or the server does not have the net.
        ImageError: An image cannot be read.
    """
    found = []
    for control in list_controls(value):
        net = served.find_controlnet("control", control["net"])
        image = control.get("image")
        if image is not None:
            image = read_base64_image("control", image, max_pixels)
        found.append(Control(**{**control, "net": net, "image": image}))
    return found


def request_schema(mode: str, served: Served | None = None) -> dict[str, Any]:
    """Return the JSON schema of a mode's parameters as they come in a request.

    It is `modes.schema`, with the second notation of arrays, and with the names of `served` for
    what names a network. A server without ControlNets has no parameter for them. None: any server.
    """
    schema = mode_schema(mode)
    properties = schema["properties"]
    for name, field in find_mode(mode).parameters.items():
        if field.attachment == "array":
            properties[name]["anyOf"] = [{"type": "array"}, NPY, {"type": "null"}]
        elif field.attachment == "model" and served is not None:
            properties[name]["anyOf"] = [one_of(served.models), {"type": "null"}]
        elif field.attachment == "controlnet" and served is not None:
            if not served.controlnets:
                del properties[name]
                continue
            items = properties[name]["items"]
            named = items["properties"] | {"net": one_of(served.controlnets)}
            properties[name]["items"] = items | {"properties": named}
    return schema


def one_of(names: Iterable[str]) -> dict[str, Any]:
    """Return the schema of a name among some."""
    return {"type": "string", "enum": list(names)}


def read_base64_image(name: str, value: object, max_pixels: int) -> Image.Image:
    """Return an image from base64; its size is checked before its pixels are decoded.

    Raises:
        UsageError: It is not base64.
        ImageError: It is not PNG, JPEG or WebP, is damaged, or has too many pixels.
    """
    image = open_bytes(name, decode_base64(name, value), max_pixels)
    try:
        image.load()
    except Exception as error:  # as in `open_bytes`
        raise _damaged(name) from error
    return image


def open_bytes(name: str, data: bytes, max_pixels: int) -> Image.Image:
    """Return an image from the bytes of a file, not yet decoded.

    Raises:
        ImageError: It is not PNG, JPEG or WebP, is damaged, or has too many pixels.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise _too_large(name, "too many", max_pixels) from error
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise _damaged(name) from error
    if image.width * image.height > max_pixels:
        raise _too_large(name, f"{image.width} x {image.height}", max_pixels)
    return image


def _too_large(name: str, pixels: str, max_pixels: int) -> ImageError:
    return ImageError(
        f"{name} has {pixels} pixels, the limit is {max_pixels}",
        code="E-IMAGE-SIZE",
        hint="scale it down first",
    )


def _damaged(name: str) -> ImageError:
    return ImageError(
        f"cannot read {name} as an image",
        code="E-IMAGE",
        hint=f"allowed are intact PNG, JPEG and WebP files; {BASE64}",
    )


# -- tasks ----------------------------------------------------------------------------------------


def plan_task(
    engine: Engine,
    mode: str,
    values: Mapping[str, Any],
    model: str | None = None,
    previews: bool = True,
) -> GenerateTask:
    """Return the task of a request, checked completely; no weights are needed.

    Args:
        engine: The engine, for its models and limits.
        mode: The name of the mode.
        values: JSON values of its parameters.
        model: The name of the model; None is the default.
        previews: Whether previews may be made.

    Raises:
        LdmrefError: A value is wrong; the error says which.
    """
    return GenerateTask(plan_request(engine, mode, values, model), previews)


def plan_request(
    engine: Engine, mode: str, values: Mapping[str, Any], model: str | None = None
) -> Plan:
    """Return the checked plan; arguments and errors are those of `plan_task`."""
    found = engine.models[engine.find_model(model)]
    with engine.planning:
        read = read_values(mode, values, engine.settings.max_pixels, engine.served)
        plan = modes.plan(mode, found, **read)
    check_count(engine, len(plan.job.seeds))
    return plan


def check_count(engine: Engine, images: int) -> None:
    """Refuse a request for more images than the settings allow.

    Raises:
        UsageError: There are more than `max_images`.
    """
    if images > engine.settings.max_images:
        raise UsageError(
            f"{images} images in one request, the limit is {engine.settings.max_images}",
            code="E-COUNT",
            hint="make several requests",
        )


@register("generate")
def make_generate(engine: Engine, body: Mapping[str, Any]) -> GenerateTask:
    """Return the task of `{"mode": ..., "model": ..., "parameters": {...}, "previews": ...}`."""
    check_keys(body, GENERATE_KEYS)
    mode, parameters = read_mode(body)
    values = engine.templates.expand(parameters, engine.settings.max_images)
    return plan_task(engine, mode, values, body.get("model"), read_flag(body, "previews", True))
