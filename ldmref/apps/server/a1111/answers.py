"""What A1111's interface answers: images with their `info`, progress, options, stubs.

Keys: AUTOMATIC1111/stable-diffusion-webui 1.10, modules/processing.py (`Processed.js`),
modules/shared_state.py (`State.dict`) and modules/api/api.py.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from typing import Any

from ldmref.apps.a1111.names import LABELS
from ldmref.apps.server.a1111.names import make_title
from ldmref.apps.server.a1111.second_pass import IMAGE_UPSCALERS, LATENT_MODES
from ldmref.apps.server.a1111.tasks import BatchedTask
from ldmref.apps.server.a1111.translate import Translated
from ldmref.apps.server.images import preview_url
from ldmref.apps.server.jobs import ServedJob
from ldmref.io.images.infotext import infotext, parse_infotext
from ldmref.support.version import __version__

STUBS: dict[str, Any] = {  # by path: what a server without these things answers
    "upscalers": IMAGE_UPSCALERS, "latent-upscale-modes": LATENT_MODES,
    "sd-vae": [], "sd-modules": [], "loras": [],
    "embeddings": {"loaded": {}, "skipped": {}}, "scripts": {"txt2img": [], "img2img": []},
    "script-info": [], "cmd-flags": {}, "hypernetworks": [], "face-restorers": [],
    "realesrgan-models": [], "prompt-styles": [], "extensions": [],
    "memory": {"ram": {"error": "unavailable"}, "cuda": {"error": "unavailable"}},
}  # fmt: skip


def describe_result(job: ServedJob, translated: Translated) -> dict[str, Any]:
    """Return the answer to txt2img and img2img: images, parameters and info."""
    images = [base64.b64encode(image.png).decode() for image in job.images]
    return {
        "images": images if translated.send_images else [],
        "parameters": translated.echo,
        "info": json.dumps(describe_images(job, translated)),
    }


def describe_images(job: ServedJob, translated: Translated) -> dict[str, Any]:
    """Return A1111's `info`, with two entries more: `ignored` and `warnings`."""
    params = [image.params for image in job.images] or [dict(job.request) | {"seed": None}]
    first = params[0]
    seeds = [image.seed for image in job.images]
    model = first.get("model", {})
    prompts = [each["prompt"] for each in params]
    negatives = [each.get("negative_prompt", "") for each in params]
    width, height = (job.images[0].width, job.images[0].height) if job.images else (0, 0)
    subseeds = [-1] * len(seeds)
    return {
        "prompt": prompts[0],
        "all_prompts": prompts,
        "negative_prompt": negatives[0],
        "all_negative_prompts": negatives,
        "seed": seeds[0] if seeds else -1,
        "all_seeds": seeds,
        "subseed": -1,
        "all_subseeds": subseeds,
        "subseed_strength": 0,
        "width": width,
        "height": height,
        "sampler_name": LABELS.get(first["sampler"], first["sampler"]),
        "cfg_scale": first["cfg_scale"],
        "steps": first["steps"],
        "batch_size": translated.batches[0]["count"],
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": job.model,
        "sd_model_hash": (model.get("sha256") or "")[:10],
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": first.get("strength", first.get("upscale_strength")),
        "extra_generation_params": {},
        "index_of_first_image": 0,
        "infotexts": [infotext(image.params) for image in job.images],
        "styles": [],
        "job_timestamp": timestamp(job.created),
        "clip_skip": first.get("clip_skip", 0) + 1,
        "is_using_inpainting_conditioning": False,
        "version": f"ldmref {__version__}",
        "ignored": translated.ignored,
        "warnings": [*translated.notes, *job.warnings],
    }


def describe_progress(
    job: ServedJob | None, task: BatchedTask | None, with_image: bool
) -> dict[str, Any]:
    """Return the answer to GET progress, for a job that waits or runs; None if there is none."""
    state = {
        "skipped": False,
        "interrupted": False,
        "stopping_generation": False,
        "job": "",
        "job_count": 0,
        "job_timestamp": "0",
        "job_no": 0,
        "sampling_step": 0,
        "sampling_steps": 0,
    }
    answer = {"progress": 0.0, "eta_relative": 0.0, "current_image": None, "textinfo": None}
    if job is None or task is None:
        return answer | {"state": state}
    now = job.progress
    count = max(1, task.count)
    state |= {
        "skipped": task.was_skipped,
        "interrupted": task.was_interrupted,
        "job": "scripts_" + str(job.request.get("mode", "")),
        "job_count": count,
        "job_timestamp": timestamp(job.created),
        "job_no": now.get("image", 0),
        "sampling_step": now.get("step", 0),
        "sampling_steps": now.get("steps", 0),
    }
    if now:
        done = (now["image"] + now["step"] / max(1, now["steps"])) / count
        answer["progress"] = min(1.0, 0.01 + done)
        answer["eta_relative"] = now["seconds_left"] or 0.0
    if with_image and task.preview is not None:
        answer["current_image"] = preview_url(task.preview).partition(",")[2]
    return answer | {"state": state}


def describe_options(model: str, sha256: str | None) -> dict[str, Any]:
    """Return the answer to GET options: the few that clients read."""
    return {
        "sd_model_checkpoint": make_title(model, sha256),
        "sd_checkpoint_hash": sha256 or "",
        "sd_vae": "Automatic",
        "CLIP_stop_at_last_layers": 1,
        "samples_format": "png",
    }


def describe_file(text: str, items: Mapping[str, str]) -> dict[str, Any]:
    """Return the answer to png-info.

    Args:
        text: A1111's text of the image, "" if it has none.
        items: The other texts in the file.
    """
    parameters: dict[str, Any] = {}
    if text:
        parsed = parse_infotext(text)
        parameters = {"Prompt": parsed["prompt"], "Negative prompt": parsed["negative_prompt"]}
        parameters |= parsed["pairs"]
        width, _, height = str(parameters.get("Size", "")).partition("x")
        parameters |= {"Size-1": width, "Size-2": height} if height else {}
    return {"info": text, "items": dict(items), "parameters": parameters}


def timestamp(seconds: float) -> str:
    """Return a time as A1111 writes it.

    >>> len(timestamp(0.0))
    14
    """
    return time.strftime("%Y%m%d%H%M%S", time.localtime(seconds))
