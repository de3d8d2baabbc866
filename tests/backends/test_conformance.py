"""The conformance suite: it passes what is right, catches what is wrong, and rests on an oracle.

The suite compares with the float64 NumPy backend. That backend itself is checked here against the
definitions, written out as plain Python loops.
"""

import itertools
import math

import numpy as np
import pytest

from ldmref.backends import Backend, get_backend
from ldmref.backends.numpy import NumpyBackend
from ldmref.backends.traced import OPERATIONS, TracedBackend
from ldmref.errors import VerifyError
from ldmref.testing.conformance import EPS, assert_conforms, cases, check_backend

OPS = NumpyBackend(dtype="float64")
RNG = np.random.default_rng(7)


def assert_rounded(got, want, terms=1, condition=1.0):
    """Check that results are equal up to rounding, within the bound of `ldmref.testing`."""
    want = np.asarray(want)
    bound = EPS["float64"] * (4 + math.sqrt(terms)) * condition * np.abs(want).max()
    np.testing.assert_allclose(got, want, rtol=0, atol=bound)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_numpy_conforms(dtype):
    assert_conforms(NumpyBackend(dtype=dtype))


def test_numpy_at_full_speed_conforms():
    assert_conforms(get_backend("numpy", speed="fast"))


def test_the_fastest_numpy_conforms_and_loses_a_digit_in_convolutions():
    findings = check_backend(get_backend("numpy", speed="fastest"))
    assert all(f.ok for f in findings)
    fast = check_backend(get_backend("numpy", speed="fast"))
    loss = [
        a.error / b.error
        for a, b in zip(findings, fast, strict=True)
        if a.operation == "conv2d" and b.error
    ]
    assert 3.0 < max(loss) < 30.0  # F(4x4) amplifies rounding by 10.8: test_fast.py


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_torch_conforms(dtype):
    pytest.importorskip("torch")
    assert_conforms(get_backend("torch", dtype=dtype))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_torch_on_a_gpu_conforms(dtype):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU here")
    assert_conforms(get_backend("torch", device="cuda", dtype=dtype))


def test_every_operation_has_cases():
    assert {case.operation for case in cases()} == set(OPERATIONS)


def test_a_factory_is_called():
    assert check_backend(NumpyBackend) == check_backend(NumpyBackend())


# -- broken backends are caught -------------------------------------------------------------------


def _no_eps(self, x, weight, bias, groups, eps):
    return NumpyBackend.group_norm(self, x, weight, bias, groups, 0.0)


def _eps_outside(self, x, weight, bias, eps):
    y = (x - x.mean(-1, keepdims=True)) / (x.std(-1, keepdims=True) + eps)
    return y * weight + bias


def _unbiased_variance(self, x, weight, bias, eps):
    y = x - x.mean(-1, keepdims=True)
    return y / np.sqrt(x.var(-1, keepdims=True, ddof=1) + eps) * weight + bias


def _blocks(self, x):
    return np.tile(x, (1, 1, 2, 2))


def _pad_everywhere(self, x):
    return np.pad(x, ((0, 0), (0, 0), (1, 0), (1, 0)))


def _true_convolution(self, x, weight, bias=None, stride=1, padding=0):
    return NumpyBackend.conv2d(self, x, weight[..., ::-1, ::-1], bias, stride, padding)


def _no_bias(self, x, weight, bias=None):
    return NumpyBackend.linear(self, x, weight)


def _unscaled(self, q, k, v, causal=False, **more):
    return NumpyBackend.attention(self, q * math.sqrt(q.shape[-1]), k, v, causal, **more)


def _never_causal(self, q, k, v, causal=False, **more):
    return NumpyBackend.attention(self, q, k, v, **more)


def _causal_at_the_end(self, q, k, v, causal=False, **more):
    """Align the mask at the last key, as with a key cache; ours is aligned at the first."""
    if not causal or more:
        return NumpyBackend.attention(self, q, k, v, causal, **more)
    late = np.triu(np.ones((q.shape[2], k.shape[2]), bool), 1 + k.shape[2] - q.shape[2])
    scores = np.where(late, -1e30, q @ np.swapaxes(k, -1, -2) / math.sqrt(q.shape[-1]))
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


