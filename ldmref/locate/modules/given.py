"""Judge what the networks of a port are given: tokens, masks, and the states of the text.

A network is judged from the inputs that the port recorded, so its own rows say nothing of these.
If the original is a pipeline, its own run of the same request says what they should be
(`ldmref.locate.modules.own_run`). Otherwise no module computes them: a mask that was recorded is
then "not judged", because a wrong one leaves every layer right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from ldmref.locate.faults.attention import HIDDEN, NOT_WANTED
from ldmref.locate.findings import DIFFERS, UNKNOWN, Row
from ldmref.locate.law import NOISE
from ldmref.locate.modules.arrays import read_recorded
from ldmref.locate.modules.original import ModuleOriginal, WholeCall
from ldmref.locate.modules.own_run import ENCODER, OwnRun
from ldmref.locate.modules.selected_states import states_of_others
from ldmref.locate.parts.token_faults import mask_faults
from ldmref.locate.recorded.layouts import first_nonfinite, relative_error
from ldmref.locate.recorded.precision import EPSILONS
from ldmref.locate.recorded.unfit import first_line
from ldmref.trace.calls import TraceCall
from ldmref.trace.model import Trace, TraceEntry, without_own_arguments

MASK_ROLE = re.compile("mask")
TEXT_ROLE = re.compile("encoder_hidden_states|text|prompt|pooled|context|cap_feats")
POOLED_ROLE = re.compile("pooled|text_embeds")
MASKS, TEXT, POOLED, TOKENS = "mask of the text", "text", "pooled text", "tokens"  # kinds of rows
GIVEN = "{} is given to it, and no module that was given computes it"
INPUTS = "inputs"  # the call with the arrays of a request
ANOTHER_SIZE = "it was given {} of shape {}, and the original's pipeline gives it {}"


@dataclass(frozen=True)
class GivenArray:
    """An array that a network, or a layer that was judged alone, was given."""

    entry: TraceEntry
    role: str
    kind: str

    @property
    def key(self) -> tuple[str, str, str]:
        """The call, the layer and the role."""
        return self.entry.call, self.entry.layer, self.role


class PipelineOriginal(ModuleOriginal):
    """Networks of PyTorch, and what they are given.

    Args:
        networks: As of `ModuleOriginal`.
        pipe: As of `ModuleOriginal`.
    """

    def __init__(self, networks: Mapping[str, torch.nn.Module], pipe: object = None):
        super().__init__(networks, pipe)
        self._runs: dict[str, tuple[OwnRun, Trace] | str] = {}

    def whole_call(self, port: Trace, call: TraceCall, dtype: str) -> WholeCall:
        """Return what is known of a call, with what the pipeline gives its network."""
        whole = super().whole_call(port, call, dtype)
        made = self._run(port, dtype)
        if isinstance(made, str):
            return whole
        run, own = made
        found = run.encoders.get(call)
        if found is not None:
            return replace(whole, more={**found.arguments}, hooks=found.hooks)
        same = call_of_first_step(port, own, call)
        settings = None if same is None else run.settings.get((call.kind, same.number))
        return replace(whole, settings=settings or {})

    def _run(self, port: Trace, dtype: str) -> tuple[OwnRun, Trace] | str:
        """Return the pipeline's own run with its trace, or why there is none; it is made once."""
        if dtype not in self._runs:
            self._runs[dtype] = self._make_run(port, dtype)
        return self._runs[dtype]

    def _make_run(self, port: Trace, dtype: str) -> tuple[OwnRun, Trace] | str:
        if self.pipe is None:
            return ""
        obstacle = find_obstacle(port, self.pipe)
        if obstacle:
            return obstacle
        networks = {name: self.copies(name, dtype) for name in self.networks if name != "vae"}
        run = OwnRun(self.pipe, networks, port, port.manifest["request"])
        try:
            return run, run.record()
        except Exception as error:  # of any code of a pipeline
            message = f"{type(error).__name__}: {first_line(error)}"
            return f"the original's pipeline does not run: {message}"

    def judge_host(self, port: Trace, dtype: str, notes: list[str]) -> list[Row]:
        """Return rows for what networks are given, and for each call between them."""
        port = without_own_arguments(port)  # what is recorded beside them is compared
        arrays = [*list_given(port, self.alone)]
        judged, rows, why = self._judge_given(port, dtype, arrays)
        for x in arrays:
            if x.key not in judged and x.kind == MASKS:
                note = GIVEN.format(x.role) + (f": {why}" if why else "")
                rows.append(Row(x.entry.call, x.entry.layer, MASKS, verdict=UNKNOWN, note=note))
        seen = {call for call, _, role in judged if role == "ids"}
        host = super().judge_host(port, dtype, notes)
        return [*rows, *(row for row in host if row.call not in seen)]

    def _judge_given(
        self, port: Trace, dtype: str, arrays: Iterable[GivenArray]
    ) -> tuple[set[tuple[str, str, str]], list[Row], str]:
        """Return which arrays were judged, their rows, and why others were not."""
        made = self._run(port, dtype)
        if isinstance(made, str):
            return set(), [], made
        run, own = made
        layers = {x.entry.layer for x in arrays if x.entry.layer}
        own = run.record(layers=layers) if layers else own
        judge = _GivenJudge(port, own, run, dtype)
        rows = [row for x in arrays for row in judge.judge(x)]
        rows += [row for entry in port.entries for row in judge.judge_tokens(entry)]
        return judge.judged, rows, "the original's pipeline gave it none in its first step"


