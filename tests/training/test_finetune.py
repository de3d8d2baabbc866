"""LoRA, textual inversion and full fine-tuning of a small model: changed parameters, losses,
files, and images."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from threading import Event

import numpy as np
import pytest
from noisy_batches import scaled_latents
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.apps.cli.main import main
from ldmref.errors import Cancelled, LdmrefError, UsageError
from ldmref.io.adapters.textual_inversion import read_embeddings
from ldmref.io.native import save_folder
from ldmref.models.lazy_params import LazyParams
from ldmref.models.params import Params, flatten, tree_map
from ldmref.models.presets import preset

torch = pytest.importorskip("torch")
from ldmref.datasets.config import DataConfig  # noqa: E402
from ldmref.training.diffusion.latents import Latents, NoisyLatents  # noqa: E402
from ldmref.training.diffusion.stage import Condition, DenoiserTraining, diffusion_trainer  # noqa: E402
from ldmref.training.finetune.adapters import make_adapter  # noqa: E402
from ldmref.training.finetune.finetuning_run import check_base, fine_tune  # noqa: E402
from ldmref.training.finetune.recipe import (  # noqa: E402
    FineTuneRecipe,
    FullConfig,
    LoraConfig,
    TextualInversionConfig,
)
from ldmref.training.finetune.stage import RecordingBackend, fine_tune_trainer  # noqa: E402
from ldmref.training.monitor.previews import LABEL, TITLE  # noqa: E402
from ldmref.training.recipes.file import recipe_from_dict  # noqa: E402
from ldmref.training.recipes.schema import Budget  # noqa: E402
from ldmref.training.training_run import train  # noqa: E402


class RedImages:
    """Four red squares, which are called so."""

    images = np.zeros((4, 3, 16, 16), np.uint8)
    images[:, 0] = 230
    weights = np.ones(4)
    warnings = ()

    def caption(self, i, rng):
        return "red heart"


def recipe(method, steps=30, rate=1e-2, **changes) -> FineTuneRecipe:
    base = FineTuneRecipe(
        base="tiny",
        method=method,
        data=DataConfig("images", 16),
        lora=LoraConfig(2, 4.0, ("attention", "text")),
        textual_inversion=TextualInversionConfig("<style>", "heart", 2),
    )
    optimizer = replace(base.diffusion.optimizer, learning_rate=rate, warmup=1, weight_decay=0.0)
    stage = replace(base.diffusion, optimizer=optimizer, budget=Budget(steps))
    return replace(base, diffusion=stage, **changes)


@pytest.fixture
def model():
    return ldmref.random_model("tiny", backend=RecordingBackend("cpu", "float32"))


def encoded(model) -> NoisyLatents:
    x = model.backend.asarray(RedImages.images / 127.5 - 1.0)
    mean, std = map(model.backend.to_numpy, model.encode_posterior(x))
    return scaled_latents(Latents(mean, 2 * np.log(std)), RedImages.weights, 1.0, model.backend)


def trainer_of(settings, model, adapter):
    return fine_tune_trainer(settings, model.config, adapter, encoded(model), model.backend)


def trained(settings, model):
    adapter = make_adapter(settings, model, RedImages().caption)
    trainer = trainer_of(settings, model, adapter)
    losses = [loss.loss for loss in trainer.run()]
    return adapter, trainer, losses


@pytest.mark.parametrize(
    ("method", "rate"), [("lora", 1e-2), ("textual_inversion", 1e-2), ("full", 1e-3)]
)
def test_the_loss_falls_and_the_model_stays(model, method, rate):
    before = tree_map(lambda x: x.clone(), dict(model.params))
    adapter, trainer, losses = trained(recipe(method, rate=rate), model)
    assert np.mean(losses[-8:]) < np.mean(losses[:8])
    for name, tensor in flatten(dict(model.params)).items():
        assert torch.equal(tensor, flatten(before)[name]), name
    changed = flatten(dict(adapter.adapted(model.backend, trainer.params).params))
    different = {name for name, x in flatten(before).items() if not _same(x, changed[name])}
    if method == "lora":
        assert different == {name.rpartition(".")[0] for name in trainer.parameters}
    elif method == "full":
        assert different == {*trainer.parameters}
        assert different == {name for name in flatten(before) if not name.startswith("vae.")}
    else:
        assert {name.rpartition(".")[2] for name in trainer.parameters} == {"vectors"}
        assert different == {"text_encoder.text_model.embeddings.token_embedding.weight"}


def _same(a, b):
    return a.shape == b.shape and torch.equal(a, b)


def test_full_fine_tuning_trains_as_a_whole_training_from_there():
    """In float64: sums over equal prompts are in another order."""
    model = ldmref.random_model("tiny", backend=RecordingBackend("cpu", "float64"))
    settings = recipe("full", steps=5, rate=1e-3)
    images = RedImages()
    adapter, trainer, losses = trained(settings, model)
    assert {*adapter.initial} == {"unet", "text_encoder"}
    start = Params({name: _host(model)[name] for name in adapter.initial})
    other = diffusion_trainer(
        encoded(model),
        Condition(images.caption, model.tokenizers),
        DenoiserTraining(model.config, settings.diffusion, settings.seed, model.backend),
        start,
    )
    np.testing.assert_allclose([loss.loss for loss in other.run()], losses, rtol=1e-10)
    for name, tensor in other.state().items():
        torch.testing.assert_close(tensor, trainer.state()[name], rtol=1e-9, atol=1e-12, msg=name)


def test_full_fine_tuning_can_keep_the_text_encoders(settings, base, tmp_path):
    folder = fine_tune(settings(method="full", full=FullConfig(text_encoders=False)), tmp_path)
    old, new = (flatten(dict(ldmref.load(path).params)) for path in (base, folder))
    assert old.keys() == new.keys()
    changed = {name for name, x in new.items() if not np.array_equal(x, old[name])}
    assert {name.partition(".")[0] for name in changed} == {"unet"}
    with pytest.raises(UsageError, match=r"full\.text_encoders was False, now True"):
        fine_tune(settings(method="full"), tmp_path)


def test_full_fine_tuning_writes_a_model(settings, base, tmp_path):
    folder = fine_tune(settings(method="full"), tmp_path / "out")
    tuned = ldmref.load(folder)
    before = ldmref.load(base)
    assert tuned.config == before.config
    assert (folder / "tokenizer.json").read_text() == before.tokenizer.tokenizer.to_str()
    old = flatten(dict(before.params))
    changed = {n for n, x in flatten(dict(tuned.params)).items() if not np.array_equal(x, old[n])}
    assert {name.partition(".")[0] for name in changed} == {"unet", "text_encoder"}


def test_the_lora_draws_what_was_trained(model, tmp_path):
    save_folder(tmp_path / "base", model.config, _host(model), [model.tokenizer])
    adapter, trainer, _ = trained(recipe("lora"), model)
    adapter.write(tmp_path, trainer.ema_params())
    adapted = adapter.adapted(model.backend, tree_map(torch.from_numpy, trainer.ema_params()))
    want = modes.txt2img(adapted, "red heart", seed=1, steps=3).latents
    loaded = ldmref.load(tmp_path / "base", lora=[adapter.file(tmp_path)], backend="torch")
    got = modes.txt2img(loaded, "red heart", seed=1, steps=3).latents
    plain = modes.txt2img(
        ldmref.load(tmp_path / "base", backend="torch"), "red heart", seed=1, steps=3
    ).latents
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
    adapter = make_adapter(settings, model, RedImages().caption)
    first = trainer_of(settings, model, adapter)
    for loss in first.run():
        if loss.step == 3:
            break
    state = {name: tensor.numpy().copy() for name, tensor in first.state().items()}
    second = trainer_of(settings, model, adapter)
    second.load_state(3, state)
    list(second.run())
    for name, tensor in whole.state().items():
        assert torch.equal(tensor, second.state()[name]), name


def test_a_word_to_start_from_must_be_known(model):
    settings = recipe(
        "textual_inversion", textual_inversion=TextualInversionConfig("<new>", "quokka", 1)
    )
    with pytest.raises(UsageError, match="quokka") as caught:
        make_adapter(settings, model, RedImages().caption)
    assert caught.value.code == "E-RECIPE"


def _host(model) -> Params:
    return tree_map(lambda x: x.numpy(), dict(model.params))


# -- a complete fine-tuning ------------------------------------------------------------------------


@pytest.fixture
def base(model, tmp_path):
    """Return the model as a folder."""
    save_folder(tmp_path / "base", model.config, _host(model), [model.tokenizer])
    return tmp_path / "base"


@pytest.fixture
def settings(base, images):
    """A recipe from tables, some replaced."""

    def settings(**changes):
        stage = {"optimizer": {"batch_size": 2, "warmup": 1}, "budget": {"steps": 4}}
        tables = {"base": str(base), "data": {"source": str(images), "size": 16}}
        return recipe_from_dict(tables | {"diffusion": stage} | changes)

    return settings


def test_interrupted_and_resumed_equals_uninterrupted(settings, tmp_path):
    once = fine_tune(settings(), tmp_path / "once")
    cancel = Event()
    lines = []
    with pytest.raises(Cancelled):
        fine_tune(settings(), tmp_path / "twice", on_progress=lambda p: cancel.set(), cancel=cancel)
    assert (tmp_path / "twice" / "lora.safetensors").exists()
    twice = fine_tune(settings(), tmp_path / "twice", log=lines.append)
    assert "diffusion resumed after step 1 of 4" in lines
    assert once.read_bytes() == twice.read_bytes()


@pytest.mark.parametrize("method", ["lora", "textual_inversion", "full"])
def test_words_of_captions_that_the_model_does_not_know_are_named(
    settings, images, tmp_path, method
):
    (images / "green.txt").write_text("a red heart\na quokka, Axolotl\n", "utf-8")
    (images / "red_square.png").rename(images / "red.png")
    (images / "blue-square.png").rename(images / "blue.png")
    word = {"word": "<style>", "initial": "heart"}
    lines = []
    trained = settings(method=method, textual_inversion=word)
    fine_tune(trained, tmp_path / "out", log=lines.append)
    warning = "warning: words of the captions that the model does not know: Axolotl, quokka"
    assert [line for line in lines if "know" in line] == [warning] * (method != "textual_inversion")


@pytest.mark.parametrize("method", ["lora", "textual_inversion", "full"])
def test_samples_are_drawn_with_what_is_learned(settings, base, tmp_path, monkeypatch, method):
    """Only for prompts of the recipe; they are those of the file that is written."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    word = {"word": "<style>", "initial": "heart"}
    progress = {"prompts": ["red heart <style>"], "count": 1}
    trained = settings(method=method, textual_inversion=word, progress=progress)
    file = fine_tune(trained, tmp_path / "out")
    row = Image.open(tmp_path / "out" / "samples.png")
    adapter = {"lora": {"lora": [file]}, "textual_inversion": {"embeddings": [file]}}
    source = file if method == "full" else base
    model = ldmref.load(source, backend="torch", speed="exact", **adapter.get(method, {}))
    (image,) = modes.txt2img(model, "red heart <style>", seed=0, width=16, height=16).images
    x = LABEL
    y = TITLE
    cell = np.asarray(row.crop((x, y, x + 128, y + 128)))[::8, ::8].astype(int)
    assert np.abs(cell - np.asarray(image)).max() <= 1
    fine_tune(settings(), tmp_path / "without")
    assert not list((tmp_path / "without").glob("*.png"))


