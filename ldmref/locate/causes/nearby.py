"""Arrays around a point of a replay, which a wrong one may equal or lack."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ldmref.locate.faults.activations import FUNCTIONS
from ldmref.locate.recorded.names import find_layer, is_norm, read_output, read_role
from ldmref.locate.replay.points import FollowedRun, Point


def read_before(replay: FollowedRun) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what the layers that were recorded last read first."""
    for name, _ in reversed(replay.recent):
        entry = find_layer(replay.port, replay.call, name)
        found = None if entry is None else read_role(replay.port, entry.inputs, "input")
        if found is not None:
            yield f"the input of {name}", found


def normalized(replay: FollowedRun) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what the norms returned that were recorded last."""
    for name, _ in reversed(replay.streams):
        entry = find_layer(replay.port, replay.call, name)
        found = None if entry is None else read_output(replay.port, entry)
        if found is not None:
            yield f"the output of {name}", found


def fit_tokens(x: object, computed: np.ndarray) -> Iterator[np.ndarray]:
    """Yield what an array has of another one's shape.

    Tokens (n, l, d) are it, or the first and last l of more; an image (n, c, h, w) may have its
    channels last, or its pixels along one axis.
    """
    if not is_usable(x) or not isinstance(x, np.ndarray):
        return
    if computed.ndim == 4 and x.shape != computed.shape:
        yield from _images_of(x, computed.shape)
    if x.ndim != computed.ndim:
        return
    if x.shape == computed.shape:
        yield x
    elif x.ndim == 3 and x.shape[::2] == computed.shape[::2] and x.shape[1] > computed.shape[1]:
        yield x[:, : computed.shape[1]]
        yield x[:, -computed.shape[1] :]


def _images_of(x: np.ndarray, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Yield an array as images (n, c, h, w) of this shape, if it has as many numbers."""
    n, c, h, w = shape
    if x.shape == (n, c, h * w):
        yield x.reshape(shape)
    if x.shape in ((n, h, w, c), (n, h * w, c)):
        yield np.moveaxis(x.reshape(n, h, w, c), -1, 1)


def activated(point: Point) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what a layer reads where an activation is applied before it, in words."""
    computed = np.asarray(point.computed)
    if not point.role or computed.dtype.kind != "f":
        return
    norm = is_norm(point.call.name, point.call.kind)
    for name, (words, function) in FUNCTIONS.items():
        if name != "none":
            where = "the norm" if norm else point.call.name
            yield f"an activation is applied before {where}: {words}", function(computed)


def arrays_around(replay: FollowedRun, point: Point) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the arrays around a point, with their names in words."""
    for name, x in reversed(replay.recent):
        if is_usable(x):
            yield f"the output of {name}", x
    for name, x in reversed(replay.streams):
        if is_usable(x):
            yield f"the input of {name}", x
    for call in point.suspects:
        for role, x in call.inputs.items():
            if is_usable(x):
                which = "its input" if call.name == point.call.name else f"the input of {call.name}"
                yield (which if role == "input" else f"{which} ({role})"), x
    for role, x in point.call.inputs.items():
        if is_usable(x) and role != point.role:
            yield f"its input {role!r}", x
    if not point.role or point.frame.name:
        for role, x in point.frame.inputs.items():
            name = point.frame.name or "the network"
            if is_usable(x):
                yield f"the input of {name}" + ("" if role == "input" else f" ({role})"), x


def is_usable(x: object) -> bool:
    return isinstance(x, np.ndarray) and x.dtype.kind == "f" and bool(np.isfinite(x).all())


def broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    return all(a in (1, b) for a, b in zip(shape, to, strict=True))
