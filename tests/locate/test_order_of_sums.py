"""The two terms of a sum have no order: a port that writes them the other way round is right."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import ldmref
from ldmref.locate import diff_traces
from ldmref.locate.recorded.alignment import align, exchange_terms, is_exchanged
from ldmref.models.family import list_families
from ldmref.modes import img2img
from ldmref.trace import Trace

MODELS = [name for family in list_families() for name in [*family.presets][:1] if "tiny" in name]
PHOTO = np.random.default_rng(0).random((16, 16, 3))
model_of = cache(lambda name: ldmref.random_model(name, seed=1))


@cache
def right(name: str) -> Trace:
    """Return a run that calls each network of a model."""
    with ldmref.recording(model_of(name)) as run:
        img2img(model_of(name), "a red cat", PHOTO, seed=1, steps=2, strength=0.5)
    return run.trace


def is_sum(entry) -> bool:
    return entry.kind == "add" and {*entry.inputs} == {"input", "b"}


def exchanged(trace: Trace) -> Trace:
    """Return a trace in which the terms of all sums have the other order."""
    entries = [
        replace(x, inputs={"input": x.inputs["b"], "b": x.inputs["input"]}) if is_sum(x) else x
        for x in trace.entries
    ]
    return replace(trace, entries=tuple(entries))


def without_first(trace: Trace) -> Trace:
    """Return a trace without the first sum of each module of which it has several."""
    layers = {x.layer for x in trace.entries if is_sum(x)}
    entries = []
    for entry in trace.entries:
        base, _, number = entry.layer.partition("~")
        if not is_sum(entry) or f"{base}~1" not in layers:
            entries.append(entry)
        elif number:
            number = f"~{int(number) - 1}" if int(number) > 1 else ""
            entries.append(replace(entry, layer=base + number))
    return replace(trace, entries=tuple(entries))


WITH_SUMS = [name for name in MODELS if any(map(is_sum, right(name).entries))]


def test_several_families_have_sums():
    assert "tiny" in WITH_SUMS and len(WITH_SUMS) > 2


@pytest.mark.parametrize("name", WITH_SUMS)
def test_the_other_order_of_all_sums_is_equal(name):
    usual, other = (diff_traces(x, model_of(name)) for x in (right(name), exchanged(right(name))))
    assert usual.equal and other.equal, [(row.name, row.cause) for row in other.faults]
    assert other.counts() == usual.counts()


@pytest.mark.parametrize("name", WITH_SUMS)
@pytest.mark.parametrize("change", [without_first, lambda x: without_first(exchanged(x))])
def test_sums_that_a_port_left_out_are_no_fault_in_either_order(name, change):
    report = diff_traces(change(right(name)), model_of(name))
    assert not report.faults, [(row.name, row.cause) for row in report.faults]


@pytest.mark.parametrize("name", WITH_SUMS)
@pytest.mark.parametrize("role", ["input", "b", "output"])
def test_a_wrong_sum_is_the_same_fault_in_either_order(name, role):
    trace = right(name)
    entry = next(x for x in trace.entries if is_sum(x))
    tensor = f"changed/{entry.layer}/{role}"
    side = "outputs" if role == "output" else "inputs"
    array = trace.tensors[getattr(entry, side)[role]]
    wrong = 1.125 * array
    changed = replace(entry, **{side: {**getattr(entry, side), role: tensor}})
    port = replace(
        trace,
        tensors={**{key: trace.tensors[key] for key in trace.tensors}, tensor: wrong},
        entries=tuple(changed if x is entry else x for x in trace.entries),
    )
    found = [diff_traces(x, model_of(name)) for x in (port, exchanged(port))]
    usual, other = ({(row.name, row.kind) for row in report.faults} for report in found)
    assert usual and usual == other
    assert {row.layer for row in found[0].faults} >= {entry.layer}


ONE, TWO = np.linspace(1.0, 2.0, 5), np.linspace(3.0, -1.0, 5)
UNKNOWN = np.full(5, np.nan)


@pytest.mark.parametrize(
    ("terms", "recorded", "other"),
    [
        ((ONE, TWO), (ONE, TWO), False),
        ((ONE, TWO), (TWO, ONE), True),
        ((ONE, TWO), (TWO, 1.1 * ONE), True),  # one of them is wrong
        ((ONE, TWO), (ONE, 1.1 * TWO), False),
        ((ONE, TWO), (ONE, 1000.0 * TWO), False),
        ((ONE, TWO), (1.1 * TWO, 1000.0 * ONE), False),  # neither is any term
        ((ONE, TWO), (ONE, ONE), False),
        ((ONE, UNKNOWN), (TWO, ONE), True),
        ((ONE, UNKNOWN), (1.1 * ONE, TWO), False),
        ((UNKNOWN, UNKNOWN), (TWO, ONE), False),
        ((ONE, ONE), (TWO, TWO), False),
        ((ONE, TWO), (None, ONE), True),
        ((ONE, TWO), (TWO, None), True),
        ((ONE, TWO), (None, 1.1 * TWO), False),
        ((UNKNOWN, TWO), (None, ONE), False),  # nothing says that it is the other term
    ],
)
def test_terms_are_compared_as_a_set(terms, recorded, other):
    computed = dict(zip(("input", "b"), terms, strict=True))
    found = {role: x for role, x in zip(("input", "b"), recorded, strict=True) if x is not None}
    assert is_exchanged(computed, found, 1e-6) == other
    assert is_exchanged(exchange_terms(computed), found, 1e-6) == (
        is_exchanged(computed, {{"input": "b", "b": "input"}[k]: x for k, x in found.items()}, 1e-6)
    )
    assert not is_exchanged({"input": terms[0]}, found, 1e-6)


def test_sums_in_the_other_order_are_aligned():
    sums = [{"input": i * ONE, "b": i * TWO, "": i * (ONE + TWO)} for i in (1.0, 3.0, 9.0)]
    swapped = [{**x, **exchange_terms(x)} for x in sums]
    for kept in itertools.combinations(range(3), 2):
        expected = tuple(kept.index(i) if i in kept else None for i in range(3))
        for recorded in (sums, swapped):
            assert align(sums, [recorded[i] for i in kept]) == expected


# -- sums that only the port has ------------------------------------------------------------------


def with_another(trace: Trace, at: int) -> Trace:
    """Return a trace in which each module with several sums has one more, as its sum `at`."""
    layers = {x.layer for x in trace.entries if is_sum(x)}
    several = {x.partition("~")[0] for x in layers if f"{x.partition('~')[0]}~1" in layers}
    tensors = {name: trace.tensors[name] for name in trace.tensors}
    entries = []
    for entry in trace.entries:
        base, _, number = entry.layer.partition("~")
        if not is_sum(entry) or base not in several:
            entries.append(entry)
            continue
        place = int(number or 0)
        if place == at:
            x = np.linspace(1.0, 2.0, 12, dtype=np.float32).reshape(1, 6, 2)
            added = {"input": f"{entry.call}/table", "b": f"{entry.call}/time"}
            tensors |= dict.fromkeys((*added.values(), f"{entry.call}/shifts"), x)
            outputs = {"output": f"{entry.call}/shifts"}
            entries.append(replace(entry, inputs=added, outputs=outputs))
        later = f"{base}~{place + 1}" if place >= at else entry.layer
        entries.append(replace(entry, layer=later))
    return replace(trace, tensors=tensors, entries=tuple(entries))


@pytest.mark.parametrize("name", WITH_SUMS)
@pytest.mark.parametrize("at", [0, 1])
def test_a_further_sum_moves_no_other_name(name, at):
    trace = with_another(right(name), at)
    added = {(x.call, x.layer) for x in trace.entries}
    added -= {(x.call, x.layer) for x in right(name).entries}
    assert added
    for port in (trace, exchanged(trace)):
        report = diff_traces(port, model_of(name))
        assert not report.faults, [(row.name, row.cause) for row in report.faults]
        assert all("not in ldmref's definition" in gap for gap in report.gaps)
        if any("add" in layer and not call.startswith("text") for call, layer in added):
            assert report.verdict == "incomplete"  # nothing judged the further sums
        judged = report.counts()["equal"]
        assert judged == diff_traces(right(name), model_of(name)).counts()["equal"]