@pytest.mark.parametrize("method", ["lora", "textual_inversion", "full"])
def test_the_networks_of_a_large_file_are_read_once(settings, tmp_path, monkeypatch, method):
    monkeypatch.setattr("ldmref.loading.EAGER_BYTES", 0)
    bring = LazyParams._bring
    brought = []
    monkeypatch.setattr(LazyParams, "_bring", lambda *a, **k: brought.append(1) or bring(*a, **k))
    word = {"word": "<style>", "initial": "heart"}
    counts = []
    fine_tune(
        settings(method=method, textual_inversion=word),
        tmp_path / "out",
        on_progress=lambda progress: counts.append(len(brought)),
    )
    assert counts and len({*counts, len(brought)}) == 1


@pytest.mark.parametrize("loss", ["hybrid", "bound", "simple"])
def test_a_model_with_a_learned_variance_is_fine_tuned(settings, tables, tmp_path, loss):
    objective = {"loss": "hybrid"}
    stage = {"optimizer": {"batch_size": 2, "warmup": 1}, "budget": {"steps": 1}}
    base = train(
        recipe_from_dict(tables(1, diffusion=stage | {"objective": objective})),
        tmp_path / "base-128",
    )
    stage |= {"objective": {"loss": loss}, "budget": {"steps": 2}}
    file = fine_tune(settings(base=str(base), diffusion=stage), tmp_path / "out")
    assert file.name == "lora.safetensors"


