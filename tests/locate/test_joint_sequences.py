"""Ports that keep image and text in one sequence: its order, what fills it up, and its one mask."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from test_conventions import CALL, MASKS, assert_equal, judge, model_of, record

from ldmref.locate.recorded.joint_masks import find_text_masks
from ldmref.trace import build_trace

KREA = "krea-2-tiny"
TEXT, IMAGE = 5, 8  # tokens
STATES = (3, 20)  # the hidden states of a token
LONG = 24  # tokens of a sequence that is filled up
RNG = np.random.default_rng(0)


class Sequence(NamedTuple):
    """How a port keeps image and text.

    Attributes:
        parts: The kinds of tokens in their order; "fill" is what nothing reads.
        layers: The axis of the text's states that has their layers. None: they are side by side.
    """

    parts: tuple[str, ...]
    layers: int | None = 2


SEQUENCES = {
    "image first": Sequence(("image", "text", "fill")),
    "filled in between": Sequence(("image", "fill", "text"), None),
    "text first": Sequence(("text", "image", "fill"), 1),
    "text behind what fills up": Sequence(("fill", "text", "image"), 0),
    "image first, not filled up": Sequence(("image", "text"), 1),
}


def join(sequence, text, image):
    """Return tokens (..., l, d) in the order of a port."""
    fill = RNG.standard_normal((*text.shape[:-2], LONG - TEXT - IMAGE, text.shape[-1]))
    parts = {"text": text, "image": image, "fill": fill.astype(np.float32)}
    return np.concatenate([parts[part] for part in sequence.parts], axis=-2)


def join_layers(sequence, mask, tensors):
    """Return the arrays of layers in a port's order, with any numbers in what a mask hides."""
    found = {}
    for key, x in tensors.items():
        if "//" not in key and x.ndim in (3, 4) and x.shape[-2] == TEXT + IMAGE:
            text = x[..., :TEXT, :].copy()
            hidden = np.broadcast_to(mask[:, *[None] * (x.ndim - 3)] == 0, text.shape[:-1])
            text[hidden] = 30.0 * RNG.standard_normal(text[hidden].shape)
            x = join(sequence, text, x[..., TEXT:, :])
        found[key] = x
    return found


def as_port(sequence, tensors, mask="unequal", ran=""):
    """Return the arrays of a port of Krea 2 from those of ldmref, which may have run another mask.

    What no token read has any numbers.
    """
    read = MASKS[mask]
    tensors = {k: x for k, x in tensors.items() if not k.endswith(".bias")}
    found = join_layers(sequence, MASKS[ran or mask], tensors)
    key = f"{CALL}//input.encoder_hidden_states"
    if sequence.layers is not None:
        found[key] = np.moveaxis(tensors[key].reshape(2, TEXT, *STATES), 2, sequence.layers)
    masks = {"text": read, "image": np.ones((2, IMAGE)), "fill": np.zeros((2, 11))}
    of_both = np.concatenate([masks[part] for part in sequence.parts], axis=1)
    found[f"{CALL}//input.encoder_attention_mask"] = of_both.astype(np.int64)
    return found


@pytest.mark.parametrize("name", SEQUENCES)
@pytest.mark.parametrize("mask", ["whole", "unequal", "short"])
def test_one_sequence_of_image_and_text_is_equal(name, mask):
    model, right = record(KREA, mask=mask)
    report = judge(model, as_port(SEQUENCES[name], right, mask))
    assert_equal(report, "one mask of 5 tokens of the text and")
    image_first = name not in ("text first", "text behind what fills up")
    assert any("image first" in note for note in report.notes) == image_first
    assert report.padding or mask == "whole"


@pytest.mark.parametrize("name", ["text first", "text behind what fills up", "image first"])
def test_a_wrong_layer_of_such_a_sequence_is_named(name):
    layer = "transformer_blocks.1.attn.to_out.0"
    wrong = {layer: lambda call, x: 1.02 * call.compute(x)}
    model, tensors = record(KREA, wrong, mask="unequal")
    (row,) = judge(model, as_port(SEQUENCES[name], tensors)).faults
    assert (row.layer, row.cause) == (layer, "scaled by 1.02")


@pytest.mark.parametrize("name", ["image first", "text first"])
def test_a_sequence_whose_padding_is_read_has_no_mask(name):
    model, tensors = record(KREA, mask="whole")
    (row,) = judge(model, as_port(SEQUENCES[name], tensors, ran="whole")).faults
    assert row.cause == "the padding mask is missing: from this layer on, tokens read the padding"
    assert row.layer.startswith("text_fusion.refiner_blocks.0.attn")


