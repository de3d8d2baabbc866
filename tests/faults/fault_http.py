"""Cases of the fault table as requests of the HTTP interface."""

from __future__ import annotations

import base64
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from fault_cases import PYTHON, Case

IMAGES = ("image", "mask")  # base64 of a file
ARRAYS = ("latents", "prompt_embeds", "negative_prompt_embeds")  # base64 of a .npy file
REFUSED = (400, 404, 413, 422, 503)


def can_express(case: Case) -> bool:
    """Return whether a request can hold the parameters of a case; a server loads no model."""
    special = case.model is not None or case.load or case.argv
    expressible = all(is_json(name, value) for name, value in case.parameters.items())
    return expressible and not special and PYTHON in case.interfaces


def is_json(name: str, value: Any) -> bool:
    """Return whether JSON has a parameter. Texts for images have their own rows."""
    if callable(value):
        return name in IMAGES
    if name in IMAGES:
        return not isinstance(value, str | np.ndarray)
    if isinstance(value, np.ndarray):
        return name in ARRAYS and value.dtype.kind == "f"
    if isinstance(value, list | tuple):
        return all(is_json(name, one) for one in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, bool | int | str | dict)


def as_json(value: Any) -> Any:
    """Return a value of Python as JSON: files and arrays in base64."""
    if isinstance(value, Path):
        return base64.b64encode(value.read_bytes()).decode()
    if isinstance(value, np.ndarray):
        file = io.BytesIO()
        np.save(file, value)
        return base64.b64encode(file.getvalue()).decode()
    return value


def post(client: Any, mode: str, parameters: dict[str, Any]) -> Any:
    """Send a request, and return the response."""
    values = {name: as_json(value) for name, value in parameters.items()}
    content = json.dumps({"mode": mode, "parameters": values})  # escapes lone surrogates
    headers = {"Content-Type": "application/json"}
    return client.post("/v1/generate", content=content, headers=headers)
