"""A training step is AdamW on clipped gradients, and an average: as a loop of plain PyTorch."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training runs on the torch backend")

from noisy_batches import scaled_latents  # noqa: E402

from ldmref.backends.torch import TorchBackend  # noqa: E402
from ldmref.models.params import Params  # noqa: E402
from ldmref.models.presets import preset  # noqa: E402
from ldmref.training.batches import FULL_BATCH  # noqa: E402
from ldmref.training.diffusion.latents import Latents  # noqa: E402
from ldmref.training.diffusion.stage import DenoiserTraining, DiffusionBatches  # noqa: E402
from ldmref.training.loss import Loss  # noqa: E402
from ldmref.training.recipes.schema import DiffusionObjective, DiffusionStage, OptimizerConfig  # noqa: E402
from ldmref.training.trainer import Trainer  # noqa: E402

OPS = TorchBackend("cpu", "float64")
STEPS = 20
BATCH = 8
CONFIG = OptimizerConfig(
    batch_size=BATCH,
    learning_rate=0.05,
    warmup=4,
    cooldown=0.5,
    weight_decay=0.1,
    clip_norm=0.7,
    ema_decay=0.6,
)


def start():
    rng = np.random.default_rng(0)
    return Params(layer=Params(weight=rng.standard_normal((3, 5)), bias=rng.standard_normal(3)))


def batch(step):
    rng = np.random.default_rng(step + 1)
    return (torch.from_numpy(rng.standard_normal((BATCH, k))) for k in (5, 3))


def squared_error(weight, bias, x, y):
    return (10 * (x @ weight.T + bias - y)).square().mean()


def loss(ops, params, step, part):
    x, y = map(part.slice, batch(step))
    return Loss(squared_error(params.layer.weight, params.layer.bias, x, y))


@pytest.mark.parametrize("betas,eps", [((0.9, 0.99), 1e-8), ((0.7, 0.999), 1e-2)])
@pytest.mark.parametrize("accumulation", [1, 4])
def test_a_training_is_a_loop_of_plain_pytorch(accumulation, betas, eps):
    config = replace(CONFIG, accumulation=accumulation, betas=betas, eps=eps)
    trainer = Trainer(config, STEPS, start(), loss, OPS)
    done_steps = list(trainer.run())
    losses = [done.loss for done in done_steps]

    weight, bias = (torch.from_numpy(x.copy()).requires_grad_() for x in start().layer.values())
    averages = [p.detach().clone() for p in (weight, bias)]
    decayed = {"params": [weight], "weight_decay": 0.1}, {"params": [bias], "weight_decay": 0.0}
    optimizer = torch.optim.AdamW(decayed, betas=betas, eps=eps)
    clipped = 0
    for step, ours in enumerate(losses):
        factor = (step + 1) / 4 if step < 4 else 1.0
        if step > 10:  # the last half
            factor = (1 + math.cos(math.pi * (step - 10) / 10)) / 2
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * factor
        optimizer.zero_grad()
        value = squared_error(weight, bias, *batch(step))
        value.backward()
        norm = float(torch.nn.utils.clip_grad_norm_([weight, bias], 0.7))
        clipped += norm > 0.7
        assert done_steps[step].grad_norm == pytest.approx(norm, rel=1e-12)
        optimizer.step()
        assert ours == pytest.approx(value.item(), rel=1e-12)
        decay = min(0.6, (2 + step) / (11 + step))
        for average, p in zip(averages, (weight, bias), strict=True):
            average.mul_(decay).add_(p.detach(), alpha=1 - decay)
    assert clipped == STEPS
    ema = trainer.ema_params().layer
    for got, want in zip((ema.weight, ema.bias), averages, strict=True):
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-11)
    for got, want in zip(trainer.params.layer.values(), (weight, bias), strict=True):
        np.testing.assert_allclose(got.detach().numpy(), want.detach().numpy(), rtol=1e-11)


@pytest.mark.parametrize("muon_rate", [0.0, 0.01])
def test_another_optimizer_goes_on_from_the_weights_alone(muon_rate):
    def trainer(rate):
        params = Params(layer=Params(weight=start().layer.weight))
        optimizer = replace(CONFIG, muon_rate=rate)
        square = lambda ops, params, step, part: Loss(params.layer.weight.square().sum())  # noqa: E731
        return Trainer(optimizer, STEPS, params, square, OPS)

    first = trainer(0.01 - muon_rate)
    second = trainer(muon_rate)
    next(first.run())
    second.load_state(1, {name: tensor.numpy() for name, tensor in first.state().items()})
    assert not any(name.startswith("optimizer") for name in second.state())
    next(second.run())


@pytest.mark.parametrize("rate", [0.0, 0.25, 1.0])
def test_captions_are_dropped_at_that_rate_and_belong_to_their_images(rate):
    """5 standard errors of the share of 4,000."""
    rng = np.random.default_rng(0)
    stage = DiffusionStage(DiffusionObjective(caption_dropout=rate))
    latents = Latents(*rng.standard_normal((2, 10, 4, 8, 8)).astype(np.float32))
    noisy = scaled_latents(latents, np.ones(10), 1.0, OPS)
    stage = replace(stage, optimizer=replace(stage.optimizer, batch_size=40))
    training = DenoiserTraining(preset("tiny"), stage, 0, OPS)
    batches = DiffusionBatches(noisy, lambda i, rng: f"of {i}", training)
    drawn = [batches(step, FULL_BATCH) for step in range(100)]
    pairs = [(i, prompt) for b in drawn for i, prompt in zip(b.indices, b.prompts, strict=True)]
    kept = [(i, prompt) for i, prompt in pairs if prompt]
    assert all(prompt == f"of {i}" for i, prompt in kept)
    assert abs(len(kept) / len(pairs) - (1 - rate)) <= 5 * math.sqrt(rate * (1 - rate) / 4000)