def test_what_a_fine_tuning_does_not_do_is_refused(settings):
    for key, value in (("crop", 8), ("flips", False)):
        with pytest.raises(UsageError, match=f"data.{key} has no effect"):
            settings(data={"source": "images", "size": 16, key: value})


def test_resuming_with_other_settings_or_another_base_is_refused(settings, base, tmp_path):
    out = tmp_path / "out"
    before = fine_tune(settings(), out).read_bytes()
    with pytest.raises(UsageError, match=r"lora\.rank was 32, now 4") as caught:
        fine_tune(settings(lora={"rank": 4}), out)
    assert caught.value.code == "E-RESUME-CHANGED"
    other = ldmref.random_model("tiny", 1, backend=RecordingBackend("cpu", "float32"))
    shutil.rmtree(base)
    save_folder(base, other.config, _host(other), [other.tokenizer])
    with pytest.raises(UsageError, match="base was") as caught:
        fine_tune(settings(), out)
    assert caught.value.code == "E-RESUME-CHANGED"
    assert (out / "lora.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"base": "nowhere"}, "E-MODEL"),
        ({"method": "dreambooth"}, "E-RECIPE"),
        ({"lora": {"rank": 0}}, "E-RECIPE"),
        ({"lora": {"targets": ["vae"]}}, "E-RECIPE"),
        ({"data": {"source": "/nowhere", "size": 16}}, "E-DATA"),
        ({"lora": {"targets": []}}, "E-RECIPE"),
        ({"textual_inversion": {"vectors": 0}}, "E-RECIPE"),
        ({"model": {}}, "E-RECIPE"),
        ({"diffusion": {"optimizer": {"batch_size": 4, "accumulation": 3}}}, "E-RECIPE"),
    ],
)
def test_recipes_that_cannot_be_followed(settings, tmp_path, changes, code):
    with pytest.raises(LdmrefError) as caught:
        fine_tune(settings(**changes), tmp_path / "out")
    assert caught.value.code == code
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "config", ["sd15-inpainting", "ldm-unconditional", "ldm-imagenet", "ldm-text2img-large"]
)
def test_models_that_cannot_be_fine_tuned(settings, config):
    with pytest.raises(UsageError, match="cannot be fine-tuned") as caught:
        check_base(preset(config), settings())
    assert caught.value.code == "E-RECIPE"


