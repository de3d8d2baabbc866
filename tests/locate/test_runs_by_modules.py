"""Denoisers of all families in recordings of their pipelines, judged by their modules.

A right run is entered by being declared in `complete_runs.RUNS`, a fault by being declared here.
Each is judged whichever layers were recorded, and a fault by ldmref's definition as well.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import torch
from complete_runs import RUNS
from torch.nn import functional as F
from unknown_faults import around, attention, parameter, setting, within

import ldmref
from ldmref.locate import diff_modules, diff_traces
from ldmref.models.model import LatentDiffusion
from ldmref.trace import Selection, Trace, read_trace, record_pipeline
from ldmref.trace.calls import MODULE_ARGUMENTS, OF_MODULE

BLOCKS = ("transformer_blocks.?", "single_transformer_blocks.?", "layers.?", "*_blocks.?")
RECORDED = {  # what a recording may hold of a network
    "all layers": {},
    "no norms": {"without": ("*norm*",)},
    "blocks": {"layers": BLOCKS},
    "nothing within": {"layers": ("nothing",)},
}
# The first pipelines of which the module cannot be called with ldmref's inputs alone.
QUICK = ("sdxl", "z-image")
ROTATIONS = ("image_rotary_emb", "rotary_emb", "freqs_cis")


class Pipeline(NamedTuple):
    """A pipeline with random weights, its run, and ldmref's model of it."""

    pipe: Any
    run: Any
    name: str  # of its denoiser
    model: LatentDiffusion


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Return what makes the pipeline of a run."""

    @cache
    def made(name: str) -> Pipeline:
        folder = tmp_path_factory.mktemp("model")
        torch.manual_seed(0)
        run = RUNS[name]
        pipe = run.make(folder)
        run.save(pipe, folder / "saved")
        denoiser = "unet" if getattr(pipe, "transformer", None) is None else "transformer"
        model = ldmref.load(folder / "saved", backend="numpy")
        return Pipeline(pipe, run, denoiser, model)

    return made


def record(found: Pipeline, network: Any, recorded: str, folder: Any) -> Trace:
    """Return the first call of a denoiser, as the pipeline of a run records it."""
    own = getattr(found.pipe, found.name)
    setattr(found.pipe, found.name, network)
    calls = (f"{found.name}.000",)
    try:
        selection = Selection(calls=calls, optional=True, **RECORDED[recorded])
        with record_pipeline(found.pipe, folder, selection=selection):
            found.run.call(found.pipe)
    finally:
        setattr(found.pipe, found.name, own)
    return read_trace(folder)


def right_runs() -> Iterator[Any]:
    """Yield each run with each recording: some at once, one of each in `make full`."""
    for name, recorded in product(RUNS, RECORDED):
        later = pytest.mark.full if recorded == "all layers" else pytest.mark.slow
        yield pytest.param(name, recorded, marks=() if name in QUICK else later)


@pytest.mark.parametrize(("name", "recorded"), right_runs())
def test_a_right_run_is_equal_to_its_module(make, name, recorded, tmp_path):
    found = make(name)
    network = getattr(found.pipe, found.name)
    trace = record(found, network, recorded, tmp_path / "trace")
    report = diff_modules(trace, {found.name: copy.deepcopy(network)})
    assert not report.faults, report.to_dict()
    whole = [row.verdict for row in report.rows if not row.layer and row.kind == "own"]
    assert {*whole} == {"equal"}
    left = [row for row in report.rows if row.verdict == "not judged"]
    assert all("mask" in row.note for row in left)  # which the pipeline makes


def without_own_arguments(trace: Trace) -> Trace:
    """Return a recording as older versions made it, and as ports write it."""

    def change(entry: Any) -> Any:
        kept = {k: x for k, x in entry.inputs.items() if not k.startswith(OF_MODULE)}
        attributes = {k: x for k, x in entry.attributes.items() if k != MODULE_ARGUMENTS}
        return replace(entry, inputs=kept, attributes=attributes)

    return replace(trace, entries=tuple(map(change, trace.entries)))


@pytest.mark.parametrize(
    "name", ["z-image", pytest.param("qwen-image 2.1", marks=pytest.mark.full)]
)
def test_no_layer_is_accused_because_of_an_argument_that_was_not_recorded(make, name, tmp_path):
    found = make(name)
    network = getattr(found.pipe, found.name)
    trace = without_own_arguments(record(found, network, "all layers", tmp_path / "trace"))
    report = diff_modules(trace, {found.name: copy.deepcopy(network)})
    assert not report.faults and report.verdict == "incomplete"
    assert any("which was not recorded" in row.note for row in report.rows)


def unscaled(path: str) -> Any:
    functions = (F.scaled_dot_product_attention,)
    return within(path, functions, attention(lambda k: {**k, "scale": 1.0}))


def turn_back(forward: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Compute an attention with the angles of its rotation negated."""
    changed = dict(kwargs)
    for name in ROTATIONS:
        x = kwargs.get(name)
        if isinstance(x, tuple):
            changed[name] = (x[0], -x[1])
        elif x is not None:
            changed[name] = x.conj()
    return forward(*args, **changed)


