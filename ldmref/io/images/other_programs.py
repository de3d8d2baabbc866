"""What other programs write into their images, as lines for people.

ComfyUI's graph is `{"3": {"class_type": "KSampler", "inputs": {"seed": 1, "model": ["4", 0]}}}`: an
input is a value, or a list that names another node's output, which is left out.

Fooocus, SwarmUI and mflux write JSON where A1111 writes its text: as `parameters`, or as the user
comment of EXIF. mflux repeats the main values in XMP.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html import unescape
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
JSON_KEYS = {  # a key of a JSON record -> the program that writes it
    "sui_image_params": "SwarmUI",
    "mflux_version": "mflux",
    "full_negative_prompt": "Fooocus",
    "adm_guidance": "Fooocus",
}
XMP = ("xmp", "XML:com.adobe.xmp")  # of Pillow's reader, and as a text chunk
XMP_VALUE = re.compile(r"<mflux:(\w{1,40})>([^<]{0,1000})</")
XMP_PROMPT = re.compile(r"<dc:description>(?:<[^<>]*>)*([^<]{1,20000})")


def find_programs(info: Mapping[Any, Any], text: str = "") -> dict[str, str]:
    """Return {key: program} for what other programs wrote.

    Args:
        info: The image's metadata, as Pillow reads them.
        text: The text where A1111 writes its own (`read_parameters`), which belongs to another
            program if it is JSON.
    """
    found = {key: PROGRAMS[key] for key in info if key in PROGRAMS}
    if record := read_json_record(text):
        found["parameters"] = record[0]
    if read_mflux_xmp(info):
        found["xmp"] = "mflux"
    return found


def describe_other_programs(info: Mapping[Any, Any], text: str = "") -> list[str]:
    """Return a line for each known key of an image's metadata, and for what they record."""
    lines = [
        f"also contains {key!r}, written by {program}"
        for key, program in find_programs(info, text).items()
    ]
    if record := read_json_record(text):
        lines += _describe_values(*record)
    if values := read_mflux_xmp(info):
        lines += _describe_values("mflux", values)
    return lines + describe_comfyui(info.get("prompt"))


def read_json_record(text: str) -> tuple[str, dict[str, Any]] | None:
    """Return (program, values) of a record in JSON; None for any other text.

    The program is "another program" if it is not known.

    >>> read_json_record('{"mflux_version": "0.9", "seed": 3}')
    ('mflux', {'mflux_version': '0.9', 'seed': 3})
    """
    if not text.lstrip().startswith("{"):
        return None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or not values:
        return None
    program = next((name for key, name in JSON_KEYS.items() if key in values), "another program")
    nested = values.get("sui_image_params")
    return program, nested if isinstance(nested, dict) else values


def read_mflux_xmp(info: Mapping[Any, Any]) -> dict[str, str]:
    """Return the values in mflux's XMP, {} if there is none."""
    for key in XMP:
        packet = info.get(key)
        if isinstance(packet, bytes):
            packet = packet.decode("utf-8", "replace")
        if isinstance(packet, str) and "<mflux:" in packet:
            prompt = XMP_PROMPT.search(packet)
            values = {"prompt": prompt[1]} if prompt else {}
            values |= dict(XMP_VALUE.findall(packet)[:MOST_NODES])
            return {name: unescape(value) for name, value in values.items()}
    return {}


def _describe_values(program: str, values: Mapping[str, Any]) -> list[str]:
    """Return one line with every single value of a record."""
    single = {k: v for k, v in values.items() if isinstance(v, str | int | float) and v != ""}
    listed = ", ".join(f"{name} {value}" for name, value in [*single.items()][:MOST_NODES])
    return [f"recorded by {program}, not repeated by ldmref: {listed}"]


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
