"""Dumps of the tensors of an exported ONNX file: Polygraphy's JSON, and names without a call.

`polygraphy run FILE --onnxrt --onnx-outputs mark all --save-outputs outputs.json` writes every
tensor of a model, and `--save-inputs inputs.json` what it was given: base64 of `.npy` files.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldmref.errors import CorruptModelError
from ldmref.models.family import family_of
from ldmref.models.presets import list_presets
from ldmref.support.files import MAX_TABLE_VALUES, parse_json, read_file, shown
from ldmref.trace.manifest import CODE

MAX_DUMP = 2**33  # bytes
INTERNAL = re.compile(r"[vc]\d+")  # tensors of an exported graph that are no layer's output
LAYER = re.compile(r"(?P<layer>[^/]+)/output(:\d+)?")


def is_polygraphy(start: bytes) -> bool:
    """Return whether a file with this beginning may be one of Polygraphy's: JSON."""
    return start.lstrip()[:1] in (b"{", b"[")


def read_polygraphy(paths: Iterable[Path]) -> dict[str, np.ndarray]:
    """Return the tensors of files of Polygraphy by the names of a trace.

    Args:
        paths: Files of `--save-outputs` and `--save-inputs` of the same run.

    Raises:
        CorruptModelError: A file is damaged, or is none of Polygraphy's.
    """
    iterations: list[dict[str, np.ndarray]] = []
    for path in paths:
        for i, tensors in enumerate(_read_iterations(path)):
            if i == len(iterations):
                iterations.append({})
            iterations[i] |= tensors
    found: dict[str, np.ndarray] = {}
    for i, tensors in enumerate(iterations):
        names = name_tensors(tensors, i) or {}
        found |= {names.get(name, name): x for name, x in tensors.items() if is_layer(name)}
    return found


def is_layer(name: str) -> bool:
    """Return whether a name of an exported graph is more than that of an internal tensor."""
    return INTERNAL.fullmatch(name) is None


def name_tensors(names: Iterable[str], number: int = 0) -> dict[str, str] | None:
    """Return the names in a trace of the tensors of one network; None if they are no network's.

    Args:
        names: Names of an exported graph: `LAYER/output`, `sample`, `out_sample`.
        number: How many runs of the network came before.

    >>> name_tensors(["conv_in/output", "out_sample"], 3)
    {'conv_in/output': 'unet.003/conv_in/output', 'out_sample': 'unet.003//output'}
    """
    listed = list(names)
    layers = {name: m["layer"] for name in listed if (m := LAYER.fullmatch(name)) is not None}
    best, most = None, 0
    for network in list_graph_networks():
        fitting = sum(layer.startswith(network.layers) for layer in layers.values())
        score = 2 * fitting + len(set(listed) & set(network.ends))
        if score > most and (fitting or not layers) and (network.numbered or fitting):
            best, most = network, score
    if best is None:
        return None
    call, ends = best.call, best.ends
    numbered = f"{call}.{number:03}" if best.numbered else f"{call}~{number}" if number else call
    found = {name: f"{numbered}/{layer}/output" for name, layer in layers.items()}
    return found | {name: f"{numbered}//{ends[name]}" for name in listed if name in ends}


class GraphNetwork(NamedTuple):
    """A network as an exported graph.

    Attributes:
        call: The name of its calls.
        numbered: Whether a run calls it once per step.
        layers: How the names of its layers begin.
        ends: The names in a trace of its inputs and outputs, by those of the graph.
    """

    call: str
    numbered: bool
    layers: tuple[str, ...]
    ends: dict[str, str]


@cache
def list_graph_networks() -> list[GraphNetwork]:
    """Return the networks of all families, as their presets have them together."""
    found: dict[str, GraphNetwork] = {}
    for config in list_presets().values():
        for network in family_of(config).networks(config):
            ends = {x.exported or x.role: f"input.{x.role}" for x in network.inputs}
            for output in network.outputs:
                ends[output.exported] = f"output.{output.role}".rstrip(".")
            layers = network.layers or tuple(network.spec())
            before = found.get(network.name)
            if before is not None:
                layers = tuple(dict.fromkeys(before.layers + layers))
                ends = before.ends | ends
            found[network.name] = GraphNetwork(network.name, network.numbered, layers, ends)
    return list(found.values())


def _read_iterations(path: Path) -> list[dict[str, np.ndarray]]:
    """Return the tensors of each iteration, of the first runner in a file of outputs."""
    data = read_file(path, MAX_DUMP, CODE)
    content = parse_json(data, shown(path), CODE, most=MAX_TABLE_VALUES)
    try:
        if isinstance(content, Mapping):
            return [_decode_all(each["outputs"], path) for each in content["lst"][0][1]]
        return [_decode_all(each, path) for each in content]
    except (LookupError, TypeError, AttributeError) as error:
        message = f"{shown(path)} is no dump of Polygraphy (--save-outputs, --save-inputs)"
        raise CorruptModelError(message, code=CODE) from error


def _decode_all(tensors: Mapping[str, Any], path: Path) -> dict[str, np.ndarray]:
    return {name: _decode(value, f"{shown(path)}: {name[:80]}") for name, value in tensors.items()}


def _decode(value: Mapping[str, Any], label: str) -> np.ndarray:
    """Return an array from base64 of a `.npy` file; Python objects are refused."""
    text = value["values"]["array"] if "values" in value else value["array"]
    try:
        data = io.BytesIO(base64.b64decode(text, validate=True))
        return np.load(data, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise CorruptModelError(f"{label} is not an array: {error}"[:300], code=CODE) from error
