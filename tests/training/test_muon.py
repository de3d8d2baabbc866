"""Muon: PyTorch's, and orthogonal in every type."""

from __future__ import annotations

import math
import runpy

import pytest

torch = pytest.importorskip("torch", reason="training runs on the torch backend")

from ldmref.backends.torch import TorchBackend  # noqa: E402
from ldmref.models.params import Params  # noqa: E402
from ldmref.training import optimizers  # noqa: E402
from ldmref.training.loss import Loss  # noqa: E402
from ldmref.training.optimizers import Muon, orthogonalized  # noqa: E402
from ldmref.training.recipes.schema import OptimizerConfig  # noqa: E402
from ldmref.training.trainer import Trainer  # noqa: E402

SHAPES = (20, 50), (50, 20), (20, 30), (8, 8)


def test_it_is_pytorch_s(monkeypatch):
    """float64 replaces bfloat16; only rounding at 1e-16 may differ."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.double)
    generator = torch.Generator().manual_seed(0)
    shapes = (*SHAPES, *SHAPES[:2])
    ours = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    theirs = [p.clone() for p in ours]
    optimizers = [
        Muon(ours, 1e-2, 0.1, 0.95, torch.float64),
        torch.optim.Muon(theirs, 1e-2, 0.1, adjust_lr_fn="match_rms_adamw"),
    ]
    for _ in range(4):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            q.grad = p.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    # each step rounds as often as a matrix is wide, and amplifies that by at most 3.4445^10
    bound = 4 * 50 * 3.4445**10 * 2**-53
    for p, q in zip(ours, theirs, strict=True):
        assert float((p - q).abs().max()) < 1e-2 * bound


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_vectors_stay_and_singular_values_are_near_one(shape):
    g = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    g *= 1e3
    u, s, vh = torch.linalg.svd(g, full_matrices=False)
    inner = u.T @ orthogonalized(g[None])[0] @ vh.T
    values = inner.diagonal()
    assert float((s / g.norm()).min()) > 0.0052
    assert 0.68 <= float(values.min()) <= float(values.max()) <= 1.14
    assert float((inner - torch.diag(values)).abs().max()) < 1e-12


@pytest.mark.parametrize(
    "lowest,highest,least,most",
    [(0.0052, 1.0, 0.68, 1.14), (0.0016, 1.0, 0.68, 1.21), (1e-7, 0.0016, 0.0, 0.78)],
)
def test_ranges_of_singular_values_are_those_of_the_docstring(lowest, highest, least, most):
    """A grid of 0.02 % and both ends, through the function: diagonal matrices of two values."""
    s = torch.logspace(math.log10(lowest), math.log10(highest), 50_001, dtype=torch.float64)
    pairs = torch.stack([s, (1.0 - s.square()).clamp(min=0.0).sqrt()], -1)
    values = orthogonalized(torch.diag_embed(pairs))[:, 0, 0]
    assert least <= float(values.min()) and float(values.max()) <= most
    assert float((values / s).max()) <= 3.4445**5
    text = " ".join((orthogonalized.__doc__ or "").split())
    assert "from 0.68 to 1.14 if s is from 0.0052 to 1" in text
    assert "from 0.68 to 1.21 (at s = 0.0041) if s is 0.0016 or more" in text
    assert "at most 3.4445^5 s = 485 s" in text


def test_a_singular_value_can_be_above_the_range_of_larger_ones():
    s = 0.0041113646746
    values = orthogonalized(torch.tensor([[[s, 0.0], [0.0, math.sqrt(1 - s**2)]]]).double())
    assert float(values[0, 0, 0]) == pytest.approx(1.2024, abs=1e-4)


@pytest.mark.parametrize("shape", [(20, 180), (180, 20)])
def test_wide_matrices_take_the_steps_of_jordan_et_al(shape):
    """Their loop, written down once more in float64, from matrices of every condition."""
    scale = torch.logspace(0, -5, shape[1])
    g = torch.randn(shape, generator=torch.Generator().manual_seed(3)) * scale
    x = g.double() / g.double().norm()
    x = x if shape[0] < shape[1] else x.T
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    x = x if shape[0] < shape[1] else x.T
    # a rounding error of x x^T grows by at most 3.4445^2 in each of the five steps
    bound = 3.4445**10 * torch.finfo(torch.float32).eps * float(x.norm())
    assert float((orthogonalized(g[None])[0] - x).norm()) < bound
    assert float((orthogonalized(g.double()[None])[0] - x).norm()) < bound * 2**-29


def test_a_step_is_as_long_as_one_of_adamw():
    p = torch.zeros(64, 256, requires_grad=True)
    p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(2))
    Muon([p], 1e-2, 0.0, 0.95, torch.float32).step()
    length = float(p.detach().square().mean().sqrt())
    assert 0.2e-2 * 0.68 <= length <= 0.2e-2 * 1.14


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_updates_are_orthogonalized_in_the_type_of_the_recipe(dtype):
    ops = TorchBackend("cpu", dtype)
    params = Params(layer=Params(weight=torch.eye(4).numpy()))
    trainer = Trainer(
        OptimizerConfig(batch_size=1, muon_rate=1e-3),
        1,
        params,
        lambda ops, params, step, part: Loss(params.layer.weight.square().sum()),
        ops,
    )
    assert trainer.optimizers[1].dtype is getattr(torch, dtype)


def test_a_pytorch_without_muon_has_it_too(monkeypatch):
    """`torch.optim.Muon` is newer than the oldest PyTorch that ldmref allows."""
    monkeypatch.delattr(torch.optim, "Muon")
    p = torch.eye(4, requires_grad=True)
    p.grad = torch.eye(4)
    runpy.run_path(optimizers.__file__)["Muon"]([p], 1e-2, 0.0, 0.95, torch.float32).step()
    assert float(p.detach().trace()) < 4.0
