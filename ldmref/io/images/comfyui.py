"""ComfyUI's graph: the values of its nodes, with those that arrive over links.

A graph is `{"3": {"class_type": "KSampler", "inputs": {"seed": 1, "text": ["4", 0]}}}`: an input is
a value, or a list that names a node and one of its outputs. Which input of that node is the value
is not recorded. It is taken from an input of the same name, or from the only input of a node such
as `PrimitiveInt`. If the node has other inputs, which may change the value, it is named as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

MOST_NODES = 50  # that are described
MOST_LINKS = 20  # that are followed for one value
LONGEST = 20_000  # characters of a value that arrives over a link
# Parts of the names of nodes that decide how an image is made
SHOWN = """
    Sampler Sampling TextEncode Loader Latent Scheduler Sigmas Noise Guid CFG FreeU SetLastLayer
""".split()
# Inputs that models, images and the like arrive at; no value is searched for them
CARRIED = """
    model clip vae positive negative conditioning latent_image samples image images pixels mask
    noise guider sampler sigmas control_net clip_vision clip_vision_output style_model
    gligen_textbox_model upscale_model
""".split()
TEXTS = ("text", "prompt", "string", "clip_l", "clip_g", "t5xxl", "caption")  # parts of names
TEXT_INPUTS = ("value", "string", "text", "prompt")  # of a node that only holds a text
NUMBER_INPUTS = ("value", "int", "float", "number", "seed", "noise_seed")
IGNORED = {"control_after_generate"}  # what a page does with the value afterwards

Nodes = Mapping[str, Mapping[str, Any]]


def read_graph(text: object) -> dict[str, dict[str, Any]]:
    """Return the nodes of a graph by their numbers; {} if it is damaged or none.

    Args:
        text: Its JSON, or what that holds.

    >>> read_graph('{"3": {"class_type": "KSampler", "inputs": {"seed": 8}}, "4": 1}')
    {'3': {'class_type': 'KSampler', 'inputs': {'seed': 8}}}
    """
    try:
        nodes = json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        return {}
    return {
        str(number): node
        for number, node in (nodes.items() if isinstance(nodes, dict) else ())
        if isinstance(node, dict)
        and isinstance(node.get("class_type"), str)
        and isinstance(node.get("inputs"), dict)
    }


def describe_graph(text: object) -> list[str]:
    """Return a line for each sampler, text, file and setting of a graph; [] if it is damaged.

    At most 50 nodes are described. A value over a link that is in no node, because a node computes
    it, is shown as the kind of that node.

    >>> nodes = {"1": {"class_type": "RandomNoise", "inputs": {"noise_seed": ["2", 0]}},
    ...          "2": {"class_type": "PrimitiveInt", "inputs": {"value": 7}}}
    >>> describe_graph(nodes)
    ['RandomNoise: noise_seed 7']
    """
    nodes = read_graph(text)
    links = _Links(nodes)
    lines = []
    for node in nodes.values():
        kind = node["class_type"]
        if any(word in kind for word in SHOWN):
            values = (_describe_input(links, *row) for row in node["inputs"].items())
            listed = ", ".join(value for value in values if value)
            lines += [f"{kind}: {listed}"] if listed else []
        if len(lines) == MOST_NODES:
            break
    return lines


def _describe_input(links: _Links, name: str, value: object) -> str:
    """Return an input with its value, or "" for one that has no value."""
    if isinstance(value, str | int | float):
        return f"{name} {value}"
    if not is_link(value) or name in CARRIED:
        return ""
    found, through = links.follow(name, value)
    if found is not None:
        return f"{name} {found}" + (f" (through {through})" if through else "")
    return f"{name} from {through}" if through and _is_value(name) else ""


def is_link(value: object) -> bool:
    """Return whether an input is a link: a node's number and an output."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str | int)


def _is_value(name: str) -> bool:
    """Return whether an input of this name is a text or a setting in ComfyUI's own nodes."""
    settings = ("seed", "steps", "cfg", "width", "height", "denoise", "guidance", "shift")
    return any(word in name.lower() for word in (*TEXTS, *settings, "sampler_name", "scheduler"))


class _Links:
    """Values over links; each input of a node is looked up once.

    Args:
        nodes: The nodes of a graph by their numbers.
    """

    def __init__(self, nodes: Nodes):
        self.nodes = nodes
        self.found: dict[tuple[str, str], tuple[Any, str]] = {}

    def follow(self, name: str, link: Any, depth: int = 0) -> tuple[Any, str]:
        """Return (value, kind) of what arrives at an input.

        The value is None if it cannot be known; the kind is "" if the value is certain, and
        otherwise that of the node that may have changed it.
        """
        number = str(link[0])
        node = self.nodes.get(number)
        if node is None or depth == MOST_LINKS:
            return None, ""
        if (number, name) not in self.found:
            self.found[number, name] = None, node["class_type"]  # also the answer in a circle
            self.found[number, name] = self._look_up(name, node, depth)
        return self.found[number, name]

    def _look_up(self, name: str, node: Mapping[str, Any], depth: int) -> tuple[Any, str]:
        kind = node["class_type"]
        inputs = {key: value for key, value in node["inputs"].items() if key not in IGNORED}
        if kind == "StringConcatenate":
            joined = self._join(inputs, depth)
            return joined, "" if joined is not None else kind
        if len(inputs) == 1:
            return self._only_input(name, kind, inputs, depth)
        if name in inputs:
            value, through = self._value(name, inputs[name], depth)
            return value, through or kind
        if kind.startswith("Primitive") and "value" in inputs:
            return self._value(name, inputs["value"], depth)
        return None, kind

    def _only_input(
        self, name: str, kind: str, inputs: Mapping[str, Any], depth: int
    ) -> tuple[Any, str]:
        """Return the value of a node that has one input and hands it on."""
        [(key, value)] = inputs.items()
        same = kind == "Reroute" or key in (name, "value")
        if is_link(value) and (same or key.lower() in {*TEXT_INPUTS, *NUMBER_INPUTS}):
            found, through = self.follow(name, value, depth + 1)
            return found, through or ("" if same else kind)
        text = any(word in name.lower() for word in TEXTS)
        if same or key.lower() in (TEXT_INPUTS if text else NUMBER_INPUTS):
            found, through = self._value(name, value, depth)
            return found, through or ("" if found is not None else kind)
        return None, kind

    def _value(self, name: str, value: object, depth: int) -> tuple[Any, str]:
        """Return an input's own value, or that of its link."""
        if is_link(value):
            return self.follow(name, value, depth + 1)
        if isinstance(value, str):
            return _cut(value), ""
        return (value if isinstance(value, int | float) else None), ""

    def _join(self, inputs: Mapping[str, Any], depth: int) -> str | None:
        """Return what `StringConcatenate` makes; None if a part is not known."""
        names = ("string_a", "delimiter", "string_b")
        parts = [self._value("text", inputs.get(name, ""), depth) for name in names]
        if any(value is None or through for value, through in parts):
            return None
        return _cut("".join(str(value) for value, _ in parts))


def _cut(text: str) -> str:
    """Return the beginning of a long text: a graph can double one again and again."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
