"""States of other layers, norms and tokens than those that a pipeline selects."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ldmref.locate.modules import selected_states  # noqa: E402
from ldmref.locate.modules.selected_states import (  # noqa: E402
    MOST_TOKENS,
    find_final_norm,
    states_of_others,
)

STATES = np.random.default_rng(0).standard_normal((2, 6, 3))


def copies_of(network):
    return SimpleNamespace(exact=SimpleNamespace(network=network))


class Run:
    """A pipeline whose encoder gives states of four layers, of which the second is read."""

    def __init__(self, networks=None, hidden=True):
        self.networks = networks or {}
        self.hidden = hidden
        self.changes = []

    def record(self, change):
        states = tuple(torch.full((1, 2), float(i)) for i in range(4))
        output = SimpleNamespace(hidden_states=states if self.hidden else None)
        changed = change(output)
        assert changed is output
        self.changes.append(output.hidden_states)
        return output


def encoder(*names):
    module = torch.nn.Module()
    for name in names:
        parent, _, last = name.rpartition(".")
        owner = module
        for part in filter(None, parent.split(".")):
            if not hasattr(owner, part):
                setattr(owner, part, torch.nn.Module())
            owner = getattr(owner, part)
        setattr(owner, last, torch.nn.LayerNorm(2))
    return module


def read(trace):
    found = trace.hidden_states
    return None if found is None else found[1].detach().numpy()


def others(got, right, run=None, read_text=lambda trace: None):
    return [*states_of_others(run or Run(), read_text, got, right)]


# -- layers and norms -----------------------------------------------------------------------------


def test_states_of_layers_around_the_selected_one():
    norms = encoder("final_layer_norm")
    norms.final_layer_norm.bias.data.fill_(7.0)
    run = Run({"text_encoder": copies_of(norms), "transformer": copies_of(encoder("norm"))})
    found = others(STATES[:1, 0], STATES[:1, 1], run, read)
    assert [words for words, _ in found] == [
        "the text is zero",
        "the final norm is applied to the selected states",
        "states of 1 layer later are selected",
        "states of 1 layer earlier are selected",
        "states of 2 layers later are selected",
        "states of 2 layers earlier are selected",
    ]
    assert np.array_equal(found[0][1], np.zeros((1, 3)))
    numbers = [x[0, 0] for _, x in found[1:]]
    assert numbers == [7.0, 2.0, 0.0, 3.0, 0.0]
    later, earlier = ([float(x[0, 0]) for x in run.changes[i]] for i in (1, 4))
    assert later == [1.0, 2.0, 3.0, 3.0] and earlier == [0.0, 0.0, 0.0, 1.0]
    assert [float(x[0, 0].detach()) for x in run.changes[0]] == [7.0] * 4
    assert not run.changes[0][0].requires_grad


def test_what_is_not_found_is_left_out():
    run = Run()
    assert [words for words, _ in others(STATES[:1, 0], STATES[:1, 0], run)] == ["the text is zero"]
    assert len(run.changes) == 4
    hidden = Run({"text_encoder": copies_of(encoder("norm"))}, hidden=False)
    found = others(STATES[:1, 0], STATES[:1, 0], hidden, read)
    assert [words for words, _ in found] == ["the text is zero"] and hidden.changes == [None] * 5


def test_arrays_of_other_shapes_are_not_those_of_other_layers():
    run = Run()
    assert others(STATES[:, :, :2], STATES, run, read) == [] and run.changes == []
    assert others(STATES[:1, :, :2], STATES[:1], run, read) == []


@pytest.mark.parametrize(
    ("networks", "expected"),
    [
        ({"text_encoder": ("norm",)}, "norm"),
        ({"text_encoder": ("model.final_layer_norm",)}, "model.final_layer_norm"),
        ({"text_encoder": ("a.final_layernorm",)}, "a.final_layernorm"),
        ({"text_encoder": ("layers.norm", "norm")}, "norm"),
        ({"text_encoder": ("norm", "layers.norm")}, "layers.norm"),
        ({"text_encoder": ("norm.other", "norms")}, None),
        ({"text_encoder": ("norm",), "text_encoder_2": ("norm",)}, None),
        ({"transformer": ("norm",)}, None),
        ({}, None),
        ({"text_encoder_2": ("norm",), "transformer": ("norm",)}, "norm"),
    ],
)
def test_the_final_norm_of_the_only_encoder(networks, expected):
    modules = {name: encoder(*parts) for name, parts in networks.items()}
    run = Run({name: copies_of(module) for name, module in modules.items()})
    found = find_final_norm(run)
    if expected is None:
        assert found is None or not isinstance(found, torch.nn.LayerNorm)
        return
    (module,) = [m for name, m in modules.items() if name.startswith("text_encoder")]
    assert found is module.get_submodule(expected)


# -- tokens ---------------------------------------------------------------------------------------


def of_tokens(got, right):
    return [*selected_states._of_tokens(got, right)]


@pytest.mark.parametrize(("count", "tokens"), [(1, "1 token"), (2, "2 tokens")])
def test_tokens_too_many_are_as_the_port_has_them(count, tokens):
    got = np.concatenate([STATES[:, :count] + 9.0, STATES], axis=1)
    (first, at_start), (second, at_end) = of_tokens(got, STATES)
    assert first == f"{tokens} at the start not dropped" and np.array_equal(at_start, got)
    assert second == f"{tokens} more at the end"
    assert np.array_equal(at_end, np.concatenate([STATES, got[:, -count:]], axis=1))


def test_tokens_too_few_are_those_that_are_left():
    (first, at_start), (second, at_end) = of_tokens(STATES[:, :5], STATES)
    assert first == "1 token too many dropped at the start"
    assert np.array_equal(at_start, STATES[:, 1:])
    assert second == "1 token missing at the end" and np.array_equal(at_end, STATES[:, :5])


def test_tokens_of_a_window_are_shifted_by_up_to_half_of_it():
    got = STATES + 100.0
    found = of_tokens(got, STATES)
    assert len(found) == 6
    for count in (1, 2, 3):
        tokens = f"{count} token" + "s" * (count > 1)
        (first, later), (second, earlier) = found[2 * count - 2 : 2 * count]
        assert first == f"{tokens} at the start not dropped"
        assert np.array_equal(later[:, count:], STATES[:, :-count])
        assert np.array_equal(later[:, :count], got[:, :count])
        assert second == f"{tokens} too many dropped at the start"
        assert np.array_equal(earlier[:, :-count], STATES[:, count:])
        assert np.array_equal(earlier[:, -count:], got[:, -count:])
    assert np.array_equal(got, STATES + 100.0)
    long = np.zeros((1, 2 * MOST_TOKENS + 10, 1))
    assert len(of_tokens(long, long)) == 2 * MOST_TOKENS == 256
    one = np.zeros((1, 1, 2))
    assert of_tokens(one, one) == []
    assert len(of_tokens(STATES[:, :5], STATES[:, :5])) == 4


@pytest.mark.parametrize(
    ("got", "right"),
    [
        (STATES[:, 0], STATES),
        (STATES, STATES[:, 0]),
        (STATES[:, 0], STATES[:, 0]),
        (STATES[:, :, :2], STATES),
        (STATES[None], STATES[None]),
    ],
)
def test_arrays_without_the_same_channels_have_no_tokens(got, right):
    assert of_tokens(got, right) == []


def test_the_likeliest_selection_comes_first():
    found = others(STATES[::-1], STATES, Run(), read)
    words = [text for text, _ in found]
    assert np.array_equal(found[6][1], STATES[::-1])
    assert words[:2] == [
        "1 token at the start not dropped",
        "1 token too many dropped at the start",
    ]
    assert words[6:9] == [
        "rows of prompts are exchanged",
        "the text is zero",
        "states of 1 layer later are selected",
    ]
