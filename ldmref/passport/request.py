"""What a recorded pipeline was asked for, beside what a kit asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ldmref.errors import short_repr
from ldmref.models.config import ModelConfig
from ldmref.trace.model import Trace

NAMES = {"width": "width", "height": "height", "num_inference_steps": "steps"}
SHIFTS = {"shift": "shift", "use_dynamic_shifting": "dynamic_shift"}


def other_request(port: Trace, asked: Mapping[str, Any], config: ModelConfig) -> str:
    """Return in words what a pipeline was asked for other than a kit asks; "": nothing.

    Args:
        port: The recording of a pipeline of diffusers.
        asked: The request of the kit.
        config: The configuration of the kit's model.

    >>> from ldmref.models import preset
    >>> port = Trace({}, (), {"params": {"guidance_scale": 7.0}})
    >>> other_request(port, {"cfg_scale": 5.0}, preset("sd3-medium"))
    'guidance scale 7 instead of 5'
    """
    return "; ".join(dict.fromkeys(_differences(port.manifest, asked, config)))


def other_length(port: Trace, asked: Mapping[str, Any], config: ModelConfig) -> str:
    """Return in words to how many tokens a pipeline filled up or cut texts other than a kit.

    That is no other run where padding is hidden and no text is cut.

    Args:
        port: The recording of a pipeline of diffusers.
        asked: The request of the kit.
        config: The configuration of the kit's model.

    >>> from ldmref.models import preset
    >>> port = Trace({}, (), {"request": {"max_sequence_length": 77}})
    >>> other_length(port, {"max_sequence_length": 64}, preset("z-image"))
    'texts of 77 tokens instead of 64'
    """
    requests = port.manifest.get("requests") or [port.manifest.get("request") or {}]
    last = config.text_encoders[-1]  # whose length pipelines take
    right = asked.get("max_sequence_length", last.max_position_embeddings)
    found = {request.get("max_sequence_length", right) for request in requests}
    texts = [f"texts of {length} tokens instead of {right}" for length in found - {right}]
    return "; ".join(sorted(texts))


def _differences(
    manifest: Mapping[str, Any], asked: Mapping[str, Any], config: ModelConfig
) -> Iterator[str]:
    params, last = (manifest.get(name) or {} for name in ("params", "request"))
    requests = manifest.get("requests") or [last]
    for request in requests:
        yield from _differences_of_call(request, params, asked, config)
    prompts = [text for request in requests for text in _texts(request.get("prompt"))]
    right = _texts(asked.get("prompt"))
    if len(requests) > 1:  # in any order: which noise each has shows in the latents
        prompts, right = sorted(map(str, prompts)), sorted(map(str, right))
    if prompts and prompts != right:
        yield f"prompts {short_repr(prompts)} instead of {short_repr(asked['prompt'])}"
    scheduler = (manifest.get("scheduler") or {}).get("config") or {}
    for theirs, ours in SHIFTS.items():
        right = getattr(config.scheduler, ours)
        if scheduler.get(theirs, right) != right:
            yield f"{theirs} {scheduler[theirs]} instead of {right}"


def _differences_of_call(
    request: Mapping[str, Any],
    params: Mapping[str, Any],
    asked: Mapping[str, Any],
    config: ModelConfig,
) -> Iterator[str]:
    """Yield what a call of a pipeline was asked for other than a kit asks, but for its prompts."""
    scale, expected = params.get("guidance_scale"), asked.get("cfg_scale")
    true_scale = request.get("true_cfg_scale")  # of pipelines whose networks may read the other one
    if true_scale is not None and not config.denoiser.reads_guidance:
        scale = true_scale
    elif true_scale is not None and true_scale > 1:
        yield f"true guidance scale {true_scale:g} instead of none"
    if scale is not None and expected is not None and float(scale) != float(expected):
        yield f"guidance scale {scale:g} instead of {expected:g}"
    for theirs, ours in NAMES.items():
        if request.get(theirs, asked.get(ours)) != asked.get(ours):
            yield f"{ours} {request[theirs]} instead of {asked[ours]}"
    negative, right = (_texts(x.get("negative_prompt")) for x in (request, asked))
    if any(text not in right for text in negative):  # one for all prompts, or one for each
        yield f"negative prompts {short_repr(negative)} instead of {asked['negative_prompt']!r}"


def _texts(value: object) -> list[Any]:
    """Return prompts as a list."""
    if isinstance(value, str):
        return [value]
    return list(value) if isinstance(value, list | tuple) else []
