"""Training: bitwise resumable, data sets, and a complete run in miniature."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="training runs on the torch backend")

from noisy_batches import scaled_latents  # noqa: E402

import ldmref  # noqa: E402
from ldmref import modes  # noqa: E402
from ldmref.backends.torch import TorchBackend  # noqa: E402
from ldmref.datasets.emoji import emoji_dataset  # noqa: E402
from ldmref.datasets.emoji import font as emoji_data  # noqa: E402
from ldmref.datasets.folder import FolderDataset  # noqa: E402
from ldmref.errors import InputError  # noqa: E402
from ldmref.models.presets import preset  # noqa: E402
from ldmref.prompts.tokenizer import PromptTokenizer  # noqa: E402
from ldmref.prompts.words import word_tokenizer  # noqa: E402
from ldmref.training.autoencoder.stage import autoencoder_trainer  # noqa: E402
from ldmref.training.diffusion.latents import Latents  # noqa: E402
from ldmref.training.diffusion.stage import Condition, DenoiserTraining, diffusion_trainer  # noqa: E402
from ldmref.training.recipes.file import recipe_from_dict  # noqa: E402
from ldmref.training.recipes.schema import (  # noqa: E402
    AutoencoderStage,
    Budget,
    DiffusionStage,
    OptimizerConfig,
)
from ldmref.training.training_run import train  # noqa: E402


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name, colour in (("red_square", "red"), ("blue-square", "blue"), ("green", "green")):
        Image.new("RGB", (20, 16), colour).save(folder / f"{name}.png")
    (folder / "green.txt").write_text("grass\n\nlawn\n", "utf-8")
    return folder


def trainers(data, steps, **hyperparameters):
    ops = TorchBackend()
    config = preset("tiny")
    optimizer = OptimizerConfig(**hyperparameters)
    budget = Budget(steps)
    first = AutoencoderStage(optimizer=optimizer, budget=budget)
    second = DiffusionStage(optimizer=optimizer, budget=budget)
    tokenizer = PromptTokenizer(word_tokenizer(data.vocabulary(), 512), 16)
    rng = np.random.default_rng(0)
    latents = Latents(*rng.standard_normal((2, len(data.images), 4, 8, 8)).astype(np.float32))
    return {
        "autoencoder": lambda: autoencoder_trainer(data, config.vae, first, 0, ops),
        "diffusion": lambda: diffusion_trainer(
            scaled_latents(latents, data.weights, config.vae.scaling_factor, ops),
            Condition(data.caption, [tokenizer]),
            DenoiserTraining(config, second, 0, ops),
        ),
    }


def stored(trainer):
    return {name: tensor.clone().numpy() for name, tensor in trainer.state().items()}


@pytest.mark.parametrize("muon_rate", [0.0, 2e-3])
@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_resumed_training_equals_uninterrupted_training(images, stage, muon_rate):
    """20 steps at once, and 10 steps, 10 more by another trainer: the same bits."""
    data = FolderDataset(images, 16)
    hyperparameters = {"batch_size": 2, "warmup": 5}
    make = trainers(data, 20, **hyperparameters, muon_rate=muon_rate)[stage]
    uninterrupted = make()
    losses = [s.loss for s in uninterrupted.run()]

    first = make()
    second = make()
    for step, *_ in first.run():
        if step == 10:
            break
    second.load_state(10, stored(first))
    assert [s.loss for s in second.run()] == losses[10:]
    expected = stored(uninterrupted)
    state = stored(second)
    assert state.keys() == expected.keys()
    assert all(np.array_equal(state[name], array) for name, array in expected.items())


def test_learning_rates_rise_stay_and_fall(images):
    make = trainers(FolderDataset(images, 16), 100, batch_size=2, warmup=10, cooldown=0.2)
    factors = [make["diffusion"]().lr_factor(step) for step in range(101)]
    np.testing.assert_allclose(factors[:10], np.arange(1, 11) / 10)
    assert factors[10:81] == [1.0] * 71
    np.testing.assert_allclose(factors[80:], (1 + np.cos(np.pi * np.arange(21) / 20)) / 2)


def test_without_a_stretch_in_between_the_cosine_begins_after_the_warm_up(images):
    make = trainers(FolderDataset(images, 16), 100, batch_size=2, warmup=10)
    factors = [make["diffusion"]().lr_factor(step) for step in range(10, 101)]
    np.testing.assert_allclose(factors, (1 + np.cos(np.pi * np.arange(91) / 90)) / 2)


def test_a_budget_raised_before_the_cooldown_is_the_longer_training(images):
    """8 of 10 steps, resumed with a budget of 20, equal 20 from the beginning: the same bits."""
    data = FolderDataset(images, 16)
    hyperparameters = {"batch_size": 2, "warmup": 2}
    make = {
        steps: trainers(data, steps, **hyperparameters, cooldown=0.2)["diffusion"]
        for steps in (10, 20)
    }
    short = make[10]()
    resumed = make[20]()
    long = make[20]()
    for step, *_ in short.run():
        if step == 8:
            break
    resumed.load_state(8, stored(short))
    losses = [s.loss for s in long.run()]
    assert [s.loss for s in resumed.run()] == losses[8:]


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_the_loss_falls(images, stage):
    make = trainers(FolderDataset(images, 16), 60, batch_size=4, learning_rate=3e-3, warmup=5)
    losses = [s.loss for s in make[stage]().run()]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10]), losses


def test_latents_of_any_scale_train_alike(images):
    """Ten times the latents at a tenth of the scaling factor is the same problem."""
    data = FolderDataset(images, 16)
    ops = TorchBackend()
    config = preset("tiny")
    tokenizer = PromptTokenizer(word_tokenizer(data.vocabulary(), 512), 16)
    mean, logvar = np.random.default_rng(0).standard_normal((2, 3, 4, 8, 8)).astype(np.float32)
    losses = []
    for factor in (1.0, 10.0):
        latents = Latents(mean * factor, logvar + np.float32(2 * np.log(factor)))
        stage = DiffusionStage(optimizer=OptimizerConfig(2, warmup=1), budget=Budget(3))
        noisy = scaled_latents(latents, data.weights, latents.scaling_factor, ops)
        condition = Condition(data.caption, [tokenizer])
        trainer = diffusion_trainer(noisy, condition, DenoiserTraining(config, stage, 0, ops))
        losses.append([s.loss for s in trainer.run()])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_the_state_of_another_network_is_refused(images):
    make = trainers(FolderDataset(images, 16), 1, batch_size=2)
    with pytest.raises(InputError) as caught:
        make["diffusion"]().load_state(0, stored(make["autoencoder"]()))
    assert caught.value.code == "E-RESUME"


def recipe_for(images, **changes):
    stage = {"optimizer": {"batch_size": 2, "warmup": 1}, "budget": {"steps": 3}}
    tables = {
        "data": {"source": str(images)},
        "model": {"preset": "tiny"},
        "autoencoder": stage,
        "diffusion": stage,
    }
    return recipe_from_dict(tables | changes)


def test_a_complete_training_makes_a_model_that_draws(images, tmp_path):
    reports = []
    folder = train(recipe_for(images), tmp_path / "run", on_progress=reports.append)
    assert [r.stage for r in reports] == ["autoencoder"] * 3 + ["diffusion"] * 3
    assert all(r.images_per_second > 0 and r.seconds_left >= 0 for r in reports)
    model = ldmref.load(folder, backend="numpy")
    assert model.config.vae.scaling_factor != 1.0 and model.config.name == "run"
    r = modes.txt2img(model, "red square", seed=1)
    assert r.images[0].size == (16, 16) and not r.warnings


def test_an_interrupted_training_is_resumed(images, tmp_path):
    def stop(progress):
        if progress.stage == "diffusion" and progress.step == 2:
            raise KeyboardInterrupt

    def record(progress):
        steps.append((progress.stage, progress.step))

    recipe = recipe_for(images)
    steps = []
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run", on_progress=stop)
    train(recipe, tmp_path / "run", on_progress=record)
    assert steps == [("diffusion", 3)]


# -- data -----------------------------------------------------------------------------------------


def test_folder_captions(images):
    data = FolderDataset(images, 16)
    rng = np.random.default_rng(0)
    assert data.images.shape == (3, 3, 16, 16) and data.images.dtype == np.uint8
    captions = {data.caption(i, rng) for _ in range(40) for i in range(3)}
    assert captions == {"red square", "blue square", "grass", "lawn"}
    assert (data.images[2][0] > 250).all()  # red_square, sorted last


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_caption_tables(images, kind):
    rows = {"red_square.png": "a red one", "green.png": "a green one"}
    if kind == "jsonl":
        text = "\n".join(json.dumps({"file_name": k, "text": v}) for k, v in rows.items())
    else:
        text = "file_name,text\n" + "\n".join(f"{k},{v}" for k, v in rows.items())
    (images / f"metadata.{kind}").write_text(text, "utf-8")
    assert FolderDataset(images, 16).captions == [["blue square"], ["a green one"], ["a red one"]]


@pytest.mark.parametrize("text", ["nonsense", '{"file_name": "a.png"}', "[1]"])
def test_bad_caption_tables_are_refused(images, text):
    (images / "metadata.jsonl").write_text(text)
    with pytest.raises(InputError):
        FolderDataset(images, 16)


def test_empty_and_missing_folders_are_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError):
            FolderDataset(folder, 16)


needs_font = pytest.mark.skipif(
    not emoji_data.FONT.exists(), reason="fonts-noto-color-emoji is not on this machine"
)


def test_the_emoji_list():
    emoji = emoji_data.emoji_list()
    assert len(emoji) == 3655
    assert sum(not e.has_skin_tone for e in emoji) == 1870
    assert any(e.name == "red heart" for e in emoji)


@needs_font
def test_the_drawing_is_the_font_s_own_bitmap_centred_on_white():
    heart = next(e for e in emoji_data.emoji_list() if e.name == "red heart")
    image = np.asarray(emoji_data.render(heart))
    assert image.shape == (136, 136, 3) and (image[:4] == 255).all()
    red = (image[..., 0] > 200) & (image[..., 1] < 100)
    rows, columns = np.nonzero(red)
    assert red.sum() > 4000 and abs(columns.mean() - 67.5) < 3 and abs(rows.mean() - 64) < 8


def test_emoji_captions_name_the_image():
    data = emoji_dataset.EmojiDataset.__new__(emoji_dataset.EmojiDataset)
    data.emoji = [e for e in emoji_data.emoji_list() if e.name == "hot dog"]
    data.keywords = [["frankfurter"]]
    data.names = {"hot dog"}
    rng = np.random.default_rng(0)
    captions = [data.caption(0, rng) for _ in range(400)]
    assert {"hot dog", "dog", "hot", "frankfurter", "a hot dog"} <= set(captions)
    # Of "some words" (each with odds of 0.6) both, or none, which stands for both.
    odds = emoji_dataset.CAPTIONS["name"] + (0.6**2 + 0.4**2) * emoji_dataset.CAPTIONS["some words"]
    deviation = math.sqrt(odds * (1 - odds) / 400)
    assert abs(captions.count("hot dog") / 400 - odds) < 4 * deviation


def test_the_name_of_another_emoji_is_never_a_caption():
    """ "dog" means the dog, and not, now and then, the hot dog."""
    data = emoji_dataset.EmojiDataset.__new__(emoji_dataset.EmojiDataset)
    data.emoji = [e for e in emoji_data.emoji_list() if e.name in ("dog", "hot dog")]
    data.keywords = [[], ["Dog"]]
    data.names = {"dog", "hot dog"}
    rng = np.random.default_rng(0)
    assert [e.name for e in data.emoji] == ["dog", "hot dog"]
    captions = {data.caption(1, rng) for _ in range(400)}
    assert "dog" not in {caption.lower() for caption in captions} and "hot" in captions
    assert {data.caption(0, rng) for _ in range(50)} <= {"dog", "a dog", "the dog"}


def test_captions_say_a_or_an_by_the_sound_of_the_next_word():
    """A list of words that begin with a vowel's sound decides instead of a rule."""
    vowels = """
        SOS NG OK ON! O A AB ATM END UP! ID abacus accordion adhesive admission aerial
        airplane alarm alembic alien ambulance american amphora anatomical anchor anger
        angry anguished ant antenna anxious articulated artist astonished astronaut atom
        auto automobile avocado axe Aquarius Aries Ophiuchus eagle ear egg eggplant
        eight eight-pointed eight-spoked eight-thirty eject electric elephant elevator
        eleven eleven-thirty elf e-mail empty enraged envelope evergreen exclamation
        exploding expressionless eye eyes hourglass ice identification inbox incoming
        index infinity information input octopus oden office ogre oil old older olive om
        oncoming onion open optical orange orangutan orthodox otter outbox owl ox oyster
        umbrella unamused unlocked up up-down up-left up-right upside-down upwards x-ray
    """.split()
    data = emoji_dataset.EmojiDataset.__new__(emoji_dataset.EmojiDataset)
    data.emoji = [e for e in emoji_data.emoji_list() if not e.has_skin_tone]
    data.names = set()
    data.keywords = [[]] * len(data.emoji)
    said = {i: set() for i in range(len(data.emoji))}
    for draw in range(4):  # until an article has been drawn for nearly all
        rng = np.random.default_rng(draw)
        for i, emoji in enumerate(data.emoji):
            captions = {data.caption(i, rng) for _ in range(30)}
            said[i] |= {f"{a} {emoji.name}" for a in ("a", "an")} & captions
    wrong = [
        caption
        for i, captions in said.items()
        for caption in captions
        if (caption.split()[0] == "an") != (data.emoji[i].name.split()[0] in vowels)
    ]
    assert sum(map(bool, said.values())) > 1800 and not wrong
