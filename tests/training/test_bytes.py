"""The bytes per parameter that docs/training.md and docs/fine-tuning.md state."""

from pathlib import Path

import pytest
import torch

from ldmref.training.optimizers import Muon

DOCS = Path(__file__).parents[2] / "docs"


def muon(parameters):
    return Muon(parameters, 1e-3, 0.0, 0.95, torch.float32)


def bytes_per_parameter(optimizer) -> float:
    """Weights, their average, and the optimizer's state after one step."""
    weight = torch.nn.Parameter(torch.ones(64, 64))
    made = optimizer([weight])
    weight.grad = torch.ones_like(weight)
    made.step()
    state = [x for x in made.state[weight].values() if torch.is_tensor(x) and x.ndim > 0]
    return sum(x.nbytes for x in (weight.data, weight.data.clone(), *state)) / weight.numel()


@pytest.mark.parametrize(("optimizer", "expected"), [(torch.optim.AdamW, 16), (muon, 12)])
def test_bytes_per_parameter_without_the_gradient(optimizer, expected):
    assert bytes_per_parameter(optimizer) == expected
    assert f"{expected} bytes" in (DOCS / "training.md").read_text().replace("12 with", "12 bytes")


def test_full_fine_tuning_takes_20_bytes_per_parameter():
    gradient = 4
    assert bytes_per_parameter(torch.optim.AdamW) + gradient == 20
    assert "20 bytes per parameter" in (DOCS / "fine-tuning.md").read_text()
