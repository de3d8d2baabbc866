"""`diff_traces`: judge every layer and every computation between the networks of a port."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ldmref.errors import abbreviated
from ldmref.families.lookup import networks_of_run
from ldmref.locate.findings import DIFFERS, UNKNOWN, DiffReport, Row
from ldmref.locate.judging import NOT_RECORDED, Judge
from ldmref.locate.networks import find_wrong_axes, try_network
from ldmref.locate.numbered import name_numbered
from ldmref.locate.original import CallProgress, compare
from ldmref.locate.padding import PaddingFinder
from ldmref.locate.pipeline import judge_host
from ldmref.locate.replay import replay_network
from ldmref.locate.rows import is_within
from ldmref.models.control import ControlNet
from ldmref.models.family import family_of
from ldmref.models.model import LatentDiffusion
from ldmref.trace.calls import TraceCall
from ldmref.trace.model import Trace

MAX_LISTED = 5
AFTER_OWN = "it follows an attention that ldmref does not have, whose output was not recorded"
NOT_DEFINED = "layers are not in ldmref's definition of"
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
    progress: CallProgress | None = None,
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
    original = None if model is None else ModelOriginal(model, controlnets, guide)
    if model is not None:
        port = name_numbered(port, networks_of_run(model.config))
    return compare(port, original, reference, dtype, progress)


class ModelOriginal:
    """A model of ldmref, with which the calls of a port are compared.

    Args:
        model: The model that the port ran, with parameters in float32.
        nets: The ControlNets of the run, in their order.
        guide: The weaker model of a run with autoguidance. None: its calls are not judged.
    """

    def __init__(
        self,
        model: LatentDiffusion,
        nets: Sequence[ControlNet] = (),
        guide: LatentDiffusion | None = None,
    ):
        self.model = model
        self.nets = nets
        self.guide = guide
        self.padding = PaddingFinder()

    @property
    def family(self) -> str:
        """The name of the model's family."""
        return family_of(self.model.config).name

    @property
    def controlnets(self) -> int:
        """Number of ControlNets of the run."""
        return len(self.nets)

    def judge_call(self, port: Trace, call: TraceCall, dtype: str, gaps: list[str]) -> list[Row]:
        """Return the rows of one call; of a network that was not given, one "not judged"."""
        if call.network.startswith("controlnet") and not self.nets:
            return [Row(call, "", verdict=UNKNOWN, note="no ControlNet was given")]
        if call.is_guide and self.guide is None:
            return [Row(call, "", verdict=UNKNOWN, note="no weaker model was given")]
        if call.network:
            judged = self.guide if call.is_guide and self.guide is not None else self.model
            return judge_call(port, judged, call, dtype, gaps, self.nets, self.padding)
        if not call.is_host:
            gaps.append(f"{call} is no call of a trace")
        return []

    def judge_host(self, port: Trace, dtype: str, notes: list[str]) -> list[Row]:
        """Return the rows of what is computed between the networks."""
        return judge_host(port, self.model, dtype, notes, self.nets)


def judge_call(
    port: Trace,
    model: LatentDiffusion,
    call: TraceCall,
    dtype: str,
    gaps: list[str],
    controlnets: Sequence[ControlNet] = (),
    padding: PaddingFinder | None = None,
) -> list[Row]:
    """Return the rows of one call of a network."""
    padding = padding or PaddingFinder()
    of_port = _own_attention(port, call)
    judge, visited, problem = _replay(port, model, call, dtype, controlnets, padding)
    rows = [_after_own(row, of_port) for row in judge.rows if not is_within(row.layer, of_port)]
    for layer, kind in of_port.items():  # layers whose attention is another function
        note = f"its attention is that of {kind}, which ldmref does not have"
        rows.append(Row(call, layer, verdict=UNKNOWN, note=note))
    known = {entry.layer for entry in port.of_call(call) if entry.layer}
    known = {layer for layer in known if not is_within(layer, of_port)}
    unknown = sorted(layer for layer in known - visited if UNUSED.fullmatch(layer) is None)
    if unknown:
        listed = abbreviated(unknown, MAX_LISTED)
        text = f"{len(unknown)} {NOT_DEFINED} {call.network}: {listed}"
        gaps.append(f"{len(unknown)} layers were not judged: {listed}" if problem else text)
    if known and not known & visited:
        unused = all(map(UNUSED.fullmatch, known))
        note = f"cannot be replayed: {problem}" if problem else ALONE if unused else NO_LAYER
        rows.append(Row(call, "", verdict=UNKNOWN, note=note))
    return rows


def _own_attention(port: Trace, call: TraceCall) -> Mapping[str, str]:
    """Return the layers of a call whose attention ldmref does not have, with what computes it."""
    whole = port.find(call)
    found = {} if whole is None else whole.attributes.get("own_attention")
    return found if isinstance(found, dict) else {}


def _after_own(row: Row, of_port: Mapping[str, str]) -> Row:
    """Return a row; what an attention that ldmref does not have leads to has that as its reason."""
    follows = of_port and row.verdict == UNKNOWN and row.note == NOT_RECORDED
    return replace(row, note=AFTER_OWN) if follows else row


def _replay(
    port: Trace,
    model: LatentDiffusion,
    call: TraceCall,
    dtype: str,
    controlnets: Sequence[ControlNet],
    padding: PaddingFinder,
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
            rows = padding.find(model, network)
            own = _own_attention(port, call)
            problem = replay_network(network, part, call, dtype, judge, visited, rows, own)
        if not problem or assume:
            break
        whole = port.find(call)
        if whole is not None and whole.inputs:
            problem = find_wrong_axes(model, port, call, controlnets) or problem
            note = f"cannot be replayed: {problem}"
            judge.rows.append(Row(call, "", error=float("inf"), verdict=DIFFERS, note=note))
        rest = [e for e in port.entries if e.call != call or e.layer not in {"", *visited}]
        part = replace(port, entries=tuple(rest))
    return judge, visited, problem