def list_given(port: Trace, alone: Iterable[TraceEntry] = ()) -> Iterator[GivenArray]:
    """Yield the masks, tokens and texts that networks were given, and the masks of layers.

    Args:
        port: The trace.
        alone: Layers that were judged from their recorded inputs alone.
    """
    entries = [e for e in port.entries if not e.layer and not e.call.is_host]
    for entry in [*entries, *alone]:
        for role in entry.inputs:
            x = np.asarray(port.tensors[entry.inputs[role]])
            if MASK_ROLE.search(role) or (x.dtype.kind == "b" and x.ndim > 1):
                yield GivenArray(entry, role, MASKS)
            elif entry.layer:
                continue
            elif x.dtype.kind in "iu" and x.ndim > 1 and entry.call.kind.startswith(ENCODER):
                yield GivenArray(entry, role, TOKENS)
            elif TEXT_ROLE.search(role) and not entry.call.kind.startswith(ENCODER):
                yield GivenArray(entry, role, POOLED if POOLED_ROLE.search(role) else TEXT)


def find_obstacle(port: Trace, pipe: object) -> str:
    """Return why a pipeline cannot be asked for what a port was asked for; "": it can."""
    kind = port.manifest.get("pipeline")
    if kind not in [base.__name__ for base in type(pipe).__mro__]:
        return f"the port is no {type(pipe).__name__}"
    request = port.manifest.get("request")
    if not isinstance(request, Mapping) or not request:
        return "the request of the run was not recorded"
    if len(port.manifest.get("requests") or ()) > 1:
        return "the recording holds several runs"
    if any(call.kind == INPUTS for call in port.calls):
        return "the request has arrays or images, which are not given again"
    if any(value is True and name.startswith("callback") for name, value in request.items()):
        return "the request has a callback, which may have changed it"
    return ""


def call_of_first_step(port: Trace, own: Trace, call: TraceCall) -> TraceCall | None:
    """Return the call of an original's first step that a port's call is like; None: there is none.

    Later steps are those of the first one again, if each has as many calls.

    Args:
        port: The trace of the port.
        own: The trace of the original's first step.
        call: The call of the port.
    """
    ours = [c for c in own.calls if c.kind == call.kind]
    theirs = [c for c in port.calls if c.kind == call.kind]
    if not ours or len(theirs) % len(ours):
        return None
    return ours[theirs.index(call) % len(ours)]


