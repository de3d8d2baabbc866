"""Positions of an image and of the text before it, as ports number them, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from fault_calls import call_of, faulty

from ldmref.locate.faults import rotary

GRID = np.array([[0.0, i, j] for i in range(2) for j in range(5)])  # 2 rows, 5 columns


def positions_of(fault_words, positions):
    """Return the positions that a fault gives to a rotation."""
    inputs = {"input": np.zeros((*positions.shape[:-1], 2)), "positions": positions}
    call = call_of("rotate", lambda input, positions: positions, inputs)
    return faulty(rotary.other_positions, call)[fault_words]


@pytest.mark.parametrize(("rows", "length"), [
    ([[0, 0, 0], [0, 0, 0]], 0),  # nothing is placed
    ([[0, 0, 0]], 0),
    ([[0, 0, 0], [0, 0, 1], [0, 1, 0]], 0),  # the image begins at 0
    ([[1, 1, 1], [1, 1, 2]], 0),  # it does not
    ([[0, 0, 0], [0, 0, 0], [0, 0, 1]], 1),
    ([[0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 1, 0]], 2),
])  # fmt: skip
def test_the_tokens_of_the_text_are_those_before_the_first_of_the_image(rows, length):
    assert rotary._text(np.array(rows, float)) == length


@pytest.mark.parametrize("text", [0, 1, 3])
def test_an_image_counts_from_its_middle(text):
    positions = np.concatenate([np.zeros((text, 3)), GRID])
    found = positions_of("rows and columns count from the middle", positions)
    assert not found[:text].any()
    assert found[text:].tolist() == [[0, i, j] for i in (-1, 0) for j in (-2, -1, 0, 1, 2)]


def test_an_image_of_four_axes_counts_from_its_middle():
    positions = np.array([[0.0, 0, i, j] for i in range(3) for j in range(2)])
    found = positions_of("rows and columns count from the middle", positions)
    assert found.tolist() == [[0, 0, i, j] for i in (-1, 0, 1) for j in (-1, 0)]


@pytest.mark.parametrize("text", [0, 2])
def test_an_image_counts_from_one(text):
    positions = np.concatenate([np.zeros((text, 3)), GRID])
    found = positions_of("rows and columns count from 1", positions)
    assert not found[:text].any()
    assert found[text:].tolist() == [[0, i, j] for i in (1, 2) for j in (1, 2, 3, 4, 5)]


def test_a_text_before_an_image_is_behind_it():
    positions = np.concatenate([np.zeros((2, 3)), GRID])
    found = positions_of("the positions have the image before the text", positions)
    assert np.array_equal(found, np.concatenate([GRID, np.zeros((2, 3))]))


@pytest.mark.parametrize("axes", [1, 2, 3, 4])
def test_rows_and_columns_of_each_row_need_a_third_axis(axes):
    positions = np.arange(2.0 * 3 * axes).reshape(2, 3, axes)
    inputs = {"input": np.zeros((2, 3, 2)), "positions": positions}
    call = call_of("rotate", lambda input, positions: positions, inputs)
    found = faulty(rotary.other_positions, call)
    assert ("rows and columns are exchanged" in found) == (axes > 2)
    assert ("the places in the sequence count from 0" in found) == (axes > 2)


@pytest.mark.parametrize("axes", [1, 3])
def test_padding_takes_up_positions_of_a_text_alone(axes):
    """Of a text of which each row counts its own tokens, with padding in the middle."""
    positions = np.zeros((2, 4, axes)) + np.array([[0, 1, 2, 3], [0, 0, 1, 2]])[:, :, None]
    inputs = {"input": np.zeros((2, 4, 2)), "positions": positions}
    call = call_of("rotate", lambda input, positions: positions, inputs)
    found = faulty(rotary.other_positions, call)
    if axes == 1:
        assert found["padding takes up positions"][..., 0].tolist() == [[0, 1, 2, 3]] * 2
    else:
        assert "padding takes up positions" not in found


@pytest.mark.parametrize(("last", "lengths"), [
    (0, []), (1, []), (2, [2]), (5, [2, 3, 4]), (8, [2, 3, 4, 6, 8]),
    (12, [2, 3, 4, 6, 8, 12]), (15, [2, 3, 4, 6, 8, 12]), (16, [2, 3, 4, 6, 8, 12, 16]),
])  # fmt: skip
def test_tables_are_powers_of_two_or_half_as_long_again(last, lengths):
    assert rotary._table_lengths(np.array([[0.0], [last]])) == lengths
