"""Two processes train what one does: by DDP and by FSDP2, killed, resumed by another number."""

from __future__ import annotations

import os
import re
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
from ldmref.training.recipes.file import read_recipe, recipe_from_dict, to_toml  # noqa: E402
from ldmref.training.recipes.schema import Budget, CheckpointConfig, ProgressConfig  # noqa: E402
from ldmref.training.training_run import train  # noqa: E402

# What `python -m torch.distributed.run -m ldmref.training` does, in float64.
PROGRAM = """
import sys
import torch
from pathlib import Path
from ldmref.backends import torch as backend
from ldmref.training.recipes.file import read_recipe
from ldmref.training.training_run import train
torch.set_num_threads(1)
exact = backend.TorchBackend
backend.TorchBackend = lambda device, dtype="float64": exact(device, "float64")
train(read_recipe(sys.argv[1]), Path(sys.argv[2]))
"""
# Before it: the second half of every batch has a loss that no layer can take.
POISON = """
from dataclasses import replace
from ldmref.training import trainer
original = trainer.Trainer.__init__
def poisonous(self, config, steps, params, loss, *args, **kwargs):
    def nan(ops, params, step, part):
        found = loss(ops, params, step, part)
        spoiled = ops.silu(found.total * float("nan"))
        return replace(found, total=spoiled) if part.index else found
    original(self, config, steps, params, nan, *args, **kwargs)
trainer.Trainer.__init__ = poisonous
"""
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


