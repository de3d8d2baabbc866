"""`diff_traces`: judge every layer and every computation between the networks of a port."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ldmref.errors import UsageError, abbreviated, counted
from ldmref.locate.dumps import identical_dumps
from ldmref.locate.findings import (
    DIFFERS,
    EQUAL,
    NOISY,
    UNKNOWN,
    DiffReport,
    Row,
    with_inherited,
)
from ldmref.locate.judging import Judge
from ldmref.locate.layouts import relative_error
from ldmref.locate.names import read_output
from ldmref.locate.networks import RecordedNetwork, is_host, network_of, open_network
from ldmref.locate.pipeline import judge_host
from ldmref.locate.precision import port_dtype
from ldmref.locate.preflight import missing_layers, require_comparable
from ldmref.locate.replay import Replay
from ldmref.locate.unfit import UNFIT, first_line
from ldmref.models.control import ControlNet
from ldmref.models.model import LatentDiffusion
from ldmref.trace.left_out import LEFT_OUT
from ldmref.trace.model import GUIDE_CALLS, MISSING, UNKNOWN_NAMES, Trace

CODE = "E-TRACE"
MAX_LISTED = 5
NO_LAYER = "none of its layers has a name of this network"
ALONE = "ldmref computes none of its layers by itself"
REFERENCE_ALONE = "compared with the reference alone"
NARROW = "float32"  # in which parts of programs in float64 compute
FAR = 0.01  # relative difference from a reference that no rounding of a right run makes
FUSED = {"group_norm_silu", "geglu"}  # one layer for two operations, named after the first
# Parts of text encoders that ldmref does not compute: the hidden states come from before them.
UNUSED = re.compile(
    r"(text_model\.)?(embeddings\.position_embedding|encoder\.layers\..*|final_layer_norm)"
)


def diff_traces(
    port: Trace,
    model: LatentDiffusion | None,
    reference: Trace | None = None,
    *,
    controlnets: Sequence[ControlNet] = (),
    guide: LatentDiffusion | None = None,
    dtype: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> DiffReport:
    """Find the layers and computations of a port whose results differ from ldmref's.

    Each recorded layer is computed again in float64 from the port's own recorded input and the
    checkpoint's weights, so several faults are found in one run, and neither the same seed nor a
    reference trace is needed. Memory is bounded by one network, in float32, and a few arrays. The
    gradients of a training step need PyTorch, and the U-Net in float64 with all gradients.

    Args:
        port: The trace of the port.
        model: The model that the port ran, with parameters in float32. None: one that ldmref does
            not know, whose layers are only compared with those of the reference.
        reference: A trace of the same run, for the inherited differences, and for the request
            if the port's trace does not name one. None: there is none.
        controlnets: The ControlNets of the run, in their order; without them, their calls are not
            judged.
        guide: The weaker model of a run with autoguidance, whose calls begin with `guide.`. None:
            they are not judged.
        dtype: The port's number format. None: as recorded.
        progress: Called as `progress(calls done, calls, call)`. None: nothing is called.

    Returns:
        A row for each recorded layer, for what leads to its input, and for each computation of the
        pipeline.

    Raises:
        UsageError: The trace has no call of a network of the model, or of the pipeline; or it holds
            no results, or the reference none (`ldmref.locate.preflight`); or there is neither a
            model nor a reference.

    >>> import numpy as np
    >>> import ldmref
    >>> from ldmref.locate import diff_traces
    >>> from ldmref.trace import build_trace
    >>> model = ldmref.random_model("tiny")
    >>> x = np.ones((1, 4, 8, 8))
    >>> port = build_trace({"unet.000/conv_in/input": x, "unet.000/conv_in/output": x})
    >>> report = diff_traces(port, model)
    >>> [(row.name, row.verdict) for row in report.rows]
    [('unet.000/conv_in', 'differs')]
    """
    start = time.perf_counter()
    form = port_dtype(port, dtype)
    if reference is not None:
        port = _with_request(port, reference)
    calls = port.calls
    if not calls:
        raise UsageError(
            f"{port.source or 'the trace'} has no tensor named CALL/LAYER/input or /output",
            code=CODE,
            hint="docs/traces.md has the names",
        )
    if model is None and reference is None:
        message = "there is neither a model nor a reference to compare with"
        raise UsageError(message, code=CODE, hint="give one of them")
    require_comparable(port, reference, form)
    rows: list[Row] = []
    notes: list[str] = []
    gaps = [*_gaps(port), *missing_layers(port, len(controlnets))]
    for done, call in enumerate(calls):
        if progress is not None:
            progress(done, len(calls), call)
        if model is None:
            continue
        if network_of(call).startswith("controlnet") and not controlnets:
            rows.append(Row(call, "", verdict=UNKNOWN, note="no ControlNet was given"))
        elif call.startswith(GUIDE_CALLS) and guide is None:
            rows.append(Row(call, "", verdict=UNKNOWN, note="no weaker model was given"))
        elif network_of(call):
            judged = guide if guide is not None and call.startswith(GUIDE_CALLS) else model
            rows += _judge_wide(port, judged, call, form, gaps, controlnets)
        elif not is_host(call):
            gaps.append(f"{call} is no call of a trace")
    if model is not None:
        host = judge_host(port, model, form, notes, controlnets)
        again = partial(judge_host, port, model, NARROW, [], controlnets)
        rows += _less_strict(host, again, form)
    rows = identical_dumps(port, rows)
    if reference is not None:
        differences = _inherited(port, reference)
        rows = with_inherited(rows, differences)
        rows += _not_judged(rows, differences)
        notes += _doubts(rows)
    if progress is not None:
        progress(len(calls), len(calls), "")
    order = {call: i for i, call in enumerate(calls)}
    rows.sort(key=lambda row: order.get(row.call, len(order)))
    seconds = time.perf_counter() - start
    return DiffReport(
        tuple(rows),
        port.source,
        form,
        tuple(dict.fromkeys(notes)),
        seconds,
        tuple(dict.fromkeys(gaps)),
    )


def _judge_wide(
    port: Trace,
    model: LatentDiffusion,
    call: str,
    dtype: str,
    gaps: list[str],
    controlnets: Sequence[ControlNet],
) -> list[Row]:
    """Return the rows of one call; of a port in float64, parts may compute in float32."""
    rows = judge_call(port, model, call, dtype, gaps, controlnets)
    return _less_strict(rows, lambda: judge_call(port, model, call, NARROW, [], controlnets), dtype)


def _less_strict(rows: list[Row], judge_again: Callable[[], list[Row]], dtype: str) -> list[Row]:
    """Return rows of a port in float64, in which what float32 explains is "noisy" with a note.

    Programs embed times, and keep tables of schedules, in float32 whatever their format.
    """
    if dtype != "float64" or not any(row.verdict == DIFFERS for row in rows):
        return rows
    again = {(row.call, row.layer, row.kind): row for row in judge_again()}
    found = []
    for row in rows:
        narrow = again.get((row.call, row.layer, row.kind), row)
        if row.verdict == DIFFERS and narrow.verdict in (EQUAL, NOISY):
            note = "within the rounding of float32, in which this part is computed"
            row = replace(narrow, verdict=NOISY, note=note)
        found.append(row)
    return found


def judge_call(
    port: Trace,
    model: LatentDiffusion,
    call: str,
    dtype: str,
    gaps: list[str],
    controlnets: Sequence[ControlNet] = (),
) -> list[Row]:
    """Return the rows of one call of a network."""
    judge = Judge(call, dtype)
    visited: set[str] = set()
    network, problem = _open(model, port, call, controlnets)
    if network is not None:
        problem = _replay(network, port, call, dtype, judge, visited)
    if problem:  # the recorded or assumed arrays do not fit: each layer is judged by its own
        whole = port.find(call)
        if whole is not None and whole.inputs:
            note = f"cannot be replayed: {problem}"
            judge.rows.append(Row(call, "", error=float("inf"), verdict=DIFFERS, note=note))
        rest = [e for e in port.entries if e.call != call or e.layer not in {"", *visited}]
        alone = replace(port, entries=tuple(rest))
        network = open_network(model, alone, call, controlnets, assume=True)
        problem = _replay(network, alone, call, dtype, judge, visited)
    of_port = _own_attention(port, call)
    judge.rows[:] = [row for row in judge.rows if not _is_within(row.layer, of_port)]
    for layer, kind in of_port.items():
        note = f"its attention is that of {kind}, which ldmref does not have"
        judge.rows.append(Row(call, layer, verdict=UNKNOWN, note=note))
    known = {entry.layer for entry in port.of_call(call) if entry.layer}
    known = {layer for layer in known if not _is_within(layer, of_port)}
    unknown = sorted(layer for layer in known - visited if UNUSED.fullmatch(layer) is None)
    if unknown:
        listed = abbreviated(unknown, MAX_LISTED)
        kind = network_of(call)
        text = f"{len(unknown)} layers are not in ldmref's definition of {kind}: {listed}"
        gaps.append(f"{len(unknown)} layers were not judged: {listed}" if problem else text)
    if known and not known & visited:
        unused = all(map(UNUSED.fullmatch, known))
        note = f"cannot be replayed: {problem}" if problem else ALONE if unused else NO_LAYER
        judge.rows.append(Row(call, "", verdict=UNKNOWN, note=note))
    return judge.rows


def _own_attention(port: Trace, call: str) -> Mapping[str, str]:
    """Return the layers of a call whose attention is another function, with what computes it."""
    whole = port.find(call)
    found = {} if whole is None else whole.attributes.get("own_attention")
    return found if isinstance(found, dict) else {}


def _is_within(layer: str, layers: Iterable[str]) -> bool:
    return any(layer == name or layer.startswith(name + ".") for name in layers)


def _replay(
    network: RecordedNetwork, port: Trace, call: str, dtype: str, judge: Judge, visited: set[str]
) -> str:
    """Judge one run of a network, and return why it could not be completed; "": it was."""
    replay = Replay(port, call, dtype, judge)
    replay.visited = visited
    try:
        with np.errstate(all="ignore"):
            replay.run(network.network, network.params, network.arguments)
    except UNFIT as error:
        return first_line(error)
    return ""


def _open(
    model: LatentDiffusion, port: Trace, call: str, controlnets: Sequence[ControlNet]
) -> tuple[RecordedNetwork | None, str]:
    """Return the network of a call with its recorded inputs; or None, and why these do not fit."""
    try:
        return open_network(model, port, call, controlnets), ""
    except UsageError:
        raise
    except UNFIT as error:
        return None, first_line(error)


def _gaps(port: Trace) -> list[str]:
    """Return what a trace lacks or holds that cannot be compared, in words."""
    found = []
    if port.manifest.get("complete") is False:
        found.append("the recorded run was stopped before its end")
    missing = list(port.manifest.get(MISSING, ()))
    if missing:
        listed = abbreviated(missing, MAX_LISTED)
        found.append(f"{counted(len(missing), 'tensor')} of the manifest missing: {listed}")
    left_out = port.manifest.get(LEFT_OUT) or {}
    if isinstance(left_out, Mapping) and left_out:
        listed = abbreviated([f"{k} ({v})"[:80] for k, v in left_out.items()], MAX_LISTED)
        found.append(f"{counted(len(left_out), 'part')} of the run not recorded: {listed}")
    unknown = list(port.manifest.get(UNKNOWN_NAMES, ()))
    if unknown:
        listed = abbreviated([str(name)[:80] for name in unknown], MAX_LISTED)
        found.append(f"{counted(len(unknown), 'name')} of tensors not known: {listed}")
    return found


def _with_request(port: Trace, reference: Trace) -> Trace:
    """Return the port's trace with the request of the reference, if it does not have its own."""
    request = reference.manifest.get("params")
    if request is None or "params" in port.manifest or "scheduler" in port.manifest:
        return port
    return replace(port, manifest={**port.manifest, "params": request})


