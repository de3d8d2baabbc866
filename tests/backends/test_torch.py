"""The fast torch backend: PyTorch alone, packed weights that follow their owner, gradients."""

from __future__ import annotations

import gc
import inspect
import warnings

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.backends import get_backend
from ldmref.backends.fast import attention, convolution, matmul, norms, pointwise, winograd
from ldmref.backends.fast.numpy import FastNumpyBackend
from ldmref.backends.numpy import NumpyBackend
from ldmref.backends.traced import OPERATIONS, TracedBackend
from ldmref.testing import assert_conforms

torch = pytest.importorskip("torch")

from ldmref.backends.torch import SHORT_SEQUENCE, TorchBackend  # noqa: E402

KERNELS = (attention, convolution, matmul, norms, pointwise, winograd)
needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN"
)


def test_torch_calls_no_numpy_kernel(monkeypatch):
    """Otherwise a comparison of the two backends would compare NumPy with itself."""

    def refuse(*args, **kwargs):
        raise AssertionError("a NumPy kernel was called")

    model = ldmref.random_model("tiny", backend="torch")
    assert model.backend.speed == "fast"
    for module in KERNELS:
        for name, _ in inspect.getmembers(module, inspect.isfunction):
            monkeypatch.setattr(module, name, refuse)
    for backend in (NumpyBackend, FastNumpyBackend):
        for name in OPERATIONS:
            monkeypatch.setattr(backend, name, refuse)
    modes.txt2img(model, "a cat", seed=3, steps=2)
    with pytest.raises(AssertionError, match="NumPy kernel"):
        modes.txt2img(ldmref.random_model("tiny", backend="numpy"), "a cat", seed=3, steps=2)


@needs_onednn
def test_torch_with_packed_weights_conforms(monkeypatch):
    ops = get_backend("torch")
    packed = []
    asarray = ops.asarray
    pack = ops._pack

    def as_parameter(x, dtype=None):  # every matrix and kernel of the suite
        if dtype is None and isinstance(x, np.ndarray) and x.ndim in (2, 4) and x.dtype.kind == "f":
            return ops.weight(x.astype(np.float32))
        return asarray(x, dtype)

    monkeypatch.setattr(ops, "asarray", as_parameter)
    monkeypatch.setattr(ops, "_pack", lambda *args: packed.append(args) or pack(*args))
    assert_conforms(ops)
    assert packed


