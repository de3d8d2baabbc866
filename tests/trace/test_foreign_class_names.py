"""Modules of other programs whose classes have the names of diffusers'."""

from __future__ import annotations

import warnings

import pytest

import ldmref

torch = pytest.importorskip("torch")


def test_an_attention_without_a_number_of_heads_is_recorded():
    class Attention(torch.nn.Module):  # as DiffSynth-Studio has one: its `num_heads` is not read
        def __init__(self):
            super().__init__()
            self.to_q = torch.nn.Linear(2, 2)

        def forward(self, x):
            return self.to_q(x)

    net = torch.nn.ModuleDict({"attn": Attention()})
    net.forward = lambda x: net["attn"](x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ldmref.recording(net, call="transformer") as run:
            net(torch.ones(1, 2))
    entry = run.trace.find("transformer.000", "attn")
    assert entry is not None and "output" in entry.outputs
