"""Layers that a definition does not visit: read by nothing, judged elsewhere, or not compared."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ldmref.backends.named import LayerCall
from ldmref.locate.recorded.unnamed import sort_unvisited
from ldmref.locate.replay.unvisited import LayerRemarks, RunReads, WatchedParams
from ldmref.models.params import unflatten
from ldmref.models.transformer_layers import find_angles
from ldmref.trace import build_trace
from ldmref.trace.calls import TraceCall

CALL = TraceCall("text_encoder")
RNG = np.random.default_rng(0)
POSITIONS = np.arange(10.0)[:, None]
DIMS, THETA = (6,), 100.0
ANGLES = find_angles(POSITIONS, DIMS, THETA)
TREE = {
    "embed.weight": np.arange(12.0).reshape(6, 2),
    "layers.0.a.weight": np.ones(2),
    "layers.0.a.bias": np.ones(2),
    "layers.1.a.weight": np.ones(2),
    "layers.1.b.weight": np.ones(2),
    "norm.weight": np.ones(2),
}


def reads_of(*names):
    """Return what a run reads that reads these parameters."""
    reads = RunReads()
    params = reads.watch(unflatten(TREE))
    for name in names:
        found = params
        for key in name.split("."):
            found = found[key]
    return reads


def rotate(kind, **values):
    """Return what is noted of a layer that rotates."""
    reads = RunReads()
    arrays = {k: x for k, x in values.items() if isinstance(x, np.ndarray)}
    rest = {k: x for k, x in values.items() if k not in arrays}
    call = LayerCall("a.rotate", kind, {"input": np.ones(2), **arrays}, {}, rest, max)
    reads.note(call)
    reads.note(call)
    assert len(reads.waves) == 1
    return reads


def sorted_of(port, visited=("a",), reads=None, ignored=""):
    network = SimpleNamespace(ignored=ignored)
    found = sort_unvisited(port, CALL, network, reads or reads_of(), {*visited}, "float32")
    return found.unread, found.left


def port_of(**layers):
    """Return a trace of the outputs of layers."""
    return build_trace({f"{CALL}/{k.replace('__', '.')}/output": x for k, x in layers.items()})


# -- what is read ---------------------------------------------------------------------------------


def test_parameters_that_are_read_are_noted_by_their_part():
    read = set()
    params = WatchedParams(unflatten(TREE), read)
    assert [*params] == ["embed", "layers", "norm"] and read == set()
    assert len(params.layers.items_in_order()) == 2 and read == set()
    assert params.layers["0"].get("c") is None and read == set()
    assert params.layers["0"].a.weight.tolist() == [1.0, 1.0] and read == {"layers.0.a"}
    assert params.embed.get("weight") is params.embed["weight"]
    assert read == {"layers.0.a", "embed"}


@pytest.mark.parametrize(
    ("layer", "part"),
    [
        ("norm", "norm"), ("layers.1", "layers.1"), ("layers.1.a", "layers.1"),
        ("layers.1.a.silu~2", "layers.1"), ("layers.0", ""), ("layers.0.a", ""),
        ("layers.0.a.silu", ""), ("layers.2", ""), ("embed", ""), ("other", ""), ("layers", ""),
    ],
)  # fmt: skip
def test_the_largest_part_of_which_nothing_is_read(layer, part):
    assert reads_of("embed.weight", "layers.0.a.bias").find_unread(layer) == part


# -- tables ---------------------------------------------------------------------------------------


BY_POSITIONS = {"kind": "rotate_halves", "positions": POSITIONS, "dims": DIMS, "theta": THETA}
ROTATED = {
    "by positions": BY_POSITIONS,
    "by waves": {"kind": "turn_pairs", "cos": np.cos(ANGLES), "sin": np.sin(ANGLES)},
    "by waves of rows": {
        "kind": "turn_pairs",
        "cos": np.cos(ANGLES)[None, None],
        "sin": np.sin(ANGLES)[None, None],
    },
}
TABLES = {
    "pairs": np.repeat(np.cos(ANGLES), 2, axis=1),
    "halves": np.concatenate([np.sin(ANGLES)] * 2, axis=1)[None],
    "once": np.cos(ANGLES),
    "complex": np.exp(1j * ANGLES),
    "some tokens": np.sin(ANGLES)[3:7],
    "two rows": np.stack([np.cos(ANGLES)[:5], np.cos(ANGLES)[5:]]),
    "rounded": np.cos(ANGLES).astype(np.float32),
}


@pytest.mark.parametrize("rotated", ROTATED)
@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_the_angles_is_known(rotated, name):
    reads = rotate(**ROTATED[rotated])
    table = TABLES[name]
    assert reads.is_table("rotary_emb", table, 2.0**-23)
    for wrong in (-table, table[..., ::-1], 1.001 * table, np.roll(table, 1, axis=-2)):
        assert not reads.is_table("rotary_emb", wrong, 2.0**-23)


def test_what_is_no_table():
    reads = rotate(**BY_POSITIONS)
    more = np.cos(find_angles(np.arange(11.0)[:, None], DIMS, THETA))
    for x in (more, np.cos(ANGLES)[:, :2], np.ones(3), np.ones((0, 3)), np.ones((2, 3), int)):
        assert not reads.is_table("rotary_emb", x, 2.0**-23)


def test_rows_of_a_layers_own_parameter_are_a_table():
    reads = reads_of()
    rows = TREE["embed.weight"]
    assert reads.is_table("embed", rows[None, :4], 2.0**-23)
    assert reads.is_table("embed", np.stack([rows[:2], rows[1:3]]), 2.0**-23)
    assert not reads.is_table("embed", rows[None, :4] + 0.1, 2.0**-23)
    assert not reads.is_table("norm", rows[:4], 2.0**-23)
    assert not reads.is_table("layers.0", rows[:4], 2.0**-23)


# -- layers of a call -----------------------------------------------------------------------------


def test_layers_are_sorted():
    x = RNG.standard_normal((1, 4, 6))
    reads = reads_of("layers.0.a.weight", "embed.weight")
    port = port_of(a=x, same=x, part=x[..., 2:4], other=x + 1, norm=x, layers__1__a=x, embed=x + 2)
    assert sorted_of(port, reads=reads) == (["norm", "layers.1"], ["other", "embed"])
    port = port_of(a=x, lm_head=x + 3, visual__x=x + 4, heads=x + 5)
    pattern = r"lm_head\.weight|visual\..*"
    assert sorted_of(port, ignored=pattern) == (["lm_head", "visual"], ["heads"])
    assert sorted_of(port) == ([], ["lm_head", "visual.x", "heads"])


def test_names_of_other_programs_are_those_of_the_parts():
    x = RNG.standard_normal((1, 4, 6))
    port = port_of(a=x, model__norm=x + 1, text_model__norm=x + 2)
    assert sorted_of(port) == (["norm"], [])


def test_a_layer_whose_result_only_is_known_was_not_compared():
    """What goes into a module around one operation is also an array that was judged."""
    x = RNG.standard_normal((1, 4, 6))
    tensors = {f"{CALL}/a/output": x, f"{CALL}/b/output": x, f"{CALL}/b/input": x + 1}
    assert sorted_of(build_trace(tensors)) == ([], ["b"])
    tensors[f"{CALL}/b/input"] = x[..., :3]
    assert sorted_of(build_trace(tensors)) == ([], [])
    del tensors[f"{CALL}/b/output"]
    assert sorted_of(build_trace(tensors)) == ([], ["b"])


def test_the_inputs_of_a_table_need_not_be_known():
    reads = rotate(**BY_POSITIONS)
    tensors = {
        f"{CALL}/a/output": np.ones(3),
        f"{CALL}/rotary_emb/input.position_ids": np.arange(10),
        f"{CALL}/rotary_emb/input.x": np.ones((1, 10, 4)),
        f"{CALL}/rotary_emb/output.0": TABLES["halves"],
        f"{CALL}/rotary_emb/output.1": TABLES["pairs"],
    }
    assert sorted_of(build_trace(tensors), reads=reads) == ([], [])
    tensors[f"{CALL}/rotary_emb/output.1"] = TABLES["pairs"] + 0.01
    assert sorted_of(build_trace(tensors), reads=reads) == ([], ["rotary_emb"])


def test_remarks_name_each_layer_once():
    remarks = LayerRemarks()
    assert [*remarks.describe()] == []
    for _ in range(2):
        remarks.note_unread("text_encoder", ["norm", "lm_head"])
        remarks.note_unread("unet", [])
        remarks.note_together("transformer", [f"layer{i}" for i in range(5)])
    first, second = remarks.describe()
    assert first == "nothing reads norm, lm_head of text_encoder"
    assert second.startswith("5 layers of transformer compared together")
    assert second.endswith("layer0, layer1, layer2 and 2 more")
