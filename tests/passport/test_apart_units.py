"""Batches taken apart and joined again: arrays whose rows are known, without a model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_row_units import LATENTS, at, network, run_of

from ldmref.models.declared import TextAttention
from ldmref.passport.apart import (
    RowCutter,
    RowsApart,
    join_rows,
    lacks_schedule,
    name_rows,
    with_schedules,
)
from ldmref.passport.batches import RowMatch, Window
from ldmref.trace.model import Trace, TraceEntry, build_trace

CALL = "transformer.000"
IMAGE = 6  # tokens
TEXT = Window((1, 2, 3), 5)  # the tokens 1, 2 and 3 of 5


# -- names ----------------------------------------------------------------------------------------


def test_rows_have_the_name_of_the_kits_call_and_their_number():
    first, second, other = at(CALL), at(CALL, 1), at("transformer.001")
    matches = [RowMatch(second, at("a", 1)), RowMatch(other, at("b")), RowMatch(first, at("a"))]
    assert [(name, m.kit) for name, m in name_rows(matches)] == [
        (CALL, first),
        (f"{CALL}.1", second),
        ("transformer.001", other),
    ]


def test_rows_that_are_computed_again_count_on_behind_those_of_the_kit():
    first, second = at(CALL), at(CALL, 1)
    ports = [at("a"), at("b"), at("c"), at("d")]
    kits = [first, first, first, second]
    made = list(name_rows([RowMatch(k, p) for k, p in zip(kits, ports, strict=True)]))
    assert [(name, m.port) for name, m in made] == [
        (CALL, ports[0]),
        (f"{CALL}.2", ports[1]),
        (f"{CALL}.3", ports[2]),
        (f"{CALL}.1", ports[3]),
    ]


# -- cut ------------------------------------------------------------------------------------------

JOINED = TextAttention((".attn",), ("text", "image"))
IMAGE_FIRST = TextAttention((".attn",), ("image", "text"))
FILLED = TextAttention((".attn",), ("image", "text"), multiple=4)


def cut(array, *, row=1, batch=2, role="input", attention=None, window=TEXT, kept=IMAGE):
    """Return a row of an array of a port's layer, cut to the tokens that are compared."""
    run = run_of({CALL: {"output": np.ones((batch, 1))}})
    tensors = {**run.tensors, "x": np.asarray(array)}
    entries = (*run.entries, TraceEntry(CALL, "layer", {role: "x"}, {}, "linear"))
    cutter = RowCutter(replace(run, tensors=tensors, entries=entries), kept, True)
    match = RowMatch(at(CALL), at(CALL, row), window, window)
    cutter.add("named", match, replace(network(LATENTS), text_attention=attention))
    return cutter.trace().read_inputs(cutter.trace().find("named", "layer"))[role]


def numbered(*shape):
    return np.arange(np.prod(shape), dtype=np.float64).reshape(shape)


def test_a_row_of_images_is_cut_out():
    x = numbered(2, 4, 3, 3)
    assert np.array_equal(cut(x), x[1:])
    assert np.array_equal(cut(x, row=0), x[:1])


def test_tokens_of_the_text_are_those_that_are_compared():
    x = numbered(2, 5, 8)
    assert np.array_equal(cut(x), x[1:, 1:4])
    assert np.array_equal(cut(x, window=None), x[1:])
    ids = np.arange(10).reshape(2, 5)
    assert np.array_equal(cut(ids), ids[1:, 1:4])


@pytest.mark.parametrize(
    ("attention", "tokens"),
    [
        (JOINED, [1, 2, 3, *range(5, 11)]),
        (IMAGE_FIRST, [*range(6), 7, 8, 9]),
        (FILLED, [*range(8), 9, 10, 11]),
        (TextAttention((".attn",)), None),
        (None, None),
    ],
)
def test_tokens_of_text_and_image_keep_those_of_the_image(attention, tokens):
    """The tokens that fill the image up to a multiple belong to it."""
    x = numbered(2, 13 if attention is FILLED else 11, 8)
    got = cut(x, attention=attention)
    assert np.array_equal(got, x[1:] if tokens is None else x[1:, tokens])


def test_channels_are_not_cut_even_if_they_are_as_many_as_tokens():
    x = numbered(2, 7, 5)
    assert np.array_equal(cut(x), x[1:])
    both = numbered(2, 5, 5)
    assert np.array_equal(cut(both), both[1:, 1:4])
    heads = numbered(2, 3, 5, 5)  # scores of 3 heads: queries and keys
    assert np.array_equal(cut(heads), heads[1:, :, 1:4, 1:4])


@pytest.mark.parametrize("role", ["mask", "attn_mask", "bias", "hidden"])
def test_the_last_axis_of_a_mask_counts_tokens(role):
    x = numbered(2, 7, 5)
    assert np.array_equal(cut(x, role=role), x[1:, :, 1:4])


