"""The parameters that an image records, from which it is generated again."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ldmref.models.model import LatentDiffusion
from ldmref.modes.control import ActiveControl
from ldmref.modes.declaration import keys_of
from ldmref.modes.guidance import guidance_record
from ldmref.modes.parameters import Txt2ImgParameters
from ldmref.modes.registry import MODES
from ldmref.modes.request import Request
from ldmref.modes.text import TextConditioning
from ldmref.version import __version__

RECORDED = keys_of(Txt2ImgParameters)  # by images of every mode


def request_params(request: Request, n: int) -> dict[str, Any]:
    """The resolved request of the first n images: JSON-able values, shared with nothing."""
    r = request
    params: dict[str, Any] = {"mode": r.mode}
    for name, parameter in (RECORDED | MODES[r.mode].parameters).items():
        value = r.values.get(name)
        if parameter.recorded and value is not None:
            params[name] = list(value) if isinstance(value, tuple) else copy.deepcopy(value)
    prompts = list(r.prompts[:n])
    negatives = list(r.negative_prompts[:n])
    alike = len({*prompts}) == 1 == len({*negatives})
    params.pop("guidance", None)
    params |= guidance_record(r.guidance)
    return params | {
        "prompt": prompts[0] if alike else prompts,
        "negative_prompt": negatives[0] if len({*negatives}) == 1 else negatives,
        "sampler": r.sampler.name,
        "seed": r.seeds[0] if n == 1 else list(r.seeds[:n]),
        "count": n if alike else 1,
    }


def run_params(
    model: LatentDiffusion,
    request: Request,
    planned: Mapping[str, Any],
    text: TextConditioning,
    controls: Sequence[ActiveControl],
    n: int,
) -> dict[str, Any]:
    """The parameters of the first n images of a run, with the model, backend and version.

    Args:
        planned: `params` of the plan.
    """
    params = dict(planned)
    params["model"] = {"name": model.config.name, "sha256": model.sha256}
    params["model"] |= copy.deepcopy(model.modifications)
    arrays = {"latents": request.latents} | dict(request.embeddings or {})
    params |= {name: digests(x) for name, x in arrays.items() if x is not None}
    if truncated := text.truncated(n):
        params["truncated"] = truncated
    if controls:
        params["control"] = [control.record for control in controls]
    params["backend"] = model.backend.describe()
    return params | {"ldmref": __version__}


def digests(arrays: np.ndarray) -> list[str]:
    """SHA-256 of each row of an array: the noise or the embedding of one image."""
    return [hashlib.sha256(one.tobytes()).hexdigest() for one in arrays]
