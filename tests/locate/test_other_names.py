"""A right run is judged the same under each name under which programs record an array."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from changed_runs import RUNS as OWN_RUNS
from unfollowed import of_another_program

from ldmref.families.lookup import networks_of_run
from ldmref.locate.pipeline import judge_host
from ldmref.locate.recorded.names import is_apart
from ldmref.ports.arguments import names_of
from ldmref.trace import Trace, build_trace


def unfollowed(name):
    """Return a run whose request cannot be run again, so that names alone decide."""
    trace, model, nets = OWN_RUNS[name]()
    return of_another_program(trace), model, nets


RUNS = {name: partial(unfollowed, name) for name in OWN_RUNS}
ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
DENOISERS = ("unet", "transformer")
NAMES = [  # kinds of calls, the role in runs of ldmref, its names in other programs
    (ENCODERS, "input_ids", ("input", "ids")),
    (DENOISERS, "sample", ("input", "x")),
    (DENOISERS, "timestep", ("t",)),
    (DENOISERS, "encoder_hidden_states", ("context",)),
    (DENOISERS, "pooled_projections", ("pooled", "y")),
    (("controlnet",), "controlnet_cond", ("hint",)),
    (("vae.decode",), "latents", ("input", "z", "sample")),
    (("guidance",), "cond", ("text",)),
    (("sampler",), "x", ("sample",)),
]


def renamed(trace: Trace, kinds, role, other) -> Trace:
    """Return a run in which an input has another name; the same run if no call has it."""

    def change(entry):
        if entry.layer or entry.call.kind not in kinds or role not in entry.inputs:
            return entry
        return replace(
            entry, inputs={other if k == role else k: x for k, x in entry.inputs.items()}
        )

    return replace(trace, entries=tuple(map(change, trace.entries)))


def judged(trace, model, nets) -> Counter:
    rows = judge_host(trace, model, "float32", [], controlnets=nets)
    return Counter((row.call, row.layer, row.kind, row.verdict) for row in rows)


def other_names(trace: Trace) -> Iterator[tuple[str, Trace]]:
    for kinds, role, names in NAMES:
        for name in names:
            run = renamed(trace, kinds, role, name)
            if run.entries != trace.entries:
                yield f"{role} as {name}", run


@pytest.mark.parametrize("name", RUNS)
def test_a_right_run_has_the_same_rows_under_other_names(name):
    trace, model, nets = RUNS[name]()
    right = judged(trace, model, nets)
    assert {verdict for *_, verdict in right} <= {"equal", "not judged"}
    for what, run in other_names(trace):
        assert judged(run, model, nets) == right, what


@pytest.mark.parametrize("name", ["two-evaluations", "sd3", "flux2, two references"])
def test_a_wrong_array_has_the_same_rows_under_other_names(name):
    """So none of them is only marked as compared."""
    trace, model, nets = RUNS[name]()
    for kinds, role, names in NAMES:
        arrays = {
            e.inputs[role]
            for e in trace.entries
            if not e.layer and e.call.kind in kinds and role in e.inputs
        }
        if not arrays:
            continue
        changed = {k: trace.tensors[k] + np.ones((), trace.tensors[k].dtype) for k in arrays}
        wrong = replace(trace, tensors={**trace.tensors, **changed})
        found = judged(wrong, model, nets)
        assert "differs" in {verdict for *_, verdict in found}, role
        for other in names:
            assert judged(renamed(wrong, kinds, role, other), model, nets) == found, other


def with_declared_names(trace: Trace, model) -> Iterator[tuple[int, Trace]]:
    """Yield a run in which all networks' inputs have their first declared name, their second, ...

    Inputs that declare fewer names keep their role.
    """
    declared = {
        network.name: {
            x.role: names_of(network, x)[1:] for x in (*network.inputs, *network.optional)
        }
        for network in networks_of_run(model.config)
    }
    used = [declared.get(e.call.kind, {}) for e in trace.entries if not e.layer]
    for number in range(max(len(names) for roles in used for names in roles.values())):

        def change(entry, number=number):
            also = {} if entry.layer else declared.get(entry.call.kind, {})
            names = {k: also[k][number] for k in entry.inputs if len(also.get(k, ())) > number}
            inputs = {names.get(k, k): x for k, x in entry.inputs.items()}
            assert len(inputs) == len(entry.inputs)
            return replace(entry, inputs=inputs)

        yield number, replace(trace, entries=tuple(map(change, trace.entries)))


@pytest.mark.parametrize("name", RUNS)
def test_a_right_run_has_the_same_rows_under_declared_names(name):
    trace, model, nets = RUNS[name]()
    right = judged(trace, model, nets)
    runs = [*with_declared_names(trace, model)]
    assert runs
    for number, run in runs:
        assert run.entries != trace.entries
        assert judged(run, model, nets) == right, number


@pytest.mark.parametrize("name", ["from-an-image", "controlled", "sd3", "z-image"])
def test_a_wrong_array_has_the_same_rows_under_declared_names(name):
    trace, model, nets = RUNS[name]()
    networks = {network.name: network for network in networks_of_run(model.config)}
    for kind, network in networks.items():
        entries = [e for e in trace.entries if not e.layer and e.call.kind == kind]
        for x in network.inputs:
            arrays = {e.inputs[x.role] for e in entries if x.role in e.inputs}
            if not arrays or not names_of(network, x)[1:]:
                continue
            changed = {k: trace.tensors[k] + np.ones((), trace.tensors[k].dtype) for k in arrays}
            wrong = replace(trace, tensors={**trace.tensors, **changed})
            found = judged(wrong, model, nets)
            given = x.content in ("image", "hint")  # by the request, so nothing says what it is
            assert given != ("differs" in {verdict for *_, verdict in found}), (kind, x.role)
            for number, run in with_declared_names(wrong, model):
                assert judged(run, model, nets) == found, (kind, x.role, number)


@pytest.mark.parametrize("name", ["noise", "multistep"])
def test_what_a_step_also_returns_is_compared(name):
    """Some programs return the prediction of x0 together with the next state."""
    trace, model, nets = RUNS[name]()
    steps = [e for e in trace.entries if e.call.kind == "sampler" and "x0" in e.inputs]
    assert steps

    def returning(factor: float) -> Counter:
        more = {f"{e.call}//output.x0": factor * trace.tensors[e.inputs["x0"]] for e in steps}
        entries = tuple(
            replace(e, outputs={**e.outputs, "x0": f"{e.call}//output.x0"}) if e in steps else e
            for e in trace.entries
        )
        run = replace(trace, tensors={**trace.tensors, **more}, entries=entries)
        return judged(run, model, nets)

    own = judged(trace, model, nets)
    also = {(e.call, "", "x0", "equal"): 1 for e in steps}
    assert returning(1.0) == own + Counter(also)
    wrong = {(e.call, "", "x0", "differs"): 1 for e in steps}
    assert returning(1.1) == own + Counter(wrong)


def test_the_order_in_which_arrays_were_recorded_does_not_matter():
    """The inputs of each call may come in any order; names tell the halves of guidance."""
    for name in ("two-prompts", "controlled", "flux2, two references"):
        trace, model, nets = RUNS[name]()
        entries = tuple(
            replace(e, inputs=dict(reversed(e.inputs.items()))) if not e.layer else e
            for e in trace.entries
        )
        assert judged(replace(trace, entries=entries), model, nets) == judged(trace, model, nets)


@pytest.mark.parametrize("shape", [(2, 4), (2, 3), (3, 2), (8,)])
@pytest.mark.parametrize("values", ["known", "unknown", "ids"])
def test_a_layer_is_apart_only_if_its_sizes_were_guesses(shape, values):
    """NaN stands for what nothing upstream says; then no other layout of the array may fit."""
    assumed = np.ones((2, 4), np.int64 if values == "ids" else np.float64)
    if values == "unknown":
        assumed[0, 0] = np.nan
    run = build_trace(
        {"unet.000/a/input": np.arange(np.prod(shape), dtype=np.float64).reshape(shape)}
    )
    layer = SimpleNamespace(name="a", inputs={"input": assumed})
    fits = np.prod(shape) == assumed.size
    assert is_apart(run, run.entries[0], layer) == (values == "unknown" and not fits)


@pytest.mark.parametrize("role", ["sigma", "sigma_next"])
@pytest.mark.parametrize("name", ["noise", "sd3"])
def test_a_level_may_differ_by_the_rounding_of_a_table(name, role):
    """Relative and, as the last one is 0, as much in absolute terms."""
    trace, model, nets = RUNS[name]()
    last = [e for e in trace.entries if e.call.kind == "sampler"][-1]
    level = np.asarray(trace.tensors[last.inputs[role]], np.float64)
    allowed = 1e-5 * (1.0 + abs(level))
    for factor, wrong in ((0.8, False), (1.2, True)):
        changed = {**trace.tensors, last.inputs[role]: level + factor * allowed}
        rows = judge_host(replace(trace, tensors=changed), model, "float32", [], controlnets=nets)
        assert any(row.kind == role and row.verdict == "differs" for row in rows) == wrong
