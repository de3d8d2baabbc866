"""The images of `generate_image`, generated in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ldmref.apps.mcp.protocol import ToolCall
from ldmref.apps.mcp.tools import Generated
from ldmref.errors import UsageError, short_repr
from ldmref.io.images.metadata import encode_png
from ldmref.io.prompt_notes import prompt_notes
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes import plan, schema
from ldmref.modes.aliases import suggest_parameter
from ldmref.modes.generate import GeneratedImage, Progress
from ldmref.modes.plan import find_mode

MODE = "txt2img"
MAX_IMAGES = 16


def image_schema(more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the schema of the arguments: those parameters of txt2img that are plain JSON.

    Args:
        more: The schemas of further parameters that the host reads from JSON, by name.
    """
    whole = schema(MODE)
    known = dict(more or {})
    plain = {
        name: known.get(name, whole["properties"][name])
        for name, field in find_mode(MODE).parameters.items()
        if not field.attachment or name in known
    }
    plain["count"] = plain["count"] | {"maximum": MAX_IMAGES}
    return whole | {"properties": plain}


def describe_model(config: ModelConfig) -> str:
    """Return a sentence about the prompts that a model understands."""
    notes = prompt_notes(config)
    return f"The model is {config.name}." if notes is None else notes.description


def generate_images(
    config: ModelConfig,
    model: Callable[[], LatentDiffusion],
    arguments: Mapping[str, Any],
    call: ToolCall,
) -> list[Generated]:
    """Generate the images of a request; everything is checked before `model` loads the weights.

    Raises:
        UsageError: An argument is not valid.
        Cancelled: The client cancelled the call.
    """
    planned = plan(MODE, config, **check_names(arguments))
    run = planned.prepare(model())
    images = []
    for event in run.generate(call.cancel):
        if isinstance(event, Progress):
            done = event.first * event.steps + event.step + 1
            call.progress(done, event.steps * event.count)
        elif isinstance(event, GeneratedImage):
            params = run.params_of(event.index)
            images.append(Generated(encode_png(event.image, params), params, run.warnings))
    return images


def check_names(
    arguments: Mapping[str, Any], more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the arguments if all of them are in the schema.

    Args:
        arguments: By name.
        more: As for `image_schema`.

    Raises:
        UsageError: One is not in the schema, or too many images are requested.
    """
    known = image_schema(more)["properties"]
    for name in arguments:
        if name not in known:
            message = f"generate_image has no argument {short_repr(name)}"
            hint = suggest_parameter(name, MODE, {MODE: known})
            raise UsageError(message, code="E-USAGE", hint=hint)
    count = arguments.get("count", 1)
    if isinstance(count, int) and count > MAX_IMAGES:
        raise UsageError(f"count must be at most {MAX_IMAGES}, not {count}", code="E-COUNT")
    return dict(arguments)
