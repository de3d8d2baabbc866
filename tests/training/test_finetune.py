"""LoRA and textual inversion on a small model: what they change, learn, write, and draw with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.errors import UsageError
from ldmref.io.adapters.textual_inversion import read_embeddings
from ldmref.io.native import save_folder
from ldmref.models.params import Params, flatten, tree_map

torch = pytest.importorskip("torch")
from ldmref.training.finetune.adapters import adapter_of  # noqa: E402
from ldmref.training.finetune.recipe import (  # noqa: E402
    FineTuneRecipe,
    LoraConfig,
    TextualInversionConfig,
)
from ldmref.training.finetune.stage import RecordingBackend, fine_tune_trainer  # noqa: E402
from ldmref.training.recipe import Budget, DataConfig  # noqa: E402


class RedPictures:
    """Four red squares, which are called so."""

    images = np.zeros((4, 3, 16, 16), np.uint8)
    images[:, 0] = 230
    weights = np.ones(4)
    warnings = ()

    def caption(self, i, rng):
        return "red heart"


def recipe(method, steps=30, rate=1e-2, **changes) -> FineTuneRecipe:
    base = FineTuneRecipe(
        base="tiny", method=method, data=DataConfig("pictures", 16),
        lora=LoraConfig(2, 4.0, ("attention", "text")),
        textual_inversion=TextualInversionConfig("<style>", "heart", 2),
    )  # fmt: skip
    optimizer = replace(base.diffusion.optimizer, learning_rate=rate, warmup=1, weight_decay=0.0)
    stage = replace(base.diffusion, optimizer=optimizer, budget=Budget(steps))
    return replace(base, diffusion=stage, **changes)


@pytest.fixture
def model():
    return ldmref.random_model("tiny", backend=RecordingBackend("cpu", "float32"))


def trained(settings, model):
    adapter = adapter_of(settings, model, RedPictures().caption)
    trainer = fine_tune_trainer(settings, model, adapter, RedPictures(), model.backend)
    losses = [loss.loss for loss in trainer.run()]
    return adapter, trainer, losses


@pytest.mark.parametrize("method", ["lora", "textual_inversion"])
def test_the_loss_falls_and_the_model_stays(model, method):
    before = tree_map(lambda x: x.clone(), dict(model.params))
    adapter, trainer, losses = trained(recipe(method), model)
    assert np.mean(losses[-8:]) < np.mean(losses[:8])
    for name, tensor in flatten(dict(model.params)).items():
        assert torch.equal(tensor, flatten(before)[name]), name
    changed = flatten(dict(adapter.adapted(model.backend, trainer.params).params))
    different = {name for name, x in flatten(before).items() if not _same(x, changed[name])}
    if method == "lora":
        assert different == {name.rpartition(".")[0] for name in trainer.parameters}
    else:
        assert {name.rpartition(".")[2] for name in trainer.parameters} == {"vectors"}
        assert different == {"text_encoder.text_model.embeddings.token_embedding.weight"}


def _same(a, b):
    return a.shape == b.shape and torch.equal(a, b)


def test_the_lora_draws_what_was_trained(model, tmp_path):
    save_folder(tmp_path / "base", model.config, _host(model), _tokenizer(model))
    adapter, trainer, _ = trained(recipe("lora"), model)
    adapter.write(tmp_path, trainer.ema_params())
    adapted = adapter.adapted(model.backend, tree_map(torch.from_numpy, trainer.ema_params()))
    want = modes.txt2img(adapted, "red heart", seed=1, steps=3).latents
    loaded = ldmref.load(tmp_path / "base", lora=[adapter.file(tmp_path)], backend="torch")
    got = modes.txt2img(loaded, "red heart", seed=1, steps=3).latents
    plain = modes.txt2img(ldmref.load(tmp_path / "base", backend="torch"), "red heart", seed=1,
                          steps=3).latents  # fmt: skip
    moved = np.abs(np.asarray(plain) - np.asarray(want)).max()
    assert np.abs(np.asarray(got) - np.asarray(want)).max() < 0.02 * moved  # weights in float16


def test_the_word_draws_what_was_trained(model, tmp_path):
    adapter, trainer, _ = trained(recipe("textual_inversion"), model)
    adapter.write(tmp_path, trainer.ema_params())
    (embedding,) = read_embeddings(adapter.file(tmp_path))
    assert embedding.word == "<style>" and embedding.vectors.shape == (2, 32)
    want = adapter.adapted(model.backend, tree_map(torch.from_numpy, trainer.ema_params()))
    got = model.with_embeddings([embedding])
    for prompt in ("a <style> heart", "red"):
        assert torch.equal(got.encode_text([prompt]), want.encode_text([prompt]))
    assert not torch.equal(model.encode_text(["a heart"]), got.encode_text(["a <style>"]))


def test_resumed_equals_uninterrupted(model):
    settings = recipe("lora", steps=6)
    _, whole, _ = trained(settings, model)
    adapter = adapter_of(settings, model, RedPictures().caption)
    first = fine_tune_trainer(settings, model, adapter, RedPictures(), model.backend)
    for loss in first.run():
        if loss.step == 3:
            break
    state = {name: tensor.numpy().copy() for name, tensor in first.state().items()}
    second = fine_tune_trainer(settings, model, adapter, RedPictures(), model.backend)
    second.load_state(3, state)
    list(second.run())
    for name, tensor in whole.state().items():
        assert torch.equal(tensor, second.state()[name]), name


def test_a_word_to_start_from_must_be_known(model):
    settings = recipe("textual_inversion",
                      textual_inversion=TextualInversionConfig("<new>", "quokka", 1))  # fmt: skip
    with pytest.raises(UsageError, match="quokka") as caught:
        adapter_of(settings, model, RedPictures().caption)
    assert caught.value.code == "E-RECIPE"


def _host(model) -> Params:
    return tree_map(lambda x: x.numpy(), dict(model.params))


def _tokenizer(model) -> str:
    return model.tokenizer.tokenizer.to_str()