def _doubts(rows: Sequence[Row]) -> Iterator[str]:
    """Yield that the port agrees with ldmref, but not with the reference."""
    far = [row for row in rows if row.inherited is not None and row.inherited > FAR]
    if far and not any(row.verdict == DIFFERS for row in rows):
        yield (
            f"{counted(len(far), 'layer')} of the port differ from the reference, and none of them "
            "from ldmref: another request or noise, or the reference is the inaccurate side"
        )


def _not_judged(rows: Sequence[Row], differences: Mapping[tuple[str, str], float]) -> Iterator[Row]:
    """Yield a row for each layer that only the reference can be compared with."""
    judged = {(row.call, row.layer) for row in rows if row.kind != "wiring"}
    judged |= {(row.call, row.kind) for row in rows if not row.layer}  # a part of a step
    for (call, layer), difference in differences.items():
        if (call, layer) not in judged:
            note = REFERENCE_ALONE
            yield Row(call, layer, verdict=UNKNOWN, inherited=difference, note=note)


def _inherited(port: Trace, reference: Trace) -> Mapping[tuple[str, str], float]:
    """Return the differences of the outputs from those of the reference trace."""
    return dict(_differences(port, reference))


def _differences(port: Trace, reference: Trace) -> Iterator[tuple[tuple[str, str], Any]]:
    for entry in port.entries:
        other = reference.find(entry.call, entry.layer)
        if other is None or not entry.outputs or not other.outputs:
            continue
        if entry.kind != other.kind and {entry.kind, other.kind} & FUSED:
            continue  # one of them includes the activation
        got = read_output(port, entry)
        expected = read_output(reference, other)
        if got is not None and expected is not None and got.shape == expected.shape:
            yield (entry.call, entry.layer), relative_error(got, expected)
