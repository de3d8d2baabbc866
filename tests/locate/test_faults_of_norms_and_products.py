"""What each known fault of a norm, a product or an activation computes, by formulas of its own."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fault_calls import (
    assert_same,
    call_of,
    convolve,
    divide_by_rms,
    faulty,
    group_norm,
    layer_norm,
    linear,
    normal,
)

from ldmref.locate.faults import activations, norms, products

EPS = 1e-5
OTHER_EPS = (1e-3, 1e-4, 1e-6, 1e-8, 1e-12, 0.0, 1e-2, 1e-1)


# -- norms ----------------------------------------------------------------------------------------


def of_layer_norm(d=8, bias=True):
    parameters = {"weight": 1.0 + normal(1, d)} | ({"bias": normal(2, d)} if bias else {})
    x = 0.1 * normal(0, 2, 3, d) + 0.3
    return call_of("layer_norm", layer_norm, {"input": x}, parameters, eps=EPS)


def of_group_norm(channels=12, groups=4, size=3):
    parameters = {"weight": 1.0 + normal(1, channels), "bias": normal(2, channels)}
    x = 0.1 * normal(0, 2, channels, size, size) + 0.3
    return call_of("group_norm", group_norm, {"input": x}, parameters, groups=groups, eps=EPS)


def affine(call, y):
    weight, bias = call.parameters["weight"], call.parameters["bias"]
    if y.ndim == 4:
        weight, bias = weight[:, None, None], bias[:, None, None]
    return y * weight + bias


def parts_of(call):
    """Return the numbers that are normalised together on the last axis."""
    x = call.inputs["input"]
    groups = call.attributes.get("groups")
    return x if groups is None else x.reshape(len(x), groups, -1)


@pytest.mark.parametrize("make", [of_layer_norm, of_group_norm])
def test_other_epsilons_and_variances(make):
    call = make()
    x = parts_of(call)
    shape = call.inputs["input"].shape
    centred = x - x.mean(axis=-1, keepdims=True)
    biased, unbiased = (x.var(axis=-1, keepdims=True, ddof=ddof) for ddof in (0, 1))

    def after(divisor, y=centred):
        return affine(call, (y / divisor).reshape(shape))

    others = (*OTHER_EPS, 2.0**-23, 2.0**-10, 2.0**-7)  # and those of number formats
    expected = {f"eps {eps:g} instead of 1e-05": after(np.sqrt(biased + eps)) for eps in others}
    assert_same(faulty(norms.other_eps, call), expected)
    text = "eps is added to the standard deviation instead of the variance"
    assert_same(faulty(norms.eps_outside, call), {text: after(np.sqrt(biased) + EPS)})
    text = "unbiased variance (divided by n - 1)"
    assert_same(faulty(norms.unbiased_variance, call), {text: after(np.sqrt(unbiased + EPS))})
    squares = np.square(x).mean(axis=-1, keepdims=True)
    text = "the mean is not subtracted (RMS norm)"
    assert_same(faulty(norms.root_mean_square, call), {text: after(np.sqrt(squares + EPS), x)})


@pytest.mark.parametrize("make", [of_layer_norm, of_group_norm])
def test_norms_without_their_parameters(make):
    call = make()
    right = call.compute({**call.inputs, **call.parameters})
    one, zero = np.ones_like(call.parameters["weight"]), np.zeros_like(call.parameters["bias"])
    weight, bias = call.parameters["weight"], call.parameters["bias"]

    def with_parameters(weight, bias):
        return call.compute({**call.inputs, "weight": weight, "bias": bias})

    expected = {
        "weight is missing": with_parameters(one, bias),
        "bias is missing": with_parameters(weight, zero),
        "weight and bias are missing": with_parameters(one, zero),
        "weight + 1 instead of weight": right + with_parameters(one, zero),
    }
    assert_same(faulty(norms.missing_affine, call), expected)


def test_one_number_has_no_unbiased_variance():
    assert not faulty(norms.unbiased_variance, of_layer_norm(1))
    assert not faulty(norms.unbiased_variance, of_group_norm(4, 4, 1))
    assert faulty(norms.unbiased_variance, of_layer_norm(2))
    assert faulty(norms.unbiased_variance, of_group_norm(8, 4, 1))


def test_other_groups():
    call = of_group_norm()
    values = {**call.inputs, **call.parameters, "eps": EPS}
    expected = {f"{n} groups instead of 4": group_norm(groups=n, **values) for n in (1, 2, 12)}
    assert_same(faulty(norms.other_groups, call), expected)
    assert not faulty(norms.other_groups, of_layer_norm())
    x = call.inputs["input"]
    order = np.argsort(np.arange(12) % 4, kind="stable")  # the channels of a group in a row
    mixed = group_norm(x[:, order], np.ones(12), np.zeros(12), 4, EPS)
    (found,) = faulty(norms.interleaved_groups, call).values()
    np.testing.assert_allclose(found, affine(call, mixed[:, np.argsort(order)]), rtol=1e-11)


@pytest.mark.parametrize(("channels", "right"), [(128, 16), (64, 4), (12, 3), (36, 9)])
def test_groups_are_powers_of_two_or_all_channels(channels, right):
    found = faulty(norms.other_groups, of_group_norm(channels, right, 2))
    numbers = {2**i for i in range(7) if channels % 2**i == 0} | {channels}
    assert {int(text.split()[0]) for text in found} == numbers - {right}
    assert all(text.endswith(f"groups instead of {right}") for text in found)


def test_layer_norm_along_the_tokens_of_one_text():
    x, parameters = normal(0, 3, 8), of_layer_norm().parameters
    call = call_of("layer_norm", layer_norm, {"input": x}, parameters, eps=EPS)
    (found,) = faulty(norms.other_axis, call).values()
    np.testing.assert_allclose(
        found, affine(call, layer_norm(x.T, 1.0, 0.0, EPS).T), rtol=1e-11, atol=1e-12
    )


def test_layer_norm_along_the_tokens():
    call = of_layer_norm()
    x = call.inputs["input"].swapaxes(-1, -2)
    along = layer_norm(x, 1.0, 0.0, EPS).swapaxes(-1, -2)
    (found,) = faulty(norms.other_axis, call).values()
    np.testing.assert_allclose(found, affine(call, along), rtol=1e-11)
    flat = call_of("layer_norm", layer_norm, {"input": normal(0, 8)}, call.parameters, eps=EPS)
    assert not faulty(norms.other_axis, flat)


def test_root_mean_squares_of_other_numbers():
    x, weight = normal(0, 2, 3, 4, 6) + 0.5, 1.0 + normal(1, 6)
    eps = 0.25  # so that its place matters
    call = call_of("divide_by_rms", divide_by_rms, {"input": x}, {"weight": weight}, eps=eps)
    token = x.transpose(0, 2, 1, 3).reshape(2, 4, 18)
    of_all = np.sqrt(np.square(token).mean(axis=-1) + eps)[:, None, :, None]
    root = np.sqrt(np.square(x).mean(axis=-1, keepdims=True))
    expected = {
        "the mean square is that of all heads instead of each": x / of_all * weight,
        "the mean is subtracted (layer norm)": layer_norm(x, weight, 0.0, eps),
        "eps is added to the root instead of the mean square": x / (root + eps) * weight,
        "the norm is missing": x,
        "the norm is missing, but for its weight": x * weight,
    }
    assert_same(faulty(norms.other_mean_square, call), expected)
    tokens = call_of("divide_by_rms", divide_by_rms, {"input": x[0]}, {"weight": weight}, eps=eps)
    assert "the norm is missing" in faulty(norms.other_mean_square, tokens)
    assert not any("of all heads" in text for text in faulty(norms.other_mean_square, tokens))
    assert set(faulty(norms.missing_affine, call)) == {
        "weight is missing",
        "weight + 1 instead of weight",
    }


@pytest.mark.parametrize("base", [0.0, 1.0])
@pytest.mark.parametrize("width", [2, 9, 12, 48])
def test_root_mean_squares_of_each_head_of_a_token(width, base):
    x, weight, eps = normal(0, 2, 5, width) + 0.5, normal(1, width), 0.25
    more = {"base": base} if base else {}
    call = call_of(
        "divide_by_rms", divide_by_rms, {"input": x}, {"weight": weight}, eps=eps, **more
    )
    words = "the mean square is that of each of {} heads instead of all"
    tried = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32)
    expected = {}
    for heads in (n for n in tried if width % n == 0 and n < width):
        parts = np.split(x, heads, axis=-1)
        y = [part / np.sqrt((part**2).mean(axis=-1, keepdims=True) + eps) for part in parts]
        expected[words.format(heads)] = np.concatenate(y, axis=-1) * (base + weight)
    found = faulty(norms.other_mean_square, call)
    assert_same({text: y for text, y in found.items() if "each of" in text}, expected)
    image = call_of("divide_by_rms", divide_by_rms, {"input": x[0]}, {"weight": weight}, eps=eps)
    assert not any("heads" in text for text in faulty(norms.other_mean_square, image))


def test_root_mean_squares_whose_weight_is_a_difference_from_one():
    x, weight = normal(0, 2, 3, 4, 6) + 0.5, normal(1, 6)
    eps = 0.25
    call = call_of(
        "divide_by_rms", divide_by_rms, {"input": x}, {"weight": weight}, eps=eps, base=1.0
    )
    unit = divide_by_rms(x, 1.0, eps)
    expected = {"weight is missing": unit, "weight instead of 1 + weight": unit * weight}
    assert_same(faulty(norms.missing_affine, call), expected)
    found = faulty(norms.other_mean_square, call)
    plain = call_of("divide_by_rms", divide_by_rms, {"input": x}, {"weight": 1 + weight}, eps=eps)
    assert_same(found, faulty(norms.other_mean_square, plain))


@pytest.mark.parametrize("make", [of_layer_norm, of_group_norm])
def test_a_variance_of_one_pass_is_right_up_to_its_cancellation(make):
    call = make()
    given = {**call.inputs, **call.parameters}
    x = parts_of(call)
    worst = float((1.0 + np.square(x.mean(axis=-1)) / x.var(axis=-1)).max())
    right = call.compute(given)
    for dtype, unit in (("float64", 2.0**-52), ("float32", 2.0**-23)):
        found = norms.one_pass(call, given, dtype)
        scale = float(np.abs(right).max())
        assert float(np.abs(found - right).max()) <= 16.0 * worst * unit * scale
    # Rounding must not make a variance negative: its root would be NaN.
    flat = {**given, "input": 1e4 + 0.0 * given["input"]}
    flat["input"].flat[0] += 1e-3
    assert np.isfinite(norms.one_pass(call, flat, "float32")).all()


# -- products -------------------------------------------------------------------------------------


def of_linear(rows=6, columns=4, bias=True):
    parameters = {"weight": normal(1, rows, columns)} | ({"bias": normal(2, rows)} if bias else {})
    return call_of("linear", linear, {"input": normal(0, 2, 3, columns)}, parameters)


def of_convolution(size=3, padding=1, stride=1, **more):
    parameters = {"weight": normal(1, 5, 3, size, size), "bias": normal(2, 5)}
    given = {"stride": stride, "padding": padding} | more
    return call_of("conv2d", convolve, {"input": normal(0, 2, 3, 7, 6)}, parameters, **given)


def right_of(call):
    return call.compute({**call.inputs, **call.parameters})


def test_linear_layers_with_other_parameters():
    call = of_linear()
    y, bias = right_of(call), call.parameters["bias"]
    assert_same(
        faulty(products.missing_bias, call),
        {"bias is missing": y - bias, "bias is added twice": y + bias},
    )
    assert not faulty(products.missing_bias, of_linear(bias=False))
    assert_same(
        faulty(products.left_out, call), {"the output is not used (zeros)": np.zeros_like(y)}
    )
    assert not faulty(products.transposed_weight, call)
    square = of_linear(4, 4)
    weight = square.parameters["weight"].T
    right = linear(square.inputs["input"], weight, square.parameters["bias"])
    assert_same(faulty(products.transposed_weight, square), {"the weight is transposed": right})
    (halves,) = faulty(products.swapped_halves, call).values()
    assert np.array_equal(halves, np.concatenate([y[..., 3:], y[..., :3]], axis=-1))
    assert not faulty(products.swapped_halves, of_linear(5))
    assert not faulty(products.swapped_halves, of_linear(9)) and faulty(
        products.swapped_halves, of_linear(4)
    )


def test_a_convolution_has_its_channels_exchanged():
    weight = normal(1, 3, 3, 3, 2)
    x = normal(0, 1, 3, 5, 5)
    call = call_of("conv2d", convolve, {"input": x}, {"weight": weight}, padding=0)
    right = convolve(x, np.einsum("oiyx->ioyx", weight))
    assert_same(faulty(products.transposed_weight, call), {"the weight is transposed": right})


def padded(call, edge, mode="constant", **more):
    x = np.pad(call.inputs["input"], ((0, 0), (0, 0), edge, edge), mode=mode)
    return convolve(x, **call.parameters, **more)


def test_convolutions_with_other_padding():
    call = of_convolution()
    modes = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    expected = {
        f"padding mode {name} instead of zeros": padded(call, (1, 1), mode)
        for name, mode in modes.items()
    }
    assert_same(faulty(products.other_padding, call), expected)
    plain = of_convolution(padding=0)
    assert not faulty(products.other_padding, plain)
    assert not faulty(products.other_padding, call_of("conv2d", convolve, plain.inputs))


@pytest.mark.parametrize(("size", "padding"), [(3, 1), (5, 2)])
def test_convolutions_with_asymmetric_padding(size, padding):
    call = of_convolution(size, padding)
    expected = {
        "asymmetric padding (right and bottom) instead of symmetric": (0, 2 * padding),
        "asymmetric padding (right and bottom, by one) instead of symmetric": (0, 1),
        "asymmetric padding (left and top) instead of symmetric": (2 * padding, 0),
        "no padding": (0, 0),
    }
    edges = {text: padded(call, edge) for text, edge in expected.items()}
    assert_same(faulty(products.other_edges, call), edges)
    plain = of_convolution(size, padding=0, stride=2)
    text = "symmetric padding instead of asymmetric"
    cut = convolve(
        plain.inputs["input"][..., :-1, :-1], **plain.parameters, stride=2, padding=size // 2
    )
    both = {
        text: padded(plain, (size // 2, size // 2), stride=2),
        f"{text}, of the padded image": cut,
    }
    assert_same(faulty(products.other_edges, plain), both)
    assert not faulty(products.other_edges, of_convolution(1, 0))


def test_a_convolution_without_arguments_has_no_padding_and_may_have_any_kernel():
    x = of_convolution().inputs
    for size in ((3, 3), (1, 3)):
        parameters = {"weight": normal(1, 5, 3, *size)}
        call = call_of("conv2d", convolve, x, parameters)
        text = "symmetric padding instead of asymmetric"
        edges = faulty(products.other_edges, call)
        assert set(edges) == {text, f"{text}, of the padded image"}
        np.testing.assert_allclose(edges[text], convolve(**x, **parameters, padding=1))
        turned = parameters["weight"][:, :, ::-1, ::-1]
        words = "the kernel is flipped (convolution instead of cross-correlation)"
        flipped = faulty(products.flipped_kernel, call)[words]
        np.testing.assert_allclose(flipped, convolve(x["input"], turned))


def test_kernels_that_are_turned():
    call = of_convolution()
    x, weight, bias = call.inputs["input"], call.parameters["weight"], call.parameters["bias"]
    turned = np.rot90(weight, 2, axes=(2, 3))
    mirrored = np.einsum("oiyx->oixy", weight)
    expected = {
        "the kernel is flipped (convolution instead of cross-correlation)": turned,
        "rows and columns of the kernel are exchanged": mirrored,
    }
    right = {text: convolve(x, w, bias, padding=1) for text, w in expected.items()}
    assert_same(faulty(products.flipped_kernel, call), right)
    assert faulty(products.flipped_kernel, of_convolution(2, 0))
    assert not faulty(products.flipped_kernel, of_convolution(1, 0))


def test_the_other_stride():
    one, two = of_convolution(), of_convolution(stride=2)
    assert_same(faulty(products.other_stride, one), {"stride 2 instead of 1": right_of(two)})
    assert_same(faulty(products.other_stride, two), {"stride 1 instead of 2": right_of(one)})
    default = call_of("conv2d", convolve, one.inputs, one.parameters, padding=1)
    assert_same(faulty(products.other_stride, default), {"stride 2 instead of 1": right_of(two)})


@pytest.mark.parametrize("shape", [(1, 2, 3, 4), (2, 1, 1, 5), (1, 1, 4, 1), (1, 1, 2, 2)])
def test_upsampling_of_another_kind(shape):
    functional = pytest.importorskip("torch.nn.functional")
    torch = pytest.importorskip("torch")
    x = normal(0, *shape)
    found = faulty(
        products.bilinear_upsampling, call_of("upsample2x", lambda input: input, {"input": x})
    )

    def resized(corners):
        y = torch.from_numpy(x)
        return functional.interpolate(
            y, scale_factor=2, mode="bilinear", align_corners=corners
        ).numpy()

    stuffed = np.zeros((*shape[:2], 2 * shape[2], 2 * shape[3]))
    stuffed[:, :, ::2, ::2] = x
    expected = {
        "bilinear instead of nearest upsampling": resized(False),
        "bilinear upsampling with aligned corners instead of nearest": resized(True),
        "zeros between pixels instead of nearest upsampling": stuffed,
        "the image is tiled instead of nearest upsampling": np.tile(x, (1, 1, 2, 2)),
    }
    assert_same(found, expected)


def test_padding_of_another_corner():
    x = normal(0, 1, 2, 3, 4)
    found = faulty(products.other_corner, call_of("pad_bottom_right", None, {"input": x}))
    left, copied, missing = found.values()
    assert left.shape == copied.shape == (1, 2, 4, 5)
    assert np.array_equal(left[..., 1:, 1:], x)
    assert not left[..., 0, :].any() and not left[..., :, 0].any()
    assert np.array_equal(copied[..., :-1, :-1], x)
    assert np.array_equal(copied[..., -1, :-1], x[..., -1, :])
    assert np.array_equal(copied[..., :, -1], copied[..., :, -2])
    assert np.array_equal(missing, x)


# -- activations and sums -------------------------------------------------------------------------

X = np.array([-40.0, -3.0, -1.0, -0.25, 0.0, 0.5, 1.0, 2.5, 40.0])
VALUES = {
    "exact GELU": [0.5 * x * math.erfc(-x / math.sqrt(2.0)) for x in X],
    "tanh GELU": [
        0.5 * x * (1.0 + math.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))) for x in X
    ],
    "quick GELU": [x / (1.0 + math.exp(-1.702 * x)) for x in X],
    "SiLU": [x / (1.0 + math.exp(-x)) for x in X],
    "sigmoid": [1.0 / (1.0 + math.exp(-x)) for x in X],
    "ReLU": [max(x, 0.0) for x in X],
    "tanh": [math.tanh(x) for x in X],
    "no activation": X,
}
KINDS = {"silu": "SiLU", "gelu": "exact GELU", "quick_gelu": "quick GELU", "tanh_gelu": "tanh GELU"}


@pytest.mark.parametrize(("kind", "name"), KINDS.items())
def test_other_activations(kind, name):
    call = call_of(kind, None, {"input": X})
    expected = {f"{other} instead of {name}": y for other, y in VALUES.items() if other != name}
    found = faulty(activations.other_activation, call)
    assert found.keys() == expected.keys()
    for text, y in expected.items():
        np.testing.assert_allclose(found[text], y, rtol=1e-12, atol=1e-14, err_msg=text)


def test_sigmoids_do_not_overflow():
    with np.errstate(all="raise"):
        ends = activations.sigmoid(np.array([-1e308, 1e308]))
    assert ends.tolist() == [0.0, 1.0]


def test_an_activation_of_an_activation():
    call = call_of("silu", lambda input: input / (1.0 + np.exp(-input)), {"input": X})
    silu = np.array(VALUES["SiLU"])
    expected = {"the activation is applied twice": silu / (1.0 + np.exp(-silu))}
    assert_same(faulty(activations.activation_twice, call), expected)


def test_sums_that_miss_a_term():
    a, b = normal(0, 2, 3), normal(1, 2, 3)
    expected = {
        "the residual is missing: only its second term": b,
        "the residual is missing: only its first term": a,
        "the second term is subtracted": a - b,
        "the second term is added twice": a + b + b,
        "the sum is divided by sqrt(2)": (a + b) * 0.5**0.5,
    }
    found = faulty(activations.missing_term, call_of("add", None, {"input": a, "y": b}))
    assert_same(found, expected)
