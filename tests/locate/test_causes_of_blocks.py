"""Causes of faults in blocks of which a port records what goes in and out, and nothing within."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy_ports import Change, layers_of, make_model, run_port

from ldmref.backends.named import LayerCall
from ldmref.locate import diff_traces
from ldmref.locate.faults.attention import without_mask
from ldmref.locate.recorded.unfilled import NO_MASK
from ldmref.locate.report import DiffReport
from ldmref.trace import build_trace

CALL = "transformer.000"
BLOCK = r"((\w+_)*blocks|layers|\w+_refiner)\.\d+"
WITHIN = rf"{CALL}/{BLOCK}/(input(\.context)?|output(\.\d)?)"  # the tokens of a block alone
WHOLE = rf"{CALL}//.*"
BLOCKS = {  # by family, one block
    "sd3-tiny": "transformer_blocks.1",
    "z-image-tiny": "layers.1",
    "qwen-image-2.1-tiny": "transformer_blocks.1",
    "krea-2-tiny": "transformer_blocks.1",
}
MASKED = ("z-image-tiny", "krea-2-tiny", "qwen-image-2.1-tiny")
DEFAULT = ("qwen-image-2.1-tiny", "z-image-tiny")  # the others in `make full`
GATES = {  # the layers that give gate and value
    "z-image-tiny": ("feed_forward.w1", "feed_forward.w3"),
    "qwen-image-2.1-tiny": ("img_mlp.gate_layer", "img_mlp.proj"),
    "krea-2-tiny": ("ff.gate", "ff.up"),
}
model_of = functools.cache(make_model)


@functools.cache
def calls_of(name: str) -> dict[str, LayerCall]:
    return layers_of(model_of(name), "transformer")


def changed(**values: Any) -> Change:
    """Return what computes a layer with other arguments."""
    return lambda call, x: call.compute({**x, **values})


def turned_back(call: LayerCall, x: Any) -> Any:
    role = "sin" if "sin" in x else "positions"
    return call.compute({**x, role: -x[role]})


def wrong_layers(name: str, fault: str) -> dict[str, Change]:
    """Return the layers of a block with a fault, as `NumpyPort` reads them."""
    calls = {n: c for n, c in calls_of(name).items() if n.startswith(f"{BLOCKS[name]}.")}
    if fault == "gate":
        names = [f"{BLOCKS[name]}.{part}" for part in GATES[name]]
        weights = [calls[n].parameters for n in reversed(names)]
        return {n: changed(**p) for n, p in zip(names, weights, strict=True)}
    ends = {"eps": "norm_q", "scale": "attention", "back": "rotate"}[fault]
    found = [n for n in calls if n.partition("~")[0].endswith(f".{ends}")]
    changes = {"eps": changed(eps=1e-2), "scale": changed(scale=1.0), "back": turned_back}
    return dict.fromkeys(found, changes[fault])


WORDS = {
    "eps": "eps 0.01 instead of",
    "scale": "the scale 1/sqrt(d) is missing",
    "back": "the rotation has the other direction",
    "gate": "gate and value are exchanged",
}


def judge(name: str, wrong: dict[str, Change], recorded: str, **given: Any) -> DiffReport:
    """Return the report on a port of which the arrays with some names are recorded."""
    given = given or {"mask": np.ones((2, 5), np.int64)}
    made = run_port(model_of(name), wrong, "transformer", (), given)
    kept = {key: x for key, x in made.items() if re.fullmatch(recorded, key)}
    return diff_traces(build_trace(kept), model_of(name), dtype="float32")


def cases() -> Iterator[Any]:
    for name, fault in product(BLOCKS, WORDS):
        no_gate = fault == "gate" and name not in GATES
        if no_gate or (name, fault) == ("sd3-tiny", "back"):
            continue
        yield pytest.param(name, fault, marks=() if name in DEFAULT else pytest.mark.full)


@pytest.mark.parametrize(("name", "fault"), [*cases()])
def test_a_fault_in_a_block_has_its_cause_where_its_tokens_alone_were_recorded(name, fault):
    report = judge(name, wrong_layers(name, fault), f"{WHOLE}|{WITHIN}")
    faults = [row for row in report.faults if row.layer]
    assert faults and {row.layer for row in faults} == {BLOCKS[name]}
    assert all(WORDS[fault] in row.cause for row in faults), str(report)


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_as_exact_as_what_they_read_that_was_not_recorded(name):
    report = judge(name, {}, f"{WHOLE}|{WITHIN}")
    rows = [row for row in report.rows if row.layer]
    assert {row.verdict for row in rows} == {"equal"}, str(report)


TOKENS = 70  # more than two segments of Z-Image
LENGTHS = np.array([[5], [40]])


def of_padded(name: str, wrong: dict[str, Change], recorded: str) -> DiffReport:
    """Return the report on a port that runs two texts of different lengths."""
    (states,) = (
        x
        for found in model_of(name).family.networks(model_of(name).config)
        if found.name == "transformer"
        for x in found.inputs
        if x.role == "encoder_hidden_states"
    )
    shape = states.shape_at({"batch": 2, "tokens": TOKENS})
    text = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    mask = (np.arange(TOKENS) < LENGTHS).astype(np.int64)
    return judge(name, wrong, recorded, **{"mask": mask, states.argument: text})


def unmasked(call: LayerCall, x: Any) -> Any:
    bias = {"bias": without_mask(x["bias"])} if "bias" in x else {}
    return call.compute({**x, **bias})


def of_first(call: LayerCall, x: Any) -> Any:
    p = x["positions"]
    return call.compute({**x, "positions": np.repeat(p[:1], len(p), axis=0)})


FIRST = {  # blocks that are the first to read the padding
    "z-image-tiny": "context_refiner.0",
    "krea-2-tiny": "text_fusion.refiner_blocks.0",
    "qwen-image-2.1-tiny": "transformer_blocks.0",
}


@pytest.mark.parametrize("name", MASKED)
def test_a_padding_mask_that_is_missing_is_said_once(name):
    report = of_padded(name, {"attention": unmasked}, rf"{WHOLE}|.*[^/]/(input|output)(\.\d)?")
    assert [row.cause for row in report.faults] == [NO_MASK], str(report)
    assert report.faults[0].layer.startswith(FIRST[name])


@pytest.mark.full
@pytest.mark.parametrize("name", ["z-image-tiny", "qwen-image-2.1-tiny"])
def test_a_padding_mask_is_said_once_where_blocks_alone_were_recorded(name):
    report = of_padded(name, {"attention": unmasked}, f"{WHOLE}|{WITHIN}")
    assert [row.cause for row in report.faults] == [NO_MASK], str(report)
    assert report.faults[0].layer.startswith(FIRST[name])


def test_a_mask_in_one_layer_is_a_fault_of_this_layer():
    layer = "layers.1.attention.attention"
    report = of_padded("z-image-tiny", {layer: unmasked}, f"{WHOLE}|{WITHIN}")
    (row,) = report.faults
    assert (row.layer, row.cause) == ("layers.1", f"the padding mask is missing in {layer}")


@pytest.mark.full
def test_a_mask_is_missing_and_every_row_has_the_positions_of_the_first():
    wrong = {"attention": unmasked, "rotate": of_first}
    report = of_padded("z-image-tiny", wrong, f"{WHOLE}|{WITHIN}")
    (first, *others) = report.faults
    assert first.cause == NO_MASK and {row.layer for row in others} > {"layers.0", "layers.1"}
    assert all("every row has the positions of the first" in row.cause for row in others)
