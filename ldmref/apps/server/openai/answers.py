"""What OpenAI's interface answers: images, events of a stream, models.

Fields: the types `ImagesResponse`, `ImageGenPartialImageEvent`, `ImageGenCompletedEvent`, their
counterparts `ImageEdit...` and `Model` of the openai package 3.54.
"""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from ldmref.apps.server.images import FinishedImage
from ldmref.apps.server.jobs import ServedJob
from ldmref.apps.server.openai.fields import ImageOutput
from ldmref.io.images.metadata import save_image
from ldmref.models.model import LatentDiffusion
from ldmref.modes.run import Plan

ANNOUNCED = ("low", "medium", "high", "xhigh", "max")  # qualities that an answer may have
BACKGROUND = "opaque"
STARTED = int(time.time())
Usage = dict[str, Any]


def count_usage(model: LatentDiffusion, plan: Plan) -> Usage:
    """Return the usage of one image.

    Text tokens are the positions that the text encoder reads for the prompt, padding included.
    Image tokens are the latent cells of the generated image, and of the given one in edits.
    """
    job = plan.job
    text = 0
    if model.config.text_encoders:
        text = model.tokenize([job.prompts[0]], job.prompt_options).ids.size
    cells = (job.width // model.config.vae.factor) * (job.height // model.config.vae.factor)
    source = 0 if job.mode == "txt2img" else cells
    return {
        "input_tokens": text + source,
        "input_tokens_details": {"image_tokens": source, "text_tokens": text},
        "output_tokens": cells,
        "total_tokens": text + source + cells,
    }


def multiply_usage(usage: Usage, n: int) -> Usage:
    """Return the usage of n images of one request, whose input counts once."""
    output = usage["output_tokens"] * n
    total = usage["input_tokens"] + output
    details = {"image_tokens": output, "text_tokens": 0}
    return {
        **usage,
        "output_tokens": output,
        "output_tokens_details": details,
        "total_tokens": total,
    }


def describe_images(
    job: ServedJob, output: ImageOutput, usage: Usage, address: str = ""
) -> dict[str, Any]:
    """Return the answer with all images of a job.

    Args:
        job: The finished job.
        output: How the images are wanted.
        usage: That of one image.
        address: That of the server, if the client wants addresses of images.
    """
    first = job.images[0]
    if output.url:
        data = [{"url": f"{address}{job.describe_image(i)['url']}"} for i in range(len(job.images))]
    else:
        data = [{"b64_json": encode_finished(image, output)} for image in job.images]
    answer = {
        "created": int(job.created),
        "background": BACKGROUND,
        "data": data,
        "output_format": output.format,
        "size": f"{first.width}x{first.height}",
        "usage": multiply_usage(usage, len(job.images)),
    }
    return answer | ({"quality": output.quality} if output.quality in ANNOUNCED else {})


def describe_partial(
    kind: str, image: Image.Image, number: int, output: ImageOutput
) -> dict[str, Any]:
    """Return the event of an unfinished image; `kind` is image_generation or image_edit."""
    content = encode(image, None, output)
    event = describe_event(f"{kind}.partial_image", content, image.size, output)
    return event | {"partial_image_index": number}


def describe_completed(
    kind: str, image: FinishedImage, output: ImageOutput, usage: Usage
) -> dict[str, Any]:
    """Return the event of a finished image."""
    size = (image.width, image.height)
    event = describe_event(f"{kind}.completed", encode_finished(image, output), size, output)
    return event | {"usage": usage}


def describe_event(
    name: str, content: str, size: tuple[int, int], output: ImageOutput
) -> dict[str, Any]:
    """Return the fields that both events have."""
    quality = output.quality if output.quality in ANNOUNCED else "auto"
    return {
        "type": name,
        "b64_json": content,
        "background": BACKGROUND,
        "created_at": int(time.time()),
        "output_format": output.format,
        "quality": quality,
        "size": f"{size[0]}x{size[1]}",
    }


def encode_finished(image: FinishedImage, output: ImageOutput) -> str:
    """Return a finished image in base64, in the wanted format, with its parameters."""
    if output.format == "png":
        return base64.b64encode(image.png).decode()
    return encode(Image.open(io.BytesIO(image.png)).convert("RGB"), image.params, output)


def encode(image: Image.Image, params: Mapping[str, Any] | None, output: ImageOutput) -> str:
    """Return an image in base64, in the wanted format."""
    options: dict[str, Any] = {}
    if output.format != "png" and output.compression is not None:
        options = {"quality": output.compression}
        if output.format == "webp":
            options["lossless"] = False
    buffer = io.BytesIO()
    kept = None if params is None else dict(params)
    save_image(buffer, image, output.format.upper(), kept, **options)
    return base64.b64encode(buffer.getvalue()).decode()


def describe_model(name: str) -> dict[str, Any]:
    """Return a model; it was `created` when the server started."""
    return {"id": name, "object": "model", "created": STARTED, "owned_by": "ldmref"}


def describe_models(names: Sequence[str]) -> dict[str, Any]:
    """Return the list of models."""
    return {"object": "list", "data": [describe_model(name) for name in names]}


def format_sse(event: Mapping[str, Any]) -> str:
    """Return an event in the notation of server-sent events, named by its type."""
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"
