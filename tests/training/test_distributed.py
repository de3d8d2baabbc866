"""Two processes train what one does: by DDP and by FSDP2, killed, resumed by another number."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from signal import SIGTERM

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
from ldmref.errors import UsageError  # noqa: E402
from ldmref.training import trainer as trainer_module  # noqa: E402
from ldmref.training.checkpoint import read_checkpoint  # noqa: E402
from ldmref.training.distributed import any_rank, process_group, rank, ranks  # noqa: E402
from ldmref.training.monitor.metrics import read_metrics  # noqa: E402
from ldmref.training.recipe import Budget, ProgressConfig  # noqa: E402
from ldmref.training.recipe_file import read_recipe, to_toml  # noqa: E402
from ldmref.training.run import train  # noqa: E402

# What `python -m torch.distributed.run -m ldmref.training` does, in float64.
PROGRAM = """
import sys
import torch
from pathlib import Path
from ldmref.backends import torch as backend
from ldmref.training.recipe_file import read_recipe
from ldmref.training.run import train
torch.set_num_threads(1)
exact = backend.TorchBackend
backend.TorchBackend = lambda device, dtype="float64": exact(device, "float64")
train(read_recipe(sys.argv[1]), Path(sys.argv[2]))
"""
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


def torchrun(number, *arguments):
    command = [*TORCHRUN, str(number), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture
def recipe_file(recipe, tmp_path):
    """A recipe with batches of 8, as a file."""

    def write(steps=3, stages=("autoencoder", "diffusion"), **optimizer):
        r, budget = recipe(), Budget(steps)
        changes = {"batch_size": 8, "accumulation": 1, "muon_rate": 0.0} | optimizer
        whole, shared = r.autoencoder.optimizer, r.diffusion.optimizer
        first = replace(r.autoencoder, budget=budget, optimizer=replace(whole, batch_size=8))
        second = replace(r.diffusion, budget=budget, optimizer=replace(shared, **changes))
        path = tmp_path / "recipe.toml"
        trained = replace(r, autoencoder=first, diffusion=second, stages=stages)
        path.write_text(to_toml(replace(trained, progress=ProgressConfig(count=1))))
        return path

    return write


@pytest.mark.parametrize("optimizer", [{}, {"accumulation": 2}, {"shard": True}],
                         ids=["DDP", "DDP, accumulated", "FSDP2"])  # fmt: skip
def test_two_ranks_of_4_equal_one_of_8(recipe_file, tmp_path, optimizer):
    (tmp_path / "program.py").write_text(PROGRAM)
    for number in (1, 2):
        arguments = (tmp_path / "program.py", recipe_file(**optimizer), tmp_path / f"{number}")
        result = torchrun(number, *arguments)
        assert result.returncode == 0, result.stderr
    for stage in ("autoencoder", "diffusion"):
        one, two = (
            read_checkpoint(tmp_path / str(number) / f"{stage}.safetensors")[1] for number in (1, 2)
        )
        assert set(one) == set(two)
        for name, array in one.items():
            np.testing.assert_allclose(two[name], array, rtol=1e-6, atol=1e-9, err_msg=name)
    for name in ("samples.png", "reconstructions.png"):
        pictures = [np.asarray(Image.open(tmp_path / f"{number}" / name), int) for number in (1, 2)]
        np.testing.assert_allclose(*pictures, atol=1)
    one, two = (read_metrics(tmp_path / f"{number}" / "metrics.jsonl") for number in (1, 2))
    assert len(one) == len(two) == 6
    assert [x["loss"] for x in two] == pytest.approx([x["loss"] for x in one], rel=1e-6)


def test_the_command_is_stopped_by_sigterm_and_goes_on_with_another_number(recipe_file, tmp_path):
    out = tmp_path / "out"
    command = [*TORCHRUN, "2", "-m", "ldmref.training", str(recipe_file(400)), "-o", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (out / "autoencoder.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(SIGTERM)
    process.communicate(timeout=120)
    header, _ = read_checkpoint(out / "autoencoder.safetensors")
    assert 0 < header.step < 400
    lines, steps = [], header.step + 2
    model = train(read_recipe(recipe_file(steps)), out, say=lines.append)
    assert f"autoencoder resumed after step {header.step} of {steps}" in lines
    assert (model / "model.safetensors").exists()


def test_a_batch_that_cannot_be_shared_is_refused(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_module, "ranks", lambda: 3)
    with pytest.raises(UsageError, match="3 processes") as caught:
        train(recipe(), tmp_path / "out")
    assert caught.value.code == "E-RECIPE"


def test_without_torchrun_there_is_one_rank(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delitem(os.environ, name, raising=False)
    with process_group("cpu") as device:
        assert (device, rank(), ranks(), any_rank(True, device)) == ("cpu", 0, 1, True)
