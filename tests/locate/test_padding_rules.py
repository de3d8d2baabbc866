"""Rows of padding, with networks of a few lines: what hides, what is changed, what is kept."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ldmref.backends.named import LayerCall
from ldmref.locate import padding
from ldmref.locate.networks import RecordedNetwork
from ldmref.locate.padding import PaddingFinder
from ldmref.models.declared import CallSize, DeclaredNetwork, NetworkInput, NetworkOutput

TOKENS = CallSize("tokens")
MASK = np.array([[1, 1, 0], [1, 1, 1]])
HIDDEN = MASK == 0


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def network_of(function=lambda ops, params, **arrays: 0, inputs=None, name="transformer", **arrays):
    if inputs is None:
        inputs = [
            NetworkInput("x", "x", (CallSize("batch"), TOKENS, 4)),
            NetworkInput("mask", "mask", (CallSize("batch"), TOKENS), "mask"),
        ]
    outputs = (NetworkOutput("", "y"),)
    declared = DeclaredNetwork(name, "", "", function, dict, {}, tuple(inputs), outputs)
    return RecordedNetwork(declared, {}, arrays, True)


# -- which calls have padding ---------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch):
    """Let the search return its number, and keep what it was asked."""
    calls = []

    def find(network, hidden, axis):
        calls.append((network, hidden, axis))
        return {len(calls): hidden}

    monkeypatch.setattr(padding, "_find", find)
    return calls


def test_a_mask_that_hides_something_is_looked_into(asked):
    call = network_of(mask=MASK)
    assert PaddingFinder().find(None, call) == {1: asked[0][1]}
    assert asked[0][0] is call and asked[0][2] is TOKENS
    assert np.array_equal(asked[0][1], HIDDEN)


def test_calls_without_one_mask_have_no_padding(asked):
    finder = PaddingFinder()
    for mask in (None, MASK[0], MASK[None], np.ones((2, 3)), [[1, 0]]):
        assert finder.find(None, network_of(mask=mask)) == {}
    two = [NetworkInput(x, x, (CallSize("batch"), TOKENS), "mask") for x in ("mask", "other")]
    assert finder.find(None, network_of(inputs=two, mask=MASK, other=MASK)) == {}
    assert finder.find(None, network_of(inputs=[], mask=MASK)) == {}
    assert finder.find(None, network_of()) == {}
    assert not asked


def test_calls_of_one_kind_are_looked_into_once(asked):
    finder = PaddingFinder()
    model, other = SimpleNamespace(), SimpleNamespace()

    def number(model=model, mask=MASK, x=None, config="c", **more):
        x = np.zeros((2, 3, 4)) if x is None else x
        (found,) = finder.find(model, network_of(mask=mask, x=x, config=config, **more))
        return found

    assert number() == 1 and number(x=np.ones((2, 3, 4))) == 1
    assert number(mask=MASK * 7) == 1  # hides the same
    assert number(mask=MASK[::-1]) == 2
    assert number(x=np.zeros((2, 3, 5))) == 3
    assert number(x=np.zeros((2, 3, 4), np.int64)) == 4
    assert number(x=np.zeros((2, 3, 4), np.float32)) == 1
    assert number(config="d") == 5
    assert number(other) == 6
    assert number(name="unet") == 7
    assert [number(), number(mask=MASK[::-1]), number(other)] == [1, 2, 6]


@pytest.mark.parametrize("name", ["text_encoder", "text_encoder_2", "transformer"])
def test_padding_of_a_text_that_is_read_is_none(name, asked):
    finder = PaddingFinder()
    read = np.zeros((2, 3), bool)
    finder.read_later = lambda model, mask: read
    found = finder.find(None, network_of(mask=MASK, name=name))
    assert np.array_equal(found[1], HIDDEN)
    read[0, 2] = True
    some = finder.find(None, network_of(mask=MASK, name=name))
    assert some == ({} if name.startswith("text") else found)
    wide = np.array([[1, 0, 0], [1, 1, 1]])
    [last] = finder.find(None, network_of(mask=wide, name=name)).values()
    assert last.astype(int).tolist()[0] == ([0, 1, 0] if name.startswith("text") else [0, 1, 1])


# -- what a denoiser reads of a text --------------------------------------------------------------


def read_of(mask, templates=None, encoders=1, more=None):
    """Return what is read, and what was asked of the family's way to encode."""
    seen = {}

    def encode(ops, configs, parts, compile_network):
        (tokens,) = parts
        seen.update(tokens=tokens, configs=configs)
        states = compile_network(None, "text_encoder")("config", tokens.ids[:, 0], None, None)
        found = states * tokens.mask[:, 0, :, None]
        return SimpleNamespace(states=found[:, tokens.dropped :], more=more or {})

    text = SimpleNamespace(encode=encode, templates=lambda config: templates or {})
    config = SimpleNamespace(text_encoders=["c"] * encoders)
    model = SimpleNamespace(config=config, family=SimpleNamespace(text=text))
    return PaddingFinder().read_later(model, np.array(mask)).astype(int).tolist(), seen