def _overflowing_softmax(self, q, k, v, causal=False, **more):
    if causal or more:
        return NumpyBackend.attention(self, q, k, v, causal, **more)
    with np.errstate(over="ignore", invalid="ignore"):
        weights = np.exp(q @ np.swapaxes(k, -1, -2) / math.sqrt(q.shape[-1]))
        return weights / weights.sum(-1, keepdims=True) @ v


def _with_bias(change):
    """Return attention whose bias is changed first."""

    def attention(self, q, k, v, causal=False, bias=None, scale=None):
        bias = bias if bias is None else change(bias, q)
        return NumpyBackend.attention(self, q, k, v, causal, bias, scale)

    return attention


def _always_the_same_scale(self, q, k, v, causal=False, bias=None, scale=None):
    return NumpyBackend.attention(self, q, k, v, causal, bias)


def _bias_or_causal(self, q, k, v, causal=False, bias=None, scale=None):
    """As torch's own function, which takes one of them."""
    return NumpyBackend.attention(self, q, k, v, causal and bias is None, bias, scale)


OF_BIAS = {
    "left out": lambda bias, q: 0.0 * np.maximum(bias, -1e9),
    "twice": lambda bias, q: 2.0 * bias,
    "scaled": lambda bias, q: bias / math.sqrt(q.shape[-1]),
    "of the first row": lambda bias, q: bias[:1],
    "of the first head": lambda bias, q: bias[:, :1],
    "of the first query": lambda bias, q: bias[:, :, :1],
    "-1e9 is -inf": lambda bias, q: np.where(bias < -1e5, -np.inf, bias),
    "-inf is -5": lambda bias, q: np.where(np.isinf(bias), -5.0, bias),
}


