"""Copies of PyTorch modules in float64 and in a port's format, and calls that cast."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from module_runs import bare_run  # noqa: E402

from ldmref.locate.modules import formats  # noqa: E402
from ldmref.locate.replay.repeating import RepeatableRun  # noqa: E402

THIRD = 1.0 / 3.0  # no format holds it


def module_with(**attributes):
    module = torch.nn.Linear(2, 2)
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


def test_tables_among_the_attributes_of_a_module_are_widened():
    x = torch.tensor([THIRD])
    names = ["a"]
    module = module_with(
        table=x, listed=[x], pair=(x, 3), named={"x": x, "n": 1}, deep=[[[[x]]]],
        deeper=[[[[[x]]]]], ids=[torch.arange(2)], phases=[torch.polar(x, x)], names=names,
    )  # fmt: skip
    made = formats.copy_in_format(module, "float32", wide=True)
    for wide in (made.table, made.listed[0], made.pair[0], made.named["x"], made.deep[0][0][0][0]):
        assert wide.dtype == torch.float64 and wide.item() == x.item()
    assert made.pair[1:] == (3,) and made.named["n"] == 1 and made.names == names
    assert made.deeper[0][0][0][0][0].dtype == torch.float32  # as deep as nobody keeps tables
    assert made.ids[0].dtype == torch.int64 and made.phases[0].dtype == torch.complex128
    assert module.listed[0] is x and x.dtype == torch.float32
    same = formats.copy_in_format(module, "float32", wide=False)
    assert same.listed[0].dtype == same.table.dtype == torch.float32


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_parameters_are_those_of_the_port(wide, dtype):
    form = getattr(torch, dtype)
    module = module_with().train()
    module.weight.data.fill_(THIRD)
    module.register_buffer("scale", torch.tensor(THIRD))
    module.register_buffer("count", torch.tensor(3))
    made = formats.copy_in_format(module, dtype, wide)
    for got, own in ((made.weight, module.weight), (made.scale, module.scale)):
        assert got.dtype == (torch.float64 if wide else form)
        assert torch.equal(got.double(), own.to(form).double()) and own.dtype == torch.float32
    assert made.count.dtype == torch.int64
    assert not made.training and not made.weight.requires_grad and module.training


def test_a_module_as_the_port_loaded_it_keeps_its_wider_parameters():
    module = module_with()
    module.weight.data.fill_(THIRD)
    module.bias.data = module.bias.data.to(torch.bfloat16)
    made = formats.copy_in_format(module, "bfloat16", wide=True)
    assert made.weight[0, 0].item() == torch.tensor(THIRD).item()
    narrow = formats.copy_in_format(module, "bfloat16", wide=False)
    assert narrow.weight.dtype == torch.float32 and narrow.bias.dtype == torch.bfloat16


def test_numbers_in_a_narrower_format():
    x = torch.tensor([THIRD], dtype=torch.float64)
    for form in (torch.float64, torch.float32, torch.bfloat16):
        assert formats.narrow(x, form).dtype == form
    phases = torch.polar(x, x)
    assert formats.narrow(phases, torch.float64).dtype == torch.complex128
    for form in (torch.float32, torch.bfloat16):
        assert formats.narrow(phases, form).dtype == torch.complex64
    assert formats.narrow(torch.arange(2), torch.float32).dtype == torch.int64


def test_calls_that_cast():
    x = torch.tensor([THIRD])
    for cast in (torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16):
        found = formats.widen_call(cast, (x, torch.preserve_format), {"other": 1}, "float32")
        assert found == (torch.Tensor.double, (x,), {})
    wider = {
        torch.float32: torch.float64,
        torch.bfloat16: torch.float64,
        torch.complex64: torch.complex128,
        torch.int64: torch.int64,
    }
    for form, wide in wider.items():
        like = torch.zeros(1, dtype=form)
        found = formats.widen_call(torch.Tensor.type_as, (x, like), {}, "float32")
        assert found == (torch.Tensor.to, (x, wide), {})
        assert formats.widen_call(torch.zeros, (2,), {"dtype": form}, "float32") == (
            torch.zeros,
            (2,),
            {"dtype": wide},
        )
        assert formats.widen_call(torch.Tensor.to, (x, form), {}, "float32")[1][1] == wide


@pytest.mark.parametrize("function", [torch.rms_norm, torch.nn.functional.rms_norm])
def test_norms_that_name_no_epsilon_have_that_of_the_ports_format(function):
    x = torch.tensor([[THIRD, 1e-3]])
    for args, named in (((x, (2,)), {}), ((x, (2,), None, None), {}), ((x, (2,)), {"eps": None})):
        func, rest, found = formats.widen_call(function, args, named, "bfloat16")
        assert (func, rest) == (function, ()) and found["eps"] == 2.0**-7
        right = x / torch.sqrt((x**2).mean() + 2.0**-7)
        assert torch.allclose(func(*rest, **found), right, rtol=1e-6)
    for args, named in (((x, (2,), None, 0.5), {}), ((x, (2,)), {"eps": 0.5})):
        assert formats.widen_call(function, args, named, "bfloat16")[2]["eps"] == 0.5


def test_the_default_format_is_put_back():
    before = torch.get_default_dtype()
    with pytest.raises(ZeroDivisionError), formats.default_format(torch.float64):
        assert torch.zeros(1).dtype == torch.float64
        raise ZeroDivisionError
    assert torch.get_default_dtype() == before


# -- runs in a format in which torch cannot compute -----------------------------------------------

SINGLE, EXACT = np.array([1.25, 2.0]), np.array([1.0, 2.5])


def repeated(monkeypatch, dtype, results, error=ValueError):
    """Return a run that gives results by format, None for exact ones, and what it computed."""
    formats_of_runs = []

    def rerun(self, point, changes=None, *, arguments=None, low=False, free=False, exact=False):
        form = self.dtype_of_port if low else None
        formats_of_runs.append(form)
        if form not in results:
            raise error("not in this format")
        return results[form]

    monkeypatch.setattr(RepeatableRun, "rerun", rerun)
    return bare_run(dtype), formats_of_runs


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("error", [NotImplementedError, ValueError])
def test_the_error_of_a_format_may_follow_from_that_of_float32(monkeypatch, dtype, error):
    results = {None: EXACT, "float32": SINGLE}
    results.pop(dtype, None)
    run, seen = repeated(monkeypatch, dtype, results, error)
    if dtype in ("float32", "float64"):
        with pytest.raises(error):
            run.rerun(None, low=True)
        return
    found = run.rerun(None, low=True)
    coarser = {"float16": 2.0**13, "bfloat16": 2.0**16}[dtype]  # units of rounding in one
    assert np.array_equal(found, EXACT + coarser * (SINGLE - EXACT))
    assert seen == [dtype, None, "float32"] and run.dtype_of_port == dtype


def test_a_run_in_the_ports_format_is_that_of_torch(monkeypatch):
    run, seen = repeated(monkeypatch, "float16", {"float16": SINGLE, None: EXACT})
    assert run.rerun(None, low=True) is SINGLE and run.rerun(None) is EXACT
    assert seen == ["float16", None]


@pytest.mark.parametrize("unreached", [None, "float32"])
def test_a_point_that_is_not_reached_has_no_error(monkeypatch, unreached):
    results = {None: EXACT, "float32": EXACT} | {unreached: None}
    run, _ = repeated(monkeypatch, "float16", results)
    assert run.rerun(None, low=True) is None