def test_tokens_are_told_apart_by_their_places():
    mask = [[0, 1, 0, 1], [1, 1, 1, 0]]
    found, seen = read_of(mask)
    assert found == mask and seen["configs"] == ["c"]
    tokens = seen["tokens"]
    assert tokens.mask.tolist() == [[[1, 1, 0, 0]], [[1, 1, 1, 0]]]  # padding is behind
    assert tokens.ids.shape == tokens.weights.shape == (2, 1, 4)
    assert (tokens.ids.dtype, tokens.weights.dtype) == (np.int64, np.float32)
    assert not tokens.ids.any() and (tokens.weights == 1.0).all()
    assert (tokens.counts, tokens.truncated, tokens.warnings) == ([1, 1], [0, 0], [])
    assert tokens.dropped == 0


def test_tokens_of_a_template_are_dropped():
    dropped = {"text_encoder": SimpleNamespace(dropped=1)}
    assert read_of([[0, 1, 0, 1]], dropped)[0] == [[0, 0, 0, 1]]
    other = {"text_encoder_2": SimpleNamespace(dropped=1)}
    assert read_of([[0, 1, 0, 1]], other)[0] == [[0, 1, 0, 1]]


def test_the_order_of_tokens_is_kept():
    mask = np.array([[0, 1] * 20])
    found, _ = read_of(mask, {"text_encoder": SimpleNamespace(dropped=3)})
    assert found == [[0] * 7 + [1, 0] * 16 + [1]]


@pytest.mark.parametrize("encoders", [0, 2, 3])
def test_of_several_encoders_all_tokens_are_read(encoders):
    assert read_of([[1, 0]], encoders=encoders)[0] == [[1, 1]]


# -- the two runs ---------------------------------------------------------------------------------


def test_what_of_an_argument_rows_depend_on():
    assert padding._kind(("x", np.zeros((2, 3), np.float32))) == ("x", ((2, 3), "f"))
    assert padding._kind(("c", "text")) == ("c", "'text'")


def test_arrays_between_layers_are_digested():
    backend = padding._DigestingBackend()
    x, emb = normal(0, 2, 3), normal(1, 2, 3)
    one = LayerCall("a", "k", {"input": x, "emb": emb}, {}, {}, lambda y: y["input"] + y["emb"])
    assert np.array_equal(backend.visit(one), x + emb)
    two = LayerCall("b", "k", {"input": x}, {}, {}, lambda y: (emb, y["input"]))
    assert backend.visit(two) == (emb, x)
    assert {key: x.shape for key, x in backend.rows.items()} == dict.fromkeys(
        [("a", "input", 0), ("a", "emb", 0), ("a", "", 0), ("b", "input", 0), ("b", "", 0),
         ("b", "", 1)], (2,)
    )  # fmt: skip
    assert np.array_equal(backend.rows["b", "", 1], backend.rows["a", "input", 0])
    assert np.allclose(
        backend.rows["a", "", 0], backend.rows["b", "", 0] + backend.rows["b", "", 1]
    )


def test_hidden_tokens_get_two_numbers():
    x = 100.0 * normal(0, 2, 3, 4)
    first, second = padding._change(x, HIDDEN)
    for changed in (first, second):
        assert np.array_equal(changed[~HIDDEN], x[~HIDDEN])
        assert not np.isclose(changed[HIDDEN], x[HIDDEN]).any()
        size = np.sqrt(np.mean(x**2))
        assert 0.1 * size < np.abs(changed[HIDDEN]).max() < 5.0 * size
    assert not np.isclose(first[HIDDEN], second[HIDDEN]).any()
    flat = padding._change(np.zeros((2, 3)), HIDDEN)
    assert 1e-5 < np.abs(flat[0][HIDDEN]).max() < 1e-2 and not flat[0][~HIDDEN].any()
    ids = np.array([[5, 6, 7], [8, 9, 10]])
    first, second = padding._change(ids, HIDDEN)
    assert first.tolist() == [[5, 6, 0], [8, 9, 10]] and second.tolist() == [[5, 6, 1], [8, 9, 10]]
    pairs = padding._change(np.full((2, 3, 2), 7), HIDDEN)
    assert [int(y.sum()) for y in pairs] == [70, 72]