def test_arrays_that_rows_share_stay_whole_but_for_padding():
    shared = numbered(7, 3)
    assert np.array_equal(cut(shared), shared)
    table = numbered(1, 5, 8)
    assert np.array_equal(cut(table), table[:, 1:4])
    assert cut(np.float64(2.5)) == 2.5


def test_times_of_the_text_are_rows_behind_those_of_the_image():
    """As many as those of the image, or one for all; with positions there is no such rule."""
    twice, one_more = numbered(4, 7), numbered(3, 7)
    assert np.array_equal(cut(twice), twice[[1, 3]])
    assert np.array_equal(cut(twice, row=0), twice[[0, 2]])
    assert np.array_equal(cut(one_more), one_more[[1, 2]])
    assert np.array_equal(cut(one_more, row=0), one_more[[0, 2]])
    for array in (twice.astype(np.int64), twice[..., None]):
        assert np.array_equal(cut(array), array)
    for array in (twice, one_more):
        assert np.array_equal(cut(array, role="positions"), array)
    assert np.array_equal(cut(numbered(4, 7), kept=4), numbered(4, 7))  # tokens of an image


def test_a_cut_trace_has_the_names_and_kinds_of_the_kit():
    x = np.ones((2, 3), np.float32)
    tensors = {f"{CALL}/layer/input": x, f"{CALL}/layer/output": x, f"{CALL}//output": x}
    run = build_trace(tensors, {"dtype": "bfloat16"}, {f"{CALL}/layer/output": "BF16"}, "port")
    cutter = RowCutter(run, IMAGE, False)
    cutter.add("unet.003", RowMatch(at(CALL, 1), at("other", 0)), network(LATENTS))
    made = cutter.trace()
    assert [e.name for e in made.entries] == ["unet.003/layer", "unet.003/"]
    assert {*made.tensors} == {name.replace(CALL, "unet.003") for name in tensors}
    assert made.kinds == {"unet.003/layer/output": "BF16"}
    assert (made.manifest, made.source) == ({"dtype": "bfloat16"}, "port")


# -- joined ---------------------------------------------------------------------------------------


def matches_of(*rows):
    """Return matches of ((kit's call, row), (port's call, row))."""
    return [RowMatch(at(*kit), at(*port)) for kit, port in rows]


def test_rows_of_several_calls_become_the_call_of_the_kit():
    rows = numbered(2, 3)
    kit = run_of({CALL: {"input.sample": rows, "output": 2.0 * rows}})
    port = run_of(
        {f"a.00{i}": {"input.sample": x[None], "output": -x[None]} for i, x in enumerate(rows)}
    )
    made = join_rows(port, kit, matches_of(((CALL, 1), ("a.001", 0)), ((CALL, 0), ("a.000", 0))))
    entry = made.find(CALL)
    assert np.array_equal(made.read_inputs(entry)["sample"], rows)
    assert np.array_equal(made.read_outputs(entry)["output"], -rows)
    assert [*made.by_call] == [CALL]


def test_a_call_of_which_a_row_is_missing_is_left_out():
    rows = numbered(2, 3)
    kit, port = (run_of({name: {"output": rows}}) for name in (CALL, "a"))
    assert join_rows(port, kit, matches_of(((CALL, 0), ("a", 0)))).entries == ()
    whole = matches_of(((CALL, 0), ("a", 0)), ((CALL, 1), ("a", 1)))
    assert len(join_rows(port, kit, whole).entries) == 1


def test_the_first_row_counts_where_it_is_computed_again():
    rows = numbered(3, 3)
    kit, port = run_of({CALL: {"output": rows[:1]}}), run_of({"a": {"output": rows}})
    made = join_rows(port, kit, matches_of(((CALL, 0), ("a", 2)), ((CALL, 0), ("a", 1))))
    assert np.array_equal(made.tensors[f"{CALL}//output"], rows[2:])


def test_arrays_that_rows_share_are_those_of_the_first():
    rows = numbered(2, 3)
    kit = run_of({CALL: {"input.sigma": np.float64(1), "output": rows}})
    port = run_of({"a": {"input.sigma": np.float64(0.25), "output": rows}})
    made = join_rows(port, kit, matches_of(((CALL, 0), ("a", 1)), ((CALL, 1), ("a", 0))))
    assert made.tensors[f"{CALL}//input.sigma"] == 0.25
    assert np.array_equal(made.tensors[f"{CALL}//output"], rows[::-1])


