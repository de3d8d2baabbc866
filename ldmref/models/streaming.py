"""Parameters of a network whose blocks are brought to the backend one at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ldmref.models.params import Params, flatten, name_parts


class BlockReader:
    """Brings the blocks of a network when they are used, and keeps the last one.

    Args:
        bring: Returns a tree of host arrays as parameters on the backend.
    """

    def __init__(self, bring: Callable[[Mapping[str, Any]], Params]):
        self._bring = bring
        self._reading = threading.Lock()
        self._last: tuple[Mapping[str, Any], Params] | None = None

    def read(self, tree: Mapping[str, Any]) -> Params:
        """Return the parameters of a block; those of another block are released before."""
        with self._reading:
            if self._last is None or self._last[0] is not tree:
                self._last = None
                self._last = tree, self._bring(tree)
            return self._last[1]


class StreamedBlock(Mapping[str, Any]):
    """A block of a network in the place of its `Params`, brought when one of them is asked for."""

    def __init__(self, reader: BlockReader, tree: Mapping[str, Any]):
        self._reader = reader
        self._tree = tree
        self.path: str | None = None

    def _read(self) -> Params:
        params = self._reader.read(self._tree)
        if self.path is not None and params.path is None:
            name_parts(params, self.path)
        return params

    def __getitem__(self, name: str) -> Any:
        if name not in self._tree:
            raise KeyError(name)
        return self._read()[name]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._read(), name)

    def __contains__(self, name: object) -> bool:
        return name in self._tree

    def __iter__(self) -> Iterator[str]:
        return iter(self._tree)

    def __len__(self) -> int:
        return len(self._tree)


def stream_blocks(tree: Mapping[str, Any], bring: Callable[[Mapping[str, Any]], Params]) -> Params:
    """Return the parameters of a network: its blocks are brought when used, all others now.

    Args:
        tree: The network's host arrays.
        bring: Returns a tree of host arrays as parameters on the backend.

    >>> from ldmref.models import unflatten
    >>> tree = unflatten({"first.weight": 1.0, "blocks.0.weight": 2.0, "blocks.1.weight": 3.0})
    >>> params = stream_blocks(tree, lambda part: print(*part) or part)
    first
    >>> [block.weight for block in params.blocks.items_in_order()]
    weight
    weight
    [2.0, 3.0]
    """
    reader = BlockReader(bring)

    def build(node: Mapping[str, Any]) -> Params:
        params = Params(bring({k: v for k, v in node.items() if not _has_blocks(v)}))
        for name, child in node.items():
            if _is_list(child):
                blocks = {number: StreamedBlock(reader, part) for number, part in child.items()}
                params[name] = Params(blocks)
            elif _has_blocks(child):
                params[name] = build(child)
        return params

    return build(tree)


def count_streamed(sizes: Mapping[str, Any]) -> int:
    """Count the bytes of a network whose blocks are brought one at a time.

    Args:
        sizes: The bytes of each parameter, a tree.

    Returns:
        All outside of blocks, the largest block, and the largest parameter once more, which is
        converted while it is brought.
    """
    blocks = [sum(flatten(block).values()) for block in _list_blocks(sizes)]
    every = flatten(sizes).values()
    return sum(every) - sum(blocks) + max(blocks, default=0) + max(every, default=0)


def list_names_in_blocks(tree: Mapping[str, Any]) -> set[str]:
    """Return the dotted names of the parameters that belong to blocks of a network.

    All others are at its edges: what embeds latents, text and time, and the last layers.

    >>> from ldmref.models import unflatten
    >>> names = ["first.weight", "blocks.0.weight", "blocks.1.weight"]
    >>> sorted(list_names_in_blocks(unflatten(dict.fromkeys(names))))
    ['blocks.0.weight', 'blocks.1.weight']
    """
    found: set[str] = set()
    for name, child in tree.items():
        if _is_list(child):
            found |= flatten(child, f"{name}.").keys()
        elif isinstance(child, Mapping):
            found |= {f"{name}.{inner}" for inner in list_names_in_blocks(child)}
    return found


def _list_blocks(tree: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for child in tree.values():
        if _is_list(child):
            yield from child.values()
        elif isinstance(child, Mapping):
            yield from _list_blocks(child)


def _is_list(tree: object) -> bool:
    """Return whether it is a numbered list of trees, as `Params.items_in_order` reads them."""
    if not isinstance(tree, Mapping) or not tree:
        return False
    numbers = all(str(i) in tree for i in range(len(tree)))
    return numbers and all(isinstance(child, Mapping) for child in tree.values())


def _has_blocks(tree: object) -> bool:
    if not isinstance(tree, Mapping):
        return False
    return _is_list(tree) or any(_has_blocks(child) for child in tree.values())