def test_arguments_that_were_not_recorded_become_numbers():
    found = padding._known(np.array([np.nan, np.inf, -np.inf, 2.0]))
    assert found.tolist() == [0.0, 0.0, 0.0, 2.0]
    assert padding._known("c") == "c" and padding._known(None) is None


def test_differences_are_relative_to_the_largest_value():
    x = np.array([1000.0, 1.0, -4.0])
    for apart, changed in ((0.9e-6, False), (1.1e-6, True), (-1.1e-6, True)):
        assert padding._changed(x, x + np.array([0.0, apart, 0.0])).tolist() == [
            False,
            changed,
            False,
        ]
    assert padding._changed(-x, 1e-5 - x).all() and not padding._changed(-x, -x).any()
    assert padding._changed(np.array([np.inf]), np.array([1.0])).all()
    assert padding._changed(np.zeros(0), np.zeros(0)).shape == (0,)


def attend(ops, params, x, mask, **more):
    """Return the tokens with the mean of those that are not hidden."""
    seen = mask[..., None] != 0
    within = LayerCall("a", "k", {"input": x}, {}, {}, lambda y: 2.0 * y["input"])
    y = ops.visit(within)
    return y + np.where(seen, y, 0.0).sum(axis=1, keepdims=True)


def found_in(function, hidden=HIDDEN, axis=TOKENS, **arrays):
    arrays = {"x": normal(0, 2, 3, 4), "mask": MASK} | arrays
    return padding._find(network_of(function, **arrays), hidden, axis)


def test_rows_of_hidden_tokens_are_those_that_change():
    found = found_in(attend)
    assert found.keys() == {("a", "input", 0), ("a", "", 0), ("", "", 0)}
    assert all(np.array_equal(rows, HIDDEN) for rows in found.values())
    assert found_in(lambda ops, params, x, mask: attend(ops, params, x, mask * 0 + 1)) == {}


def test_rows_that_stay_are_no_padding():
    def masked(ops, params, x, mask):
        ops.visit(LayerCall("a", "k", {"input": x[:, 0]}, {}, {}, lambda y: y["input"]))
        return attend(ops, params, x, mask)[:, 0]

    found = found_in(masked)
    assert ("", "", 0) not in found and np.array_equal(found["a", "", 0], HIDDEN)
    first = found_in(lambda ops, params, x, mask: attend(ops, params, x, mask)[:, ::-1])
    assert first == {}  # hidden tokens are elsewhere in the result, which is read


def test_networks_that_fail_have_no_padding():
    def fail(ops, params, **arrays):
        raise ValueError("x")

    assert found_in(fail) == {}


def test_arrays_of_other_tokens_stay():
    """Of the inputs, those that have the axis of the tokens and their number are changed."""
    batch = CallSize("batch")
    inputs = [
        NetworkInput("x", "x", (batch, TOKENS, 4)),
        NetworkInput("image", "image", (batch, CallSize("height"), 4)),
        NetworkInput("pooled", "pooled", (batch,)),
        NetworkInput("ids", "ids", (batch, TOKENS)),
        NetworkInput("short", "short", (batch, TOKENS, 4)),
        NetworkInput("absent", "absent", (batch, TOKENS, 4)),
        NetworkInput("mask", "mask", (batch, TOKENS), "mask"),
    ]
    seen = []

    def run(ops, params, **arrays):
        seen.append(arrays)
        return np.zeros((2, 3))

    arrays = {
        "x": normal(0, 2, 3, 4),
        "image": normal(1, 2, 3, 4),
        "pooled": normal(2, 2),
        "ids": np.full((2, 3), 7),
        "short": normal(3, 2, 2, 4),
        "absent": None,
        "mask": MASK,
        "config": "c",
    }
    assert padding._find(network_of(run, inputs, **arrays), HIDDEN, TOKENS) == {}
    first, second = seen
    assert first.keys() == second.keys() == arrays.keys()
    for name in ("image", "pooled", "short", "mask"):
        assert np.array_equal(first[name], arrays[name])
        assert np.array_equal(second[name], arrays[name])
    assert first["config"] == second["config"] == "c" and first["absent"] is None
    for name in ("x", "ids"):
        assert np.array_equal(first[name][~HIDDEN], arrays[name][~HIDDEN])
        assert not np.isclose(first[name][HIDDEN], second[name][HIDDEN]).any()