def test_the_kits_padding_takes_the_place_of_the_ports():
    kit = run_of({CALL: {"input.text": -numbered(1, 5, 2), "output": np.ones((1, 1))}})
    port = run_of({"a": {"input.text": numbered(1, 8, 2) + 100.0, "output": np.ones((1, 1))}})
    match = RowMatch(at(CALL), at("a"), Window((0, 1, 2), 5), Window((2, 3, 4), 8))
    joined = join_rows(port, kit, [match]).tensors[f"{CALL}//input.text"][0]
    assert np.array_equal(joined[:3], (numbered(8, 2) + 100.0)[2:5])
    assert np.array_equal(joined[3:], -numbered(5, 2)[3:])
    whole = replace(match, of_kit=None)
    assert join_rows(port, kit, [whole]).tensors[f"{CALL}//input.text"].shape == (1, 8, 2)


def test_an_array_that_a_row_lacks_or_has_in_another_size_is_left_out():
    kit = run_of({CALL: {"input.text": numbered(2, 3), "output": numbered(2, 3)}})
    row = numbered(1, 3)
    rows = matches_of(((CALL, 0), ("a", 0)), ((CALL, 1), ("b", 0)))
    for other in ({}, {"input.text": numbered(1, 4)}):
        port = run_of({"a": {"input.text": row, "output": row}, "b": {"output": row} | other})
        assert [*join_rows(port, kit, rows).tensors] == [f"{CALL}//output"]


def test_attributes_that_name_calls_are_those_of_the_kit():
    rows = numbered(2, 3)
    kit, port = (run_of({"guidance.000": {"output": x}}) for x in (rows, 2.0 * rows))
    names = {"evaluations": [CALL], "scale": 5.0, "prompt": ["red"]}
    kit = replace(kit, entries=(replace(kit.entries[0], attributes=names),))
    own = {"evaluations": ["mine"], "scale": 7.0}
    port = replace(port, entries=(replace(port.entries[0], attributes=own),))
    made = join_rows(port, kit, [])
    assert made.entries[0].attributes == {"evaluations": [CALL], "scale": 7.0}


# -- the run --------------------------------------------------------------------------------------


def test_a_port_without_schedules_follows_those_of_the_kit():
    levels, x = np.arange(3.0), np.ones((1, 3))
    names = ["schedule.000", "unet.000", "sampler.000", "schedule.001", "sampler.001"]
    kit = run_of({name: {"output": levels if "schedule" in name else x} for name in names})
    steps = [name for name in names if "schedule" not in name]
    port = run_of({name: {"output": 2.0 * x} for name in (*steps, "own.000")})
    assert lacks_schedule(port)
    made, added = with_schedules(port, kit)
    assert added == {"schedule.000", "schedule.001"} and [*made.by_call] == [*names, "own.000"]
    assert np.array_equal(made.tensors["schedule.001//output"], levels)
    assert made.tensors["unet.000//output"].max() == 2.0


@pytest.mark.parametrize("names", [("schedule.000", "sampler.000"), ("unet.000",), ()])
def test_a_port_with_its_schedule_or_without_steps_keeps_what_it_has(names):
    port = run_of({name: {"output": np.ones((1, 3))} for name in names})
    assert not lacks_schedule(port)
    assert with_schedules(port, run_of({"schedule.000": {"output": np.ones(3)}})) == (
        port,
        frozenset(),
    )


def apart(matches, kit, host=None):
    """Return a port of which the rows of a kit are known by the names of calls."""
    empty = Trace({}, ())
    return RowsApart(empty, kit, empty if host is None else host, dict(matches), (), ())


def test_a_node_of_the_kit_was_seen_if_all_its_rows_were():
    run = run_of({CALL: {"output": numbered(2, 3)}})
    rows = run_of({name: {"output": numbered(1, 3)} for name in (CALL, f"{CALL}.1")})
    matches = zip(rows.calls, matches_of(((CALL, 0), ("a", 0)), ((CALL, 1), ("a", 1))), strict=True)
    host = run_of({"sampler.000": {"output": numbered(2, 3)}, "unet.009": {"output": [[1.0]]}})
    found = apart(matches, rows, host)
    assert found.whole({f"{CALL}/", f"{CALL}.1/"}, run) == {f"{CALL}/", "sampler.000/"}
    assert found.whole({f"{CALL}/"}, run) == {"sampler.000/"}


def test_a_floor_grows_for_a_row_whose_values_are_small():
    """Floors are relative to the largest value of the whole array, and never shrink."""
    both = np.array([[8.0, 1.0], [0.5, 2.0]])
    run = run_of({CALL: {"output": both}})
    rows = run_of({CALL: {"output": both[:1]}, f"{CALL}.1": {"output": both[1:]}})
    matches = zip(rows.calls, matches_of(((CALL, 0), ("a", 0)), ((CALL, 1), ("a", 1))), strict=True)
    found = apart(matches, rows)
    assert found.floors({f"{CALL}//output": 1e-6}, run) == {
        f"{CALL}//output": 1e-6,
        f"{CALL}.1//output": 4e-6,
    }
    assert found.floors({}, run) == {}
    kept = {f"{CALL}//output": 1e-6}  # of a call that was not taken apart
    assert apart([], rows).floors(kept, run) == kept