class _GivenJudge:
    """Compares what a port's networks were given with what the original's pipeline gave them."""

    def __init__(self, port: Trace, own: Trace, run: OwnRun, dtype: str):
        self.port = port
        self.own = own
        self.run = run
        self.allowed = NOISE * EPSILONS[dtype]
        self.judged: set[tuple[str, str, str]] = set()

    def judge(self, x: GivenArray) -> Iterator[Row]:
        """Yield the row of an array; none if the original's pipeline does not give it."""
        entry = self._find_own(x.entry)
        missing = entry is not None and x.role not in entry.inputs
        if entry is None or (missing and x.kind != MASKS):
            return
        self.judged.add(x.key)
        got = read_recorded(self.port, x.entry.inputs[x.role])
        row = Row(x.entry.call, x.entry.layer, x.kind, segment=f"from the pipeline to its {x.role}")
        if missing:
            note = f"the original's pipeline gives it no {x.role}"
            row = replace(row, note=note)
            hides = bool((~_seen_by(got)).any())
            yield replace(row, verdict=DIFFERS, cause=NOT_WANTED) if hides else row
            return
        right = read_recorded(self.own, entry.inputs[x.role])
        if x.kind in (TEXT, POOLED) and self.run.foreign:
            listed = ", ".join(sorted(self.run.foreign))
            why = f"{listed} was called in another way than by the original's pipeline"
            yield replace(row, verdict=UNKNOWN, note=why)
        elif got.shape[:1] != right.shape[:1]:
            note = ANOTHER_SIZE.format(x.role, got.shape, right.shape)
            yield replace(row, verdict=UNKNOWN, note=note)
        elif x.kind == MASKS:
            yield self._judge_mask(row, got, right)
        elif x.kind == TOKENS:
            yield _judge_tokens(row, got, right)
        else:
            yield self._judge_text(row, x, got, right)

    def judge_tokens(self, entry: TraceEntry) -> Iterator[Row]:
        """Yield the row of recorded tokens, which are the tokens of a call of an encoder."""
        own = self.own.find(entry.call) if entry.call.kind.startswith("tokens") else None
        if own is None or "ids" not in entry.outputs or "ids" not in own.outputs:
            return
        self.judged.add((entry.call, "", "ids"))
        got, right = (
            read_recorded(trace, e.outputs["ids"])
            for trace, e in ((self.port, entry), (self.own, own))
        )
        yield _judge_tokens(Row(entry.call, "", TOKENS), got, right)

    def _find_own(self, entry: TraceEntry) -> TraceEntry | None:
        """Return the original's call of the same place in the first step; None: there is none."""
        same = call_of_first_step(self.port, self.own, entry.call)
        return None if same is None else self.own.find(same, entry.layer)

    def _judge_mask(self, row: Row, got: np.ndarray, right: np.ndarray) -> Row:
        seen, expected = _seen_by(got), _seen_by(right)
        if np.array_equal(seen, expected):
            return row
        note = f"shape {got.shape} instead of {right.shape}" if got.shape != right.shape else ""
        cause = ""
        if not note and seen.ndim > 1 and seen.size == len(seen) * seen.shape[-1]:
            rows = expected.reshape(len(seen), -1).astype(np.int64)
            flat = seen.reshape(rows.shape)
            found = (words for words, x in mask_faults(rows) if np.array_equal(flat, x != 0))
            cause = next(found, "")
        return replace(row, error=_share(seen, expected), verdict=DIFFERS, cause=cause, note=note)

    def _judge_text(self, row: Row, x: GivenArray, got: np.ndarray, right: np.ndarray) -> Row:
        """Judge hidden states: where they were selected, and which tokens were dropped."""
        bad = first_nonfinite(got)
        error = float("inf") if bad else relative_error(got, right)
        row = replace(row, error=error, allowed=self.allowed, note=bad)
        if error <= self.allowed:
            return row
        note = f"shape {got.shape} instead of {right.shape}" if got.shape != right.shape else bad
        tried = [] if bad else states_of_others(self.run, self._reader(x), got, right)
        for words, other in tried:
            left = relative_error(got, other) if got.shape == other.shape else float("inf")
            if left <= self.allowed:
                return replace(row, verdict=DIFFERS, cause=words, explained=left, note=note)
        return replace(row, verdict=DIFFERS, note=note)

    def _reader(self, x: GivenArray) -> Callable[[Trace], np.ndarray | None]:
        """Return a function that reads the array of another run of the original's pipeline."""
        own = self._find_own(x.entry)

        def read(other: Trace) -> np.ndarray | None:
            entry = None if own is None else other.find(own.call, own.layer)
            known = entry is not None and x.role in entry.inputs
            return read_recorded(other, entry.inputs[x.role]) if known else None  # type: ignore

        return read


def _judge_tokens(row: Row, got: np.ndarray, right: np.ndarray) -> Row:
    """Return the row of tokens, all of which are right or not."""
    if np.array_equal(got, right):
        return row
    return replace(row, error=_share(got, right), verdict=DIFFERS)


def _seen_by(x: np.ndarray) -> np.ndarray:
    """Return which places a mask shows: those that are not 0, or not far below 0 if some are."""
    if x.dtype.kind == "f" and bool((x <= HIDDEN).any()):
        return x > HIDDEN
    return x != 0


def _share(got: np.ndarray, right: np.ndarray) -> float:
    """Return the share of places in which two arrays differ; infinity for other shapes."""
    return float((got != right).mean()) if got.shape == right.shape else float("inf")
