"""Networks of recorded calls: their arguments in order, sizes, steering, and parameters."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from host_units import context_of, entry_of, model_of, normal

from ldmref.errors import UsageError
from ldmref.locate import networks
from ldmref.locate.networks import _CallSizes, _clip_skip
from ldmref.models.declared import CallSize, NetworkInput
from ldmref.trace import build_trace

BATCH, TOKENS, HEIGHT, WIDTH = map(CallSize, ("batch", "tokens", "height", "width"))
LATENTS = NetworkInput("x", "sample", (BATCH, 4, HEIGHT, WIDTH), also=("x",))
X = normal(0, 2, 4, 8, 6)


class Found:
    """Recorded arrays of a call by role, and those of layers."""

    def __init__(self, arrays=None, text=None, length=7, **layers):
        self.arrays = arrays or {}
        self.layers = layers
        self.text, self.tokens = text, length
        self.model = SimpleNamespace(config=SimpleNamespace(denoiser=Denoiser()))
        self.asked = []

    def read(self, *names):
        return next((self.arrays[name] for name in names if name in self.arrays), None)

    def layer_input(self, layer, role):
        self.asked.append((layer, role))
        return self.layers.get(f"{layer}_{role}")

    def layer_output(self, layer):
        self.asked.append((layer,))
        return self.layers.get(layer)

    def missing(self, shape):
        return np.full(shape, np.nan)

    def text_shape(self):
        return self.text

    def length(self, *endings):
        assert endings == ("attn2.to_k", "attn2.to_v")
        return self.tokens

    def batch_and_size(self, levels):
        return 5, 10 * levels, 20 * levels


class Denoiser:
    side_multiple = 2


def sizes(found, config=None):
    network = SimpleNamespace(name="", settings={} if config is None else {"config": config})
    return _CallSizes(network, found)


# -- inputs of a call -----------------------------------------------------------------------------


def test_inputs_have_their_names_or_are_those_of_the_first_layers():
    x = replace(LATENTS, layers=(("a", "input"), ("b", "output"), ("c", "emb")))
    for found, expected in (
        (Found({"sample": X}, a_input=X + 1), X),
        (Found({"x": X}, b=X + 1), X),
        (Found({"x": X + 1, "sample": X}), X),
        (Found(a_input=X, b=X + 1), X),
        (Found(b=X, c_emb=X + 1), X),
        (Found(c_emb=X), X),
        (Found(a_emb=X, b_output=X, c=X), None),
    ):
        got = sizes(found)._recorded(x)
        assert got is None if expected is None else np.array_equal(got, expected)
    found = Found()
    assert sizes(found)._recorded(x) is None
    assert found.asked == [("a", "input"), ("b",), ("c", "emb")]


def test_what_may_be_left_out_is_none():
    read = sizes(Found()).read
    references = replace(LATENTS, argument="references", content="normal")
    assert read(LATENTS, optional=True) is None
    if references.of_references:
        assert read(references) is None
    tokens = NetworkInput("references", "references", (BATCH, CallSize("references"), 4))
    assert tokens.of_references and read(tokens) is None
    mask = NetworkInput("mask", "mask", (BATCH, TOKENS), "mask")
    assert read(mask, optional=True) is None
    assert np.isnan(read(LATENTS)).all()
    ids = NetworkInput("ids", "ids", (BATCH, TOKENS), "ids")
    for shape, expected in (((3, 9), (3, 9)), (None, (1, 7))):
        assert sizes(Found(text=shape)).read(ids).shape == expected
    other = replace(ids, content="normal")
    assert sizes(Found(text=(3, 9))).read(other).shape == (1, 7)


def test_sizes_that_were_not_recorded_are_those_of_the_layers_or_of_one_token():
    levels = SimpleNamespace(block_out_channels=(1, 2, 3))
    for config, shape in (
        (None, (1, 4, 2, 2)),
        (levels, (5, 4, 30, 60)),
        (SimpleNamespace(unet=levels), (5, 4, 30, 60)),
        (SimpleNamespace(block_out_channels=()), (1, 4, 2, 2)),
    ):
        made = sizes(Found(), config)
        assert made.read(LATENTS).shape == shape
        times = NetworkInput("t", "timestep", (CallSize("timesteps"),), "timesteps")
        assert made.read(times).shape == (shape[0],)
    known = sizes(Found({"sample": X}))
    assert np.array_equal(known.read(LATENTS), X)
    assert known.known == {"batch": 2, "height": 8, "width": 6}
    mask = NetworkInput("mask", "mask", (BATCH, TOKENS), "mask")
    assert known.read(mask).tolist() == [[1] * 7] * 2
    hint = NetworkInput("hint", "hint", (BATCH, 3, CallSize("height", 8), CallSize("width", 8)))
    assert known.read(hint).shape == (2, 3, 64, 48)
    hinted = sizes(Found({"hint": np.zeros((2, 3, 64, 48))}))
    hinted.read(hint)
    assert hinted.known == {"batch": 2, "height": 8, "width": 6}
    half = NetworkInput("half", "half", (BATCH, 4, CallSize("height", over=2), CallSize("width")))
    halved = sizes(Found({"half": np.zeros((2, 4, 5, 6))}))
    halved.read(half)
    assert halved.known == {"batch": 2, "height": 10, "width": 6}
    first = sizes(Found({"sample": X, "half": np.zeros((9, 4, 5, 9))}))
    first.read(LATENTS)
    first.read(half)
    assert first.known == {"batch": 2, "height": 8, "width": 6}  # of the first that tells them


@pytest.mark.parametrize(
    ("shape", "turned"),
    [
        ((2, 4, 8, 6), False),
        ((2, 8, 6, 4), True),
        ((2, 4, 6, 4), False),
        ((2, 8, 6, 5), False),
        ((2, 8, 4), False),
        ((8, 6, 4, 2), False),
    ],
)
def test_channels_that_are_last_are_turned(shape, turned):
    x = normal(1, *shape)
    got = sizes(Found({"sample": x})).read(LATENTS)
    assert np.array_equal(got, x.transpose(0, 3, 1, 2) if turned else x)


def test_whole_numbers_and_numbers_of_each_image():
    made = sizes(
        Found({"sample": X, "a": np.array([[3.0], [4.0]]), "b": np.array(5), "s": [[1, 2]]})
    )
    made.read(LATENTS)
    for content in ("ids", "labels", "mask"):
        got = made.read(NetworkInput("a", "a", (BATCH, 1), content))
        assert got.dtype == np.int64 and got.tolist() == [[3], [4]]
    for role, expected in (("a", [3.0, 4.0]), ("b", [5.0, 5.0])):
        got = made.read(NetworkInput("t", role, (CallSize("timesteps"),), "timesteps"))
        assert got.dtype == np.float64 and got.tolist() == expected
        assert got.flags.writeable
    got = made.read(NetworkInput("s", "s", (BATCH, 2), "sizes"))
    assert got.dtype == np.float64 and got.tolist() == [[1.0, 2.0]]
    four = {"sample": X, "g": np.arange(4.0)}
    made = sizes(Found(four))
    made.read(LATENTS)
    assert made.read(NetworkInput("g", "g", (BATCH,), "guidance")).tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="broadcast"):
        made.read(NetworkInput("t", "g", (BATCH,), "timesteps"))


# -- the arguments in their order -----------------------------------------------------------------

WHOLE = {
    "input.sample": normal(0, 1, 4, 8, 8),
    "input.timestep": np.array([3]),
    "input.encoder_hidden_states": normal(1, 1, 16, 32),
}


def opened(arrays=WHOLE, attributes=None, call="unet.000", model="tiny", **more):
    of = {call: attributes or {}}
    context = context_of({call: arrays}, model, attributes=of)
    return networks.open_network(context.model, context.port, entry_of(context, call).call, **more)


@pytest.mark.parametrize(
    ("scale", "weight"),
    [
        (0.5, 0.5),
        (2, 2.0),
        (0, 0.0),
        (1.0, None),
        (1, None),
        ("2", None),
        (None, None),
        ([2.0], None),
    ],
)
def test_a_recorded_weight_is_that_of_the_output(scale, weight, monkeypatch):
    made = []
    monkeypatch.setattr(networks, "weigh_output", lambda f, by: made.append(by) or f)
    found = opened(attributes={} if scale is None else {"conditioning_scale": scale})
    assert made == ([] if weight is None else [weight])
    assert found.complete and found.arguments["x"].shape == (1, 4, 8, 8)


def test_a_weighted_function_has_the_name_of_the_function():
    def controlnet(x, *, by=1.0):
        return x * by, (x,)

    run = networks.weigh_output(controlnet, 3.0)
    assert run.__name__ == "controlnet" and run.__wrapped__ is controlnet
    assert run(2.0, by=5.0) == (30.0, (6.0,))


@pytest.mark.parametrize(
    ("attributes", "steered"),
    [
        ({}, {}),
        ({"identity_attention": ["mid"]}, {"identity_attention": ("mid",)}),
        ({"identity_attention": []}, {}),
        ({"identity_attention": "mid"}, {}),
        ({"skip_layers": [0]}, {}),  # which U-Nets do not take
        ({"other": ["mid"]}, {}),
    ],
)
def test_what_steers_a_call_is_given_to_it(attributes, steered):
    found = opened(attributes=attributes)
    given = {k: x for one in found.arguments.get("steering", ()) for k, x in one.recorded.items()}
    plain = model_of("tiny").denoiser.function
    assert given == steered and (found.function is plain) == (not steered)


def test_optional_inputs_are_given_if_they_were_recorded(monkeypatch):
    own = model_of("tiny").denoiser
    labels = NetworkInput("class_labels", "class_labels", (BATCH,), "labels")
    network = replace(own, optional=(labels,))
    monkeypatch.setattr(networks, "find_definition", lambda *args: (network, {}))
    assert opened().arguments["class_labels"] is None and opened().complete
    given = opened(WHOLE | {"input.class_labels": np.array([2.0])}).arguments["class_labels"]
    assert given.tolist() == [2] and given.dtype == np.int64
    assert [*opened().arguments][-1] == "control"
    assert (
        opened(assume=True).arguments["class_labels"] is None and not opened(assume=True).complete
    )


def test_reasons_are_given_unless_shapes_are_assumed(monkeypatch):
    def fails(error):
        def run(*args):
            raise error

        monkeypatch.setattr(networks, "open_network", run)

    model = port = call = None
    for error in (ValueError("no\nmore"), IndexError("no"), TypeError("no")):
        fails(error)
        assert networks.try_network(model, port, call) == (None, "no")
        with pytest.raises(type(error)):
            networks.try_network(model, port, call, assume=True)
    for error in (UsageError("x", code="E-X"), KeyError("x"), RuntimeError("x")):
        fails(error)
        with pytest.raises(type(error)):
            networks.try_network(model, port, call)
    seen = []
    monkeypatch.setattr(networks, "open_network", lambda *args: seen.append(args) or "found")
    assert networks.try_network(1, 2, 3, 4, True) == ("found", "")
    assert networks.try_network(1, 2, 3) == ("found", "")
    assert seen == [(1, 2, 3, 4, True), (1, 2, 3, (), False)]


# -- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("calls", "numbers"),
    [
        (["controlnet.000", "controlnet.001"], [0, 1]),
        (["controlnet_1.000", "controlnet_2.000", "controlnet_3.005"], [0, 1, 2]),
        (["controlnet.003", "controlnet_2.000"], [0, 1]),
        (["controlnet.005"], [5]),
    ],
)
def test_controlnets_have_numbers(calls, numbers):
    port = build_trace({f"{call}//input.x": np.zeros(1) for call in calls})
    assert [networks.number_controlnet(port, call) for call in port.calls] == numbers


@pytest.mark.parametrize(
    ("asked", "own", "skip"),
    [
        (None, None, 0), (1, None, 1), (3, None, 3), (4, None, 0), (5, None, 0), (0, None, 0),
        (-1, None, 0), (1.0, None, 0), ("1", None, 0), (1, 2, 2), (None, 2, 2), (2, 0, 0),
    ],
)  # fmt: skip
def test_a_text_encoder_leaves_out_layers_as_its_call_or_the_run_says(asked, own, skip):
    attributes = {} if own is None else {"clip_skip": own}
    params = {} if asked is None else {"clip_skip": asked}
    context = context_of(
        {"text_encoder.000": {"input.ids": np.ones((1, 2))}},
        attributes={"text_encoder.000": attributes},
        params=params,
    )
    found = SimpleNamespace(port=context.port, call="text_encoder.000")
    assert _clip_skip(found, 4) == skip
    bare = SimpleNamespace(port=context.port, call="text_encoder.001")
    assert _clip_skip(bare, 4) == (asked if isinstance(asked, int) and 0 < asked < 4 else 0)
    none = SimpleNamespace(port=build_trace({}, {"params": None}), call="text_encoder.001")
    assert _clip_skip(none, 4) == 0
