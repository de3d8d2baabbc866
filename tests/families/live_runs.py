"""What the conformance of families to diffusers' pipelines shares: requests, names of weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ldmref.testing import LivePipeline

SIZE = {"width": 24, "height": 16}


def live_pipeline(
    pipe: Any, folder: Path, options: Mapping[str, Any], request: Mapping[str, Any]
) -> LivePipeline:
    """Return a pipeline with the options of its call, and the request for the same image.

    Both are for two steps, of one prompt and seed, of `SIZE`, if they do not say otherwise.
    """
    call = {"prompt": "a red cat", "num_inference_steps": 2, "output_type": "np", **SIZE, **options}
    asked = {"prompt": "a red cat", "seed": 5, "rng": "torch", "steps": 2, **SIZE, **request}

    def run(pipe: Any) -> Any:
        return pipe(generator=torch.Generator().manual_seed(5), **call)

    return LivePipeline(pipe, run, asked, folder=folder)


def tensors_under(prefix: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tensors of a part, with its names: of a language model without its head."""
    start = len(prefix)
    return {name[start:]: x for name, x in state.items() if name.startswith(prefix)}
