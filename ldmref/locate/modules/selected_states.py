"""Which states a pipeline selects from a text encoder: those of another layer, norm or token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from ldmref.errors import counted
from ldmref.locate.modules.own_run import ENCODER, OutputChange, OwnRun
from ldmref.locate.recorded.layouts import find_order_of_rows
from ldmref.trace.model import Trace

FINAL_NORMS = ("norm", "final_layer_norm", "final_layernorm")  # last parts of their paths
MOST_TOKENS = 128  # that a template may drop
LAYERS = (1, -1, 2, -2)  # by which another layer may be selected

ReadText = Callable[[Trace], np.ndarray | None]


def states_of_others(
    run: OwnRun, read: ReadText, got: np.ndarray, right: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the states that a wrong selection gives, in words, the likeliest first.

    Args:
        run: The original's pipeline, whose encoders answer with the port's states.
        read: Reads the text that a network is given from a run of it.
        got: What the port's network was given, (n, l, d), or (n, d) if it is pooled.
        right: What the original's network was given.
    """
    yield from _of_tokens(got, right)
    order = find_order_of_rows(got, right, np.ones(right.shape[:2], bool))
    if order is not None:
        yield order[0], right[order[1]]
    if got.shape != right.shape:
        return
    yield "the text is zero", np.zeros_like(right)
    for words, change in _selections(run):
        found = read(run.record(change))
        if found is not None:
            yield words, found


def _of_tokens(got: np.ndarray, right: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the states of more or fewer tokens, which the template's prefix or the padding are."""
    if got.ndim != 3 or right.ndim != 3 or got.shape[2] != right.shape[2]:
        return
    more = got.shape[1] - right.shape[1]
    if more > 0:  # what the port has too much is as the port has it
        tokens = counted(more, "token")
        yield f"{tokens} at the start not dropped", np.concatenate([got[:, :more], right], axis=1)
        yield f"{tokens} more at the end", np.concatenate([right, got[:, -more:]], axis=1)
    elif more < 0:
        tokens = counted(-more, "token")
        yield f"{tokens} too many dropped at the start", right[:, -more:]
        yield f"{tokens} missing at the end", right[:, :more]
    else:
        for count in range(1, min(MOST_TOKENS, right.shape[1] // 2) + 1):
            kept = got.copy()  # the tokens that come into the window are not known
            kept[:, count:] = right[:, :-count]
            yield f"{counted(count, 'token')} at the start not dropped", kept
            kept = got.copy()
            kept[:, :-count] = right[:, count:]
            yield f"{counted(count, 'token')} too many dropped at the start", kept


def _selections(run: OwnRun) -> Iterator[tuple[str, OutputChange]]:
    """Yield changes of a text encoder's output, in words."""
    norm = find_final_norm(run)
    if norm is not None:
        yield "the final norm is applied to the selected states", _normed(norm)
    for by in LAYERS:
        which = "later" if by > 0 else "earlier"
        yield f"states of {counted(abs(by), 'layer')} {which} are selected", _moved(by)


def find_final_norm(run: OwnRun) -> torch.nn.Module | None:
    """Return the final norm of the only text encoder of a pipeline; None if it has no such."""
    names = [name for name in run.networks if name.startswith(ENCODER)]
    if len(names) != 1:
        return None
    layers = run.networks[names[0]].exact.network.named_modules()
    found = [part for path, part in layers if path.rpartition(".")[2] in FINAL_NORMS]
    return found[-1] if found else None


def _normed(norm: torch.nn.Module) -> OutputChange:
    def change(output: Any) -> Any:
        states = getattr(output, "hidden_states", None)
        if states is not None:
            with torch.no_grad():
                output.hidden_states = tuple(norm(x) for x in states)
        return output

    return change


def _moved(by: int) -> OutputChange:
    def change(output: Any) -> Any:
        states = getattr(output, "hidden_states", None)
        if states is not None:
            last = len(states) - 1
            numbers = [min(max(i + by, 0), last) for i in range(len(states))]
            output.hidden_states = tuple(states[i] for i in numbers)
        return output

    return change
