"""The run of another program is followed under the names of a run of ldmref.

The program is ldmref itself, whose recorded calls are renamed: its states are scaled, and each
prediction has a separate call.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_followed_runs import model_of, record

from ldmref.locate.run import ArrayPart, RunComparison, RunView, follow_view
from ldmref.locate.run.calls import INPUT, OUTPUT, ArrayName
from ldmref.locate.run.views import join_parts, place_text
from ldmref.trace import build_trace

FACTOR = 0.5  # of the other program's states
STEPS = 3
DENOISER = "unet"


def renamed(name):
    """Return the name of an array of the other program, and the factor of its values."""
    if name.entry.startswith("sampler"):
        role = {"x": "sample", "prediction": "model_output"}.get(name.role, name.role)
        return name._replace(role=role), FACTOR if role in ("sample", "output") else 1.0
    return name, 1.0


def names_of(trace):
    """Yield the arrays of whole calls of a trace, except for those of the request."""
    for entry in trace.entries:
        if not entry.layer and entry.call.kind != "inputs":
            yield from (ArrayName(entry.name, INPUT, role) for role in entry.inputs)
            yield from (ArrayName(entry.name, OUTPUT, role) for role in entry.outputs)


def tensor_of(name):
    call = name.entry.removesuffix("/")
    return f"{call}//{name.side}" + ("" if name.role == name.side else f".{name.role}")


@pytest.fixture(scope="module")
def viewed(tmp_path_factory):
    """Return the view of a renamed run, and its model."""
    model = model_of("tiny")
    own = record(tmp_path_factory.mktemp("run") / "t", model)
    arrays, pairs = {}, []
    for name in names_of(own):
        x = name.tensor_in(own)
        if name.entry.startswith(DENOISER):  # a call for each prediction, "cond" first
            halves = [f"{DENOISER}.{2 * int(name.entry[5:8]) + i:03}/" for i in range(2)]
            for i, entry in enumerate(halves):
                part = name._replace(entry=entry)
                arrays[tensor_of(part)] = x[1 - i : 2 - i]
            pairs.append((name, [name._replace(entry=entry) for entry in halves]))
        else:
            other, factor = renamed(name)
            arrays[tensor_of(other)] = factor * x if factor != 1.0 else x
            pairs.append((name, other, factor))
    view = RunView(build_trace(arrays), own.manifest["params"])
    for name, other, *factor in pairs:
        if factor:
            view.pair(name, other, 1.0 / factor[0])
            continue
        view.own[name] = tuple(ArrayPart(part) for part in reversed(other))
        for i, part in enumerate(other):
            view.recorded[part] = (ArrayPart(name, slice(1 - i, 2 - i)),)
    return view, model


def wrong_rows(view, model):
    followed = follow_view(view, model)
    assert not isinstance(followed, str), followed
    return {f"{row.call} {row.kind}" for row in followed.rows() if row.verdict != "equal"}


def test_every_array_of_the_other_program_is_compared(viewed):
    view, model = viewed
    followed = follow_view(view, model)
    assert not isinstance(followed, str), followed
    compared = set(followed.computed)
    networks = {e.name for e in view.port.entries if e.call.network}
    expected = {n for n in names_of(view.port) if n.side == INPUT or n.entry not in networks}
    assert expected <= compared
    assert {row.verdict for row in followed.rows()} == {"equal"}


@pytest.mark.parametrize(
    ("tensor", "rows"),
    [
        ("sampler.001//output", {"sampler.001 step", "sampler.002 state"}),
        (
            "sampler.001//input.sample",
            {"sampler.001 state", "sampler.001 x0", "sampler.001 step"}
            | {"unet.002 latents", "unet.003 latents"},
        ),
        ("unet.002//input.timestep", {"unet.002 timestep"}),
        ("unet.003//input.encoder_hidden_states", {"unet.003 text"}),
        ("guidance.001//output", {"guidance.001 guidance", "sampler.001 prediction"}),
    ],
)
def test_a_changed_array_is_named_where_it_is(tensor, rows, viewed):
    view, model = viewed
    changed = {**view.port.tensors, tensor: 1.1 * np.asarray(view.port.tensors[tensor])}
    assert wrong_rows(replace(view, port=replace(view.port, tensors=changed)), model) == rows


def test_numbers_of_the_table_are_compared_with_what_they_should_be(viewed):
    view, model = viewed
    scale = ArrayName("guidance.000/", INPUT, "scale")
    right = scale.tensor_in(view.port)
    assert not wrong_rows(replace(view, numbers={scale: right}), model)
    wrong = wrong_rows(replace(view, numbers={scale: 2.0 * right}), model)
    assert wrong == {"guidance.000 guidance scale"}
    allowed = replace(view, numbers={scale: 1.0001 * right}, least={scale: 1e-3})
    assert not wrong_rows(allowed, model)


def test_an_output_that_was_not_recorded_is_named(viewed):
    view, model = viewed
    name = ArrayName("vae.decode/", OUTPUT, OUTPUT)
    own = {k: x for k, x in view.own.items() if k != name}
    lacking = replace(view, own=own)
    found = follow_view(lacking, model)
    assert isinstance(found, RunComparison) and found.unknown == {"vae.decode": "vae.decode"}
    image = name.tensor_in(view.port)
    assert not wrong_rows(replace(lacking, silent={name: 0.0 * image}), model)


def test_parts_are_rows_one_after_the_other():
    arrays = {"a": np.arange(6.0).reshape(3, 2), "b": np.ones((1, 2)), "c": np.ones((1, 3))}
    names = {k: ArrayName(k, INPUT, INPUT) for k in (*arrays, "d")}
    read = {names[k]: x for k, x in arrays.items()}.get

    def joined(*parts):
        return join_parts(tuple(ArrayPart(names[k], *more) for k, *more in parts), read)

    assert joined(("a", slice(1, 2)), ("b", None, 3.0)).tolist() == [[2.0, 3.0], [3.0, 3.0]]
    assert joined(("a", slice(2, 4))) is None  # there are only three rows
    assert joined(("a",), ("d",)) is None and joined(("a",), ("c",)) is None


def test_parts_may_have_the_first_channels_alone():
    name = ArrayName("unet.000/", INPUT, "sample")
    x = np.arange(6.0).reshape(1, 3, 2)
    (found,) = join_parts((ArrayPart(name, channels=2),), lambda _: x)
    assert found.tolist() == [[0.0, 1.0], [2.0, 3.0]]


def test_what_nothing_reads_and_times_of_almost_zero_are_as_recorded():
    names = {role: ArrayName("a/", OUTPUT, role) for role in ("time", "state")}
    port = build_trace({"a//output.time": np.array([0.0, 5.0]), "a//output.state": np.ones(2)})
    view = RunView(port, {}, recorded={name: (ArrayPart(name),) for name in names.values()})
    view.nearest[names["time"]] = 1e-3
    view.unread[names["state"]] = np.array([0, 1])
    computed = {names["time"]: np.array([1e-5, 5.1]), names["state"]: np.array([2.0, 3.0])}
    found = view.as_recorded(computed)
    assert found[names["time"]].tolist() == [0.0, 5.1]
    assert found[names["state"]].tolist() == [2.0, 1.0]


@pytest.mark.parametrize(("there", "same"), [([1, 0, 1], True), ([1, 0, 0], False)])
def test_a_text_may_be_filled_up_before_its_end(there, same):
    """A mask of fewer tokens is the only fault."""
    text, mask = (ArrayName("a/", INPUT, role) for role in ("text", "mask"))
    recorded = np.array([[[1.0], [9.0], [2.0]]])
    port = build_trace({"a//input.text": recorded, "a//input.mask": np.array([there])})
    view = RunView(port, {}, recorded={name: (ArrayPart(name),) for name in (text, mask)})
    view.masks[text] = mask
    computed = {text: np.array([[[1.0], [2.0], [0.0]]]), mask: np.array([[1, 1, 0]])}
    found = view.as_recorded(computed)
    assert np.array_equal(found[mask][0], there) == same
    assert np.array_equal(found[text], recorded)


def test_nothing_is_read_of_padding():
    x, mask = np.ones((1, 3, 2)), np.array([[1, 1, 0]])
    got = np.full((1, 2, 2), 5.0)
    text, kept = place_text(x, mask, got, np.array([[1, 1]]))
    assert text.shape == got.shape and text.min() == 1.0 == text.max() and kept.tolist() == [[1, 1]]
    assert place_text(x, mask, got[:, :1], np.array([[1]]))[0] is x  # which leaves out a token
    text, kept = place_text(x, mask, np.full((1, 4, 2), 5.0), np.array([[1, 1, 0, 0]]))
    assert text[0, :, 0].tolist() == [1.0, 1.0, 5.0, 5.0] and kept.tolist() == [[1, 1, 0, 0]]


def test_a_program_without_a_mask_reads_the_padding_of_shorter_texts():
    x, mask = np.array([[[1.0], [2.0], [7.0]]]), np.array([[1, 1, 0]])
    for m, text in ((2, [1.0, 2.0]), (3, [1.0, 2.0, 7.0]), (4, [1.0, 2.0, 7.0, 0.0])):
        found, kept = place_text(x, mask, np.full((1, m, 1), 5.0), None)
        assert found.ravel().tolist() == text and kept.ravel().tolist() == [1, 1, 0, 0][:m]
    assert place_text(x, mask, np.full((1, 1, 1), 5.0), None)[0] is x  # a token is left out


@pytest.mark.parametrize("before", range(4))
@pytest.mark.parametrize("wrong", [lambda x: 1 - x, lambda x: np.roll(x, 1, 1), np.ones_like])
def test_where_a_text_is_does_not_depend_on_its_mask(before, wrong):
    """A wrong mask of a right text is the only fault, wherever the padding is."""
    text = np.random.default_rng(before).standard_normal((1, 3, 2))
    x, mask = np.pad(text, [(0, 0), (0, 2), (0, 0)]), np.array([[1, 1, 1, 0, 0]])
    recorded = np.insert(text, [before, before], 9.0, axis=1)
    right = np.insert(np.ones((1, 3), int), [before, before], 0, axis=1)
    found, kept = place_text(x, mask, recorded, wrong(right))
    assert np.array_equal(found, recorded) and np.array_equal(kept, right)


def test_a_wrong_text_is_where_its_mask_says():
    x, mask = np.ones((1, 3, 1)), np.array([[1, 1, 0]])
    got = np.array([[[5.0], [6.0], [7.0]]])
    found, kept = place_text(x, mask, got, np.array([[1, 0, 1]]))
    assert found.ravel().tolist() == [1.0, 6.0, 1.0] and kept.tolist() == [[1, 0, 1]]
