"""Masks whose faults are smaller than rounding may be, told from it by their pattern.

An attention with a mask one token early changes a narrow format's result by less than the 16 units
that any order of rounding may make, if the token has a small weight. But the change is known in
each number, and rounding is not: with the error e of a port and the change d that a wrong mask
makes, both of N numbers, independent rounding gives |e - d|^2 = |e|^2 + |d|^2 up to a part of
N^(-1/2), so it is never much smaller than |e|^2. A port with that mask leaves its rounding alone.
"""

from __future__ import annotations

import numpy as np

from ldmref.locate.causes.diagnosis import Cause
from ldmref.locate.faults.masks import other_masks
from ldmref.locate.law import GAIN
from ldmref.locate.recorded.layouts import relative_error
from ldmref.locate.replay.points import FollowedRun, Point

LEAST = 256  # numbers; the cosine between independent errors of so many is about 1/16


def find_faint_mask(replay: FollowedRun, point: Point, epsilon: float) -> Cause | None:
    """Return the wrong mask that explains an error which is small enough to be rounding.

    Args:
        replay: The run.
        point: The output of a layer; None is returned for others than attentions with a mask.
        epsilon: The unit of rounding of the port's format, of 1.

    Returns:
        The cause; None if the mean error is that of rounding, at most a unit of the mean value, or
        if no mask leaves a quarter of it.
    """
    call = point.call
    right = np.asarray(point.computed)
    got = point.recorded
    masked = call.kind == "attention" and "bias" in point.inputs and not point.role
    if not masked or got.shape != right.shape or right.size < LEAST:
        return None
    error = point.kept(got) - right
    mean = _root_mean(error)
    if mean <= epsilon * _root_mean(right):
        return None
    inputs = {**replay.parameters(call), **point.inputs}
    for words, change in other_masks(call):
        changed = np.asarray(change(call, inputs))
        if changed.shape != right.shape or not np.isfinite(changed).all():
            continue
        left = point.kept(got - changed)
        if _root_mean(left) <= mean / GAIN:
            return Cause(words, relative_error(point.kept(got), point.kept(changed)))
    return None


def _root_mean(x: np.ndarray) -> float:
    """Return the root of the mean square of an array."""
    return float(np.sqrt(np.mean(np.square(x))))
