"""Copies of modules that are watched, arrays and tensors, and runs in a number format."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from module_runs import X, made  # noqa: E402

from ldmref.errors import UsageError  # noqa: E402
from ldmref.locate.modules import arrays, exact_run, formats  # noqa: E402
from ldmref.locate.modules.watched import SeenFunctions, WatchedNetwork  # noqa: E402
from ldmref.trace import build_trace  # noqa: E402

# -- arrays ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "expected", "form"),
    [
        (torch.tensor([1.5, 2.0]), [1.5, 2.0], np.float64),
        (torch.tensor([1.5], dtype=torch.bfloat16), [1.5], np.float64),
        (torch.tensor([3, 4], dtype=torch.int32), [3, 4], np.int64),
        (torch.tensor([True, False]), [1, 0], np.int64),
        (torch.tensor([1 + 2j, 3 - 4j]), [[1, 2], [3, -4]], np.float64),
        (torch.tensor([1 + 2j]).conj(), [[1, -2]], np.float64),
        (torch.tensor([1 + 2j]).conj().imag, [-2], np.float64),
        (torch.tensor([1.0], requires_grad=True), [1.0], np.float64),
    ],
)
def test_tensors_are_arrays_of_floats_and_whole_numbers(x, expected, form):
    got = arrays.to_array(x)
    assert got.dtype == form and got.tolist() == expected


@pytest.mark.parametrize(
    ("x", "form", "expected"),
    [
        (np.array([1.5]), torch.float32, [1.5]),
        (np.array(2.5), torch.float64, 2.5),
        (np.array([3]), torch.float16, [3.0]),
        (np.array([[1.0, 2.0]]), torch.complex64, [1 + 2j]),
        (np.array([[1, 2]]), torch.complex128, [1 + 2j]),
        (np.array([0, 5]), torch.bool, [0, 1]),
        (np.arange(6.0).reshape(2, 3).T, torch.float64, [[0, 3], [1, 4], [2, 5]]),
        (np.zeros((0, 2)), torch.float32, []),
    ],
)
def test_arrays_are_tensors_of_the_kind_of_another(x, form, expected):
    before = x.copy()
    got = arrays.to_tensor(x, torch.zeros(3, dtype=form))
    assert got.dtype == form and got.tolist() == expected
    got.zero_()
    assert np.array_equal(x, before)  # the tensor is a copy
    assert arrays.to_tensor(np.ones(2), torch.zeros(0, device="meta")).is_meta


def test_recorded_arrays_are_read_as_they_are_compared():
    trace = build_trace(
        {
            "a.000//input.f": np.array([0.5], np.float16),
            "a.000//input.i": np.array([3], np.uint8),
            "a.000//input.b": np.array([True]),
            "a.000//input.c": np.array([1 + 2j], np.complex64),
            "a.000//input.x": np.ones((1, 3, 2, 2), np.float32),
        }
    )
    for role, form, expected in (
        ("f", np.float64, [0.5]),
        ("i", np.int64, [3]),
        ("b", np.int64, [1]),
        ("c", np.float64, [[1.0, 2.0]]),
    ):
        got = arrays.read_recorded(trace, f"a.000//input.{role}")
        assert got.dtype == form and got.tolist() == expected
    name = "a.000//input.x"
    assert arrays.read_recorded(trace, name).shape == (1, 3, 2, 2)
    assert arrays.read_recorded(trace, name, (1, 3, 1, 2, 2)).shape == (1, 3, 1, 2, 2)
    assert arrays.read_recorded(trace, name, (1, 3, 2, 2)).shape == (1, 3, 2, 2)


@pytest.mark.parametrize(
    ("shape", "wanted", "framed"),
    [
        ((2, 3, 4, 5), (2, 3, 1, 4, 5), True),
        ((2, 3, 4, 5), (2, 3, 2, 4, 5), False),
        ((2, 3, 4, 5), (2, 3, 1, 5, 4), False),
        ((2, 3, 4, 5), (3, 2, 1, 4, 5), False),
        ((2, 1, 3, 4), (2, 1, 1, 3, 4), True),
        ((2, 3, 4), (2, 3, 1, 4), False),
        ((2, 3, 1, 4, 5), (2, 3, 1, 4, 5), False),
        ((2, 3, 4, 5, 6), (2, 3, 1, 4, 5, 6), False),
    ],
)
def test_images_are_videos_of_one_frame(shape, wanted, framed):
    x = np.arange(float(np.prod(shape))).reshape(shape)
    got = arrays.with_frame(x, wanted)
    assert got.shape == (wanted if framed else shape) and np.array_equal(got.ravel(), x.ravel())


def test_tensors_within_arguments_are_found():
    value = {"a": torch.ones(2), "b": [torch.zeros(1), 3]}
    found = arrays.arrays_in(value, "x")
    assert {name: x.tolist() for name, x in found.items()} == {"a": [1.0, 1.0], "b.0": [0.0]}


# -- formats --------------------------------------------------------------------------------------


def test_every_narrow_format_is_widened():
    expected = {
        torch.float32: torch.float64,
        torch.float16: torch.float64,
        torch.bfloat16: torch.float64,
        torch.complex64: torch.complex128,
        torch.complex32: torch.complex128,
    }
    assert expected == formats.WIDE
    for form in (torch.float64, torch.complex128, torch.int32, torch.bool):
        x = torch.zeros(1, dtype=form)
        assert formats.widen(x) is x
    assert formats.widen(torch.zeros(1, dtype=torch.float16)).dtype == torch.float64
    assert formats._wide_type("text") == "text" and formats._wide_type(3) == 3
    assert formats._wide_type(torch.float16) == torch.float64


class Elsewhere:
    """A module with parameters on devices, which becomes another one on the host."""

    def __init__(self, *devices):
        self.devices = devices
        self.moved = []

    def eval(self):
        return self

    def requires_grad_(self, wanted):
        assert wanted is False
        return self

    def parameters(self):
        for device in self.devices:
            x = torch.zeros(2)
            yield SimpleNamespace(device=SimpleNamespace(type=device), dtype=x.dtype, data=x)

    def to(self, device):
        assert device == "cpu"
        return torch.nn.Linear(2, 2)

    def __deepcopy__(self, memo):
        return self


def test_parameters_of_apples_devices_are_brought_to_the_host():
    """They have no float64 there."""
    for devices in (("mps",), ("cpu", "mps")):
        found = formats.copy_in_format(Elsewhere(*devices), "float32", wide=True)
        assert isinstance(found, torch.nn.Linear) and found.weight.dtype == torch.float64
    with pytest.raises(AttributeError):  # this one has no buffers
        formats.copy_in_format(Elsewhere("cuda"), "float32", wide=True)


def test_containers_of_other_types_are_left_as_they_are():
    class Named(dict):
        pass

    x = torch.ones(1)
    module = torch.nn.Linear(1, 1)
    module.named, module.empty, module.same = Named(x=x), [], [1, "a"]
    made_ = formats.copy_in_format(module, "float32", wide=True)
    assert made_.named["x"].dtype == torch.float32 and made_.empty == [] and made_.same == [1, "a"]
    assert formats._widen_in([x], 0)[0] is x and formats._widen_in([x], 1)[0].dtype == torch.float64
    same = {"a": [1]}
    assert formats._widen_in(same, 4) is same and formats._widen_in("text", 4) == "text"
    wide = formats._widen_in({"a": x, "b": 2}, 1)
    assert wide["a"].dtype == torch.float64 and wide["b"] == 2
    assert type(formats._widen_in((x,), 2)) is tuple and type(formats._widen_in([x], 2)) is list
    assert formats._widen_in(x, 0).dtype == torch.float64
    assert formats.DEEPEST == 4


def test_other_calls_keep_their_arguments():
    x = torch.ones(2)
    found = formats.widen_call(torch.add, (x, 2), {"alpha": 3}, "float32")
    assert found == (torch.add, (x, 2), {"alpha": 3})
    norm = torch.nn.functional.rms_norm
    weight = torch.ones(2)
    func, args, kwargs = formats.widen_call(norm, (x,), {"normalized_shape": (2,)}, "float16")
    assert func is norm and args == () and kwargs["eps"] == torch.finfo(torch.float16).eps
    _, _, kwargs = formats.widen_call(norm, (x, (2,), weight), {"eps": 0.0}, "float16")
    assert kwargs["weight"] is weight and kwargs["eps"] == 0.0 and kwargs["input"] is x
    assert formats.widen_call(torch.layer_norm, (x, (2,)), {}, "float16")[2] == {}


# -- runs in a number format ----------------------------------------------------------------------


class Casts(torch.nn.Module):
    """Casts, and makes numbers in the default format."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(2, 2)

    def forward(self, x, ids, parts=()):
        y = self.inner(x).float() + torch.ones(2) / 3.0
        assert not torch.is_grad_enabled() and ids.dtype == torch.int64
        return y + sum(parts) if parts else y