def _tanh_gelu(self, x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _overflowing_silu(self, x):
    with np.errstate(over="ignore", invalid="ignore"):
        return x * np.exp(x) / (1 + np.exp(x))


def _silu_in_place(self, x):
    y = NumpyBackend.silu(self, x)
    x[...] = y
    return y


def _wrong_dtype(self, x):
    return NumpyBackend.quick_gelu(self, x).astype(np.float32)


def _missing(self, table, ids):
    raise NotImplementedError


def _float_ids(self, x, dtype=None):
    return np.asarray(x, dtype or self.dtype)


def _half_precision(self, x, weight, bias=None):
    return NumpyBackend.linear(self, x.astype("f4"), weight.astype("f4")).astype(x.dtype) + (
        0 if bias is None else bias
    )


FAULTS = {
    "group_norm": [_no_eps],
    "layer_norm": [_eps_outside, _unbiased_variance],
    "upsample2x": [_blocks],
    "pad_bottom_right": [_pad_everywhere],
    "conv2d": [_true_convolution],
    "linear": [_no_bias, _half_precision],
    "attention": [
        _unscaled,
        _never_causal,
        _causal_at_the_end,
        _overflowing_softmax,
        _always_the_same_scale,
        _bias_or_causal,
        *map(_with_bias, OF_BIAS.values()),
    ],
    "gelu": [_tanh_gelu],
    "silu": [_overflowing_silu, _silu_in_place],
    "quick_gelu": [_wrong_dtype],
    "embedding": [_missing],
    "asarray": [_float_ids],
}


@pytest.mark.parametrize(
    ("operation", "fault"), [(name, fault) for name, faults in FAULTS.items() for fault in faults]
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_broken_operation_is_caught(operation, fault):
    broken = type("Broken", (NumpyBackend,), {operation: fault})(dtype="float64")
    failed = {finding.operation for finding in check_backend(broken) if not finding.ok}
    innocent = {"group_norm_silu"} if operation in ("group_norm", "silu") else set()
    innocent |= {"geglu"} if operation in ("linear", "gelu") else set()
    innocent |= {"embedding"} if operation == "asarray" else set()
    assert operation in failed and failed <= {operation} | innocent


def test_the_error_lists_every_failure():
    broken = type("Broken", (NumpyBackend,), {"upsample2x": _blocks, "embedding": _missing})
    with pytest.raises(VerifyError, match="upsample2x") as caught:
        assert_conforms(broken)
    assert "embedding" in str(caught.value) and "NotImplementedError" in str(caught.value)
    assert caught.value.exit_code == 4


REQUIRED = """
    asarray to_numpy linear conv2d group_norm layer_norm attention embedding silu gelu
    quick_gelu upsample2x pad_bottom_right
""".split()


def test_operations_that_a_bare_backend_lacks_are_named():
    class Bare(Backend):
        pass

    missing = Bare().missing_operations()
    assert {operation.partition("(")[0] for operation in missing} == {"xp", *REQUIRED}
    assert "conv2d(x, weight, bias, stride, padding)" in missing
    with pytest.raises(VerifyError) as caught:
        assert_conforms(Bare)
    assert caught.value.code == "E-CONFORMANCE"
    header, *lines = str(caught.value).splitlines()
    assert "Bare lacks 14 required operations" in header and lines == missing
    assert {f.operation for f in check_backend(Bare)} == {"xp", *REQUIRED}
    assert not any(f.ok for f in check_backend(Bare))


def test_a_backend_half_written_is_compared_as_far_as_it_goes():
    class Half(NumpyBackend):
        linear = Backend.linear
        gelu = _tanh_gelu

    findings = check_backend(Half(dtype="float64"))
    failed = {finding.operation for finding in findings if not finding.ok}
    assert failed == {"linear", "gelu"}
    assert {"conv2d", "attention", "asarray"} <= {f.operation for f in findings if f.ok}
    with pytest.raises(VerifyError) as caught:
        assert_conforms(Half(dtype="float64"))
    lines = str(caught.value).splitlines()
    assert lines[1] == "linear(x, weight, bias)" and all("gelu" in x for x in lines[3:])


def test_backends_here_lack_nothing(ops):
    assert ops.missing_operations() == [] == TracedBackend(ops).missing_operations()


# -- the NumPy reference against the definitions --------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(1, 1, 0), (1, 2, 0), (3, 1, 1), (3, 2, 0)]
)
@pytest.mark.parametrize("workspace", [1, 2**24])  # one row at a time, and all at once
def test_conv2d_is_the_sum_over_the_window(monkeypatch, kernel, stride, padding, workspace):
    monkeypatch.setattr(NumpyBackend, "workspace", workspace)
    x = RNG.standard_normal((2, 3, 5, 4))
    w = RNG.standard_normal((2, 3, kernel, kernel))
    b = RNG.standard_normal(2)
    n, c, h, width = x.shape
    rows, columns = ((s + 2 * padding - kernel) // stride + 1 for s in (h, width))
    want = np.zeros((n, 2, rows, columns))
    for image, out, row, column in itertools.product(
        range(n), range(2), range(rows), range(columns)
    ):
        total = b[out]
        for i, dy, dx in itertools.product(range(c), range(kernel), range(kernel)):
            y = row * stride + dy - padding
            z = column * stride + dx - padding
            if 0 <= y < h and 0 <= z < width:
                total += x[image, i, y, z] * w[out, i, dy, dx]
        want[image, out, row, column] = total
    assert_rounded(OPS.conv2d(x, w, b, stride, padding), want, terms=c * kernel**2)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("keys", [3, 5, 7])
@pytest.mark.parametrize("workspace", [1, 2**24])
def test_attention_is_the_softmax_average(monkeypatch, causal, keys, workspace):
    monkeypatch.setattr(NumpyBackend, "workspace", workspace)
    q, k, v = (RNG.standard_normal((2, 2, length, 4)) for length in (5, keys, keys))
    want = np.zeros_like(q)
    for n, head, i in itertools.product(range(2), range(2), range(5)):
        seen = range(min(keys, i + 1) if causal else keys)
        scores = [math.fsum(q[n, head, i] * k[n, head, j]) / math.sqrt(4) for j in seen]
        weights = [math.exp(s) for s in scores]
        for j, weight in zip(seen, weights, strict=True):
            want[n, head, i] += weight / math.fsum(weights) * v[n, head, j]
    assert_rounded(OPS.attention(q, k, v, causal), want, terms=4 + keys)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", [(2, 2, 5, 6), (1, 2, 5, 6), (2, 1, 1, 6), (1, 1, 5, 6)])
@pytest.mark.parametrize("workspace", [1, 2**24])
def test_a_bias_is_added_to_the_scaled_scores(monkeypatch, causal, shape, workspace):
    monkeypatch.setattr(NumpyBackend, "workspace", workspace)
    q, k, v = (RNG.standard_normal((2, 2, length, 4)) for length in (5, 6, 6))
    bias = RNG.standard_normal(shape)
    bias[..., 2] = -np.inf
    every = np.broadcast_to(bias, (2, 2, 5, 6))
    want = np.zeros_like(q)
    for n, head, i in itertools.product(range(2), range(2), range(5)):
        seen = [j for j in range(i + 1 if causal else 6) if j != 2]
        scores = [
            0.3 * math.fsum(q[n, head, i] * k[n, head, j]) + every[n, head, i, j] for j in seen
        ]
        weights = [math.exp(s) for s in scores]
        for j, weight in zip(seen, weights, strict=True):
            want[n, head, i] += weight / math.fsum(weights) * v[n, head, j]
    assert_rounded(OPS.attention(q, k, v, causal, bias, 0.3), want, terms=4 + 6)


def _standardized(values, eps):
    mean = math.fsum(values) / len(values)
    variance = math.fsum((x - mean) ** 2 for x in values) / len(values)
    return [(x - mean) / math.sqrt(variance + eps) for x in values]


def test_layer_norm_by_definition():
    x = RNG.standard_normal((3, 7)) + 2
    w = RNG.standard_normal(7)
    b = RNG.standard_normal(7)
    want = [np.array(_standardized(row.tolist(), 0.1)) * w + b for row in x]
    assert_rounded(OPS.layer_norm(x, w, b, 0.1), want, condition=2.0)  # mean 2, spread 1


def test_group_norm_by_definition():
    x = RNG.standard_normal((2, 6, 2, 3))
    w = RNG.standard_normal(6)
    b = RNG.standard_normal(6)
    want = np.empty_like(x)
    for n, group in itertools.product(range(2), range(3)):
        channels = slice(2 * group, 2 * group + 2)
        y = _standardized(x[n, channels].ravel().tolist(), 0.1)
        want[n, channels] = (
            np.reshape(y, (2, 2, 3)) * w[channels, None, None] + b[channels, None, None]
        )
    assert_rounded(OPS.group_norm(x, w, b, 3, 0.1), want)
    silu = want / (1 + np.exp(-want))
    assert_rounded(OPS.group_norm_silu(x, w, b, 3, 0.1), silu)


def test_activations_by_definition():
    x = np.linspace(-6.0, 6.0, 49)
    gelu = [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x]
    silu = [v / (1 + math.exp(-v)) for v in x]
    quick = [v / (1 + math.exp(-1.702 * v)) for v in x]
    assert_rounded(OPS.gelu(x), gelu)
    assert_rounded(OPS.silu(x), silu)
    assert_rounded(OPS.quick_gelu(x), quick)


def test_linear_embedding_upsampling_and_padding_by_definition():
    x = RNG.standard_normal((2, 3))
    w = RNG.standard_normal((4, 3))
    b = RNG.standard_normal(4)
    want = [[math.fsum(x[i] * w[j]) + b[j] for j in range(4)] for i in range(2)]
    assert_rounded(OPS.linear(x, w, b), want, terms=3)
    assert OPS.embedding(w, np.array([[3, 0]])).tolist() == [[w[3].tolist(), w[0].tolist()]]
    image = np.array([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert OPS.upsample2x(image)[0, 0].tolist() == [
        [1, 1, 2, 2],
        [1, 1, 2, 2],
        [3, 3, 4, 4],
        [3, 3, 4, 4],
    ]
    assert OPS.pad_bottom_right(image)[0, 0].tolist() == [[1, 2, 0], [3, 4, 0], [0, 0, 0]]
