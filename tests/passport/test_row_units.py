"""Which row of a port is which of a kit: small runs whose rows are known, without a model."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from ldmref.families.unet import TOKENS
from ldmref.models.declared import BATCH, HEIGHT, WIDTH, DeclaredNetwork, NetworkInput
from ldmref.passport.batches import (
    NEAR,
    CallRow,
    RowMatch,
    RowReader,
    Window,
    batch_of,
    find_windows,
    is_as_in_kit,
    match_host_rows,
    match_rows,
    rows_of,
    tokens_axis,
)
from ldmref.trace.calls import TraceCall
from ldmref.trace.model import build_trace

LATENTS = NetworkInput("x", "sample", (BATCH, 2, HEIGHT, WIDTH), also=("0",))
TEXT = NetworkInput("context", "encoder_hidden_states", (BATCH, TOKENS, 3))
MASK = NetworkInput("mask", "encoder_attention_mask", (BATCH, TOKENS), "mask")
IDS = NetworkInput("ids", "input_ids", (BATCH, 6), "ids")


def network(*inputs, name="transformer"):
    """Return a network that is never computed."""
    return DeclaredNetwork(name, name, "", lambda ops, p, **x: None, dict, {}, inputs, ())


def at(call, row=0):
    return CallRow(TraceCall(call), row)


def run_of(calls):
    """Return a trace of the arrays of whole calls: {call: {"input.ROLE" or "output": array}}."""
    return build_trace(
        {f"{call}//{role}": np.asarray(x) for call, xs in calls.items() for role, x in xs.items()}
    )


def texts(*lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((n, 3)) for n in lengths]


# -- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "content", "axis"),
    [
        ((BATCH, TOKENS, 8), "normal", 1),
        ((BATCH, 2, TOKENS), "normal", 2),
        ((TOKENS, 8), "normal", None),
        ((BATCH, 8), "normal", None),
        ((BATCH, 2, HEIGHT, WIDTH), "normal", None),
        ((BATCH, 77), "ids", 1),
        ((BATCH,), "ids", None),
        ((BATCH, 77), "mask", 1),
        ((BATCH, TOKENS), "mask", 1),
        ((BATCH, 77), "sizes", None),
    ],
)
def test_the_axis_of_the_tokens(shape, content, axis):
    assert tokens_axis(NetworkInput("x", "x", shape, content)) == axis


@pytest.mark.parametrize(
    ("arrays", "rows"),
    [
        ({"output": np.ones((3, 4)), "input": np.ones((2, 4))}, 3),
        ({"input": np.ones((2, 4))}, 2),
        ({"output": np.ones(5), "input": np.ones((2, 4))}, 2),
        ({"input.t": np.ones(3), "input.x": np.ones((4, 1))}, 4),
        ({"output": np.float32(1)}, 0),
        ({"output": np.ones(7)}, 0),
    ],
)
def test_the_number_of_rows_is_that_of_the_first_array_with_several_axes(arrays, rows):
    run = run_of({"unet.000": arrays})
    assert batch_of(run, TraceCall("unet.000")) == rows
    assert rows_of(run, "unet") == [at("unet.000", row) for row in range(rows)]


def test_rows_are_those_of_the_calls_of_a_kind_in_their_order():
    run = run_of({name: {"output": np.ones((2, 1))} for name in ("unet.001", "vae", "unet.000")})
    assert rows_of(run, "unet") == [at(f"unet.00{i}", row) for i in (1, 0) for row in (0, 1)]
    assert batch_of(run, TraceCall("unet.002")) == 0


def test_inputs_are_read_by_all_their_names_and_rows_that_are_not_there_are_none():
    run = run_of({"transformer.000": {"input.0": np.arange(4).reshape(2, 2), "output": [[1], [2]]}})
    reader = RowReader(run, network(LATENTS))
    assert reader.read(at("transformer.000", 1), LATENTS).tolist() == [2, 3]
    assert reader.read(at("transformer.000", 2), LATENTS) is None
    assert reader.read(at("transformer.001"), LATENTS) is None
    assert reader.read(at("transformer.000"), TEXT) is None
    assert [x.tolist() for x in reader.outputs(at("transformer.000", 1))] == [[2]]
    assert reader.outputs(at("transformer.000", 2)) == reader.outputs(at("transformer.001")) == []


def test_text_is_the_first_input_with_tokens_and_no_mask():
    arrays = {f"input.{MASK.role}": [[1, 0, 2]], f"input.{TEXT.role}": np.ones((1, 3, 3))}
    reader = RowReader(run_of({"transformer": arrays}), network(LATENTS, MASK, TEXT))
    row = at("transformer")
    assert reader.text(row).shape == (3, 3)
    assert reader.mask(row).tolist() == [True, False, True]
    alone = RowReader(run_of({"transformer": arrays}), network(LATENTS))
    assert alone.text(row) is None and alone.mask(row) is None
    wide = run_of({"transformer": {f"input.{MASK.role}": np.ones((1, 3, 3))}})
    assert RowReader(wide, network(MASK)).mask(row) is None  # a mask of pairs of tokens


# -- tokens ---------------------------------------------------------------------------------------


def window(start, count, of):
    """Return `count` of all `of` tokens that follow each other, from `start`."""
    return Window(tuple(range(start, start + count)), of)


def windows(ours, theirs, multiple, mask=None, seen=None):
    """Return the windows of one text of a kit and of a port."""
    readers = []
    for text, of_text in ((ours, mask), (theirs, seen)):
        arrays = {f"input.{TEXT.role}": text[None], "output": np.ones((1, 1))}
        arrays |= {} if of_text is None else {f"input.{MASK.role}": np.array([of_text])}
        readers.append(RowReader(run_of({"transformer": arrays}), network(TEXT, MASK)))
    row = at("transformer")
    return find_windows(readers[0], row, readers[1], row, multiple)


@pytest.mark.parametrize(
    ("mask", "multiple", "start", "count"),
    [
        (None, 1, 0, 6),
        ([1, 1, 1, 0, 0, 0], 1, 0, 3),
        ([1, 1, 1, 0, 0, 0], 0, 0, 3),
        ([1, 1, 1, 0, 0, 0], 2, 0, 4),
        ([1, 1, 1, 1, 0, 0], 2, 0, 4),
        ([1, 1, 1, 0, 0, 0], 4, 0, 4),
        ([1, 1, 1, 0, 0, 0], 8, 0, 6),
        ([0, 0, 0, 1, 1, 1], 1, 3, 3),
        ([0, 0, 0, 1, 1, 1], 4, 2, 4),
        ([0, 1, 1, 1, 0, 0], 1, 1, 3),
        ([0, 0, 0, 0, 0, 0], 1, 0, 6),
    ],
)
@pytest.mark.parametrize(("before", "after"), [(0, 3), (2, 1), (3, 0)])
def test_the_same_tokens_are_found_at_any_place(mask, multiple, start, count, before, after):
    """Hidden tokens of the kit are left out, up to a multiple; the port may pad on both sides."""
    ours, *padding = texts(6, before, after)
    kept = ours[start : start + count]
    theirs = np.concatenate([padding[0], kept, padding[1]])
    found = windows(ours, theirs, multiple, mask)
    if len(theirs) == len(ours) and multiple != 1:  # padding takes part in the result
        assert found == (window(0, 6, 6), window(0, 6, 6))
    else:
        assert found == (window(start, count, 6), window(before, count, len(theirs)))
        assert [w.padding for w in found] == [6 - count, before + after]


@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize("more", [0, 3])
def test_padding_between_the_tokens_is_left_out(seen, more):
    """A template has text behind the prompt, and padding may stand before it."""
    ours, padding = texts(7, more)
    mask = np.array([1, 1, 1, 0, 0, 1, 1])
    theirs = np.concatenate([ours[:5], padding, ours[5:]])
    shown = [*mask[:5], *[0] * more, *mask[5:]] if seen else None
    found = windows(ours, theirs, 16, mask, shown)
    if more:
        rows = (0, 1, 2, 5, 6), (0, 1, 2, 5 + more, 6 + more)
        assert found == (Window(rows[0], 7), Window(rows[1], 7 + more))
    else:
        assert found == (window(0, 7, 7), window(0, 7, 7))


def test_texts_of_equal_length_are_compared_as_a_whole_if_padding_is_read():
    ours, theirs = texts(6, 6)
    whole = window(0, 6, 6), window(0, 6, 6)
    assert windows(ours, theirs, 1) == whole
    assert windows(ours, theirs, 2, [1, 1, 1, 0, 0, 0]) == whole
    assert windows(ours, ours, 1, [1, 1, 1, 0, 0, 0]) == (window(0, 3, 6), window(0, 3, 6))


def test_the_ports_mask_counts_if_it_shows_as_many_tokens():
    ours, theirs = texts(4, 6, seed=1)
    theirs[:3] = ours[:3]  # where the numbers are nearest
    mask = [1, 1, 1, 0]
    assert windows(ours, theirs, 1, mask, [0, 0, 1, 1, 1, 0])[1] == window(2, 3, 6)
    for other in ([0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 1], None):
        assert windows(ours, theirs, 1, mask, other)[1] == window(0, 3, 6)


def test_a_text_that_is_too_short_is_another_one():
    ours, shorter = texts(5, 4)
    assert windows(ours, shorter, 1) is None
    assert windows(ours, ours[:4], 1, [1, 1, 1, 1, 0])[1] == window(0, 4, 4)
    reader = RowReader(run_of({"vae": {"output": np.ones((1, 1))}}), network(LATENTS))
    assert find_windows(reader, at("vae"), reader, at("vae"), 1) is None


# -- matches --------------------------------------------------------------------------------------


def latents(*rows, call="transformer.000", noise=0.0):
    """Return a run of one call of images; `rows` are the seeds of their numbers."""
    made = [np.random.default_rng(row).standard_normal((2, 2, 3)) for row in rows]
    errors = np.random.default_rng(99).standard_normal((len(rows), 2, 2, 3))
    x = np.stack(made) + noise * errors
    return run_of({call: {"input.sample": x, "output": np.ones((len(rows), 1))}})


def pairs(matches):
    """Return the numbers of rows, (kit, port), in order."""
    return sorted((m.kit.row, m.port.row) for m in matches)


@pytest.mark.parametrize("order", [*permutations(range(3))])
def test_rows_are_found_in_any_order(order):
    found = match_rows(latents(0, 1, 2), latents(*order, noise=1e-4), network(LATENTS), 1)
    assert pairs(found) == sorted((row, place) for place, row in enumerate(order))
    assert is_as_in_kit(found) == (order == (0, 1, 2))


def test_a_row_is_the_one_whose_inputs_are_nearest_also_in_another_call():
    kit = latents(0, 1)
    port = latents(1, 0, call="transformer.005")
    found = match_rows(kit, port, network(LATENTS), 1)
    assert {m.kit: m.port for m in found} == {
        at("transformer.000", 0): at("transformer.005", 1),
        at("transformer.000", 1): at("transformer.005", 0),
    }


def test_equal_rows_keep_their_places():
    """Both rows of a batch may start at the same noise, and rounding must not exchange them."""
    kit = latents(0, 0)
    for noise in (0.0, 1e-6, 1e-3):
        assert pairs(match_rows(kit, latents(0, 0, noise=noise), network(LATENTS), 1)) == [
            (0, 0),
            (1, 1),
        ]


def test_a_row_that_is_computed_again_is_matched_again_if_it_is_near():
    again = latents(0, 1, 1)
    assert pairs(match_rows(latents(0, 1), again, network(LATENTS), 1)) == [(0, 0), (1, 1), (1, 2)]
    for factor, near in ((0.9, True), (1.1, False)):
        x = np.array(again.tensors["transformer.000//input.sample"])
        x[2] *= 1.0 + factor * NEAR
        port = run_of({"transformer.000": {"input.sample": x, "output": np.ones((3, 1))}})
        found = pairs(match_rows(latents(0, 1), port, network(LATENTS), 1))
        assert found == [(0, 0), (1, 1), *([(1, 2)] if near else [])]


def test_rows_of_another_size_are_no_rows_of_the_kit():
    x = np.ones((2, 2, 2, 4))
    port = run_of({"transformer.000": {"input.sample": x, "output": np.ones((2, 1))}})
    assert match_rows(latents(0, 1), port, network(LATENTS), 1) == []


def test_another_order_in_memory_is_the_same_row():
    kit = latents(0, 1)
    x = np.moveaxis(kit.tensors["transformer.000//input.sample"][::-1], 1, 3)
    port = run_of({"transformer.000": {"input.sample": x, "output": np.ones((2, 1))}})
    assert pairs(match_rows(kit, port, network(LATENTS), 1)) == [(0, 1), (1, 0)]


def test_a_port_that_recorded_results_alone_is_matched_by_them():
    rows = np.stack(texts(4, 4))
    kit = run_of({"transformer.000": {"output": rows}})
    port = run_of({"transformer.000": {"output": rows[::-1]}})
    assert pairs(match_rows(kit, port, network(LATENTS), 1)) == [(0, 1), (1, 0)]
    nothing = run_of({"transformer.000": {"input.other": rows}})
    assert match_rows(kit, nothing, network(LATENTS), 1) == []


@pytest.mark.parametrize(("others", "exchanged"), [(0, False), (9, False), (10, True), (12, True)])
def test_calls_keep_their_places_unless_another_order_is_clearly_nearer(others, exchanged):
    """Each row of 12 ids has some of the other row: 9 are not 4 times as many as 3."""
    rows = np.repeat([[1], [2]], 12, axis=1)
    mixed = rows.copy()
    mixed[:, :others] = rows[::-1, :others]
    kit, port = (
        run_of({"text_encoder": {"input.input_ids": x, "output": np.ones((2, 1))}})
        for x in (rows, mixed)
    )
    found = match_rows(kit, port, network(IDS, name="text_encoder"), 1)
    assert pairs(found) == ([(0, 1), (1, 0)] if exchanged else [(0, 0), (1, 1)])


def test_padding_of_a_matched_row_is_known():
    first, second, more = texts(4, 6, 2)
    kit = run_of(
        {
            f"transformer.00{i}": {
                f"input.{TEXT.role}": text[None],
                f"input.{MASK.role}": np.ones((1, len(text))),
                "output": np.ones((1, 1)),
            }
            for i, text in enumerate((first, second))
        }
    )
    both = np.stack([second, np.concatenate([first, more])])
    port = run_of({"transformer.000": {f"input.{TEXT.role}": both, "output": np.ones((2, 1))}})
    found = {m.kit: m for m in match_rows(kit, port, network(TEXT, MASK), 1)}
    whole = window(0, 6, 6)
    shorter, longer = found[at("transformer.000")], found[at("transformer.001")]
    assert (shorter.port.row, longer.port.row) == (1, 0)
    assert (shorter.of_kit, shorter.of_port) == (window(0, 4, 4), window(0, 4, 6))
    assert (longer.of_kit, longer.of_port) == (whole, whole)


def test_a_kit_is_left_as_it_is_only_if_places_and_padding_are_its_own():
    here, there = at("unet.000"), at("unet.000", 1)
    one, other = window(0, 4, 4), window(0, 4, 6)
    assert is_as_in_kit([RowMatch(here, here), RowMatch(there, there, one, one)])
    assert not is_as_in_kit([RowMatch(here, here), RowMatch(here, there)])
    assert not is_as_in_kit([RowMatch(here, here, one, other)])


# -- what the host computes -----------------------------------------------------------------------


def test_rows_of_steps_are_found_by_their_arrays():
    x = np.stack(texts(4, 4))
    level = np.float64(0.5)
    kit = run_of({"sampler.000": {"input.x": x, "input.sigma": level, "output": 2.0 * x}})
    port = run_of({"sampler.007": {"input.x": x[::-1], "output": 2.0 * x[::-1]}})
    found = {m.kit.row: m.port for m in match_host_rows(kit, port)}
    assert found == {0: at("sampler.007", 1), 1: at("sampler.007", 0)}
    assert [*match_host_rows(kit, run_of({"sampler.000": {"input.y": x}}))] == []


def test_calls_without_rows_follow_each_other_and_the_last_one_serves_again():
    levels = np.arange(4.0)
    kit = run_of({f"schedule.00{i}": {"output": levels} for i in range(3)})
    port = run_of({name: {"output": levels} for name in ("schedule.004", "schedule.005")})
    found = [(m.kit.call, m.port.call) for m in match_host_rows(kit, port)]
    assert found == [
        ("schedule.000", "schedule.004"),
        ("schedule.001", "schedule.005"),
        ("schedule.002", "schedule.005"),
    ]
    assert [*match_host_rows(kit, run_of({"unet.000": {"output": levels}}))] == []