def run_in(dtype, inputs=None, selection=None):
    inputs = inputs or {"x": X, "ids": torch.arange(2), "parts": [X]}
    return exact_run.record_in_format(made(Casts), inputs, dtype, None, "net", selection)


def test_a_run_in_float64_is_exact():
    trace = run_in("float64")
    weight, bias = (x.detach().double().numpy() for x in made(Casts).inner.parameters())
    x = X.double().numpy()
    right = x @ weight.T + bias + 1.0 / 3.0 + x
    got = trace.tensors["net.000//output"]
    np.testing.assert_allclose(got, right, rtol=1e-14)
    assert got.dtype == np.float64
    assert trace.find("net.000", "inner") is not None
    assert torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_in_a_format_is_that_of_torch(dtype):
    trace = run_in(dtype)
    form = getattr(torch, dtype)
    module = made(Casts).to(form)
    with torch.no_grad():
        right = module(X.to(form), torch.arange(2), [X.to(form)])
    assert np.array_equal(trace.tensors["net.000//output"], right.double().numpy())


def test_formats_of_runs_have_names():
    with pytest.raises(UsageError, match="float8") as caught:
        run_in("float8")
    assert caught.value.code == "E-DTYPE"


def test_functions_are_widened_with_the_unit_of_a_format():
    x = torch.tensor([[1e-3, 2e-3]], dtype=torch.float64)
    for dtype in ("float32", "bfloat16"):
        with exact_run.Widened(dtype):
            got = torch.nn.functional.rms_norm(x, (2,))
            assert x.float().dtype == torch.float64
        eps = torch.finfo(getattr(torch, dtype)).eps
        right = x / ((x**2).mean() + eps).sqrt()
        assert torch.allclose(got, right, rtol=1e-12, atol=0.0)