def test_a_base_that_reads_no_text_is_refused(settings):
    with pytest.raises(UsageError, match="it reads no text"):
        check_base(preset("ldm-unconditional"), settings())


def test_a_size_that_the_model_cannot_have_is_refused(settings):
    with pytest.raises(UsageError) as caught:
        check_base(preset("sd15"), settings(data={"size": 500}))
    assert caught.value.code == "E-SIZE"
    small = preset("sd3-tiny")  # with positions for few patches
    check_base(small, settings(method="full", data={"size": small.max_side}))
    over = small.max_side + small.size_multiple
    with pytest.raises(UsageError, match=f"size must be at most {small.max_side}, not") as caught:
        check_base(small, settings(method="full", data={"size": over}))
    assert caught.value.code == "E-SIZE"


def test_one_word_for_two_text_encoders_is_refused(settings):
    sdxl = settings(data={"size": 1024})
    check_base(preset("sdxl"), sdxl)
    for name, count in (("sdxl", 2), ("sd3-medium", 3)):
        with pytest.raises(UsageError, match=f"for one text encoder, and it has {count}"):
            check_base(preset(name), replace(sdxl, method="textual_inversion"))


def test_the_command_learns_and_the_images_are_drawn_with_it(base, images, tmp_path, capsys):
    shared = ["--base", str(base), "--data", str(images), "--steps", "2", "--batch", "2"]
    assert main(["finetune", *shared, "-o", str(tmp_path / "a"), "--rank", "2"]) == 0
    word = ["--word", "<zorg>", "--initial", "heart"]
    out = ["-o", str(tmp_path / "b")]
    assert main(["finetune", "textual-inversion", *shared, *word, *out]) == 0
    capsys.readouterr()
    learned = [
        "--lora",
        str(tmp_path / "a" / "lora.safetensors"),
        "--embedding",
        str(tmp_path / "b" / "embedding.safetensors"),
    ]
    image = tmp_path / "c.png"
    assert main(["txt2img", "a <zorg>", "-m", str(base), *learned, "-o", str(image)]) == 0
    assert "never saw" not in capsys.readouterr().err
    made_by = json.loads(Image.open(image).info["ldmref"])["model"]
    assert [lora["name"] for lora in made_by["loras"]] == ["lora"]
    assert list(made_by["embeddings"]) == ["<zorg>"]
    assert main(["finetune", "full", *shared, "-o", str(tmp_path / "d")]) == 0
    folder = str(tmp_path / "d" / "model")
    assert f"txt2img -m {folder}" in capsys.readouterr().err
    assert main(["txt2img", "a heart", "-m", folder, "-o", str(tmp_path / "e.png")]) == 0


def test_a_recipe_of_a_whole_model_is_no_fine_tuning(images, capsys):
    assert main(["finetune", "tiny", "--data", str(images)]) == 2
    assert "ldmref train tiny" in capsys.readouterr().err