def test_one_layer_in_another_order_is_a_fault():
    model, tensors = record(KREA, mask="unequal")
    port = as_port(SEQUENCES["text first"], tensors)
    other = as_port(SEQUENCES["image first"], tensors)
    key = f"{CALL}/transformer_blocks.1.attn.to_q/output"
    report = judge(model, port | {key: other[key]})
    assert "transformer_blocks.1.attn.to_q" in {row.layer for row in report.faults}


def test_activations_that_are_numbered_through_a_port_are_told_apart():
    """Their numbers are found with arrays of layers behind them that nobody has turned yet."""
    model, tensors = record(KREA, mask="unequal")
    port = as_port(SEQUENCES["text first"], tensors)
    for number, layer in enumerate(("time_embed.gelu", "gelu", "txt_in.gelu")):
        for side in ("input", "output"):
            port[f"{CALL}/act{number}/{side}"] = port.pop(f"{CALL}/{layer}/{side}")
    names = {"act0": "gelu", "act1": "gelu~1", "act2": "gelu~2"}
    port = {_rename(key, names): x for key, x in port.items()}
    assert_equal(judge(model, port), "24 rows of tokens for 13")
    wrong = judge(model, port | {f"{CALL}/gelu~1/output": 1.02 * port[f"{CALL}/gelu~1/output"]})
    assert ("gelu", "scaled by 1.02") in {(row.layer, row.cause) for row in wrong.faults}


def _rename(key, names):
    call, layer, rest = key.split("/", 2)
    return f"{call}/{names.get(layer, layer)}/{rest}"


@pytest.mark.parametrize("name", ["image first", "filled in between"])
def test_a_layer_of_another_name_is_compared_without_what_fills_up(name):
    model, tensors = record(KREA, mask="whole")
    port = as_port(SEQUENCES[name], tensors, "whole")
    old, new = f"{CALL}/transformer_blocks.1.attn.rotate/", f"{CALL}/other/"
    port = {key.replace(old, new): x for key, x in port.items()}
    output = port[f"{new}output"]
    for shape in (output.shape, (*output.shape[:-1], 6, 2)):  # pairs have an axis of their own
        other = port | {f"{new}output": output.reshape(shape)}
        assert judge(model, other).verdict == "equal"
        at = 0 if name == "image first" else LONG - 1  # a token that is read
        wrong = output.copy()
        wrong[:, :, at] *= 1.01
        report = judge(model, port | {f"{new}output": wrong.reshape(shape)})
        assert report.verdict == "incomplete"
        assert any(gap.endswith(": other") for gap in report.gaps)


# -- the mask -------------------------------------------------------------------------------------


def find_begins(mask, tokens=TEXT, model=KREA, call=0):
    """Return where the text may begin in a mask, whose numbers are their places."""
    network = model_of(model).denoiser
    whole = {"sample": np.zeros((2, IMAGE, 16)), "encoder_hidden_states": np.zeros((2, tokens, 60))}
    whole["mask"] = np.asarray(mask)
    tensors = {f"{CALL}//input.{role}": x for role, x in whole.items()}
    port = build_trace(tensors)
    found = [*find_text_masks(network, port, port.calls[call])]
    (entry,) = port.entries
    assert all(one.concerns(entry, "input", "mask") for one in found)
    assert not any(one.concerns(entry, "input", "sample") for one in found)
    assert not any(one.concerns(entry, "output", "mask") for one in found)
    places = np.tile(np.arange(np.shape(mask)[-1]), (2, 1))
    return [int(one.turned(places)[0, 0]) for one in found]


def ones_but(size, *hidden):
    mask = np.ones((2, size), np.int64)
    mask[1, [*hidden]] = 0
    return mask


def test_the_text_is_where_all_others_are_read():
    assert find_begins(ones_but(13, 12)) == [8] and find_begins(ones_but(13, 4)) == [0]
    assert find_begins(ones_but(13)) == [0]  # or anywhere it is
    assert find_begins(ones_but(13, 2, 10)) == []  # some of the image is not read
    filled = np.concatenate([ones_but(13, 12), np.zeros((2, 2), np.int64)], axis=1)
    assert find_begins(filled) == [8]  # behind both
    assert find_begins(np.roll(filled, 2, axis=1)) == [10]  # before them


def test_masks_of_the_text_alone_have_no_other_tokens():
    assert find_begins(ones_but(5, 4)) == [] and find_begins(ones_but(12, 4)) == []
    assert find_begins(np.ones((2, 1, 13))) == []
    assert find_begins(ones_but(13), model="flux-tiny") == []  # which has no mask
