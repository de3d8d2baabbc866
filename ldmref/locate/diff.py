"""`diff_traces`: judge every layer and every computation between the networks of a port."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from ldmref.errors import UsageError, abbreviated
from ldmref.locate.findings import DIFFERS, UNKNOWN, DiffReport, Row
from ldmref.locate.judging import Judge
from ldmref.locate.networks import try_network
from ldmref.locate.pipeline import judge_host
from ldmref.locate.precision import port_dtype
from ldmref.locate.preflight import find_gaps, require_comparable, with_request
from ldmref.locate.replay import replay_network
from ldmref.locate.rows import NARROW, compare_reference, identical_dumps, is_within, less_strict
from ldmref.models.control import ControlNet
from ldmref.models.model import LatentDiffusion
from ldmref.trace.calls import TraceCall
from ldmref.trace.model import Trace

CODE = "E-TRACE"
MAX_LISTED = 5
NO_LAYER = "none of its layers has a name of this network"
ALONE = "ldmref computes none of its layers by itself"
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
    port = with_request(port, reference)
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
    gaps = find_gaps(port, len(controlnets))
    for done, call in enumerate(calls):
        if progress is not None:
            progress(done, len(calls), call)
        if model is None:
            continue
        if call.network.startswith("controlnet") and not controlnets:
            rows.append(Row(call, "", verdict=UNKNOWN, note="no ControlNet was given"))
        elif call.is_guide and guide is None:
            rows.append(Row(call, "", verdict=UNKNOWN, note="no weaker model was given"))
        elif call.network:
            judged = model
            if guide is not None and call.is_guide:
                judged = guide
            rows += _judge_wide(port, judged, call, form, gaps, controlnets)
        elif not call.is_host:
            gaps.append(f"{call} is no call of a trace")
    if model is not None:
        host = judge_host(port, model, form, notes, controlnets)
        again = partial(judge_host, port, model, NARROW, [], controlnets)
        rows += less_strict(host, again, form)
    rows = identical_dumps(port, rows)
    if reference is not None:
        rows, doubts = compare_reference(port, reference, rows)
        notes += doubts
    if progress is not None:
        progress(len(calls), len(calls), "")
    order: dict[str, int] = {call: i for i, call in enumerate(calls)}
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
    call: TraceCall,
    dtype: str,
    gaps: list[str],
    controlnets: Sequence[ControlNet],
) -> list[Row]:
    """Return the rows of one call; of a port in float64, parts may compute in float32."""
    rows = judge_call(port, model, call, dtype, gaps, controlnets)
    again = partial(judge_call, port, model, call, NARROW, [], controlnets)
    return less_strict(rows, again, dtype)


def judge_call(
    port: Trace,
    model: LatentDiffusion,
    call: TraceCall,
    dtype: str,
    gaps: list[str],
    controlnets: Sequence[ControlNet] = (),
) -> list[Row]:
    """Return the rows of one call of a network."""
    judge, visited, problem = _replay(port, model, call, dtype, controlnets)
    whole = port.find(call)
    found = {} if whole is None else whole.attributes.get("own_attention")
    of_port: Mapping[str, str] = found if isinstance(found, dict) else {}
    rows = [row for row in judge.rows if not is_within(row.layer, of_port)]
    for layer, kind in of_port.items():  # layers whose attention is another function
        note = f"its attention is that of {kind}, which ldmref does not have"
        rows.append(Row(call, layer, verdict=UNKNOWN, note=note))
    known = {entry.layer for entry in port.of_call(call) if entry.layer}
    known = {layer for layer in known if not is_within(layer, of_port)}
    unknown = sorted(layer for layer in known - visited if UNUSED.fullmatch(layer) is None)
    if unknown:
        listed = abbreviated(unknown, MAX_LISTED)
        text = f"{len(unknown)} layers are not in ldmref's definition of {call.network}: {listed}"
        gaps.append(f"{len(unknown)} layers were not judged: {listed}" if problem else text)
    if known and not known & visited:
        unused = all(map(UNUSED.fullmatch, known))
        note = f"cannot be replayed: {problem}" if problem else ALONE if unused else NO_LAYER
        rows.append(Row(call, "", verdict=UNKNOWN, note=note))
    return rows


def _replay(
    port: Trace,
    model: LatentDiffusion,
    call: TraceCall,
    dtype: str,
    controlnets: Sequence[ControlNet],
) -> tuple[Judge, set[str], str]:
    """Return the judge of a call, the layers that were computed, and why others were not.

    If the recorded or assumed arrays do not fit each other, a second replay judges each layer that
    is left by its own input.
    """
    judge = Judge(call, dtype)
    visited: set[str] = set()
    problem = ""
    part = port
    for assume in (False, True):
        network, problem = try_network(model, part, call, controlnets, assume)
        if network is not None:
            problem = replay_network(network, part, call, dtype, judge, visited)
        if not problem or assume:
            break
        whole = port.find(call)
        if whole is not None and whole.inputs:
            note = f"cannot be replayed: {problem}"
            judge.rows.append(Row(call, "", error=float("inf"), verdict=DIFFERS, note=note))
        rest = [e for e in port.entries if e.call != call or e.layer not in {"", *visited}]
        part = replace(port, entries=tuple(rest))
    return judge, visited, problem