LAST = "single_transformer_blocks.1.attn"
EPS, SCALE, BACK = "eps 0.01 instead of", "the scale 1/sqrt(d) is missing", "the other direction"
JOINT, SINGLE = "transformer_blocks.1", "single_transformer_blocks.1"
FAULTS = [  # the run, the change, and words of the cause
    ("dev", setting(f"{LAST}.norm_q", "eps", 1e-2), EPS),
    ("dev", unscaled(LAST), SCALE),
    ("sd3", unscaled("transformer_blocks.2.attn"), SCALE),
    ("sd3", parameter("transformer_blocks.0.attn.to_out.0", "bias", lambda net, b: 0 * b), "bias"),
    ("sd3", setting("transformer_blocks.0.ff.net.0", "approximate", "none"), "exact GELU"),
    ("z-image", setting("layers.1.attention.norm_q", "eps", 1e-2), EPS),
    ("z-image", unscaled("layers.1.attention"), SCALE),
    ("z-image", around("layers.1.attention", turn_back), BACK),
    ("krea 2", unscaled("transformer_blocks.1.attn"), SCALE),
    ("klein", setting(f"{LAST}.norm_q", "eps", 1e-2), EPS),
    ("klein", unscaled("transformer_blocks.1.attn"), SCALE),
]


OF_BLOCKS = [  # of blocks alone: what is within them hides these the most
    ("qwen-image 2.1", setting(f"{JOINT}.attn.norm_q", "eps", 1e-2), EPS),
    ("qwen-image 2.1", unscaled(f"{JOINT}.attn"), SCALE),
    ("qwen-image 2.1", around(f"{JOINT}.attn", turn_back), BACK),
    ("klein", around(f"{JOINT}.attn", turn_back), BACK),
    ("flux3", setting(f"{SINGLE}.attn.norm_q", "eps", 1e-2), EPS),
]
WITHOUT_NORMS = ("dev", "z-image")


def wrong_runs() -> Iterator[Any]:
    """Yield each fault with what a recording holds."""
    for name, *fault in FAULTS:
        for recorded in ("all layers", "no norms", "blocks"):
            if recorded != "no norms" or name in WITHOUT_NORMS:
                yield pytest.param(name, *fault, recorded)
    for fault in OF_BLOCKS:
        yield pytest.param(*fault, "blocks")


@pytest.mark.full
@pytest.mark.parametrize(("name", "change", "words", "recorded"), [*wrong_runs()])
def test_a_fault_has_its_cause_by_both_references(make, name, change, words, recorded, tmp_path):
    found = make(name)
    right = getattr(found.pipe, found.name)
    wrong = copy.deepcopy(right)
    change(wrong)
    trace = record(found, wrong, recorded, tmp_path / "trace")
    by_module = diff_modules(trace, {found.name: copy.deepcopy(right)})
    by_definition = diff_traces(trace, found.model)
    for report in (by_module, by_definition):
        faults = [row for row in report.faults if row.call.startswith(found.name)]
        assert faults and all(words in row.cause for row in faults), report.to_dict()
