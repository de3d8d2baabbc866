"""What other programs write into their images, as lines for people.

ComfyUI's graph is `{"3": {"class_type": "KSampler", "inputs": {"seed": 1, "model": ["4", 0]}}}`: an
input is a value, or a list that names another node's output, which is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

PROGRAMS = {  # key of an image's metadata -> the program that writes it
    "prompt": "ComfyUI",
    "workflow": "ComfyUI",
    "invokeai_metadata": "InvokeAI",
    "invokeai_graph": "InvokeAI",
    "sd-metadata": "InvokeAI",
    "Dream": "InvokeAI",
    "Comment": "NovelAI or others",
}
COMFYUI_NODES = ("Sampler", "TextEncode", "Loader", "Latent", "Scheduler", "Noise", "Guid")
MOST_NODES = 50  # that are described


def find_programs(info: Mapping[Any, Any]) -> dict[str, str]:
    """Return {key: program} for the keys of an image's metadata that are known."""
    return {key: PROGRAMS[key] for key in info if key in PROGRAMS}


def describe_other_programs(info: Mapping[Any, Any]) -> list[str]:
    """Return a line for each known key of an image's metadata, and for ComfyUI's nodes."""
    lines = [
        f"also contains {key!r}, written by {program}"
        for key, program in find_programs(info).items()
    ]
    return lines + describe_comfyui(info.get("prompt"))


def describe_comfyui(prompt: object) -> list[str]:
    """Return a line for each sampler, text and file in the graph of ComfyUI; [] if it is damaged.

    Args:
        prompt: The text of the graph. At most its first 50 nodes are described.
    """
    try:
        nodes = json.loads(prompt) if isinstance(prompt, str) else {}
    except (ValueError, RecursionError):
        return []
    lines = []
    for node in nodes.values() if isinstance(nodes, dict) else ():
        kind = node.get("class_type") if isinstance(node, dict) else None
        inputs = node.get("inputs") if isinstance(node, dict) else None
        if not isinstance(kind, str) or not isinstance(inputs, dict):
            continue
        values = {k: v for k, v in inputs.items() if isinstance(v, str | int | float)}
        if values and any(word in kind for word in COMFYUI_NODES):
            lines.append(f"{kind}: " + ", ".join(f"{k} {v}" for k, v in values.items()))
    return lines[:MOST_NODES]