def test_torch_without_onednn_conforms(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    ops = get_backend("torch")
    assert_conforms(ops)
    weight = ops.weight(np.ones((4, 3, 3, 3), np.float16))
    assert weight.dtype == torch.float32 and weight.is_contiguous(memory_format=torch.channels_last)


@needs_onednn
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("shape", [(96, 64), (96, 64, 3, 3)])
def test_packed_weights_live_as_long_as_the_weight(dtype, shape):
    ops = get_backend("torch")
    host = np.ones(shape, dtype)
    weight = ops.weight(host)
    assert np.shares_memory(weight.numpy(), host)
    run = ops.linear if len(shape) == 2 else ops.conv2d
    x = ops.asarray(np.ones((5, 64) if len(shape) == 2 else (1, 64, 4, 5)))
    with ops.inference():
        for _ in range(2):
            y = run(x, weight)
            assert y.dtype == torch.float32 and torch.all(y == np.prod(shape[1:]))
            assert len(ops._packed) == 1
    del weight
    gc.collect()
    assert not len(ops._packed) and not len(ops._host)


def test_weights_in_training_are_not_packed():
    ops = get_backend("torch")
    weight = torch.ones(4, 3)
    x = torch.ones(2, 3)
    with ops.inference():
        assert torch.all(ops.linear(x, weight) == 3.0)
    weight += 1.0
    with ops.inference():
        assert torch.all(ops.linear(x, weight) == 6.0)
    parameter = ops.weight(np.ones((4, 3), np.float32)).requires_grad_()
    ops.linear(x, parameter).sum().backward()
    assert torch.all(parameter.grad == 2.0)
    assert not len(ops._packed)


def test_half_precision_tables_are_read_in_float32():
    ops = get_backend("torch")
    table = ops.weight(np.arange(6, dtype=np.float16).reshape(3, 2))
    rows = ops.embedding(table, ops.asarray(np.array([[2, 0]])))
    assert rows.dtype == torch.float32 and rows.tolist() == [[[4.0, 5.0], [0.0, 1.0]]]


# -- gradients ------------------------------------------------------------------------------------


def test_gradients_flow_through_the_fast_torch_backend(rounding_bound):
    torch.manual_seed(0)
    data = torch.randn(2, 64, 16, 16), torch.randn(64, 64, 3, 3), torch.randn(64)

    def gradient(ops):
        x, w, g = (ops.asarray(y) for y in data)
        w.requires_grad_()
        h = ops.group_norm_silu(ops.conv2d(x, w, None, 1, 1), g, g, 8, 1e-5)
        rows = h.reshape(2, 64, 256).permute(0, 2, 1)
        rows = ops.attention(rows[:, None], rows[:, None], rows[:, None])[:, 0]
        loss = torch.square(ops.geglu(rows, w.reshape(-1, 64), None)).mean()
        return torch.autograd.grad(loss, w)[0]

    exact = TracedBackend(get_backend("torch", dtype="float64"))
    want = gradient(exact)
    got = gradient(get_backend("torch"))
    error = (got - want).abs().max() / want.abs().max()
    # backward, each operation makes two sums: over its inputs and over the batch
    assert want.abs().max() > 0 and error < rounding_bound(exact.records * 3, "float32")


@pytest.mark.parametrize("tokens", [(5, 7), (24, 24), (64, 24)])
def test_attention_as_products_has_the_gradient_of_attention(monkeypatch, tokens):
    """In float64, which stands for bfloat16 here."""
    monkeypatch.setattr(torch, "bfloat16", torch.float64)
    ops = TorchBackend("cpu", "float64")
    fused = torch.nn.functional.scaled_dot_product_attention
    generator = torch.Generator().manual_seed(1)
    shapes = [(2, 3, length, 8) for length in (tokens[0], tokens[1], tokens[1], tokens[0])]
    q, k, v, upstream = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    results = []
    for out in (ops.attention(q, k, v), fused(q, k, v)):
        results.append([out.detach(), *torch.autograd.grad(out, inputs, upstream)])
    assert not torch.equal(*(values[1] for values in results))
    for got, want in zip(*results, strict=True):  # sums of at most 64 terms of about 1
        assert (got - want).abs().max() < 64 * 2**-52 * max(1.0, float(want.abs().max()))


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_scores_with_a_bias_are_not_held_at_once(dtype):
    """torch's own function gets them, with a mask in the dtype of the queries."""
    ops = TorchBackend("cpu", dtype)
    x = ops.asarray(torch.zeros(1, 8, 512, 16))
    bias = ops.asarray(torch.full((1, 1, 1, 512), -1e9), ops.state_dtype)
    with torch.profiler.profile(profile_memory=True) as profile, torch.inference_mode():
        ops.attention(x, x, x, bias=bias)
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert largest < 8 * 512 * 512 * x.element_size() / 2


def test_a_bias_has_a_gradient():
    """That of T5's table of positions."""
    ops = get_backend("torch", dtype="float64")
    rng = np.random.default_rng(0)
    q, k, v = (ops.asarray(rng.standard_normal((1, 2, 3, 4))) for _ in range(3))
    bias = ops.asarray(rng.standard_normal((1, 2, 3, 3))).requires_grad_()

    def attend(bias):
        return ops.attention(q, k, v, bias=bias, scale=1.0)

    assert torch.autograd.gradcheck(attend, bias)


def test_short_attention_in_bfloat16_is_two_products_where_it_has_a_gradient(monkeypatch):
    ops = TorchBackend("cpu", "bfloat16")
    fused = []
    monkeypatch.setattr(
        torch.nn.functional, "scaled_dot_product_attention", lambda *a, **k: fused.append(a) or a[0]
    )

    def attend(ops, tokens, gradient=True):
        fused.clear()
        x = ops.asarray(torch.zeros(1, 1, tokens, 4)).requires_grad_(gradient)
        ops.attention(x, x, x)
        return len(fused)

    assert (attend(ops, SHORT_SEQUENCE), attend(ops, SHORT_SEQUENCE + 1)) == (0, 1)
    assert attend(ops, SHORT_SEQUENCE, gradient=False) == 1
    assert attend(TorchBackend("cpu"), SHORT_SEQUENCE) == 1


# -- whole graphs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_how_a_network_is_compiled(monkeypatch, device):
    """With its weights frozen on a CPU; on CUDA as graphs, which overwrite their output."""
    from torch._inductor import config

    from ldmref.backends.fast.torch import compile_network

    compiled = []
    buffer = torch.zeros(3)

    def fake_compile(module, **options):
        def run(x):
            compiled.append((options, config.freezing))
            return torch.add(module(x), 0.0, out=buffer)

        return run

    monkeypatch.setattr(torch, "compile", fake_compile)
    weight = torch.tensor([1.0, 2.0, 3.0])
    frozen = config.freezing
    run = compile_network(
        lambda ops, p, x: ops + p.a["0"].weight * x,
        1.0,
        {"a": {"0": {"weight": weight}}},
        torch.device(device),
    )
    first = run(torch.ones(3))
    second = run(torch.zeros(3))
    mode = "reduce-overhead" if device == "cuda" else None
    assert compiled == [({"dynamic": False, "mode": mode}, device == "cpu")] * 2
    assert config.freezing == frozen and second.tolist() == [1.0, 1.0, 1.0]
    assert first.tolist() == ([2.0, 3.0, 4.0] if device == "cuda" else second.tolist())


def test_fastest_compiles_and_packs_nothing():
    ops = get_backend("torch", speed="fastest")
    assert ops.compiles and not get_backend("torch").compiles
    weight = ops.weight(np.ones((4, 3, 3, 3), np.float16))
    assert weight.dtype == torch.float32 and weight.is_contiguous(memory_format=torch.channels_last)
    with ops.inference():
        ops.conv2d(ops.asarray(np.ones((1, 3, 5, 5))), weight)
        ops.linear(ops.asarray(np.ones((2, 3))), ops.weight(np.ones((4, 3))))
    assert not len(ops._packed) and not len(ops._host)


@needs_onednn
def test_what_is_packed_and_what_is_converted():
    ops = get_backend("torch")
    for host in (np.ones((4, 3), np.float32), np.ones((4, 3, 3, 3), np.float16)):
        host.flags.writeable = False  # as in a mapped file
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            weight = ops.weight(host)
        assert np.shares_memory(weight.numpy(), host) and weight in ops._host
    for host in (
        np.ones((4, 3)),
        np.ones(4, np.float32),
        np.ones((2, 3, 4), np.float32),
        torch.ones(4, 3),
    ):
        weight = ops.weight(host)
        assert weight.dtype == torch.float32 and weight not in ops._host
    short = get_backend("torch", dtype="bfloat16")
    assert short.weight(np.ones((4, 3), np.float32)).dtype == torch.bfloat16
    assert not len(short._host)


def test_images_lie_as_channels_last():
    ops = get_backend("torch")
    x = ops.asarray(np.random.default_rng(0).standard_normal((2, 8, 6, 5)))
    norm = torch.ones(8)
    with ops.inference():
        for y in (
            ops.conv2d(x, ops.weight(np.ones((4, 8, 3, 3), np.float32)), None, 1, 1),
            ops.group_norm(x, norm, norm, 2, 1e-5),
            ops.group_norm_silu(x, norm, norm, 2, 1e-5),
        ):
            assert y.is_contiguous(memory_format=torch.channels_last)


def test_activations_in_training_keep_their_input():
    """In inference SiLU may overwrite the norm; a gradient still needs it."""
    ops = get_backend("torch")
    norm = torch.ones(8)
    x = torch.randn(1, 8, 3, 3, requires_grad=True)
    ops.group_norm_silu(x, norm, norm, 2, 1e-5).sum().backward()
    assert torch.isfinite(x.grad).all() and (x.grad != 0).any()


@pytest.mark.parametrize("length", [1, 2, 3, 10, 11])
@pytest.mark.parametrize("transposed", [False, True])
def test_functions_of_items_in_parts(monkeypatch, length, transposed):
    """The whole only while gradients are recorded; parts are equal to it."""
    fast_torch = inspect.getmodule(type(get_backend("torch")))
    monkeypatch.setattr(fast_torch, "PART", 40)
    ops = get_backend("torch")
    sizes = []

    def double_tanh(x, factor):
        sizes.append(x.numel())
        return factor * torch.tanh(x)

    x = torch.linspace(-3.0, 3.0, 24 * length).reshape(2, length, 3, 4)
    x = x.transpose(1, 2) if transposed else x
    whole = ops.call_function("f", double_tanh, x, 2.0, axis=1)
    with torch.no_grad():
        got = ops.call_function("f", double_tanh, x, 2.0, axis=1)
    assert sizes[0] == x.numel() and max(sizes[1:]) <= max(40, 24, 8 * length)
    torch.testing.assert_close(got, whole, rtol=2e-7, atol=0)


@pytest.mark.slow
def test_compiled_networks_draw_the_same_image():
    images = [
        modes.txt2img(ldmref.random_model("tiny", backend="torch", speed=speed), "a cat", seed=1)
        for speed in ("exact", "fastest")
    ]
    a, b = (np.asarray(image[0], int) for image in images)
    assert np.abs(a - b).max() <= 1
