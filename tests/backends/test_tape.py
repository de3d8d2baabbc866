"""Recordings of networks on small arrays give the network's bits, or are not used."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

import ldmref
from ldmref import modes
from ldmref.backends import get_backend, split_arrays
from ldmref.backends.fast import repeated, tape, threads
from ldmref.backends.fast.recorded_array import NotRecordable
from ldmref.backends.fast.repeated import RepeatedNetwork
from ldmref.backends.fast.tape import CallTape
from ldmref.cases import families

OPS = get_backend("numpy", speed="fast")


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def record(function, *arrays):
    """Record a function of arrays on one thread."""
    with threads.one_thread():
        return CallTape(lambda values: [function(*values)], arrays)


def order(x):
    """Return the strides of the axes that have several elements."""
    return [stride for size, stride in zip(x.shape, x.strides, strict=True) if size > 1]


def assert_repeats(function, *arrays):
    """Require the bits of `function` for the recorded arrays, for others, and for both again."""
    recording = record(function, *arrays)
    others = [0.5 - 2.0 * x for x in arrays]
    with threads.one_thread():
        for values in (others, arrays, others):
            want = function(*[x.astype(x.dtype, copy=True) for x in values])
            (got,) = recording.repeat(values)
            np.testing.assert_array_equal(got, want)
            assert got.dtype == want.dtype and order(got) == order(np.array(want, order="K"))
        np.testing.assert_array_equal(recording.repeat(arrays)[0], function(*arrays))
    return recording


IMAGE = OPS.asarray(normal(0, 2, 8, 8, 16)).transpose(0, 3, 1, 2)
TOKENS = normal(1, 2, 16, 32)
OPERATIONS = {
    "linear": lambda x: OPS.linear(x, normal(2, 24, 32), normal(3, 24)),
    "geglu": lambda x: OPS.geglu(x, normal(2, 128, 32), normal(3, 128)),
    "layer norm": lambda x: OPS.layer_norm(x, normal(2, 32), normal(3, 32), 1e-5),
    "attention": lambda x: OPS.attention(*[x.reshape(2, 16, 4, 8).transpose(0, 2, 1, 3)] * 3),
    "silu": OPS.silu,
    "gelu": OPS.gelu,
    "quick gelu": OPS.quick_gelu,
    "arithmetic": lambda x: 1.0 - x * (2.0 / (1.0 + x * x)),
    "views": lambda x: (x[:, 1:, ::2] + x[0, None, :-1, ::-2]).swapaxes(0, 2),
    "copies": lambda x: x.swapaxes(0, 2).reshape(4, -1).astype(np.float64),
    "sums": lambda x: np.add.reduce(x, axis=1, keepdims=True) + x.mean(axis=(0, 2))[:, None],
    "joined": lambda x: np.concatenate([x, x[:, :3]], axis=1),
    "split": lambda x: np.unstack(x, axis=1)[3] - np.split(x, 2, axis=1)[1][:, 2],
    "without out": lambda x: np.pad(x, 1) + np.clip(np.pad(x, 1), 0.0, 1.0),
}
OF_IMAGES = {
    "3 x 3": lambda x: OPS.conv2d(x, OPS.weight(normal(2, 24, 16, 3, 3)), normal(3, 24), 1, 1),
    "stride 2": lambda x: OPS.conv2d(x, OPS.weight(normal(2, 24, 16, 3, 3)), normal(3, 24), 2, 1),
    "few outputs": lambda x: OPS.conv2d(x, OPS.weight(normal(2, 1, 16, 3, 3)), None, 1, 1),
    "1 x 1": lambda x: OPS.conv2d(x, OPS.weight(normal(2, 24, 16, 1, 1)), normal(3, 24)),
    "group norm": lambda x: OPS.group_norm(x, normal(2, 16), normal(3, 16), 4, 1e-5),
    "group norm, silu": lambda x: OPS.group_norm_silu(x, normal(2, 16), normal(3, 16), 4, 1e-5),
    "upsampling": OPS.upsample2x,
    "padding": OPS.pad_bottom_right,
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_on_tokens_is_repeated(name):
    assert_repeats(OPERATIONS[name], TOKENS)


@pytest.mark.parametrize("name", OF_IMAGES)
def test_an_operation_on_images_is_repeated(name):
    assert_repeats(OF_IMAGES[name], IMAGE)


STEPS = {
    "add": lambda a, b: a + b,
    "divide in place": lambda a, b: np.divide(a, 1.0 + b * b, out=a.astype(a.dtype)),
    "tanh": lambda a, b: np.tanh(a),
    "write a part": lambda a, b: write(a, b),
    "view": lambda a, b: a[::-1],
    "flat": lambda a, b: np.reshape(a.T, a.shape),
    "einsum": lambda a, b: np.einsum("...,...->...", a, b),
}


def write(a, b):
    copy = a.astype(a.dtype)
    copy[:1] = b[:1]
    copy[..., -1] += 1.0
    return copy


@given(
    shape=array_shapes(min_dims=2, max_dims=3, max_side=6),
    names=st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=12),
)
def test_any_sequence_of_steps_is_repeated(shape, names):
    def program(a, b):
        for name in names:
            a, b = STEPS[name](a, b), a
        return a

    assert_repeats(program, normal(0, *shape), normal(1, *shape))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x if x.max() > 0 else -x,
        lambda x: x * float(x[0, 0, 0]),
        lambda x: x[0] if x[0, 0, 0] > 0 else x[1],
        lambda x: x[x > 0],
        lambda x: x[[1, 0]],
        lambda x: x * x.tolist()[0][0][0],
        lambda x: np.asarray(x.copy()),
        lambda x: x.dot(x),
        lambda x: np.frexp(x)[0],
        lambda x: np.sort(x)[np.argsort(x.ravel(order="F"))],
        lambda x: np.add.accumulate(x),
    ],
)
def test_a_function_that_depends_on_values_is_refused(function):
    with pytest.raises(NotRecordable):
        record(function, TOKENS)


def test_memory_is_used_again_and_bounded(monkeypatch):
    def chain(x):
        for _ in range(50):
            x = np.tanh(x + 1.0)
        return x

    recording = assert_repeats(chain, normal(0, 100, 100))
    assert recording.size <= 4 * 40_000
    monkeypatch.setattr(tape, "LARGEST", 100_000)
    with pytest.raises(NotRecordable, match="more than 100000 bytes"):
        record(chain, normal(0, 100, 100))


def test_results_do_not_change_when_a_recording_is_repeated():
    recording = record(lambda x: x + 1.0, TOKENS)
    (first,) = recording.repeat([TOKENS])
    copy = first.copy()
    recording.repeat([2.0 * TOKENS])
    np.testing.assert_array_equal(first, copy)


# -- networks -------------------------------------------------------------------------------------


@pytest.fixture
def at_once(monkeypatch):
    """Record at the second call with the same shapes, and keep also a slow recording."""
    monkeypatch.setattr(repeated, "CALLS", 1)
    monkeypatch.setattr(repeated, "is_faster", lambda first, second: True)


def kept(function):
    """Return the recordings of a network."""
    return [calls.tape for calls in function._known.values()]


def affine(ops, params, x, factor=1.0):
    return x * factor + params["shift"]


@pytest.fixture
def network():
    return RepeatedNetwork(OPS, affine, {"shift": np.float32(3.0)})


def test_a_network_is_recorded_for_each_shape_and_static_argument(at_once, network):
    for _ in range(3):
        for x in (TOKENS, TOKENS[0], TOKENS.astype(np.float64), np.asfortranarray(TOKENS)):
            for factor in (1.0, 2.0):
                np.testing.assert_array_equal(network(x, factor=factor), x * factor + 3.0)
                assert len(network._known) <= repeated.KEPT
    network(TOKENS)
    network(2.0 * TOKENS)
    assert kept(network)[-1] is not None


def test_a_network_is_recorded_after_many_calls(network):
    for i in range(repeated.CALLS):
        assert kept(network) == [None] * bool(i)
        network(TOKENS)
    network(TOKENS)
    (calls,) = network._known.values()
    assert calls.tried


def test_a_slow_network_is_never_recorded(at_once, monkeypatch, network):
    monkeypatch.setattr(repeated, "SECONDS", -1.0)
    for _ in range(4):
        network(TOKENS)
    assert kept(network) == [None]


def test_a_recording_that_takes_longer_is_not_kept(monkeypatch, network):
    monkeypatch.setattr(repeated, "CALLS", 1)
    monkeypatch.setattr(repeated, "is_faster", lambda first, second: False)
    for _ in range(4):
        network(TOKENS)
    assert kept(network) == [None]


def test_the_faster_function_is_found(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(repeated.time, "perf_counter", lambda: now[0])

    def taking(*seconds):
        left = iter(seconds)

        def call():
            now[0] += next(left)

        return call

    disturbed = 9.0, 9.0, 1.0, 9.0, 9.0
    assert repeated.is_faster(taking(*disturbed), taking(*[1.1] * 5))
    assert not repeated.is_faster(taking(*[1.1] * 5), taking(*disturbed))


def test_a_recording_with_other_bits_is_not_kept(at_once, monkeypatch, network):
    real = CallTape.repeat
    monkeypatch.setattr(CallTape, "repeat", lambda self, x: [np.nextafter(*real(self, x), 9e9)])
    for _ in range(4):
        np.testing.assert_array_equal(network(TOKENS), TOKENS + np.float32(3.0))
    assert kept(network) == [None]


def test_a_network_that_reads_values_runs_as_before(at_once):
    network = RepeatedNetwork(OPS, lambda ops, params, x: x if x[0, 0, 0] > 0 else -x, {})
    for x in (TOKENS, -TOKENS, TOKENS):
        np.testing.assert_array_equal(network(x), x if x[0, 0, 0] > 0 else -x)
    assert kept(network) == [None]


def test_an_interrupted_repetition_leaves_nothing_behind(at_once, monkeypatch, network):
    network(TOKENS)
    network(TOKENS)
    with monkeypatch.context() as patch:

        def interrupted(self, arrays):
            raise KeyboardInterrupt

        patch.setattr(CallTape, "repeat", interrupted)
        with pytest.raises(KeyboardInterrupt):
            network(TOKENS)
    (recording,) = kept(network)
    assert recording is not None and not network._known.popitem()[1].alone.locked()
    np.testing.assert_array_equal(network(TOKENS), TOKENS + np.float32(3.0))


def test_threads_that_share_a_model_get_the_same_bits(at_once):
    model = ldmref.random_model("tiny", backend="numpy")
    config = model.config.unet
    t = np.array([10.0, 500.0], np.float32)
    inputs = [
        (normal(i, 2, config.in_channels, 8, 8), t, normal(9, 2, 5, config.cross_attention_dim))
        for i in range(3)
    ]
    with threads.one_thread():
        wanted = [model.with_backend(OPS).unet(*arrays) for arrays in inputs]
    wrong = []

    def work():
        for _ in range(10):
            for arrays, want in zip(inputs, wanted, strict=True):
                wrong.extend([1] * (not np.array_equal(model.unet(*arrays), want)))

    callers = [threading.Thread(target=work) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def run_modes(model):
    """Generate images in several ways, with prompts that change between them."""
    images = []
    for prompt, scale in (("red heart", 2.0), ("blue heart", 4.0), ("red heart", 2.0)):
        result = modes.txt2img(model, prompt, seed=1, steps=3, cfg_scale=scale)
        images.append(result.latents)
        again = modes.img2img(model, prompt, result.images[0], strength=0.7, seed=2, steps=3)
        images.append(np.asarray(again.images[0]))
    return images


def depends_on_values(net):
    """Whether a network reads values: attention to earlier tokens, or the nearest of some codes."""
    return "text_encoder" in net.name or "quantize" in net.params


@pytest.mark.parametrize("net", families.networks(), ids=lambda net: net.name)
def test_networks_of_every_family_are_recorded(at_once, net):
    network = RepeatedNetwork(OPS, net.function, net.params)
    others = {name: None if x is None else repeated._change(x) for name, x in net.inputs.items()}
    with OPS.inference():
        for inputs in (net.inputs, net.inputs, others, net.inputs):
            got = network(*net.args, **inputs)
            want = net.function(OPS, net.params, *net.args, **inputs)
            for a, b in zip(split_arrays((got,))[0], split_arrays((want,))[0], strict=True):
                np.testing.assert_array_equal(a, b)
    assert any(kept(network)) or depends_on_values(net)


@pytest.mark.parametrize("name", ["emoji", "tiny"])
def test_images_are_the_same_with_recordings(monkeypatch, name):
    def load():
        if name == "emoji":
            return ldmref.load(backend="numpy")
        return ldmref.random_model(name, seed=0, backend="numpy")

    want = run_modes(load())
    monkeypatch.setattr(repeated, "CALLS", 1)
    monkeypatch.setattr(repeated, "is_faster", lambda first, second: True)
    model = load()
    for got, expected in zip(run_modes(model), want, strict=True):
        np.testing.assert_array_equal(got, expected)
    networks = {key[0]: entry[2] for key, entry in model._compiled._entries.items()}
    assert any(kept(networks["unet"])), "the U-Net is recorded"
    assert any(kept(networks["vae"])), "the decoder is recorded"
