"""Compiled networks train as others do."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from ldmref.training import read_recipe, train  # noqa: E402

COMPILE = torch.compile


def losses(folder, compiled):
    changes = {
        "compile": compiled,
        "data": {"source": "small-emoji", "size": 16},
        "autoencoder": {"budget": {"steps": 1}},
        "diffusion": {"budget": {"steps": 4}, "optimizer": {"batch_size": 4}},
        "progress": {"seconds": 0},
    }
    found = []
    train(read_recipe("tiny", changes), folder, on_progress=found.append, log=lambda line: None)
    return [p.loss for p in found if p.stage == "diffusion"]


@pytest.mark.full
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_training_has_the_losses_of_another(tmp_path, monkeypatch, backend):
    graphs = []

    def compile_with(function, **options):
        graphs.append(options)
        return COMPILE(function, **options | {"backend": backend})

    monkeypatch.setattr(torch, "compile", compile_with)
    compiled = losses(tmp_path / "compiled", True)
    assert len(graphs) == 2  # text encoder, denoiser
    assert compiled == pytest.approx(losses(tmp_path / "plain", False), rel=1e-5)
    assert len(graphs) == 2 and len(compiled) == 4
