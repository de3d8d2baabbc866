"""Find the layers of a port of which a run of ldmref's definition reads nothing.

These are the layers of a text encoder after the states that are read, its last norm, its head. They
are seen in a complete run of the definition, which then used none of their parameters, or declared
(`DeclaredNetwork.ignored`). The tables of angles by which queries and keys are rotated are kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ldmref.backends.named import AGAIN, LayerCall
from ldmref.errors import abbreviated, counted
from ldmref.locate.recorded.names import PREFIXES
from ldmref.locate.recorded.precision import EPSILONS
from ldmref.models.declared import DeclaredNetwork
from ldmref.models.params import Params, flatten
from ldmref.models.transformer_layers import THETA, find_angles

ROUNDINGS = 16.0  # units of the port's format by which a table may be off, and of the angle's
BY_POSITION = ("rotate", "rotate_halves")  # functions that rotate by positions
BY_WAVES = "turn_pairs"  # the one that rotates by cosines and sines
LEAVES = ("weight", "bias")
MAX_LISTED = 3


class WatchedParams(Params):
    """A tree of parameters that notes which of its parts are read.

    Args:
        tree: The tree, whose leaves are shared.
        read: The names of the parts with leaves that were read are added here.
        path: The name of the tree itself.
    """

    def __init__(self, tree: Mapping[str, Any], read: set[str], path: str = ""):
        super().__init__()
        self._read = read
        self._name = path
        for key, child in tree.items():
            name = f"{path}.{key}" if path else key
            plain = isinstance(child, dict)
            dict.__setitem__(self, key, WatchedParams(child, read, name) if plain else child)
        self.path = getattr(tree, "path", None)

    def __getitem__(self, name: str) -> Any:
        found = super().__getitem__(name)
        if not isinstance(found, WatchedParams):
            self._read.add(self._name)
        return found

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default


@dataclass
class RunReads:
    """The arrays that a run of a definition reads, and the recorded ones that are its outputs.

    Attributes:
        parts: The parts of its tree of parameters of which an array was read.
        params: The tree.
        waves: Cosines and sines by which tokens were rotated, as cos + i sin, (tokens, pairs) each.
        outputs: By role, the names of the recorded arrays that are its outputs.
    """

    parts: set[str] = field(default_factory=set)
    params: Mapping[str, Any] = field(default_factory=dict)
    waves: list[np.ndarray] = field(default_factory=list)
    outputs: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._turned: dict[tuple[object, ...], tuple[object, ...]] = {}  # keeps ids alive

    def watch(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a tree of parameters that notes here what is read of it."""
        self.params = params
        return WatchedParams(params, self.parts) if isinstance(params, dict) else params

    def note(self, call: LayerCall) -> None:
        """Note the angles of a layer that rotates."""
        if call.kind == BY_WAVES:
            self._note_waves(call.inputs["cos"], call.inputs["sin"])
        elif call.kind in BY_POSITION and "dims" in call.attributes:
            dims, theta = call.attributes["dims"], call.attributes.get("theta", THETA)
            positions = call.inputs["positions"]
            if self._is_new(positions, dims, theta):
                self._keep(np.exp(1j * np.asarray(find_angles(positions, dims, theta))))

    def _note_waves(self, cos: Any, sin: Any) -> None:
        if self._is_new(cos, sin):
            self._keep(np.asarray(cos) + 1j * np.asarray(sin))

    def _is_new(self, *key: Any) -> bool:
        ids = tuple(id(x) if isinstance(x, np.ndarray) else x for x in key)
        return ids not in self._turned and self._turned.setdefault(ids, key) is key

    def _keep(self, waves: np.ndarray) -> None:
        rows = waves.reshape(-1, waves.shape[-1])
        if not any(np.array_equal(rows, other) for other in self.waves):
            self.waves.append(rows)

    def find_unread(self, layer: str) -> str:
        """Return the largest part with a layer of which no parameter was read; "": there is none.

        Args:
            layer: The name of a layer.
        """
        parts = layer.partition(AGAIN)[0].split(".")
        for count in range(1, len(parts) + 1):
            part = ".".join(parts[:count])
            tree = part_of(self.params, part)
            if tree is None:
                return ""
            within = (name == part or name.startswith(part + ".") for name in self.parts)
            if flatten(tree) and not any(within):
                return part
        return ""

    def is_table(self, layer: str, array: np.ndarray, unit: float) -> bool:
        """Return whether an array has the angles of tokens, or rows of the layer's parameter.

        Args:
            layer: The name of the layer.
            array: The array, whose last two axes are tokens and channels.
            unit: The unit of rounding of the format in which it was computed or stored.
        """
        if array.ndim < 2 or array.dtype.kind not in "fc" or not array.size:
            return False
        array = _waves_of_matrices(array)
        part = part_of(self.params, layer) or {}
        rows = part.get("weight")
        known = [] if rows is None or np.ndim(rows) != 2 else [np.asarray(rows)]
        tables = array.reshape(-1, *array.shape[-2:])
        allowed = ROUNDINGS * unit * max([1.0, *(np.abs(x).max() for x in known)])
        if known and all(_has_rows(known[0], table, allowed) for table in tables):
            return True
        return any(_is_of_waves(waves, tables, unit) for waves in self.waves)


