"""dtype = "auto": bfloat16 where the device multiplies in it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="training runs on the torch backend")

from ldmref.training.setup import activation_dtype  # noqa: E402


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({"avx2": True}, "float32"),
        ({"avx512_bf16": False, "amx_bf16": False}, "float32"),
        ({"avx512_bf16": True, "amx_bf16": False}, "bfloat16"),
        ({"amx_bf16": True}, "bfloat16"),
        (None, "float32"),
    ],
)
def test_of_a_processor(monkeypatch, capabilities, dtype):
    known = {} if capabilities is None else {"get_capabilities": lambda: capabilities}
    monkeypatch.setattr(torch, "cpu", SimpleNamespace(**known))
    assert activation_dtype("auto", "cpu") == dtype
    assert activation_dtype("float32", "cpu") == "float32"
    assert activation_dtype("bfloat16", "cpu") == "bfloat16"


def test_emulation_on_a_gpu_does_not_count(monkeypatch):
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation
    )
    assert activation_dtype("auto", "cuda") == "float32"


def test_this_machine_trains_with_it():
    from ldmref.training.recipes.file import recipe_from_dict

    recipe = recipe_from_dict({"dtype": "auto", "model": {"preset": "tiny"}, "data": {"size": 16}})
    assert recipe.dtype == "auto"
    assert activation_dtype(recipe.dtype, recipe.device) in ("float32", "bfloat16")