# -- watched copies -------------------------------------------------------------------------------


class Follower:
    def __init__(self):
        self.seen = []

    def see_layer(self, layer, args, kwargs):
        self.seen.append(("layer", layer.path))
        return layer.forward(*args, **kwargs) + 1.0

    def see_part(self, layer, args, kwargs):
        self.seen.append(("part", layer.path))
        return layer.forward(*args, **kwargs) + 2.0

    def see_function(self, func, args, kwargs):
        self.seen.append((func.__name__, dict(kwargs)))
        return func(*args, **kwargs)


class QuickGELUActivation(torch.nn.Module):
    def forward(self, x):
        """An activation."""
        return x * 1.0


class Chunks(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self._chunk_size = 1
        self.ff = torch.nn.Linear(2, 2)
        self.act = QuickGELUActivation()

    def forward(self, x):
        return self.act(self.ff(x))


def test_layers_are_watched():
    network = torch.nn.Module()
    network.block, network.inner = Chunks(), torch.nn.Linear(2, 2)
    own = network.block.ff.forward
    watched = WatchedNetwork(network, torch.float32)
    assert watched.network is network and watched.dtype == torch.float32
    kinds = {path: (layer.name, layer.kind) for path, layer in watched.layers.items()}
    assert kinds == {
        "block": ("block", ""),
        "block.ff": ("", "chunked"),
        "block.act": ("", "quick_gelu"),
        "inner": ("inner", "linear"),
    }
    assert watched.layers["inner"].module is network.inner
    assert watched.layers["block.ff"].forward == own
    x = torch.zeros(1, 2)
    plain = network.block(x)
    follower = watched.follower = Follower()
    assert torch.allclose(network.block(x), plain + 4.0)
    assert follower.seen == [("layer", "block"), ("part", "block.ff"), ("layer", "block.act")]
    assert network.block.act.forward.__doc__ == "An activation."
    watched.follower = None
    assert torch.equal(network.block(x), plain) and len(follower.seen) == 3


def test_functions_are_seen_once_each():
    follower = Follower()
    functions = SeenFunctions(follower)
    x = torch.ones(2)
    torch.sin(x)
    with functions.watching():
        torch.add(x, x, alpha=2)
        with functions.watching():
            torch.sin(x)
        torch.cos(x)
        assert functions._active
    torch.cos(x)
    assert follower.seen == [("add", {"alpha": 2}), ("sin", {}), ("cos", {})]
    assert not functions._active


def test_what_a_follower_computes_may_be_seen_in_turn():
    """A follower that runs a part again while it sees a function sees its functions, too."""
    follower = Follower()
    functions = SeenFunctions(follower)

    def see(func, args, kwargs):
        follower.seen.append(func.__name__)
        if func is torch.sin:
            assert not functions._active
            with functions.watching():
                return torch.cos(*args)
        return func(*args, **kwargs)

    follower.see_function = see
    x = torch.ones(1)
    with functions.watching():
        torch.sin(x)
        torch.exp(x)
    assert follower.seen == ["sin", "cos", "exp"]
    with pytest.raises(ZeroDivisionError), functions.watching():
        raise ZeroDivisionError
    assert not functions._active
    follower.see_function = lambda *given: 1 / 0
    with functions.watching():
        with pytest.raises(ZeroDivisionError):
            torch.sin(x)
        assert functions._active