def part_of(tree: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """Return a part of a tree of parameters; None if it has no such part."""
    found: Any = tree
    for key in name.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else None


def _waves_of_matrices(x: np.ndarray) -> np.ndarray:
    """Return matrices ((cos, -sin), (sin, cos)) as cos + i sin; other arrays as they are."""
    if x.ndim < 4 or x.shape[-2:] != (2, 2) or x.dtype.kind != "f":
        return x
    (cos, other), (sin, again) = np.moveaxis(x, (-2, -1), (0, 1))
    same = np.array_equal(cos, again) and np.array_equal(sin, -other)
    return cos + 1j * sin if same else x


def _is_of_waves(waves: np.ndarray, tables: np.ndarray, unit: float) -> bool:
    """Return whether tables (n, l, channels) are of the waves of tokens, (tokens, pairs).

    Ports keep both channels of a pair next to each other, half a head apart, or once.
    """
    allowed = ROUNDINGS * (unit + EPSILONS["float32"] * len(waves))  # angles are in float32
    sides = (waves,) if tables.dtype.kind == "c" else (np.real(waves), np.imag(waves))
    for side in sides:
        for table in (side, np.repeat(side, 2, axis=1), np.concatenate([side, side], axis=1)):
            if all(_has_rows(table, part, allowed) for part in tables):
                return True
    return False


def _has_rows(table: np.ndarray, part: np.ndarray, allowed: float) -> bool:
    """Return whether a table has the rows of a part of it, one after the other."""
    if table.shape[1] != part.shape[1] or len(table) < len(part):
        return False
    near = np.abs(table[: len(table) - len(part) + 1] - part[0]).max(axis=1) <= allowed
    starts = np.flatnonzero(near)
    return any(np.abs(table[i : i + len(part)] - part).max() <= allowed for i in starts)


@dataclass
class LayerRemarks:
    """Remarks on layers that were not compared one by one, without which nothing is missing.

    Attributes:
        unread: The parts of which nothing is read, by network.
        together: The layers of some calls whose arrays no layer of ldmref has, by network; all from
            the last array before them to the next one was compared as a whole.

    >>> remarks = LayerRemarks()
    >>> remarks.note_unread("text_encoder", ["norm", "lm_head"])
    >>> list(remarks.describe())
    ['nothing reads norm, lm_head of text_encoder']
    """

    unread: dict[str, dict[str, None]] = field(default_factory=dict)
    together: dict[str, dict[str, None]] = field(default_factory=dict)

    def note_unread(self, network: str, parts: Iterable[str]) -> None:
        """Note parts of a network of which nothing is read."""
        self.unread.setdefault(network, {}).update(dict.fromkeys(parts))

    def note_together(self, network: str, layers: Iterable[str]) -> None:
        """Note layers that were compared together."""
        self.together.setdefault(network, {}).update(dict.fromkeys(layers))

    def describe(self) -> Iterator[str]:
        """Yield a sentence for each network."""
        for network, parts in self.unread.items():
            if parts:
                yield f"nothing reads {', '.join(parts)} of {network}"
        for network, layers in self.together.items():
            if layers:
                listed = abbreviated(list(layers), MAX_LISTED)
                what = f"{counted(len(layers), 'layer')} of {network}"
                yield f"{what} compared together in calls that read cached states: {listed}"


def find_unread(network: DeclaredNetwork, reads: RunReads, layer: str) -> str:
    """Return the part of a network with a layer of which nothing is read; "" if there is none."""
    base = layer.partition(AGAIN)[0]
    if network.ignored:
        parts = base.split(".")
        for count in range(1, len(parts) + 1):
            name = ".".join(parts[:count])
            if any(re.fullmatch(network.ignored, f"{name}.{leaf}") for leaf in LEAVES):
                return name
    names = [base, *(prefix + base for prefix in PREFIXES)]
    names += [base.removeprefix(prefix) for prefix in PREFIXES if base.startswith(prefix)]
    return next(filter(None, map(reads.find_unread, names)), "")
