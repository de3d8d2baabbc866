"""Arrays with channels last are transposed, not reshaped, where a module has other axes."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import ldmref  # noqa: E402
from ldmref.locate import diff_modules  # noqa: E402
from ldmref.locate.recorded.layouts import find_order  # noqa: E402
from ldmref.trace import build_trace  # noqa: E402

ROWS, COLUMNS = 6, 10


class PixelAttention(torch.nn.Module):
    """The norm of an autoencoder's attention, which reads pixels as (n, c, l)."""

    def __init__(self, eps=1e-6):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(4, 8, 3, padding=1)
        self.group_norm = torch.nn.GroupNorm(2, 8, eps)
        self.to_q = torch.nn.Linear(8, 8)
        for x in self.parameters():
            torch.nn.init.normal_(x, 0.0, 0.4)

    def forward(self, sample):
        x = self.conv(sample)
        y = self.group_norm(x.flatten(2)).transpose(1, 2)
        return x + self.to_q(y).transpose(1, 2).reshape(x.shape)


def record(module):
    """Return what a port with channels last records of a module."""
    sample = torch.randn(2, 4, ROWS, COLUMNS, generator=torch.Generator().manual_seed(1))
    with ldmref.recording(module, call="net") as run, torch.no_grad():
        module(sample)
    found = {}
    for name, x in run.trace.tensors.items():
        pixels = np.asarray(x)
        if "group_norm" in name:
            pixels = pixels.reshape(2, 8, ROWS, COLUMNS)
        elif "to_q" in name:
            pixels = pixels.transpose(0, 2, 1).reshape(2, 8, ROWS, COLUMNS)
        last = name.partition("/")[2].startswith("/") or pixels.ndim != 4
        found[name] = pixels if last else np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
    return build_trace(found)


def test_a_right_module_with_channels_last_is_equal():
    report = diff_modules(record(PixelAttention()), PixelAttention())
    assert report.verdict == "equal", [(row.name, row.note) for row in report.faults]
    assert any("transpose 0,3,1,2 and reshape" in row.note for row in report.rows)


def test_another_eps_of_a_module_with_channels_last_is_named():
    (row,) = diff_modules(record(PixelAttention(1e-2)), PixelAttention()).faults
    assert row.layer == "group_norm" and row.cause == "eps 0.01 instead of 1e-06"


@pytest.mark.parametrize(
    ("right", "axes"), [((2, 8, 60), (0, 2, 3, 1)), ((2, 60, 8), (0, 1, 2, 3))]
)
def test_pixels_are_the_tokens_of_either_order(right, axes):
    x = np.random.default_rng(0).standard_normal((2, 8, ROWS, COLUMNS))
    tokens = x.reshape(2, 8, -1)
    expected = tokens if right == tokens.shape else tokens.transpose(0, 2, 1)
    found = find_order(x.transpose(axes), expected)
    assert found is not None and np.array_equal(found.array, expected)