def torchrun(number, *arguments):
    command = [*TORCHRUN, str(number), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture
def recipe_file(recipe, tables, tmp_path):
    """A recipe with batches of 8, as a file; `first` and `second` change its stages' optimizers."""

    def write(steps=3, first=(), second=(), vae=(), checkpoint=None, **changes):
        model = tables()["model"]
        model = model | {"vae": model["vae"] | dict(vae)}
        r = recipe(model=model, **changes)
        budget = Budget(steps)
        whole = r.autoencoder.optimizer
        shared = r.diffusion.optimizer
        whole = replace(whole, **({"batch_size": 8} | dict(first)))
        shared = replace(shared, **({"batch_size": 8, "muon_rate": 0.0} | dict(second)))
        trained = replace(
            r,
            autoencoder=replace(r.autoencoder, budget=budget, optimizer=whole),
            diffusion=replace(r.diffusion, budget=budget, optimizer=shared),
            progress=ProgressConfig(count=1),
            checkpoint=checkpoint or r.checkpoint,
        )
        path = tmp_path / "recipe.toml"
        path.write_text(to_toml(trained))
        return path

    return write


OF_A_BATCH = {"kl_weight": 0, "codebook_decay": 0.9, "adversarial_weight": 0.5}
CASES = {
    "DDP": {},
    "DDP, accumulated, Muon": {"second": {"accumulation": 2, "muon_rate": 0.01}},
    "FSDP2": {"second": {"shard": True}},
    "FSDP2, Muon": {"first": {"shard": True}, "second": {"shard": True, "muon_rate": 0.01}},
    "FSDP2, codebook, discriminator": {
        "stages": ["autoencoder"],
        "vae": {"codebook_size": 8},
        "first": {"shard": True, "muon_rate": 0.01},
        "autoencoder": {"objective": OF_A_BATCH},
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_two_ranks_of_4_equal_one_of_8(recipe_file, tmp_path, changes):
    (tmp_path / "program.py").write_text(PROGRAM)
    for number in (1, 2):
        arguments = (tmp_path / "program.py", recipe_file(**changes), tmp_path / f"{number}")
        result = torchrun(number, *arguments)
        assert result.returncode == 0, result.stderr
    stages = changes.get("stages", ("autoencoder", "diffusion"))
    for stage in stages:
        one, two = (
            read_checkpoint(tmp_path / str(number) / f"{stage}.safetensors")[1] for number in (1, 2)
        )
        assert set(one) == set(two)
        for name, array in one.items():
            np.testing.assert_allclose(two[name], array, rtol=1e-6, atol=1e-9, err_msg=name)
    for name in ("reconstructions.png", "samples.png")[: len(stages)]:
        images = [np.asarray(Image.open(tmp_path / f"{number}" / name), int) for number in (1, 2)]
        np.testing.assert_allclose(*images, atol=1)
    one, two = (read_metrics(tmp_path / f"{number}" / "metrics.jsonl") for number in (1, 2))
    assert len(one) == len(two) == 3 * len(stages)
    assert [x["loss"] for x in two] == pytest.approx([x["loss"] for x in one], rel=1e-6)


def test_all_ranks_name_what_one_rank_cannot_compute(recipe_file, tmp_path):
    (tmp_path / "program.py").write_text(POISON + PROGRAM)
    result = torchrun(2, tmp_path / "program.py", recipe_file(), tmp_path / "out")
    messages = re.findall(r"NumericError: (step 1: .*)", result.stderr)
    assert len(messages) == 2 and len({*messages}) == 1
    assert "first in the input of silu" in messages[0]
    assert len(messages[0].rpartition(":")[2].split(",")) == 4


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True], ids=["DDP", "FSDP2"])
def test_the_command_is_stopped_by_sigterm_and_goes_on_with_another_number(
    recipe_file, tmp_path, shard
):
    """Only the first step is saved on time: what is resumed later was saved on the signal."""
    out = tmp_path / "out"
    changes = {"second": {"shard": shard, "muon_rate": 0.01}}
    changes["checkpoint"] = CheckpointConfig(seconds=0)

    def steps():
        return [x["step"] for x in read_metrics(out / "metrics.jsonl") if x["stage"] == "diffusion"]

    command = [*TORCHRUN, "2", "-m", "ldmref.training", str(recipe_file(**changes)), "-o", str(out)]
    command += ["--steps", "4000"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not steps() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(SIGTERM)
    _, errors = process.communicate(timeout=120)
    header, _ = read_checkpoint(out / "diffusion.safetensors")
    assert 1 < header.step < 4000, errors
    assert (out / "model" / "model.safetensors").exists()
    shorter = read_recipe(recipe_file(**changes))
    lines = []
    total = header.step + 2
    budget = replace(shorter.diffusion, budget=Budget(total))
    model = train(replace(shorter, diffusion=budget), out, log=lines.append)
    assert f"diffusion resumed after step {header.step} of {total}" in lines
    assert (model / "model.safetensors").exists()
    result = torchrun(
        2, "-m", "ldmref.training", recipe_file(**changes), "-o", out, "--steps", total + 2
    )
    assert result.returncode == 0, result.stderr
    assert read_checkpoint(out / "diffusion.safetensors")[0].step == total + 2
    assert result.stderr.count("the model is ready") == 1  # the first rank says it
    assert "find_unused_parameters" not in result.stderr


VQ = {"vae": {"block_out_channels": [4, 4], "norm_num_groups": 2, "codebook_size": 8}}
EXACT = {"kl_weight": 0.0}
SKIPPING = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "skipped_layers": 1}
UNUSED = {  # objective of the autoencoder and of the denoiser, changes of the model, stages
    "default": ({}, {}, {}, {"autoencoder": False, "diffusion": False}),
    "exact latents": (EXACT, {}, {}, {"autoencoder": False, "diffusion": False}),
    "elbo": (EXACT | {"elbo_weight": 1.0, "learn_variance": True}, {}, {}, {"autoencoder": False}),
    "codebook": (EXACT, {}, VQ, {"autoencoder": True, "diffusion": False}),
    "moving average": (EXACT | {"codebook_decay": 0.9}, {}, VQ, {"autoencoder": True}),
    "perceptual": ({"perceptual_weight": 0.1}, {}, {}, {"features": False, "autoencoder": False}),
    "adversary": ({"adversarial_weight": 0.5}, {}, {}, {"autoencoder": False}),
    "later": ({"adversarial_weight": 0.5, "adversarial_start": 1}, {}, {}, {"autoencoder": True}),
    "class": ({}, {"condition": "class"}, {}, {"diffusion": False, "classifier": False}),
    "none": ({}, {"condition": "none"}, {}, {"diffusion": False}),
    "hybrid": ({}, {"loss": "hybrid"}, {}, {"diffusion": False}),
    "clip skip": ({}, {}, {"text_encoder": SKIPPING}, {"diffusion": True}),
}


@pytest.mark.parametrize("case", UNUSED)
def test_ddp_looks_for_unused_parameters_only_where_there_are_some(
    tables, images, tmp_path, monkeypatch, case
):
    """Each stage declares whether a parameter lacks a gradient in a step."""
    autoencoder, diffusion, model, expected = UNUSED[case]
    for name in ("red_square", "blue-square"):
        (images / name).mkdir()
        (images / f"{name}.png").rename(images / name / "a.png")
    (images / "green.png").rename(images / "red_square" / "b.png")
    stage = tables(2)["diffusion"]
    stages = ["autoencoder", "diffusion", *(["classifier"] if "classifier" in expected else [])]
    settings = tables(
        2,
        stages=stages,
        model=tables()["model"] | model,
        features=stage,
        classifier=stage,
        autoencoder=stage | {"objective": autoencoder},
        diffusion=stage | {"objective": diffusion},
    )
    found: dict[int, tuple[bool, bool]] = {}
    order: list[int] = []
    step = trainer_module.Trainer._train_step

    def watched(self):
        done = step(self)
        lacking = any(p.grad is None for p in self.parameters.values())
        found[id(self)] = (self.unused, lacking or found.get(id(self), (False, False))[1])
        order.extend([id(self)] * (id(self) not in order))
        trainers.append(self)
        return done

    trainers = []  # kept, because ids must not be used twice
    monkeypatch.setattr(trainer_module.Trainer, "_train_step", watched)
    train(recipe_from_dict(settings), tmp_path / "out")
    names = [*(["features"] if "features" in expected else []), *stages]
    measured = dict(zip(names, (found[i] for i in order), strict=True))
    for name, unused in expected.items():
        assert measured[name] == (unused, unused), name


def test_a_batch_that_cannot_be_shared_is_refused(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("ldmref.training.optimizers.ranks", lambda: 3)
    first = {"optimizer": {"batch_size": 3, "warmup": 1}, "budget": {"steps": 1}}
    with pytest.raises(UsageError, match="3 processes cannot share a batch of 2") as caught:
        train(recipe(autoencoder=first), tmp_path / "out")
    assert caught.value.code == "E-RECIPE" and not (tmp_path / "out").exists()


def test_without_torchrun_there_is_one_rank(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delitem(os.environ, name, raising=False)
    with process_group("cpu") as device:
        assert (device, rank(), ranks(), any_rank(True, device)) == ("cpu", 0, 1, True)
