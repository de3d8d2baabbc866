"""Streams of image and text, and the table of positions: where their faults are tried."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from fault_calls import normal, point_of, replay_of

from ldmref.locate.faults import joint

TEXT = np.zeros((1, 3, 4))


def split(point, context=TEXT):
    """Return how far each attention is rolled, by its name."""
    replay = replay_of(arguments={} if context is None else {"context": context})
    y = np.arange(10.0).reshape(1, 1, 10, 1)
    shifts = {}
    for words, changes in joint.other_split(replay, point):
        ((name, change),) = changes.items()
        assert words.endswith(f" {name}")
        rolled = change(SimpleNamespace(compute=lambda x: y), {})
        assert np.array_equal(np.sort(rolled, axis=2), y)
        shifts.setdefault(name, []).append(int(np.argmin(rolled[0, 0, :, 0])))
    return shifts


def call(name, kind="attention"):
    return SimpleNamespace(name=name, kind=kind)


def test_both_streams_are_rolled_by_the_length_of_the_text():
    assert split(point_of("x", suspects=(call("a"),))) == {"a": [3, 7]}
    assert split(point_of("x", suspects=(call("a"), call("l", "linear"), call("b")))) == {
        "a": [3, 7], "b": [3, 7],
    }  # fmt: skip


@pytest.mark.parametrize("reader", ["attn.to_out.0", "attn.to_add_out"])
def test_what_attention_returned_is_read_by_two_layers(reader):
    assert split(point_of(reader)) == {"attn.attention": [3, 7]}
    assert split(point_of(reader, "")) == {}
    assert split(point_of(reader, "b")) == {}
    both = point_of(reader, suspects=(call("attn.attention"), call("b.attention")))
    assert split(both) == {"attn.attention": [3, 7], "b.attention": [3, 7]}


def test_other_layers_do_not_read_what_attention_returned():
    assert split(point_of("attn.to_out.1")) == split(point_of("to_out.0.norm")) == {}
    assert split(point_of("attn_to_add_out")) == {}


@pytest.mark.parametrize("context", [None, TEXT[0], TEXT[None], TEXT.tolist()])
def test_without_a_text_nothing_is_split(context):
    assert split(point_of("x", suspects=(call("a"),)), context) == {}


GRID = normal(0, 4, 4, 2)  # a table of 4 x 4 positions of 2 numbers
TABLE = GRID.reshape(1, 16, 2)


def tabled(rows=2, columns=2, patch=2, table=TABLE, role="", name="pos_embed", **changes):
    latents = np.zeros((1, 3, rows * patch, columns * patch))
    values = {"latents": latents, "computed": np.zeros((1, rows * columns, 2))} | changes
    inputs = {} if values["latents"] is None else {"input": values["latents"]}
    point = point_of(name, role, values["computed"], inputs=inputs)
    tables = {} if table is None else {"pos_embed": table}
    return dict(joint.other_table(replay_of(tables=tables), point))


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 4), (4, 1), (3, 2), (4, 4)])
@pytest.mark.parametrize("patch", [1, 2, 3])
def test_positions_of_every_size_up_to_the_table(rows, columns, patch):
    found = tabled(rows, columns, patch)
    top, left = (4 - rows) // 2, (4 - columns) // 2
    right = GRID[top : top + rows, left : left + columns].reshape(1, -1, 2)
    assert np.array_equal(found["the positions are not added"], -right)
    assert np.array_equal(found["the positions are added twice"], right)
    words = "the positions are the first rows of the table, without a crop"
    np.testing.assert_allclose(found[words], TABLE[:, : rows * columns] - right)


@pytest.mark.parametrize("changes", [
    {"table": None},
    {"table": TABLE[0]},
    {"table": TABLE[None]},
    {"role": "input"},
    {"name": "pos_embed.proj"},
    {"latents": None},
    {"rows": 5},
    {"columns": 5},
    {"computed": np.zeros((1, 3, 2))},  # of 4 patches
    {"computed": np.zeros((1, 17, 2))},  # more tokens than numbers of the image
    {"latents": np.zeros((1, 3, 4, 5)), "computed": np.zeros((1, 5, 2))},
])  # fmt: skip
def test_other_tables_and_images_are_left_alone(changes):
    assert tabled()
    assert not tabled(**changes)


def test_crops_that_leave_the_table_are_not_tried():
    """A crop of the whole table cannot begin a row earlier or later; one of its middle can."""
    assert not any("begin" in words for words in tabled(4, 4))
    assert not any("begin" in words for words in tabled(4, 2))
    moved = [words for words in tabled(2, 2) if "begin" in words]
    assert [words.rpartition(" ")[2] for words in moved] == ["later", "earlier"]


def test_a_crop_begins_in_the_table():
    assert np.array_equal(joint._crop(GRID, 0, 1, 2, 2), GRID[:2, 1:3].reshape(4, 2))
    assert np.array_equal(joint._crop(GRID, -1, 0, 2, 2), GRID[:1, :2].reshape(2, 2))
    assert np.array_equal(joint._crop(GRID, 0, -1, 3, 3), GRID[:3, :2].reshape(6, 2))
    assert np.array_equal(joint._crop(GRID, 3, 3, 2, 2), GRID[3:, 3:].reshape(1, 2))
